"""Studies on Ray: the record of any other runner; a worker and a whole cluster are killed; what is refused before it starts."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from small import command
from test_study_runs import lasting

from zolab.models import keep_models, kept, kept_model, load_model, model_bytes, tokenizer_digest, trained_digest
from zolab.records import environment, load_record
from zolab.studies import cluster
from zolab.studies.cluster import Actor, _answers, _room
from zolab.studies.needs import PROCESS, Needs, needs_of
from zolab.studies.plan import check_plan
from zolab.studies.run import run_study

RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray, an extra, is not installed: pip install 'zolab[cluster]'")
PLAN = {
    "base": {
        **{"model": "tiny-reviews", "task": "reviews_sentence", "batch_size": 2, "forwards": 48, "evaluations": 1},
        **{"train": 12, "dev": 4, "test": 4, "lr": [1e-4]},
    },
    "tasks": {"short": {}},
    "search": {"factor": 10, "extend": 0, "seeds": [100]},
    "seeds": list(range(20)),
    "methods": {
        "MeZO": {"optimizer": "mezo"},
        "AdaMeZO": {"optimizer": "adamezo", "optim_args": "horizon=2"},
        "FZOO": {"optimizer": "fzoo", "samples": 2},
    },
}
SMALL = {**PLAN, "seeds": [0, 1], "methods": {"MeZO": {"optimizer": "mezo"}}}


def words(tmp_path, plan, *more):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    given = ["study", str(path), f"--out={tmp_path / 'out'}", f"--record={tmp_path / 'record.json'}", "--runner=ray"]
    return [*given, *map(str, more)]


def started(tmp_path, plan, *more):
    """The command in a process of its own: a driver of Ray that may be ended with its cluster."""
    return subprocess.Popen(
        [sys.executable, "-m", "zolab", *words(tmp_path, plan, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def head(folder, port):
    """A cluster of one machine with two cores, which is killed at the end of the block, all of it at once."""
    given = [
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    given += [f"--object-store-memory={10**8}", f"--temp-dir={folder}"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: _answers(f"127.0.0.1:{port}"))
        yield
    finally:
        started = [process, *psutil.Process(process.pid).children(recursive=True)]
        for each in started:
            with suppress(psutil.NoSuchProcess):  # one that has ended by itself meanwhile
                each.kill()
        for each in started:
            each.wait()


def wait_for(condition, seconds=120.0):
    """What a function finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come about in time")


def holder(log):
    """The process that holds a run's log."""
    inode = log.stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next((int(line[4]) for line in locks if line[1] == "FLOCK" and int(line[5].split(":")[-1]) == inode), None)


def killed(out):
    """The log of a run whose worker is killed while it takes steps, and what was in it."""

    def kill():
        for log in out.glob("*/log.jsonl"):
            if b'"event": "step"' in log.read_bytes() and (worker := holder(log)):
                os.kill(worker, signal.SIGKILL)
                return log if not log.with_name("outcome.json").exists() else None
        return None

    log = wait_for(kill)
    return log, log.read_bytes()


def last(errors):
    """The last line of what a command said; libraries that it imports may have said more."""
    return errors.splitlines()[-1]


