"""Every study is cells of one mechanism; each kind says which methods it wants, and its record has the one shape."""

import json
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from zolab.__main__ import main
from zolab.l2l import MetaConfig
from zolab.models import fingerprint, load_model
from zolab.pertnn import SHIPPED_FINETUNERS, PertNN
from zolab.probe.blocks import split
from zolab.records import load_record
from zolab.studies import controls, cost, draws, learnability
from zolab.studies.cells import Cell
from zolab.studies.compare import together, verdict
from zolab.studies.methods import compare
from zolab.studies.outcomes import Record
from zolab.studies.plan import STUDIES, check_plan
from zolab.studies.recipes import changes, configurations, single_changes
from zolab.studies.run import run_study
from zolab.studies.search import best_listed, spacing
from zolab.studies.shipped import SHIPPED
from zolab.tiny_reviews import make

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "figures" / "records"
PLAN = {
    "base": {
        **{"model": "tiny-reviews", "batch_size": 2, "steps": 2},
        **{"train": 8, "dev": 4, "test": 2, "eval_every": 1},
    },
    "tasks": {"sentence": {"task": "reviews_sentence", "lr": 1e-4}},
    "search": {"factor": 3, "extend": 0, "seeds": [9]},
    "seeds": [0],
}


def study_record(tmp_path, **more):
    return run_study(check_plan({**PLAN, **more}), tmp_path / "runs", tmp_path / "record.json", progress=False)


@pytest.fixture
def pertnn(tmp_path):
    model, _ = load_model("tiny-reviews")
    about = {"base_model": "tiny-reviews", "fingerprint": fingerprint(model), "training_data": "", "licence": "MIT"}
    PertNN(split(model), hidden=4, seed=7).save(tmp_path / "pertnn", **about, metrics={})
    return str(tmp_path / "pertnn")


def test_every_control_is_a_run(tmp_path, pertnn):
    record = study_record(tmp_path, study="controls", pertnn=pertnn, methods=["MeZO", *controls.CONTROLS])
    assert set(record.methods("sentence")) == {"MeZO", *controls.CONTROLS} - {"untrained"} | {"untrained0", "untrained1"}
    for name in record.methods("sentence"):
        search = record.search("sentence", name)
        assert len(search["rounds"][0]["losses"]) == 3
        assert search["rounds"][0]["seeds"] == [9]
        (cell,) = record.cells("sentence", name)
        assert (cell["lr"], cell["seed"], len(cell["curve"])) == (search["lr"], 0, 3)
    assert record.failed == []
    permuted = PertNN.read(tmp_path / "runs" / "pertnn" / "sentence-permuted")
    trained = PertNN.read(pertnn)
    order = [int((trained.b2 == value).nonzero()) for value in permuted.b2]
    assert sorted(order) == list(range(len(trained.blocks))) != order
    assert torch.equal(permuted.w1, trained.w1[order])


def test_controls_of_the_slow_phase_know_its_statistics(tmp_path, pertnn):
    slow = {**PLAN["base"], "train": 24, "calibrate": 16, "balanced": True}
    plan = {"study": "controls", "pertnn": pertnn, "methods": ["MeZO", "density", "no embedding"], "base": slow}
    record = study_record(tmp_path, **plan, examples=24, groups=6)
    assert record.measured["sentence"].keys() == {"noise_rank"}
    frozen = controls.prepare(check_plan({**PLAN, **plan}), "sentence", tmp_path).methods["no embedding"]
    assert [s > 0 for s in literal_eval(frozen["optim_args"].removeprefix("sigma="))] == [False] + 19 * [True]
    for groups, message in ((5, "groups must be 0, or between 6 and the 24"), (25, "groups must be 0, or between 6")):
        with pytest.raises(ValueError, match=message):
            check_plan({**PLAN, **plan, "examples": 24, "groups": groups})


def test_the_frozen_control_keeps_its_first_scales(tmp_path, pertnn):
    study_record(tmp_path, study="controls", pertnn=pertnn, methods=["trained", "frozen"])
    sigmas = {}
    for name in ("trained", "frozen"):
        folder = next((tmp_path / "runs").glob(f"sentence-{name}-*-seed0"))
        steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        sigmas[name] = [entry["sigmas"] for entry in steps if entry["event"] == "step"]
    assert sigmas["frozen"][0] == sigmas["frozen"][1] == sigmas["trained"][0] != sigmas["trained"][1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"methods": ["luck"], "pertnn": "tiny-reviews"}, "unknown control luck; choose among MeZO, trained"),
        ({"methods": ["trained"]}, "pertnn must be the folder of a PertNN"),
        ({"methods": ["untrained"], "pertnn": "tiny-reviews", "untrained": 0}, "untrained must be a whole number"),
    ],
)
def test_controls_that_cannot_be_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, "study": "controls", **more})


