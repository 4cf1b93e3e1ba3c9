"""Watching a folder: what is shown of runs that go on, are done, stopped or failed, from what they write themselves."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock
from test_study_runs import run

from zolab.__main__ import main
from zolab.records.log import RunLog
from zolab.studies import watch
from zolab.studies.run import LOCK
from zolab.studies.watch import Watch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    return folder, run(folder)


def begun(folder, steps, seconds=10.0, planned=8):
    """A run that is being written, its log still open."""
    log = RunLog(folder / "log.jsonl")
    log.append("start", config={"steps": planned})
    log.append("evaluation", step=0, split="dev", loss=0.9, forwards=0)
    for step in range(steps):
        log.append("step", step=step, loss=0.8 - step / 100)
        log.append("time", seconds=seconds * (step + 1) / steps, peak_bytes=1)
        log.append("evaluation", step=step + 1, split="dev", loss=0.7 - step / 100, forwards=2 * (step + 1))
        log.append("evaluation", step=step + 1, split="train", loss=5.0, forwards=2 * (step + 1))
    return log


def quiet(log, seconds):
    there = time.time() - seconds
    os.utime(log.path, (there, there))


def test_a_run_that_goes_on_tells_its_losses_its_speed_and_what_is_left(tmp_path):
    log = begun(tmp_path / "a", steps=4)
    (run,) = Watch(tmp_path).look().runs
    assert (run.name, run.state, run.step, run.steps) == ("a", "running", 4, 8)
    assert (run.train, run.dev) == (pytest.approx(0.77), pytest.approx(0.67))
    assert (run.forwards, run.seconds, run.left) == (8, 10.0, 10.0)
    log.append("step", step=4, loss=0.5)
    assert Watch(tmp_path / "a").look().runs[0].step == 5  # a folder of one run is one, too
    log.close()


def test_a_run_runs_if_its_log_is_held_or_was_written_to_lately(tmp_path):
    def state(name):
        return {run.name: run.state for run in Watch(tmp_path).look().runs}[name]

    log = begun(tmp_path / "a", steps=4)
    quiet(log, 150)
    if Path("/proc/locks").exists():
        assert state("a") == "running"
    log.close()
    assert state("a") == "stopped"
    slow = begun(tmp_path / "b", steps=4, seconds=40.0)  # ten seconds a step
    slow.close()
    quiet(slow, 150)
    assert state("b") == "running"
    quiet(slow, 250)
    assert state("b") == "stopped"
    ended = RunLog(tmp_path / "b" / "log.jsonl")
    ended.append("end", best_step=4)
    ended.close()
    assert state("b") == "done"


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_named(tmp_path):
    begun(tmp_path / "a", steps=2).close()
    with open(tmp_path / "a" / "log.jsonl", "ab") as file:
        file.write(b'{"event": "st')
    assert Watch(tmp_path).look().runs[0].step == 2
    with open(tmp_path / "a" / "log.jsonl", "ab") as file:
        file.write(b"\n")
    (run,) = Watch(tmp_path).look().runs
    assert run.state == "failed"
    assert "damaged" in run.error


def test_only_the_end_of_a_long_log_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "END", 2048)
    begun(tmp_path / "a", steps=400, planned=500).close()
    (run,) = Watch(tmp_path).look().runs
    assert (run.step, run.steps, run.forwards) == (400, 500, 800)


def test_a_finished_study_is_counted_and_not_read_again(finished):
    folder, record = finished
    watched = Watch(folder / "out")
    overview = watched.look()
    assert len(overview.of("done")) == len(overview.runs) >= len(record.content["result"]["cells"])
    assert overview.planned[0] <= len(overview.runs) <= overview.planned[1]
    assert {run.dev for run in overview.runs} >= {cell["curve"][-1][1] for cell in record.content["result"]["cells"]}
    method, watch.Watch._read = watch.Watch._read, None
    try:
        assert watched.look() == overview
    finally:
        watch.Watch._read = method


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who holds a file is known on Linux alone")
def test_watching_goes_on_while_a_study_is_between_two_cells(finished, tmp_path):
    folder = shutil.copytree(finished[0] / "out", tmp_path / "out")
    watching = threading.Thread(target=watch.watch, args=(folder, 0.05), daemon=True)
    with FileLock(folder / LOCK):
        watching.start()
        watching.join(0.5)
        assert watching.is_alive()
    watching.join(10)
    assert not watching.is_alive()


def test_what_is_left_is_that_of_the_runs_that_go_on_and_of_those_to_come(finished, tmp_path):
    overview = Watch(finished[0] / "out").look()
    at_work = [watch.Progress(name, "running", 4, 8, 10.0, 8) for name in ("x", "y")]
    done = [watch.Progress("z", "done", 8, 8, 30.0, 16)]
    assert watch.Overview((*at_work, *done), (5, 7)).left == (10 + 10 + 4 * 30) / 2
    assert watch.Overview((*at_work, *done), (5, 7)).forwards_a_second == pytest.approx(1.6)
    assert overview.left is None


def test_a_failed_cell_shows_its_error_until_it_is_tried_again(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    cell = tmp_path / "out" / "short-MeZO-lr0.001-seed7"
    shutil.rmtree(cell)
    cell.write_text("a file where a folder should be")
    (entry,) = run(tmp_path).failed
    (failed,) = Watch(tmp_path / "out").look().of("failed")
    assert (failed.name, failed.error) == (entry["cell"], entry["error"])
    cell.unlink()
    assert run(tmp_path).failed == []
    assert not Watch(tmp_path / "out").look().of("failed")


def test_the_command_shows_all_of_it(finished, tmp_path, capsys):
    assert main(["watch", str(finished[0] / "out")]) == 0  # all is done: it ends by itself
    assert f"{len(Watch(finished[0] / 'out').look().runs)} of " in capsys.readouterr().out
    log = begun(tmp_path / "a", steps=4)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    output = capsys.readouterr().out
    assert all(part in output for part in ("0 of 1 runs done, 1 running", "4/8", "0.670"))
    log.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["."], "has no runs and no plan of a study"),
        ([".", "--every", "0"], "every must be a positive number of seconds, got 0.0"),
    ],
)
def test_what_cannot_be_watched_is_refused(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *words]) == 1
    assert sentence in capsys.readouterr().err


def test_a_thousand_runs_are_counted_by_what_lies_there(tmp_path):
    for number in range(1000):
        log = begun(tmp_path / f"run{number}", steps=1)
        log.append("end", best_step=1)
        log.close()
    watched = Watch(tmp_path)
    assert len(watched.look().of("done")) == len(watched.ended) == 1000
