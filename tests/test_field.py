"""The field: every method has its place, what it keeps is what it holds, and equal cost is what it says."""

import numpy as np
import pytest
import yaml

from zolab.optim import METHODS
from zolab.runs.first_order import FIRST_ORDER
from zolab.studies import family as families
from zolab.studies import field
from zolab.studies.family import FAMILY, family, name_of, settings_for
from zolab.studies.field import (
    BOTH,
    carried,
    chosen,
    cost_rows,
    difference_at_cost,
    memory_beyond,
    ratio_at_cost,
    settings_text,
    timed,
    written,
)
from zolab.studies.field_figures import at_equal_cost, every_method, family_tree, memory_frontier, rate_sensitivity, rate_table
from zolab.studies.methods import ran
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.statistics import Runs

BASE = {"model": "tiny-reviews", "task": "reviews_sentence", "batch_size": 2, "train": 8, "dev": 4, "test": 2}
FINALS = {"MeZO": [0.6, 0.62], "HiZOO": [0.61, 0.65], "Adam": [0.4, 0.41], "FZOO": [0.5, np.inf]}
OWN = {"MeZO": "mezo", "HiZOO": "hizoo", "Adam": "adam", "FZOO": "fzoo", "MEAZO": "meazo"}


def record(finals=FINALS):
    """Of two seeds, each curve a straight line from 0.7 nats to its end."""
    searches, cells = {}, []
    for name, ends in finals.items():
        losses = {"0.001": 0.65, "0.00215": 0.6, "0.00464": None if name == "FZOO" else 0.61}
        searches[name] = {"lr": 0.00215, "edge": name == "Adam", "rounds": [{"seeds": [9], "losses": losses}]}
        for seed, end in enumerate(ends):
            cell = {"task": "t", "method": name, "lr": 0.00215, "seed": seed}
            curve = [[100 * k, 0.7 + (end - 0.7) * k / 4] for k in range(5)]
            cells.append(cell | ({"diverged": "NaN"} if np.isinf(end) else {"curve": curve, "test_after": 0.5}))
    plan = {
        **{"base": {"model": "m"}, "tasks": {"t": {"task": "reviews_writer"}}, "seeds": [0, 1]},
        **{
            "methods": {name: {"optimizer": OWN[name], "lr": 1e-3} for name in finals},
            "search": {"factor": 2.15, "seeds": [9]},
        },
    }
    result = {"search": {"t": searches}, "cells": cells, "measured": {}, "failed": []}
    return Record({"format": FORMAT, "config": plan, "result": result})


def test_every_method_has_a_place_and_a_parent_before_it():
    members = family()
    assert set(members) == {*METHODS, *FIRST_ORDER}
    names = list(FAMILY)
    assert [name for name in names if not FAMILY[name].parent] == ["sgd"]
    assert all(names.index(member.parent) < names.index(name) for name, member in FAMILY.items() if member.parent)
    assert len({member.label for member in FAMILY.values()}) == len(FAMILY)
    assert (name_of("LOZO-M"), name_of(BOTH)) == ("lozo_m", "sgd_fused")
    with pytest.raises(ValueError, match="no method is called luck"):
        name_of("luck")


def test_a_method_without_a_place_is_named(monkeypatch):
    monkeypatch.setattr(families, "METHODS", {**METHODS, "luck": object})
    with pytest.raises(ValueError, match="luck has no place in the family"):
        family()


def test_the_tree_has_a_box_and_a_line_for_each():
    (axes,) = family_tree("tree").axes
    texts = {text.get_text() for text in axes.texts}
    assert {text for member in family().values() for text in (member.label, member.idea)} == texts
    assert sum(len(line.get_xdata()) == 4 for line in axes.lines) == len(family()) - 1