RECIPES = {
    "base": {"model": "tiny-reviews", "tasks": "reviews_sentence", "steps": 2, "period": 2, "batch_size": 2, "train": 8},
    "published": {},
    "layers": {"rule": "layer"},
    "gain": {"gradient": "gain", "measured": 4, "minibatches": 1, "clip": 0.0, "normalise": "none"},
    "gain_kinds": {"after": "gain", "rule": "kind"},
}
EVOLUTIONS = {"evolved": {"pairs": 1, "steps": 1, "batch_size": 2, "train": 8, "dev": 2, "rule": "kind"}}


def test_every_recipe_is_trained_and_used(tmp_path):
    record = study_record(tmp_path, study="recipes", recipes=RECIPES, evolutions=EVOLUTIONS)
    assert record.methods() == ["MeZO", "published", "layers", "gain", "gain_kinds", "evolved"]
    assert (record.plan["recipes"], record.plan["evolutions"]) == (RECIPES, EVOLUTIONS)
    sizes = {name: len(sigma) for name, sigma in record.measured["sentence"]["sigma"].items()}
    assert sizes == {"published": 20, "layers": 4, "gain": 20, "gain_kinds": 11, "evolved": 11}


@pytest.mark.parametrize(
    ("recipes", "evolutions", "message"),
    [
        ({"published": {}}, {}, "there must be recipes, one of them called base"),
        ({"base": {}, "late": {"after": "early"}}, {}, "the recipe late follows 'early', which is not one before it"),
        ({"base": {}, "odd": {"budget": 1}}, {}, "the settings of the recipe odd are not a configuration"),
        ({"base": {}, "odd": {"period": 0}}, {}, "period must be at least 1"),
        (RECIPES, {"odd": {"period": 1}}, "the settings of the recipe odd are not a configuration"),
        (RECIPES, {"odd": {"pairs": 0}}, "without pairs of runs there must be a start"),
        (RECIPES, {"published": {}}, "two methods are called published"),
        ({"base": {}, "odd": 3}, {}, "recipes must have names, and settings below each of them"),
        (RECIPES, {"odd": "pairs"}, "evolutions must have names, and settings below each of them"),
        ({"base": {}, "MeZO": {}}, {}, "two methods are called MeZO"),
    ],
)
def test_recipes_that_are_wrong_are_refused(recipes, evolutions, message):
    with pytest.raises(ValueError, match=message):
        configurations({"recipes": recipes, "evolutions": evolutions})


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ("no.json", OSError, "no.json"),
        (RECORDS / "06_tiny.json", ValueError, "is no record of a gain map"),
        (RECORDS / "06_gain_map_smollm2.json", ValueError, "has no reviews_sentence; measure it there"),
    ],
)
def test_the_start_of_an_evolution_is_read_before_any_recipe_is_trained(start, error, message):
    evolutions = {"closed": {"pairs": 0, "start": str(start)}}
    with pytest.raises(error, match=message):
        check_plan({**PLAN, "study": "recipes", "methods": [], "recipes": RECIPES, "evolutions": evolutions})


def test_pairs_of_recipes_differ_in_one_question():
    recipes = {
        "published": {"steps": 570},
        "never reset": {"steps": 570, "period": 570},
        "adam": {"steps": 570, "outer": "adam", "meta_lr": 0.01},
        "both": {"steps": 570, "period": 570, "outer": "adam", "meta_lr": 0.01},
        "expected": {"steps": 570, "outer": "adam", "meta_lr": 0.01, "gradient": "expected", "through_budget": True},
        "larger step": {"steps": 570, "lr_zo": 1e-3, "identity": True},
    }
    pairs_of = single_changes(recipes)
    assert pairs_of["reset"] == [("published", "never reset", "period 190 -> 570"), ("adam", "both", "period 190 -> 570")]
    assert [pair[:2] for pair in pairs_of["gradient"]] == [("adam", "expected")]
    assert [pair[:2] for pair in pairs_of["step in the meta-loss"]] == [("published", "larger step"), ("adam", "larger step")]
    assert not any(
        pairs for question, pairs in pairs_of.items() if question not in ("reset", "gradient", "step in the meta-loss")
    )
    assert changes(recipes["both"]) == {"period": 570, "outer": "adam", "meta_lr": 0.01}


