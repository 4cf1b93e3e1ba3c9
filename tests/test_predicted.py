"""Predicted gains beside what runs save: the study, its numbers, its figure and its page."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from zolab.models import load_model
from zolab.records import load_record
from zolab.studies import predicted
from zolab.studies.compare import overall
from zolab.studies.figures import prediction_figure
from zolab.studies.gain_map import base_signal
from zolab.studies.outcomes import Record
from zolab.studies.plan import check_plan
from zolab.studies.predicted import SCALES, Outcome, concordance, outcomes, prepare, scales_by
from zolab.studies.results import _study
from zolab.studies.run import run_study
from zolab.studies.scales import measured_terms
from zolab.studies.sections import predicted_lines
from zolab.studies.statistics import Estimate
from zolab.tasks import load_task
from zolab.theory.judged import halves_of

RECORDS = Path(__file__).resolve().parent.parent / "figures" / "records"
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
    assert {task: record.measured[task]["balanced"] for task in PLAN["tasks"]} == {"sentence": True, "next": False}
    assert sigmas["no embedding"][0] == 0
    left, right = prediction_figure(record).axes
    assert left.get_ylabel() == "MeZO's forward passes over theirs"
    assert right.get_legend_handles_labels()[1] == PLAN["methods"][1:]
    table = predicted_lines(record)
    assert len(table) == 4 + len(rows)
    assert table[4:] == [
        f"| {r.task} | {r.way} | {r.predicted} | {r.saving.text()} | {r.final.text(3, sign=True)} |" for r in rows
    ]


def test_agreement_is_that_of_ranks_and_leaves_out_what_runs_do_not_tell():
    gains = np.array([-3.0, 0.5, 1.5, 20.0, 2.0, 0.1])
    rows = [outcome(f"t{i % 3}", gain, 1 + np.arctan(gain) / 2) for i, gain in enumerate(gains)]
    assert concordance(rows).value == pytest.approx(1)
    assert concordance([*rows, outcome("t0", np.nan, 0.01)]).value == pytest.approx(1)
    assert concordance([*rows, outcome("t0", 100.0, 0.01)]).value == pytest.approx((15 - 6) / 21)
    assert concordance(rows, "final").value == pytest.approx(1)  # a lower loss is better
    assert np.isnan(concordance([outcome("t0", gain, 1.0) for gain in gains]).value)


def test_a_bound_has_an_order_only_beside_what_lies_beyond_it():
    late = outcome("a", 9.0, 1.0, bound="≤")  # never arrives: its saving is anything below 1
    assert concordance([late, outcome("b", 2.0, 1.2)]).value == -1
    assert np.isnan(concordance([late, outcome("b", 2.0, 0.9)]).value)
    early = outcome("a", 9.0, 1.1, bound="≥")  # MeZO never arrives
    assert concordance([early, outcome("b", 2.0, 1.0)]).value == 1
    assert np.isnan(concordance([early, outcome("b", 2.0, 1.3)]).value)
    assert concordance([early, outcome("a", 2.0, 1.3, bound="≥")]).value == -1  # of one task: MeZO's passes are in both
    assert concordance([early, outcome("a", 2.0, 1.0, bound="–")]).value == 1  # which never arrived either
    assert np.isnan(concordance([early, outcome("b", 2.0, 1.0, bound="–")]).value)


def test_the_interval_of_an_agreement_draws_tasks_and_is_open_with_one():
    rows = [outcome(f"t{i}", float(i + j), float(i + (j if i % 3 else -j))) for i in range(6) for j in (0, 1)]
    estimate = concordance(rows)
    assert estimate.low < estimate.value < estimate.high <= 1
    assert (estimate.n, estimate.least) == (6, 6)
    one = concordance(rows[2:4])
    assert (one.value, one.low, one.high, one.word) == (1, -np.inf, np.inf, "undecided")
    assert one.text(sign=True) == "+1.00 (-∞ to ∞)"
    assert np.isnan(concordance([]).value)
    assert concordance([]).text() == "–"


def record_of(*cells, gains=None, failed=()):
    """A record from (task, method, seed, final loss, or None for a run that diverged)."""
    search, kept = {}, []
    for task, method, seed, end in cells:
        search.setdefault(task, {})[method] = {"lr": 1.0, "edge": False, "rounds": []}
        curve = [[f, end + max(0.0, 1 - f / 40)] for f in range(0, 110, 10)] if end is not None else None
        kept.append(
            {"task": task, "method": method, "lr": 1.0, "seed": seed, **({"curve": curve} if curve else {"diverged": "!"})}
        )
    known = {"by kind": (2.0, 0.1), "best": (9.0, 1.0), "density": (3.0, 30.0)} if gains is None else gains
    predictions = {way: {"gain": gain, "error": error} for way, (gain, error) in known.items()}
    measured = {task: {"predicted": predictions, "total": {"G": [6.0, 1.0]}} for task in ("a", "b")}
    plan = {"study": "predicted", "about": "", "base": {}, "seeds": [0], "search": {"factor": 2, "seeds": []}}
    result = {"search": search, "cells": kept, "measured": measured, "failed": list(failed)}
    return Record({"config": plan, "result": result})


def test_scales_with_which_every_run_diverges_save_nothing():
    runs = [(task, name, seed, end) for task in "ab" for seed in (0, 1) for name, end in (("MeZO", 0.5), ("best", None))]
    record = record_of(*runs, *((task, "by kind", seed, 0.4) for task in "ab" for seed in (0, 1)))
    by_way = {row.way: row for row in outcomes(record) if row.task == "a"}
    assert (by_way["best"].saving.bound, by_way["best"].final.bound) == ("≤", "≥")
    assert by_way["best"].saving.value < 1 < by_way["by kind"].saving.value
    assert overall(record, "best").forwards.value > 1
    assert [concordance(outcomes(record), key).value for key in ("saving", "final")] == [-1, -1]
    left, right = prediction_figure(record).axes
    hollow = [[line.get_markerfacecolor() for line in axes.lines].count("white") for axes in (left, right)]
    assert hollow == [3, 0]  # two tasks, one in the legend; nothing tells how much higher the loss is


@pytest.mark.parametrize(
    "cells",
    [
        [("a", "by kind", 0, 0.4)],
        [("a", "MeZO", 0, 0.5)],
        [("a", "MeZO", 0, 0.5), ("b", "by kind", 0, 0.4)],
        [("a", "MeZO", 0, 0.5), ("a", "by kind", 0, 0.4), ("b", "best", 0, 0.4)],
        [("a", "MeZO", 0, None), ("a", "by kind", 0, None)],
    ],
)
def test_a_record_is_read_while_its_study_runs_or_where_runs_failed(cells):
    record = record_of(*cells, failed=[{"cell": "x", "error": "no"}])
    both = [("a", "MeZO"), ("a", "by kind")]
    rows = outcomes(record)
    assert len(rows) == all(any(cell[:2] == pair for cell in cells) for pair in both)
    assert "Failed: x: no" in "\n".join(_study(record.content)[1])
    assert len(prediction_figure(record).axes) == 2


def test_a_prediction_that_the_examples_leave_open_is_a_dash_and_counts_for_nothing():
    ends = {"MeZO": 0.5, "by kind": 0.4, "best": 0.3, "density": 0.45}
    record = record_of(*((task, name, 0, end) for task in "ab" for name, end in ends.items()))
    assert [row.predicted for row in outcomes(record) if row.task == "a"] == ["2.00 ± 0.10", "9.00 ± 1.00", "–"]
    assert concordance(outcomes(record), "final").value == 1
    assert len(predicted_lines(record)) == 4 + 6
    record.measured["a"]["total"]["G"] = [2.0, 1.0]
    assert {row.task for row in outcomes(record) if np.isfinite(row.gain)} == {"b"}
    record.measured["b"]["predicted"]["best"] = {"gain": None, "error": None}
    assert [row.predicted for row in outcomes(record) if row.task == "b"] == ["2.00 ± 0.10", "–", "–"]


CONTROLS = {**PLAN, "study": "controls", "pertnn": "tiny-reviews", "methods": ["MeZO", "density"]}


@pytest.mark.parametrize(("plan", "measure"), [(PLAN, prepare), (CONTROLS, lambda plan, task, out: measured_terms(plan, task))])
def test_what_judges_the_runs_does_not_choose_their_scales(plan, measure, tmp_path, monkeypatch):
    """No dev example of any run, of the search's seeds either, is among those that are measured."""
    plan, seen = check_plan({**deepcopy(plan), "tasks": {"sentence": PLAN["tasks"]["sentence"]}}), []

    def measured(config, task, model, tokenizer, examples, groups):
        seen.extend(examples.train)
        raise InterruptedError

    monkeypatch.setattr("zolab.studies.gain_map._measured", measured)
    with pytest.raises(InterruptedError):
        measure(plan, "sentence", tmp_path)
    config = predicted.start_of(plan, "sentence")
    task = load_task(config.task)
    dev = {example for seed in (100, 0, 1) for example in task.sample(seed, 24, 8, 4).dev}
    assert len(dev) > 8
    assert len(set(seen)) == 24
    assert not dev & set(seen)
    everything = task.sample(0, 10**6, 1, 1)
    with pytest.raises(ValueError, match="0 examples of reviews_sentence are not kept apart, too few for 6 groups"):
        base_signal(config, 6, {*everything.train, *everything.dev})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"balanced": True}, "balanced needs classes"),
        ({"model": "without names"}, "no tensor of without names is an embedding by its name: leave out no embedding"),
    ],
)
def test_what_is_wrong_with_the_last_task_is_said_before_the_first_is_measured(own, message, tmp_path, monkeypatch):
    plan = check_plan(deepcopy(PLAN))
    plan.tasks["next"].update(own)

    def loaded(name, *more):
        model, tokenizer = load_model("tiny-random-llama")
        return (model.lm_head if name == "without names" else model), tokenizer

    monkeypatch.setattr(predicted, "load_model", loaded)
    monkeypatch.setattr(predicted, "base_signal", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        prepare(plan, "sentence", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["MeZO", "luck"]}, "unknown scales luck; choose MeZO, by kind"),
        ({"methods": ["by kind"]}, "methods must be MeZO and some of by kind"),
        ({"groups": 5}, "groups must be between 6 and the 24 examples, got 5"),
        ({"examples": 2.5}, "examples"),
        ({"methods": {"MeZO": {}, "by kind": {"lr": 1.0}}}, "by kind cannot have settings of their own"),
    ],
)
def test_a_wrong_plan_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, **change})


def test_each_way_has_its_scales_and_the_control_has_those_of_layers_elsewhere():
    (record,) = RECORDS.glob("06_gain_map.json")
    half, _ = halves_of(load_record(record)["result"]["points"][0])
    known = scales_by(half, batch=4, seed=0)
    assert set(known) == set(SCALES)
    assert sorted(known["permuted"]) == sorted(known["by layer"])
    assert (known["permuted"] != known["by layer"]).any()
    assert len({tuple(sigma) for sigma in known.values()}) == len(known)
    assert all(np.isfinite(sigma).all() and (sigma >= 0).all() for sigma in known.values())
