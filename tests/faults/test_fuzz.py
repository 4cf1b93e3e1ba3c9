"""Half a minute of the fuzzer; and it finds what is planted."""

import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.loaders import Loader
from fuzz.trials import Case, Trials

ROOT = Path(__file__).resolve().parents[2]
RAISED = {
    "key": KeyError("x"),
    "deep": RecursionError("x"),
    "panic": BaseException("x"),
    "plain": ValueError("no."),
    "": ValueError(),
}


def fall(folder, name):
    """Do what the file's content says."""
    content = (folder / name).read_text()
    if content in RAISED:
        raise RAISED[content]
    if content == "large":
        return len(bytearray(300_000_000))
    if content == "hang":
        while True:
            pass
    if content == "crash":
        faulthandler.disable()  # what it would print looks like a fault of the tests
        os.abort()
    return content


def test_what_is_planted_is_found(monkeypatch):
    monkeypatch.setattr("fuzz.trials.SECONDS", 2)
    planted = Loader("planted", {"a.txt": "text"}, lambda folder: (folder / "a.txt").write_text("valid") and None, fall)
    contents = ("valid", "other", "plain", "", "key", "deep", "panic", "large", "hang", "crash", "valid")
    cases = [Case(planted, 0, number, content=("a.txt", content.encode())) for number, content in enumerate(contents)]
    kinds = [outcome.kind for outcome in Trials(planted).run(cases)]
    expected = ["same", "other", "refused", "bare", "traceback", "bare", "traceback", "memory", "hang", "crash", "same"]
    assert kinds == expected


@pytest.mark.slow
def test_half_a_minute_without_a_finding():
    words = [sys.executable, "-m", "tests.fuzz", "--seconds", "30"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " inputs in " in done.stdout
