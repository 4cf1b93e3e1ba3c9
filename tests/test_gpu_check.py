"""The command for a GPU machine, shrunk, in Triton's interpreter."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_it_runs_on_a_cpu_and_finds_every_part_sound(tmp_path):
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--small", "--record", str(record)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(record.read_text())
    parts = content["parts"]
    assert set(parts) == {"exactness", "passes", "steps small", "methods small", "meta small", "reviews"}
    assert all(part["rows"] and "error" not in part for part in parts.values())
    assert all(row["exact"] and row["replay"] and row["moved"] for row in parts["exactness"]["rows"])
    assert content["card"] == "interpreter"


def test_without_a_gpu_it_says_what_to_do():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "--small" in done.stderr