def test_what_methods_keep_is_what_their_files_say():
    methods = {name: settings_for(name, "tiny-reviews") for name in family()}
    costs = timed(methods, BASE, steps=2)
    stored = {name: cost.kept for name, cost in costs.items()}
    small = [name for name, value in stored.items() if value < 0.1]
    assert set(small) == {
        *("mezo", "meazo", "adamezo", "zo_sign_sgd", "fzoo", "lozo", "lozo_m", "mezo_switch", "forward_gradient"),
        *("zo_finetuner", "sgd", "sgd_checkpointed", "sgd_fused"),
    } | ({"grzo"} & set(stored))
    assert {name: round(stored[name], 2) for name in stored if name not in small} == {
        **dict.fromkeys(("mezo_momentum", "zo_adamu", "hizoo", "mezo_svrg", "dizo"), 1.0),
        **dict.fromkeys(("mezo_adam", "helene", "adam"), 2.0),
    }
    assert stored["lozo_m"] > 0
    passes = {name: cost.forwards for name, cost in costs.items()}
    assert [passes[name] for name in ("mezo", "hizoo", "fzoo", "sgd", "sgd_checkpointed")] == [2, 3, 9, 3, 4]
    assert all(cost.seconds > 0 for cost in costs.values())
    rows = cost_rows(costs, {"mezo": {"step_over_forwards": 1.25}}, {"MeZO": 0.01})
    assert [row[-2:] for row in rows if row[0] in ("MeZO", "DiZO")] == [["0.01", "1.25"], ["–", "–"]]
    assert len(written(rows).splitlines()) == len(rows) == len(family()) + 1


def test_memory_comes_from_both_benchmarks():
    first = {"mezo_peak_bytes": 1000, "sgd_peak_bytes": 1500, "sgd_fused_checkpointed_peak_bytes": 1100, "weights_bytes": 500}
    multiples = memory_beyond({"methods": {"mezo": {"stored_weights": 0.02}, "hizoo": {"stored_weights": 1.0}}}, first)
    assert multiples == {"MeZO": 0.02, "HiZOO": 1.0, "SGD": 1.0, BOTH: 0.2}


def test_runs_at_given_rates_are_a_study(tmp_path):
    methods = {"MeZO": {"optimizer": "mezo", "lr": 1e-4}, "SGD": {"optimizer": "sgd", "lr": 1e-3}}
    base = {**BASE, "forwards": 6, "evaluations": 1}
    study = ran(methods, base, [0, 1], tmp_path)
    assert study.methods("reviews_sentence") == ["MeZO", "SGD"]
    assert [study.runs("reviews_sentence", name).forwards[-1] for name in methods] == [6, 6]
    assert chosen(study, "reviews_sentence") == methods
    again = ran(methods, base, [0, 1], tmp_path)
    assert again.content["result"] == study.content["result"]
    with pytest.raises(ValueError, match="holds cells of another plan"):
        ran(methods, {**base, "forwards": 9}, [0, 1], tmp_path)


def test_a_run_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"MeZO-lr0.0001-seed0 could not be run: ValueError: batch_size 64 exceeds the 8"):
        ran({"MeZO": {"optimizer": "mezo", "lr": 1e-4}}, {**BASE, "steps": 2, "batch_size": 64, "train": 8}, [0], tmp_path)


def test_settings_are_the_records_and_say_how_they_were_found():
    text = settings_text(record(), "t", "r.json", "methods")
    assert yaml.safe_load(text) == {"methods": chosen(record(), "t")}
    assert {own["lr"] for own in chosen(record(), "t").values()} == {0.00215}
    lines = {line.split(":")[0].strip(): line for line in text.splitlines() if line.startswith("  ")}
    assert lines["HiZOO"].endswith("# best of 3 rates, 0.001 to 0.00464, seed 9")
    assert lines["Adam"].endswith("at the edge of its grid")
    listed = record()
    listed.content["result"]["search"]["t"]["Adam"]["rounds"] = [{"seeds": [], "losses": {}}]
    assert "# as the plan has it" in settings_text(listed, "t", "r.json", "methods")


