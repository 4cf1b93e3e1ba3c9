"""Predicted gains beside what runs save: the study, its numbers, its figure and its page."""

import numpy as np
import pytest

from zolab.studies.figures import prediction_figure
from zolab.studies.plan import check_plan
from zolab.studies.predicted import Outcome, agreement, outcomes
from zolab.studies.run import run_study
from zolab.studies.sections import predicted_lines
from zolab.studies.statistics import Estimate

PLAN = {
    "study": "predicted",
    "examples": 24,
    "groups": 6,
    "base": {"model": "tiny-random-llama", "batch_size": 4, "steps": 2, "eval_every": 1, "train": 24, "dev": 8, "test": 4},
    "tasks": {
        "sentence": {"task": "reviews_sentence", "lr": 5e-4, "balanced": True, "calibrate": 8},
        "next": {"task": "reviews_next", "lr": 3e-4},
    },
    "methods": ["MeZO", "by kind", "no embedding", "permuted"],
    "search": {"factor": 2, "extend": 0, "seeds": [100]},
    "seeds": [0, 1],
}


def outcome(task, gain, saving, bound=""):
    return Outcome(task, "by kind", gain, 0.1, Estimate(saving, saving, saving, null=1.0, bound=bound), Estimate(-saving, 0, 0))


def test_predictions_are_kept_beside_the_runs_and_drawn(tmp_path):
    record = run_study(check_plan(PLAN), tmp_path / "out", tmp_path / "record.json")
    rows = outcomes(record)
    assert {(row.task, row.way) for row in rows} == {(task, way) for task in PLAN["tasks"] for way in PLAN["methods"][1:]}
    sigmas = record.measured["next"]["sigma"]
    assert len({tuple(sigma) for sigma in sigmas.values()}) == 3
    assert sigmas["no embedding"][0] == 0
    left, right = prediction_figure(record).axes
    assert left.get_ylabel() == "MeZO's forward passes over theirs"
    assert right.get_legend_handles_labels()[1] == PLAN["methods"][1:]
    table = predicted_lines(record)
    assert len(table) == 4 + len(rows)
    by_kind = next(row for row in rows if row.way == "by kind")
    assert any(f"| {by_kind.task} | by kind | {by_kind.gain:.2f} ±" in line for line in table)


def test_agreement_is_that_of_ranks_and_leaves_out_what_runs_do_not_tell():
    gains = np.array([-3.0, 0.5, 1.5, 20.0, 2.0, 0.1])
    rows = [outcome(f"t{i % 3}", gain, 1 + np.arctan(gain) / 2) for i, gain in enumerate(gains)]
    assert agreement(rows).value == pytest.approx(1)
    assert agreement([*rows, outcome("t0", 100.0, 0.01, bound="–")]).value == pytest.approx(1)
    assert agreement([*rows, outcome("t0", 100.0, 0.01)]).value < 0.5
    assert agreement(rows, "final").value == pytest.approx(1)  # a lower loss is better
    assert np.isnan(agreement([outcome("t0", gain, 1.0) for gain in gains]).value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["MeZO", "luck"]}, "unknown scales luck; choose MeZO, by kind"),
        ({"methods": ["by kind"]}, "methods must be MeZO and some of by kind"),
        ({"groups": 5}, "groups must be between 6 and the 24 examples, got 5"),
        ({"examples": 2.5}, "examples"),
    ],
)
def test_a_wrong_plan_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, **change})
