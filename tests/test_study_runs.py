"""Cells, the search and the folder: what runs, what is read, what is refused, and what a failure costs."""

import fcntl
import json
import math
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small import command

from zolab.records import load_record
from zolab.records.files import read_json
from zolab.records.sealed import unseal
from zolab.studies.cells import Cell, final_loss
from zolab.studies.plan import check_plan, configuration, load_plan
from zolab.studies.run import holding, run_share, run_study
from zolab.studies.search import best_rate
from zolab.studies.workers import Processes

PLAN = {
    "base": {
        **{"model": "tiny-random-llama", "task": "rotten_tomatoes", "batch_size": 2, "steps": 3},
        **{"train": 10, "dev": 4, "test": 2, "eval_every": 3},
    },
    "tasks": {"short": {}},
    "search": {"factor": 10, "extend": 1, "seeds": [7]},
    "seeds": [0, 1],
    "methods": {
        "MeZO": {"optimizer": "mezo", "lr": 1e-3},
        "AdaMeZO": {"optimizer": "adamezo", "lr": 1e-4, "optim_args": "horizon=1"},
    },
}


def run(tmp_path, workers=1, **changes):
    return run_study(check_plan({**PLAN, **changes}), tmp_path / "out", tmp_path / "record.json", workers, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run(folder)


def searched(start, losses, factor=2.0, extend=2, seeds=(0,)):
    """What the search finds where a rate has these losses, one for each seed."""
    walk = best_rate(start, factor, extend, seeds)
    expected = next(walk)
    while True:
        try:
            expected = walk.send({(rate, seed): losses[rate][i] for rate, seed in expected for i in [seeds.index(seed)]})
        except StopIteration as done:
            return done.value


def test_the_search_stops_at_an_inner_best_rate():
    result = searched(2.0, {1.0: [0.6], 2.0: [0.5], 4.0: [0.7]})
    assert (result.lr, result.edge) == (2.0, False)
    assert result.losses == {"1": 0.6, "2": 0.5, "4": 0.7}


def test_the_search_goes_on_past_its_edge_and_marks_one_that_stays():
    falling = {1.0: [0.6], 2.0: [0.5], 4.0: [0.4], 8.0: [0.3], 16.0: [0.2]}
    result = searched(2.0, falling)
    assert (result.lr, result.edge, len(result.losses)) == (16.0, True, 5)
    assert searched(2.0, {**falling, 8.0: [0.45]}).edge is False
    assert searched(2.0, {0.25: [0.1], 0.5: [0.2], 1.0: [0.3], 2.0: [0.5], 4.0: [0.7]}).lr == 0.25


def test_the_rate_of_one_seed_gives_way_to_one_that_serves_all():
    losses = {0.5: [0.65, 0.8], 1.0: [0.6, 0.6], 2.0: [0.5, 0.9], 4.0: [0.4, math.inf]}
    result = searched(2.0, losses, seeds=(0, 1), extend=1)
    assert result.lr == 1.0
    assert result.losses == {"0.5": pytest.approx(0.725), "1": pytest.approx(0.6), "2": pytest.approx(0.7), "4": None}


def test_rates_are_chosen_on_other_seeds_than_those_reported(finished):
    _, record = finished
    for name in record.methods():
        search = record.search("short", name)
        assert search["rounds"][0]["seeds"] == [7]
        tried = {float(rate): loss for rate, loss in search["rounds"][0]["losses"].items()}
        assert 3 <= len(tried) <= 4
        assert tried[search["lr"]] == min(tried.values())
        assert [cell["seed"] for cell in record.cells("short", name)] == [0, 1]
        assert all(cell["forwards"] == 6 for cell in record.cells("short", name))


def test_a_second_call_reads_what_the_first_one_did(finished):
    folder, record = finished
    logs = {path: path.read_bytes() for path in (folder / "out").glob("*/log.jsonl")}
    assert len(logs) >= 10
    again = run(folder)
    assert again.content["result"] == record.content["result"] == load_record(folder / "record.json")["result"]
    assert all(path.read_bytes() == content for path, content in logs.items())


def test_cells_in_several_processes_give_the_same_record(finished, tmp_path):
    _, alone = finished
    record = run(tmp_path, workers=2)
    assert record.content["workers"] == 2
    for name in alone.methods():
        assert record.search("short", name)["lr"] == alone.search("short", name)["lr"]
        for ours, theirs in zip(record.cells("short", name), alone.cells("short", name), strict=True):
            assert [loss for _, loss in ours["curve"]] == pytest.approx([loss for _, loss in theirs["curve"]], rel=1e-5)
    order = [(cell["method"], cell["seed"]) for cell in record.content["result"]["cells"]]
    assert order == [("MeZO", 0), ("MeZO", 1), ("AdaMeZO", 0), ("AdaMeZO", 1)]


def test_a_process_makes_room_for_another_after_so_many_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("zolab.studies.workers.CELLS", 2)
    cells = [Cell("short", "MeZO", {"model": "tiny-random-llama", "task": "none", "lr": 1e-3, "seed": n}) for n in range(5)]
    ran = []
    with Processes(1, tmp_path) as pool:
        for cell in cells:
            outcome, why, _ = pool.submit(cell).result()
            assert outcome is None
            assert "none" in why
            ((process, _),) = pool.running.values()
            ran.append(process)
    assert [ran[0] is ran[1], ran[1] is ran[2], ran[2] is ran[3], ran[3] is ran[4]] == [True, False, True, False]
    assert [process.exitcode for process in ran] == [0] * 5


def test_a_cell_is_absent_resumable_or_complete(tmp_path):
    cell = Cell("short", "MeZO", {**PLAN["base"], "optimizer": "mezo", "lr": 1e-3, "seed": 0, "data_seed": 0})
    assert cell.state(tmp_path) == "absent"
    (tmp_path / cell.name).mkdir()
    assert cell.state(tmp_path) == "resumable"
    outcome = cell.run(tmp_path)
    assert cell.state(tmp_path) == "complete"
    assert cell.run(tmp_path) == outcome == unseal(read_json(tmp_path / cell.name / "outcome.json"), "the outcome")


def test_a_run_that_diverges_loses_the_search_and_is_kept(tmp_path):
    record = run(
        tmp_path, methods={"MeZO": {"optimizer": "mezo", "lr": 1e80}}, search={"factor": 1e80, "extend": 0, "seeds": [7]}
    )
    search = record.search("short", "MeZO")
    assert (search["lr"], search["edge"]) == (1, True)
    assert search["rounds"][0]["losses"]["1e+160"] is None
    broken = json.loads((tmp_path / "out" / "short-MeZO-lr1e+160-seed7" / "outcome.json").read_text())
    assert "no finite size" in broken["diverged"]
    assert final_loss(broken) == math.inf


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_cell_is_listed_does_not_end_the_others_and_is_tried_again(tmp_path, workers):
    blocked = tmp_path / "out" / "short-MeZO-lr0.001-seed7"
    blocked.parent.mkdir()
    blocked.write_text("a file where a folder should be")
    record = run(tmp_path, workers)
    assert record.methods() == ["AdaMeZO"]
    assert [entry["cell"] for entry in record.failed] == ["short-MeZO-lr0.001-seed7"]
    assert "Error" in record.failed[0]["error"]
    blocked.unlink()
    assert set(run(tmp_path, workers).methods()) == {"MeZO", "AdaMeZO"}


def test_a_changed_plan_is_refused_by_its_key(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match=r"holds cells of another plan \(base\.steps is 3 there, 4 here; seeds is"):
        run(folder, base={**PLAN["base"], "steps": 4}, seeds=[0])
    with pytest.raises(ValueError, match=r"methods\.AdaMeZO\.lr is 0\.0001 there, 0\.1 here"):
        run(folder, methods={**PLAN["methods"], "AdaMeZO": {**PLAN["methods"]["AdaMeZO"], "lr": 0.1}})


def test_more_seeds_are_taken_up_in_the_same_folder(tmp_path):
    first = run(tmp_path, seeds=[0])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/record.json")}
    more = run(tmp_path, seeds=[0, 1])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for name in first.methods():
        before, after = first.runs("short", name), more.runs("short", name)
        assert after.seeds == (0, 1)
        assert (after.losses[0] == before.losses[0]).all()
    with pytest.raises(ValueError, match=r"another plan \(seeds is"):
        run(tmp_path, seeds=[0])


def written(path, **changes):
    path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return path


def test_a_second_process_in_the_same_folder_is_refused_and_a_killed_one_can_be_taken_up(tmp_path):
    long = {**PLAN, "base": {**PLAN["base"], "steps": 60, "eval_every": 60}, "methods": {"MeZO": PLAN["methods"]["MeZO"]}}
    path = written(tmp_path / "plan.yaml", **long)
    words = [sys.executable, "-m", "zolab", "study", str(path), "--out", str(tmp_path / "out"), "--record"]
    words += [str(tmp_path / "record.json"), "--workers", "2"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if list((tmp_path / "out").glob("*/log.jsonl")):
                break
            time.sleep(0.1)
        second = command(*words[3:])
        assert second.status == 1
        assert "another process is running the study" in second.errors
        assert second.errors.count("\n") == 1
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    deadline = time.monotonic() + 60  # its runs end with it
    while any(map(_is_held, (tmp_path / "out").glob("*/log.jsonl"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    record = run_study(check_plan(long), tmp_path / "out", tmp_path / "record.json", 2, progress=False)
    assert record.failed == []
    assert len(record.cells("short", "MeZO")) == 2


def _is_held(path):
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def lasting(record):
    """All but times and memory of a record's result."""
    times = {"seconds": 0, "peak_bytes": 0}
    return {**record["result"], "cells": [{**cell, **times} for cell in record["result"]["cells"]]}


def test_the_jobs_of_an_array_give_the_same_record(finished, tmp_path):
    _, alone = finished
    path, out, record = written(tmp_path / "plan.yaml"), tmp_path / "out", tmp_path / "record.json"
    completed = command("study", path, f"--out={out}", f"--record={record}", "--print-array")
    assert completed.status == 0
    assert len(completed.out.splitlines()) <= 25
    assert "#SBATCH --array=0-1\n" in completed.out
    assert "gpu" not in completed.out
    assert subprocess.run(["bash", "-n"], input=completed.out, text=True, check=True).returncode == 0
    (line,) = (line.removesuffix(" & child=$!") for line in completed.out.splitlines() if line.endswith("child=$!"))
    for number in ("1", "0"):
        words = shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", number))
        done = command(*words[3:])
        assert done.status == 0, done.errors
        assert not record.exists()
    logs = {path: path.read_bytes() for path in out.glob("*/log.jsonl")}
    assert command(*words[3:-2]).status == 0
    assert all(path.read_bytes() == content for path, content in logs.items())
    assert lasting(load_record(record)) == lasting(alone.content)


def test_shares_run_beside_each_other_but_not_beside_the_study(tmp_path):
    plan = check_plan(
        {**PLAN, "base": {**PLAN["base"], "lr": [1e-3]}, "methods": {"MeZO": {"optimizer": "mezo"}}, "seeds": [0]}
    )
    with holding(tmp_path / "out", alone=False):
        assert run_share(plan, tmp_path / "out", (1, 2), progress=False) == []  # there is one method for two
        assert not list((tmp_path / "out").glob("short-*"))
        with pytest.raises(OSError, match="another process is running the study"):
            run_study(plan, tmp_path / "out", tmp_path / "record.json")
    for wrong in ((2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="a share is written as one of 0/2 to 1/2"):
            run_share(plan, tmp_path / "other", wrong)
    with pytest.raises(ValueError, match="workers"):
        run_share(plan, tmp_path / "other", (0, 2), workers=10_000)
    assert not (tmp_path / "other").exists()
    completed = command("study", "plan.yaml", "--out=x", "--record=y", "--share=3/3")
    assert completed.status == 2
    assert "write K/N with K from 0 to N - 1" in completed.errors


def test_more_workers_than_cores_are_refused(tmp_path):
    for workers in (0, 10_000, 1.5):
        with pytest.raises(ValueError, match="workers"):
            run_study(check_plan(PLAN), tmp_path / "out", tmp_path / "record.json", workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds must be a list of different whole seeds"),
        ({"seeds": 3}, "seeds must be a list of different whole seeds"),
        ({"seeds": ["a"]}, "seeds must be a list of different whole seeds"),
        ({"seeds": [2**32]}, "seeds must be a list of different whole seeds"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole seeds"),
        ({"seeds": [0, 7]}, r"seeds \[7\] are reported and searched on"),
        ({"search": {"factor": 1, "extend": 1, "seeds": [7]}}, "factor > 1"),
        ({"search": {"factor": "two", "extend": 1, "seeds": [7]}}, "factor > 1"),
        ({"search": {"factor": 2, "extend": 0.5, "seeds": [7]}}, "a whole extend >= 0"),
        ({"search": {"factor": 2}}, "search must have exactly the keys factor, extend, seeds"),
        ({"base": None}, "base must be settings that all runs share"),
        ({"tasks": {}}, "tasks must be names with settings"),
        ({"study": "luck"}, "unknown study 'luck'; choose methods, scales"),
        ({"methods": []}, "methods must be one or more names"),
        ({"methods": {"MeZO": {"optimizer": "mezo"}}}, "short needs an lr > 0 where its search starts, got None"),
        ({"methods": {"MeZO": {"lr": "1e-4"}}}, "short needs an lr > 0 where its search starts, got '1e-4'"),
        ({"methods": {"MeZO": {"lr": 1, "steps": "four"}}}, "steps must be int, got 'four'"),
        ({"methods": {"MeZO": {"lr": 1, "steps": 4.5}}}, "steps must be int, got 4.5"),
        ({"methods": {"MeZO": {"lr": 1, "autocast": 1}}}, "autocast must be bool, got 1"),
        ({"methods": {"MeZO": {"lr": 1, "task": "nope"}}}, "unknown task 'nope'"),
        ({"extra": 1}, "unknown key extra; a plan of methods may have"),
        ({"methods": {"MeZO": {"optimizer": "mezo", "lr": -1}}}, "lr"),
        ({"methods": {"MeZO": {"optimizer": "mezzo", "lr": 1}}}, "unknown optimizer"),
        ({"methods": {"MeZO": {"optimizer": "mezo", "rate": 1, "lr": 1}}}, "not a configuration"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=0"}}}, "horizon"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizont=3"}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=="}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=print()"}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "3"}}}, "do not fit adamezo: write name=value"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_plan(written(tmp_path / "plan.yaml", **changes))


def test_what_is_no_plan_is_refused(tmp_path):
    for content, message in (
        (b"base: [", "is not a YAML file"),
        (b"base: \xe9", "is not a YAML file"),
        (b"3", "a plan is a mapping"),
    ):
        (tmp_path / "plan.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_plan(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match="the key search is missing"):
        check_plan({key: value for key, value in PLAN.items() if key != "search"})


def test_settings_of_first_order_methods_are_checked_too():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        configuration({**PLAN["base"], "optimizer": "adam", "lr": 1e-3, "steps": 0})