def test_the_theorys_scales_are_runs_on_the_budget(tmp_path):
    record = study_record(tmp_path, study="scales", methods=["MeZO", "bound", "bound_permuted"], examples=8, minibatches=1)
    sizes, measured = np.array(split(load_model("tiny-reviews")[0]).sizes), record.measured["sentence"]
    for sigma in measured["sigma"].values():
        assert np.square(sigma) @ sizes == pytest.approx(sizes.sum())
    assert set(measured["sigma"]) == {"bound", "bound_permuted"}
    assert measured["predicted_gain"]["MeZO"] == 1
    assert sorted(np.argsort(measured["sigma"]["bound"])) == list(range(len(sizes)))
    assert measured["sigma"]["bound"] != measured["sigma"]["bound_permuted"]
    with pytest.raises(ValueError, match="unknown scales luck"):
        check_plan({**PLAN, "study": "scales", "methods": ["luck"]})


ADAM = {"MeZO": {"optimizer": "mezo"}, "Adam": {"optimizer": "adam", "lr": 1e-3, "steps": 4, "eval_every": 2}}


def test_learnability_is_mezos_share_of_adams_gain(tmp_path):
    record = study_record(tmp_path, study="learnability", methods=ADAM, seeds=[0, 1])
    entry = learnability.shares(record)["sentence"]
    assert (len(entry["adam"]), len(entry["mezo"])) == (2, 2)
    assert record.measured["sentence"]["effective_rank"]["pretrained"]["ratio"] >= 1
    (adam, _) = record.cells("sentence", "Adam")
    assert [at for at, _ in adam["curve"]] == [0, 6, 12]  # a step counts as three forward passes
    assert adam["forwards"] == 12
    again = study_record(tmp_path, study="learnability", methods=ADAM, seeds=[0, 1])
    assert again.cells("sentence", "Adam") == record.cells("sentence", "Adam")


def test_what_a_study_measured_is_not_taken_for_another_model(tmp_path):
    model, tokenizer = load_model("tiny-reviews")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "base")
    plan = {"study": "learnability", "methods": ADAM, "base": {**PLAN["base"], "model": str(tmp_path / "base")}}
    assert study_record(tmp_path, **plan).measured["sentence"]
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(tmp_path / "base")
    with pytest.raises(
        ValueError, match=r"the base model's weights are no longer what .*prepared-sentence\.json was started with"
    ):
        study_record(tmp_path, **plan)


@pytest.mark.parametrize(
    ("adam", "mezo", "closed"), [([0.7, 0.8], [0.6, 0.65], 0.5), ([0.505], [0.9], None), ([0.4], [0.6], None)]
)
def test_shares_of_a_gap(adam, mezo, closed):
    cells = [{"task": "a", "method": "Adam", "seed": i, "test_after": v} for i, v in enumerate(adam)]
    cells += [{"task": "a", "method": "MeZO", "seed": i, "test_before": 0.5, "test_after": v} for i, v in enumerate(mezo)]
    search = {"a": {name: {"lr": 1.0, "edge": False, "rounds": []} for name in ("MeZO", "Adam")}}
    record = Record({"config": {}, "result": {"search": search, "cells": cells, "measured": {"a": {}}, "failed": []}})
    entries = learnability.shares(record)
    assert entries["a"]["closed"] == (None if closed is None else pytest.approx(closed))
    assert learnability.halved(entries) == (["a"] if closed else [])


def test_models_from_several_seeds_are_made_once_and_studied_alike(tmp_path, monkeypatch):
    few = make.reviews("validation")[:60]
    monkeypatch.setattr(make, "reviews", lambda split, critical=False: few)
    plan = {**PLAN, "study": "draws", "methods": ADAM, "model_seeds": [4, 5], "pretraining_steps": 2}
    record = run_study(check_plan(plan), tmp_path / "runs", tmp_path / "record.json", progress=False)
    assert record.tasks == ["sentence@4", "sentence@5"]
    assert set(draws.by_model(record)) == {4, 5}
    assert record.measured["sentence@4"]["perplexity"] != record.measured["sentence@5"]["perplexity"]
    prints = {seed: fingerprint(load_model(str(tmp_path / "runs" / "models" / str(seed)))[0]) for seed in (4, 5)}
    assert prints[4] != prints[5]
    monkeypatch.delattr(make, "train")  # nothing is trained a second time
    assert run_study(check_plan(plan), tmp_path / "runs", tmp_path / "record.json", progress=False).tasks == record.tasks
    with pytest.raises(ValueError, match="model_seeds must be a list"):
        check_plan({**plan, "model_seeds": "all"})


