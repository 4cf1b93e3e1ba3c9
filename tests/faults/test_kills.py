"""Processes killed at random moments: what goes on in their folders ends as if nothing had happened, to the bit."""

import json
import random
import shutil
import signal
import time

import pytest
import torch
import yaml
from processes import Process
from safetensors.torch import load_file

from zolab.models import load_model
from zolab.optim import Trajectory, replay
from zolab.records import load_record

FINETUNE = "--model=tiny-reviews --task=reviews_sentence --lr=5e-4 --steps=60 --eval_every=10 --batch_size=4 --schedule=linear"
FINETUNE = [*FINETUNE.split(), "--train=60", "--dev=20", "--test=20"]
LEARN = ["--model=tiny-reviews", "--tasks=reviews_sentence,reviews_writer", "--batch_size=4", "--train=20"]
PLAN = {
    "base": {
        **{"model": "tiny-random-llama", "task": "rotten_tomatoes", "batch_size": 2, "steps": 6},
        **{"train": 10, "dev": 4, "test": 2, "eval_every": 3},
    },
    "tasks": {"short": {}},
    "search": {"factor": 10, "extend": 1, "seeds": [7]},
    "seeds": [0, 1],
    "methods": {
        "MeZO": {"optimizer": "mezo", "lr": 1e-3},
        "Adam": {"optimizer": "adam", "lr": 1e-4, "steps": 4, "eval_every": 2},
    },
}
COMMANDS = {
    "finetune": ["finetune", *FINETUNE],
    "finetune with checkpoints": ["finetune", *FINETUNE, "--checkpoint_every=7"],
    "metatrain": ["metatrain", *LEARN, "--steps=16", "--period=3", "--lr_zo=1e-4", "--hidden=8"],
    "evolve": ["evolve", *LEARN, "--pairs=12", "--steps=2", "--dev=4"],
    "study": ["study", "plan.yaml", "--record=record.json"],
}
KILLS = {"finetune": 8, "finetune with checkpoints": 8, "metatrain": 7, "evolve": 5, "study": 6}


def words(kind, folder):
    command = [word.replace("plan.yaml", str(folder.parent / "plan.yaml")) for word in COMMANDS[kind]]
    return [*(word.replace("=record", f"={folder}/record") for word in command), f"--out={folder}"]


def outcome(folder):
    """All that a finished folder holds, but for times."""
    record = load_record(folder / "record.json")
    parts = {"files": sorted(file.name for file in folder.iterdir()), "result": without_times(record["result"])}
    parts |= {part: record.get(part) for part in ("config", "base", "data", "steps", "evaluations")}
    if (folder / "trajectory.npz").exists():
        model, _ = load_model(record["config"]["model"])
        replay(model, Trajectory.load(folder / "trajectory.npz"))
        parts["weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    for file in folder.glob("*.safetensors"):
        parts[file.name] = load_file(file)
    return parts


def without_times(content):
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in ("seconds", "peak_bytes")}
    return [without_times(part) for part in content] if isinstance(content, list) else content


def assert_same(resumed, whole):
    assert resumed.keys() == whole.keys()
    for key, value in whole.items():
        if isinstance(value, dict) and any(isinstance(part, torch.Tensor) for part in value.values()):
            assert value.keys() == resumed[key].keys()
            assert all(torch.equal(value[name], resumed[key][name]) for name in value), key
        else:
            assert json.dumps(resumed[key]) == json.dumps(value), key


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_killed_process_costs_nothing(tmp_path, kind):
    """Killed at random moments until it has been killed often enough; each run that came through is compared."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    began = time.monotonic()
    process = Process(words(kind, tmp_path / "whole"), tmp_path / "printed")
    assert process.wait() == 0, process.printed
    length, whole = time.monotonic() - began, outcome(tmp_path / "whole")
    chance, killed, folder, compared = random.Random(kind), 0, tmp_path / "killed", 0
    while killed < KILLS[kind] or not compared:
        fresh, began = not folder.exists(), time.monotonic()
        process = Process(words(kind, folder), tmp_path / "printed")
        if killed < KILLS[kind] and process.wait(chance.uniform(0.1, 0.9) * length) is None:
            process.send(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.printed
        killed += status != 0
        if status == 0:
            length = min(length, time.monotonic() - began) if fresh else length  # the first one had libraries to load
            assert_same(outcome(folder), whole)
            compared += 1
            shutil.rmtree(folder)
