"""What a study comes to: means over tasks, intervals from seeds drawn again, a verdict in sentences."""

import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from zolab.plots import BLACK, BLUE, forwards_dots, loss_curves
from zolab.studies.overview import decided, overview, resampled, verdict, written
from zolab.studies.sweep import forwards_ratio

SPEEDS = {"mezo": 1.0, "trained": 2.0, "frozen": 2.0, "permuted": 1.0, "untrained0": 4.0, "density": 1.5, "meazo": 0.5}


def outcome(speed, shift=0.0):
    """Seeds whose dev loss falls by `speed` at each of 20 evaluations, from 100, with seeds a little apart."""
    curves = {seed: [[10 * k, 100 - speed * k + shift * seed] for k in range(21)] for seed in range(3)}
    seeds = {str(s): {"dev_curve": c, "dev_loss": c[-1][1], "test_after": 0.5 + 0.1 * s} for s, c in curves.items()}
    return {"lr": 0.1 * speed, "seeds": seeds}


def record(**changes):
    methods = {name: outcome(speed, 0.01) for name, speed in {**SPEEDS, **changes}.items()}
    for found in methods.values():
        found["forwards_over_mezo"] = forwards_ratio(found, methods["mezo"])
    return {"config": {}, "result": {"first": methods, "second": copy.deepcopy(methods)}}


def test_seeds_drawn_again_are_paired():
    again = resampled(record(), draws=30)
    assert np.array_equal(again["mezo"], np.ones(30))
    assert again["trained"] == pytest.approx(0.5, rel=1e-2)
    assert np.array_equal(again["trained"], again["frozen"])


def test_the_verdict_counts_what_is_beaten():
    told = verdict(record(), resampled(record()))
    assert told[0].startswith("trained takes 0.50 times MeZO's forward passes (0.50 to 0.50): reaches the goal")
    assert told[1] == "beats 3 of 4 controls that have not seen gradients, 3 clearly; not untrained0"
    assert told[2] == "beats 1 of 1 controls that have seen the task's gradients, 1 clearly"
    assert told[3] == "beats 0 of 1 controls that keep its own first sigma, 0 clearly; not frozen"
    assert "misses the goal" in verdict(record(trained=1.2), resampled(record(trained=1.2)))[0]


def test_a_diverged_seed_beats_nothing():
    study = record()
    for methods in study["result"].values():
        methods["trained"]["seeds"]["1"] = {"dev_loss": None}
        methods["trained"]["forwards_over_mezo"] = forwards_ratio(methods["trained"], methods["mezo"])
    assert math.isinf(overview(study)["trained"]["forwards_over_mezo"])
    assert math.isinf(overview(study)["trained"]["tasks"]["first"]["loss"])
    told = verdict(study, resampled(study))
    assert "takes inf times" in told[0]
    assert told[1].startswith("beats 0 of 4")


def test_unequal_tasks_and_missing_methods_are_refused():
    study = record()
    del study["result"]["second"]["meazo"]
    with pytest.raises(ValueError, match="meazo ran on other tasks"):
        verdict(study, resampled(study))
    with pytest.raises(ValueError, match="no method 'luck'"):
        verdict(study, resampled(study), "luck")


def test_dots_stay_inside_when_a_method_never_arrives():
    study = record()
    study["result"]["first"]["meazo"]["forwards_over_mezo"] = math.inf
    figure = forwards_dots(overview(study), resampled(study, 20), "dots")
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    inside = [x for line in axes.lines[:-1] for x in np.atleast_1d(line.get_xdata())]
    assert all(low <= x <= high for x in inside)
    assert axes.get_yticklabels()[0].get_text() == "untrained0"
    plt.close(figure)


def test_final_losses_are_compared_seed_by_seed():
    study = record(meazo=2.0)
    for number, entry in enumerate(study["result"]["second"]["trained"]["seeds"].values()):
        entry["dev_loss"] += (-1) ** number * 50
    assert decided(study, "mezo") == {"lower": ["first"], "higher": [], "undecided": ["second"]}
    assert decided(study, "untrained0")["higher"] == ["first"]
    study["result"]["first"]["mezo"]["seeds"]["0"] = {"dev_loss": None}
    assert decided(study, "mezo")["undecided"] == ["first", "second"]


def test_a_table_leaves_out_what_did_not_run():
    study = record()
    del study["result"]["second"]["meazo"]
    lines = written(overview(study), "metric", 1, 100).splitlines()
    assert lines[0].split() == ["metric", "first", "second"]
    assert lines[1].split() == ["mezo", "60.0", "±", "10.0", "60.0", "±", "10.0"]
    assert lines[-1].split() == ["meazo", "60.0", "±", "10.0"]


def test_curves_leave_out_diverged_seeds_and_missing_methods():
    methods = record()["result"]["first"]
    methods["mezo"]["seeds"]["0"] = {"dev_loss": None}
    methods["trained"]["seeds"] = {"0": {"dev_loss": None}}
    figure = loss_curves(methods, {"mezo": BLACK, "trained": BLUE, "luck": BLUE}, "curves")
    (drawn,) = figure.axes[0].containers
    assert drawn.lines[0].get_ydata()[-1] == pytest.approx(80.015)
    plt.close(figure)
