"""The track's page is a function of records: medians by hand, one small race that is run, and rules that are kept."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from small import command

from zolab.studies import track
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.plan import check_plan, load_plan
from zolab.studies.run import run_study
from zolab.studies.statistics import FEWEST, median

ROOT = Path(__file__).resolve().parent.parent
PLAN = {
    "study": "track",
    "base": {"model": "tiny-reviews", "batch_size": 2, "steps": 3, "train": 8, "dev": 4, "test": 2, "eval_every": 1},
    "tasks": {"sentence": {"task": "reviews_sentence"}},
    "methods": {"MeZO": {"optimizer": "mezo", "lr": 1e-4}, "Adam": {"optimizer": "adam", "lr": 1e-5, "steps": 2}},
    "search": {"factor": 3, "extend": 0, "seeds": [9]},
    "seeds": [0, 1],
}


def test_the_interval_of_a_median_is_two_of_the_values():
    estimate = median(np.array([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]))
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (3.5, 1.0, 6.0, 6)
    estimate = median(np.array([*range(1, 9), math.inf, math.inf], float))
    assert (estimate.value, estimate.low, estimate.high) == (5.5, 2.0, math.inf)
    few = median(np.arange(FEWEST - 1.0))
    assert few.value == 2.0
    assert math.isnan(few.low)
    assert math.isnan(few.high)


@pytest.mark.parametrize("n", range(FEWEST, 40))
def test_it_is_the_shortest_that_covers_the_median_with_95_percent(n):
    low = int(median(np.arange(float(n))).low)  # so many values lie below it
    assert median(np.arange(float(n))).high == n - 1 - low
    below = stats.binom(n, 0.5).cdf  # of the true median, whatever the distribution
    assert 1 - 2 * below(low) >= 0.95 > 1 - 2 * below(low + 1)


def record(**curves):
    """Of methods on the sentence task, from the dev losses of their seeds at 0, 100, 200, 300 forward passes."""
    cells = [
        {"task": "sentence", "method": name, "lr": 1.0, "seed": seed, "curve": [[100 * i, x] for i, x in enumerate(losses)]}
        for name, runs in curves.items()
        for seed, losses in enumerate(runs)
    ]
    search = {"sentence": {name: {"lr": 1.0, "edge": False, "rounds": []} for name in curves}}
    result = {"search": search, "cells": cells, "measured": {}, "failed": []}
    return Record({"format": FORMAT, "config": PLAN, "result": result})


def test_rows_are_sorted_by_the_median_and_tell_who_never_arrived():
    fast, slow, never = [1.0, 0.0, 0.0, 0.0], [1.0, 0.8, 0.6, 0.6], [1.0, 1.0, 1.0, 1.0]
    first, second = record(MeZO=[slow] * 6, Lost=[never] * 6), record(Quick=[fast] * 5 + [never])
    first.search("sentence", "MeZO")["edge"] = True
    page = track.track({"04_track": first, "entry": second}, Path("nowhere"))
    table = page.split("## reviews_sentence")[1].split("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["Quick", "MeZO*", "Lost"]
    # smoothed: fast 1.0, 0.5; slow 1.0, 0.9, 0.8, 0.6, so that the target 0.65 lies three quarters of the way to 300
    assert rows[0][1:4] == ["70 (70 to > 300)", "5", "6"]
    assert rows[1][1:4] == ["275 (275 to 275)", "6", "6"]
    assert rows[2][1:4] == ["> 300 (> 300 to > 300)", "0", "6"]
    assert rows[0][4] == "[`entry`](records/entry.json)"
    assert rows[0][5] == "–"
    assert "reviews_writer" in page


def test_a_race_is_run_and_gives_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "RULES", {"model": "tiny-reviews", "dev": 4})
    monkeypatch.setattr(track, "TARGETS", {"reviews_sentence": 1e3})
    (tmp_path / "records").mkdir()
    methods = {name: {**own, "lr": [own["lr"]]} for name, own in PLAN["methods"].items()}  # no search, so no rate at its edge
    plan = check_plan({**PLAN, "methods": methods})
    run_study(plan, tmp_path / "runs", tmp_path / "records" / "04_small.json", progress=False)
    words = ["results", f"--records={tmp_path / 'records'}", f"--out={tmp_path / 'RESULTS.md'}"]
    completed = command(*words)
    assert completed.status == 0, completed.errors
    assert "TRACK.md" in completed.out
    page = (tmp_path / "TRACK.md").read_text()
    link = "[seed 0](records/04_small/sentence-MeZO/record.json)"
    assert f"| MeZO | 0 | 2 | 2 | [`04_small`](records/04_small.json) | {link} |" in page
    assert "| Adam | 0 | 2 | 2 | [`04_small`](records/04_small.json) | – |" in page
    assert command(*words, "--check").status == 0
    (tmp_path / "TRACK.md").write_text(page.replace("MeZO", "Ours"))
    completed = command(*words, "--check")
    assert completed.status == 1
    assert "TRACK.md does not say what" in completed.errors
    assert command("verify", tmp_path / "records" / "04_small" / "sentence-MeZO", "--curve").status == 0


def test_without_a_race_there_is_no_page(tmp_path):
    (tmp_path / "records").mkdir()
    content = json.loads((ROOT / "figures" / "records" / "03_methods.json").read_text())
    (tmp_path / "records" / "03_methods.json").write_text(json.dumps(content))
    assert command("results", f"--records={tmp_path / 'records'}", f"--out={tmp_path / 'RESULTS.md'}").status == 0
    assert not (tmp_path / "TRACK.md").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": {**PLAN["base"], "dev": 8}}, "sentence has batch_size 2, train 8, dev 8; runs on the track have model tiny-"),
        ({"base": {**PLAN["base"], **track.RULES}}, "the track's tasks are reviews_sentence, reviews_writer, each once"),
    ],
)
def test_other_rules_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, **changes})


def test_the_shipped_plan_keeps_the_rules():
    plan = load_plan(ROOT / "notebooks" / "plans" / "04_track.yaml")
    assert len(plan.seeds) >= FEWEST
    assert plan.study == "track"


@pytest.mark.parametrize("task", ["sentence", "writer"])
def test_a_kept_run_is_made_again(task):
    completed = command("verify", ROOT / "figures" / "records" / "04_track" / f"{task}-MeZO")
    assert completed.status == 0, completed.errors
    assert "differs" not in completed.out