def test_a_record_gets_the_labels_of_the_family():
    plain = record({"MeZO": [0.6, 0.6], "HiZOO": [0.7, 0.7]})
    plain.plan["methods"]["HiZOO"]["optimizer"] = "zo_adamu"
    labelled_record = field.labelled(plain)
    assert labelled_record.methods("t") == ["MeZO", "ZO-AdaMU"]
    assert list(labelled_record.runs("t", "ZO-AdaMU").final) == [0.7, 0.7]
    assert labelled_record.search("t", "ZO-AdaMU")["lr"] == 0.00215
    plain.plan["methods"]["HiZOO"]["optimizer"] = "mezo"
    with pytest.raises(ValueError, match="different members of the family, got mezo, mezo"):
        field.labelled(plain)


def test_rates_follow_those_of_the_two_guides():
    here = record({**FINALS, "MEAZO": [0.6, 0.6]})
    few = record({"MeZO": [0.6, 0.6], "MEAZO": [0.6, 0.6], "HiZOO": [0.6, 0.6]})
    rates = {"MeZO": 0.00215 / 10, "MEAZO": 0.00215 / 2, "HiZOO": 5.0}
    for name, lr in rates.items():
        few.content["result"]["search"]["t"][name]["lr"] = lr
    lrs = {name: own["lr"] for name, own in carried(here, "t", few, "t").items()}
    assert lrs == pytest.approx({**rates, "Adam": 0.00215 / 2, "FZOO": 0.00215 / 2})


def test_rates_are_in_steps_of_the_grid():
    names, places, losses = rate_table(record(), "t")
    assert names == ["MeZO", "HiZOO", "Adam", "FZOO"]
    assert list(places) == [-1, 0, 1]
    assert np.allclose(losses[0], [0.05, 0, 0.01])
    assert losses[3, 2] == np.inf
    listed = record()
    listed.content["result"]["search"]["t"]["Adam"]["rounds"] = [{"seeds": [], "losses": {}}]  # one rate, not searched
    assert rate_table(listed, "t")[0] == ["MeZO", "HiZOO", "FZOO"]
    texts = [text.get_text() for text in rate_sensitivity(record(), "t", "rates").axes[0].texts]
    assert (texts.count("best"), texts.count("diverged")) == (4, 1)


def runs(*ends):
    x = np.arange(5.0) * 100
    return Runs(x, np.array([0.7 + (end - 0.7) * x / 400 for end in ends]), np.full(len(ends), 0.5), tuple(range(len(ends))))


def test_equal_cost_counts_what_a_pass_costs():
    ours, base = runs(*[0.5] * 6), runs(*[0.6] * 6)
    alike, slow = ratio_at_cost(ours, base, 1, 1), ratio_at_cost(ours, base, 3, 1)
    assert slow.value == pytest.approx(3 * alike.value)
    assert difference_at_cost(ours, base, 1, 1).value == pytest.approx(-0.1)
    assert difference_at_cost(ours, base, 2, 1).value == pytest.approx(0)  # half of its run fits into the other's time
    assert difference_at_cost(ours, base, 1, 2).value == pytest.approx(0.5 - 0.65)
    lost = runs(0.5, 0.5)
    lost.losses[1] = np.inf
    assert difference_at_cost(lost, runs(0.6, 0.6), 1, 1).bound == "≥"


def test_figures_show_every_method_and_what_diverged():
    figure = every_method({"small": (record(), "t"), "large": (record({"MeZO": [0.5], "FZOO": [np.inf]}), "t")}, "all")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["Adam", "MeZO", "HiZOO", "FZOO"]
    assert [text.get_text() for text in right.texts] == ["1 diverged"]
    costs = {"passes": dict.fromkeys(FINALS, 1.0), "seconds": dict.fromkeys(FINALS, 0.5)}
    both = at_equal_cost(record(), "t", ["MeZO", "Adam"], costs, "cost").axes
    assert [axes.lines[0].get_xdata()[-1] for axes in both] == [400, 200]
    losses, memory = {"MeZO": 0.6, "Adam": 0.4, "FZOO": np.inf}, {"MeZO": 0.0, "Adam": 3.0, "FZOO": 0.0}
    left, right = memory_frontier(losses, memory, "memory", ("here", "there")).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["MeZO", "Adam"]
    assert list(right.lines[-1].get_xdata()) == [0.6, 0.4]