def test_compare_is_a_plan_in_one_call(tmp_path):
    shared = {"model": "tiny-reviews", "lr": 1e-4, "batch_size": 2, "train": 8, "dev": 4, "test": 2}
    methods = {"MeZO": {"optimizer": "mezo"}, "HiZOO": {"optimizer": "hizoo", "lr": 2e-4}, "Adam": {"optimizer": "adam"}}
    settings = {"forwards": 12, "evaluations": 2, "seeds": [0], "search_seeds": [9], "extend": 0, **shared}
    record = compare(methods, "reviews_sentence", out=tmp_path, **settings)
    for name in methods:
        (cell,) = record.cells("reviews_sentence", name)
        assert (cell["forwards"], [at for at, _ in cell["curve"]]) == (12, [0, 6, 12]), name
    rates = sorted(map(float, record.search("reviews_sentence", "HiZOO")["rounds"][0]["losses"]))
    assert rates == pytest.approx([2e-4 / 10 ** (1 / 3), 2e-4, 2e-4 * 10 ** (1 / 3)], rel=1e-2)
    with pytest.raises(ValueError, match="another plan"):
        compare(methods, "reviews_sentence", out=tmp_path, **{**settings, "seeds": [1]})
    with pytest.raises(ValueError, match="at least 3 a decade, got 2"):
        compare(methods, "reviews_sentence", out=tmp_path, rates=2, **settings)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_plans_can_run(path):
    content = yaml.safe_load(path.read_text())
    if str(content.get("pertnn")).startswith("runs/"):  # is made by another command, which the file names
        assert f"--out {content['pertnn']}" in path.read_text()
        content["pertnn"] = content["base"]["model"]
    plan = check_plan(content)
    assert plan.study in STUDIES
    assert f"notebooks/plans/{path.name}" in path.read_text(), "the file tells how it is run"
    assert not set(plan.seeds) & set(plan.search_seeds)


def test_the_kept_records_have_the_one_shape():
    studies = [path for path in (ROOT / "figures" / "records").glob("*.json") if "format" in load_record_or_none(path)]
    assert len(studies) >= 9
    for path in studies:
        record = Record.load(path)
        for task in record.tasks:
            for name in record.methods(task):
                assert [cell["seed"] for cell in record.cells(task, name)] == record.plan["seeds"], (path.name, task, name)
                assert all(cell["lr"] == record.search(task, name)["lr"] for cell in record.cells(task, name))
        assert record.content["command"].startswith("python -m zolab"), path.name
        assert record.content["commit"]


def load_record_or_none(path):
    return json.loads(path.read_text())


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not the record of a study"):
        Record.load(ROOT / "figures" / "records" / "09_evolution.json")
    with pytest.raises(ValueError, match="no runs of Adam on sentence"):
        Record.load(ROOT / "figures" / "records" / "09_tiny.json").runs("sentence", "Adam")


def test_a_shipped_fine_tuner_can_be_made_again(tmp_path, monkeypatch):
    small = replace(SHIPPED["tiny-reviews"], steps=2, period=1, batch_size=2, train=8, measured=2, minibatches=1)
    monkeypatch.setitem(SHIPPED, "tiny-reviews", small)
    monkeypatch.setitem(SHIPPED_FINETUNERS, "tiny-reviews", tmp_path / "shipped")
    assert main(["ship", "tiny-reviews", "--out", str(tmp_path / "run")]) == 0
    pertnn = PertNN.load("tiny-reviews", load_model("tiny-reviews")[0])
    assert MetaConfig(**pertnn.card["metrics"]["settings"]) == small


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_shipped_fine_tuners_are_what_their_cards_say(name):
    model, _ = load_model(name)
    pertnn = PertNN.load(name, model)
    assert pertnn.card["fingerprint"] == fingerprint(model)
    assert MetaConfig(**pertnn.card["metrics"]["settings"]) == SHIPPED[name]
    sigma = np.array(list(pertnn.card["metrics"]["sigma"].values()))
    assert np.square(sigma) @ pertnn.blocks.sizes == pytest.approx(sum(pertnn.blocks.sizes), rel=1e-3)


