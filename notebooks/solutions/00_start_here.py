"""Solutions of notebook 00: `python notebooks/solutions/00_start_here.py` prints what the checks say to them."""

import tempfile
from types import SimpleNamespace

import numpy as np

from zolab.models import load_model
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.tasks import load_task
from zolab.widgets import check


def too_fast():
    settings = {"model": "tiny-reviews", "task": "reviews_number", "lr": 3e-3, "steps": 20, "batch_size": 8, "eval_every": 20}
    with tempfile.TemporaryDirectory() as folder:
        return (finetune(Config(**settings, train=64, dev=2, test=2), folder, progress=False).record,)


def offset_by_hand():
    generator = np.random.default_rng(0)  # gaps_before and truth of the notebook stand here
    truth = generator.integers(0, 2, 200)
    gaps = generator.normal(truth - 2.0, 1.0)
    ordered = np.sort(gaps)
    between = (ordered[1:] + ordered[:-1]) / 2
    return gaps, truth, -max(between, key=lambda at: np.mean((gaps > at) == truth))


def one_word():
    model, tokenizer = load_model()  # `run` of the notebook
    run = SimpleNamespace(task=load_task("rotten_tomatoes_short"), model=model, tokenizer=tokenizer)
    return run, "a wonderful film .", "a horrible film ."


SOLUTIONS = {1: too_fast, 2: offset_by_hand, 3: one_word}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("00", number, *solution()))