def outcomes(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("*/outcome.json")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study of 60 cells by the usual runner, in processes of one thread each."""
    folder = tmp_path_factory.mktemp("alone")
    return run_study(check_plan(PLAN), folder / "out", folder / "record.json", 2, progress=False)


@RAY
def test_60_cells_a_killed_worker_and_a_killed_head_give_the_record_of_any_other_runner(alone, tmp_path):
    out, port = tmp_path / "out", free_port()
    address = f"--address=127.0.0.1:{port}"
    session = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for Ray's sockets
    with head(session, port):
        refused = started(tmp_path, PLAN, address, "--cpus=3")
        _, errors = refused.communicate(timeout=240)
        assert refused.returncode == 1
        sentence = (
            r"error: a run declares 3 CPUs, 0 GPUs and 1.0 GB, and no machine of the cluster has so much: there are 2 CPUs,"
        )
        assert last(errors).startswith(sentence), errors
        assert not list(out.glob("short-*"))

        driver = started(tmp_path, PLAN, address)
        log, begun = killed(out)
        wait_for(lambda: len(outcomes(out)) >= 30)
    printed, errors = driver.communicate(timeout=240)
    assert driver.returncode == 1, errors
    message = r"error: the Ray cluster at \S+ ended: the same command goes on when there is one again\."
    assert re.fullmatch(message, last(errors)), errors
    assert "failed" not in printed
    done = outcomes(out)
    assert 30 <= len(done) < 60
    with head(session, port):
        driver = started(tmp_path, PLAN, address)
        _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors
    after = outcomes(out)
    assert len(after) == 60
    assert {path: after[path] for path in done} == done
    assert log.read_bytes().startswith(begun[: begun.rfind(b"\n") + 1])
    record = load_record(tmp_path / "record.json")
    assert record["workers"] == 2
    assert lasting(record) == lasting(alone.content)
    shutil.rmtree(session)

    changed = command(*words(tmp_path, {**PLAN, "seeds": [0]}))  # on a Ray of this machine, which is not even started
    assert changed.status == 1
    assert "holds cells of another plan (seeds is" in changed.errors


@RAY
def test_a_cell_that_fails_on_a_local_ray_is_tried_again_and_listed(tmp_path):
    blocked = tmp_path / "out" / "short-MeZO-lr0.0001-seed1"
    blocked.parent.mkdir()
    blocked.write_text("a file where a folder should be")
    driver = started(tmp_path, SMALL)
    printed, errors = driver.communicate(timeout=240)
    assert driver.returncode == 1
    assert re.search(r"a run declares 1 CPU, 0 GPUs and \d\.\d GB\n", printed)
    assert re.search(r"failed: short-MeZO-lr0.0001-seed1: \w+: .* \(tried 3 times\)\n", errors)
    assert "error: 1 runs failed; the same command tries them again.\n" in errors
    record = load_record(tmp_path / "record.json")
    assert [entry["cell"] for entry in record["result"]["failed"]] == ["short-MeZO-lr0.0001-seed1"]
    assert len(outcomes(tmp_path / "out")) == 1


def test_what_cannot_be_had_is_refused_before_anything_starts(tmp_path, monkeypatch):
    def refused(*more):
        completed = command(*words(tmp_path, SMALL, *more))
        assert completed.status == 1
        assert completed.errors.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return completed.errors

    monkeypatch.setattr(cluster, "find_spec", lambda name: object())
    assert "no Ray cluster answers at 127.0.0.1:" in refused(f"--address=127.0.0.1:{free_port()}")
    for address in ("ray://127.0.0.1:10001", "127.0.0.1", ":6379", "here:port", "a:70000"):
        assert "address is HOST:PORT" in refused(f"--address={address}")
    assert "gpus is 1, but the plan's device is cpu" in refused("--gpus=1")
    assert "cpus must be a whole number of at least 1, got 0" in refused("--cpus=0")
    assert "memory must be a positive number of bytes" in refused("--memory=-1")
    assert "Ray itself shares out the runs" in refused("--share=0/2")
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert "Ray is not installed, which is an extra: pip install 'zolab[cluster]'" in refused()
    completed = command(*words(tmp_path, SMALL, "--runner=local", "--cpus=2"))
    assert "--cpus is for runs on Ray: add --runner ray, or leave it out." in completed.errors


def test_a_cell_declares_what_it_takes():
    plan = check_plan(SMALL)
    small, batch = needs_of(plan), needs_of(check_plan({**SMALL, "base": {**SMALL["base"], "train": 4000, "batch_size": 4000}}))
    assert (small.cpus, small.gpus) == (1, 0.0)
    assert PROCESS < small.memory < batch.memory
    states = needs_of(check_plan({**SMALL, "methods": {**SMALL["methods"], "Adam": {"optimizer": "mezo_adam"}}}))
    assert states.memory == small.memory + 2 * model_bytes(load_model("tiny-reviews")[0])  # its moments
    assert needs_of(plan, 4, None, 7e9) == Needs(4, 0.0, 7_000_000_000)
    on_gpu = {**SMALL, "base": {**SMALL["base"], "device": "cuda"}}
    assert needs_of(check_plan(on_gpu)).gpus == 1.0
    assert needs_of(check_plan(on_gpu), gpus=0.25).gpus == 0.25
    with pytest.raises(ValueError, match="gpus must be positive where the plan's device is cuda, got 0"):
        needs_of(check_plan(on_gpu), gpus=0.0)
    with pytest.raises(ValueError, match="device is cuda:1, and Ray gives each run a GPU of its own: write device: cuda"):
        needs_of(check_plan({**SMALL, "base": {**SMALL["base"], "device": "cuda:1"}}))
    away = {**SMALL, "base": {**SMALL["base"], "model": "/nowhere/model"}}
    with pytest.raises(ValueError, match=r"what a run takes cannot be predicted here .* say it with --memory"):
        needs_of(check_plan(away))
    assert needs_of(check_plan(away), memory=1e9).memory == 10**9


def test_so_many_workers_as_have_room():
    def node(cpus, gpus, memory, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, "memory": memory, **({"GPU": gpus} if gpus else {})}}

    nodes = [node(8.0, 0, 5e9), node(4.0, 2, 64e9), node(64.0, 8, 1e12, alive=False)]
    assert _room(nodes, Needs(1, 0.0, 10**9), None) == 5 + 4
    assert _room(nodes, Needs(1, 0.5, 10**9), None) == 4
    assert _room(nodes, Needs(2, 0.0, 10**9), 3) == 3
    for needs in (Needs(9, 0.0, 10**9), Needs(1, 3.0, 10**9), Needs(1, 0.0, 10**11)):
        with pytest.raises(
            ValueError, match=r"no machine of the cluster has so much: there are 8 CPUs, 0 GPUs and 5.0 GB or 4"
        ):
            _room(nodes, needs, None)
    with pytest.raises(ValueError, match="workers is 10, but the cluster has room for 9 at once, each with 1 CPU, 0 GPUs and"):
        _room(nodes, Needs(1, 0.0, 10**9), 10)
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, got 0"):
        _room(nodes, Needs(1, 0.0, 10**9), 0)


def test_a_machine_without_the_folder_or_with_other_versions_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker goes there; the tests after this one must not
    here = environment()
    message = Actor().begin(str(tmp_path), str(tmp_path), "a plan", 1, here)
    assert "they must lie on a disk that all share" in message
    (tmp_path / "plan.json").write_text("a plan")
    other = {**here, "versions": {**here["versions"], "torch": "1.0"}, "commit": "0"}
    message = Actor().begin(str(tmp_path), str(tmp_path), "a plan", 1, other)
    assert "has other versions of torch, zolab's source than this machine: install the same on all" in message


def test_a_kept_model_is_the_one_that_would_be_loaded(monkeypatch):
    monkeypatch.setattr(kept, "_kept", None)
    loaded, words_ = load_model("tiny-reviews")
    keep_models()
    first, _ = kept_model("tiny-reviews")
    with torch.no_grad():
        for weight in first.parameters():
            weight.zero_()
    second, tokenizer = kept_model("tiny-reviews")
    assert trained_digest(second) == trained_digest(loaded)
    assert tokenizer_digest(tokenizer) == tokenizer_digest(words_)
    assert not second.training
    tokenizer.model_max_length = 3
    assert kept_model("tiny-reviews")[1].model_max_length == words_.model_max_length
    monkeypatch.setattr(kept, "KEPT", 10)
    assert trained_digest(kept_model("tiny-random-llama")[0]) == trained_digest(load_model("tiny-random-llama")[0])
    assert len(kept._kept) == 1