def test_the_command_prints_tables_and_a_verdict(tmp_path, capsys):
    path, record = tmp_path / "plan.yaml", tmp_path / "record.json"
    methods = {"MeZO": {"optimizer": "mezo"}, "MEAZO": {"optimizer": "meazo", "lr": 1e-3}}
    path.write_text(yaml.safe_dump({**PLAN, "methods": methods, "seeds": [0, 1]}))
    assert main(["study", str(path), "--out", str(tmp_path / "runs"), "--record", str(record), "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert "10 to 10 cells, 40 to 40 forward passes for training" in output
    assert "hours with 1 worker" in output
    assert not (tmp_path / "runs").exists()
    assert main(["study", str(path), "--out", str(tmp_path / "runs"), "--record", str(record)]) == 0
    output = capsys.readouterr().out
    assert "MEAZO takes" in output
    assert "too few to decide" in output
    assert load_record(record)["command"] == "python -m zolab study plan.yaml --out runs --record record.json"  # no folders


def test_a_record_with_methods_called_otherwise_says_the_same():
    record = Record.load(RECORDS / "09_trial.json")
    other = record.renamed({"trained": "mapped"})
    assert other.methods() == ["mapped" if name == "trained" else name for name in record.methods()]
    ours, theirs = record.runs("compare", "trained"), other.runs("compare", "mapped")
    assert (ours.losses == theirs.losses).all()
    assert other.search("compare", "mapped") == record.search("compare", "trained")
    assert "trained" in record.methods()


def test_what_is_judged_together_is_what_the_verdict_says_of_that_family():
    record = Record.load(RECORDS / "09_trial.json")
    family = [name for name in record.methods() if name not in ("MeZO", "trained")]
    judged = together(record, "trained", family)
    assert "by Holm's correction for 66 comparisons decidedly lower on 1 (critic), higher on none" in judged
    assert any(sentence.endswith(f"; {judged}") for sentence in verdict(record, "trained", family=family))
    assert not any(sentence.endswith(judged) for sentence in verdict(record, "trained"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {
                "tasks": {"a": {"task": "reviews_sentence", "lr": 1e-4}, "a-b": {"task": "reviews_genre", "lr": 1e-4}},
                "methods": {"b-c": {"optimizer": "mezo"}, "c": {"optimizer": "meazo"}},
            },
            "two runs would be called a-b-c, task and method together; give one another name",
        ),
        (
            {"tasks": {"a": {"task": "reviews_sentence", "lr": [1.251e-3, 1.254e-3]}}},
            r"of a rate three digits count \(write 1.0e-4, or a list of different ones\)",
        ),
    ],
)
def test_runs_that_would_share_a_folder_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        check_plan({**PLAN, "methods": {"MeZO": {"optimizer": "mezo"}}, **more})


def test_a_cell_does_not_pass_off_the_outcome_of_another_run(tmp_path):
    settings = {**PLAN["base"], "task": "reviews_sentence", "optimizer": "mezo", "lr": 1e-4, "seed": 0}
    cell = Cell("a", "b", settings)
    cell.run(tmp_path)
    assert cell.run(tmp_path)["seed"] == 0
    (tmp_path / cell.name).rename(tmp_path / Cell("a", "c", settings).name)
    with pytest.raises(ValueError, match=r"is of another run \(method b\)"):
        Cell("a", "c", settings).run(tmp_path)


def test_a_grid_is_tried_with_a_single_rate_too():
    ways = {"L": {"optimizer": "lozo", "lr": [1e-3], "grid": {"rank": [1, 2, 4]}}}
    plan = check_plan({**PLAN, "methods": ways})
    assert cost.cells(plan) == (4, 4)
    assert next(best_listed([1e-3], (9,), alone=False)) == [(1e-3, 9)]
    with pytest.raises(StopIteration) as ended:
        next(best_listed([1e-3], (9,)))
    assert ended.value.value.losses == {}


def test_the_spacing_of_rates_is_theirs():
    assert spacing([["1e-05", "2e-05", "4e-05"], ["5e-05", "0.00015", "0.0005"]]) == "2 to 3.3"
    assert spacing([["5e-05", "0.00015", "0.0005"], []]) == ""
