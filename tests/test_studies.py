"""Studies: scales of the theory and controls of a PertNN become runs, each with its own learning rate and record."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from zolab.cli.l2l import main as l2l_main
from zolab.cli.theory import main as theory_main
from zolab.l2l import MetaConfig
from zolab.models import fingerprint, load_model
from zolab.pertnn import SHIPPED_FINETUNERS, PertNN
from zolab.probe.blocks import split
from zolab.records import load_record
from zolab.studies.controls import CONTROLS, study
from zolab.studies.overview import overview
from zolab.studies.recipes import load_recipes
from zolab.studies.shipped import SHIPPED
from zolab.studies.sweep import load_plan
from zolab.theory.measure import BlockStatistics

PLAN = {
    "base": {
        **{"model": "tiny-reviews", "optimizer": "mezo", "batch_size": 2, "steps": 2},
        **{"train": 8, "dev": 4, "test": 2, "eval_every": 1},
    },
    "factor": 3,
    "extend": 0,
    "seeds": [0],
    "methods": {"sentence": {"task": "reviews_sentence", "lr": 1e-4}},
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


@pytest.fixture
def pertnn(tmp_path):
    model, _ = load_model("tiny-reviews")
    about = {"base_model": "tiny-reviews", "fingerprint": fingerprint(model), "training_data": "", "licence": "MIT"}
    PertNN(split(model), hidden=4, seed=7).save(tmp_path / "pertnn", **about, metrics={})
    return str(tmp_path / "pertnn")


def command(monkeypatch, main, *words):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    return main()


def test_every_control_is_a_run(tmp_path, plan, pertnn):
    result = study(plan, pertnn, tmp_path / "runs", tmp_path / "record.json", tuple(CONTROLS))
    found = result["sentence"]
    untrained = {"untrained0", "untrained1"}
    assert set(found) == {"mezo", *CONTROLS} - {"untrained"} | untrained
    assert all(len(entry["searched"]) == 3 and entry["forwards_over_mezo"] > 0 for entry in found.values())
    assert found["mezo"]["forwards_over_mezo"] == 1
    assert load_record(tmp_path / "record.json")["result"] == json.loads(json.dumps(result))
    permuted = PertNN.read(tmp_path / "runs" / "pertnn" / "permuted")
    trained = PertNN.read(pertnn)
    order = [int((trained.b2 == value).nonzero()) for value in permuted.b2]
    assert sorted(order) == list(range(len(trained.blocks))) != order
    assert torch.equal(permuted.w1, trained.w1[order])


def test_the_frozen_control_keeps_its_first_scales(tmp_path, plan, pertnn):
    study(plan, pertnn, tmp_path / "runs", tmp_path / "record.json", ("trained", "frozen"))
    kept = {}
    for name in ("trained", "frozen"):
        folder = next((tmp_path / "runs").glob(f"sentence-{name}-*"))
        steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        kept[name] = [entry["sigmas"] for entry in steps if entry["event"] == "step"]
    assert kept["frozen"][0] == kept["frozen"][1] == kept["trained"][0] != kept["trained"][1]


def test_an_unknown_control_is_refused(plan, pertnn, tmp_path, monkeypatch, capsys):
    words = ("--pertnn", pertnn, "--out", tmp_path / "runs", "--record", tmp_path / "record.json", "--controls", "luck")
    assert command(monkeypatch, l2l_main, "controls", plan, *words) == 1
    assert capsys.readouterr().err.startswith("error: unknown control luck; choose among trained, frozen")


RECIPES = {
    "base": {"model": "tiny-reviews", "tasks": "reviews_sentence", "steps": 2, "period": 2, "batch_size": 2, "train": 8},
    "published": {},
    "layers": {"rule": "layer"},
    "gain": {"gradient": "gain", "measured": 4, "minibatches": 1, "clip": 0.0, "normalise": "none"},
    "gain_kinds": {"after": "gain", "rule": "kind"},
}
EVOLUTIONS = {"evolved": {"pairs": 1, "steps": 1, "batch_size": 2, "train": 8, "dev": 2, "rule": "kind"}}


def test_every_recipe_is_trained_and_used(tmp_path, monkeypatch):
    path, record = tmp_path / "plan.yaml", tmp_path / "record.json"
    path.write_text(yaml.safe_dump({**PLAN, "recipes": RECIPES, "evolutions": EVOLUTIONS}, sort_keys=False))
    assert command(monkeypatch, l2l_main, "recipes", path, "--out", tmp_path / "runs", "--record", record) == 0
    kept = load_record(record)
    assert list(kept["result"]["sentence"]) == ["mezo", "published", "layers", "gain", "gain_kinds", "evolved"]
    assert (kept["config"]["recipes"], kept["config"]["evolutions"]) == (RECIPES, EVOLUTIONS)
    assert {name: len(sigma) for name, sigma in kept["sigma"].items()} == {
        "published": 20,
        "layers": 4,
        "gain": 20,
        "gain_kinds": 11,
        "evolved": 11,
    }
    found = overview(kept)
    assert found["mezo"]["forwards_over_mezo"] == 1
    assert found["gain"]["tasks"]["sentence"]["lr"] == kept["result"]["sentence"]["gain"]["lr"]


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"published": {}}, "must have recipes, one of them called base"),
        ({"base": {}, "late": {"after": "early"}}, "the recipe late follows 'early', which is not one before it"),
        ({"base": {}, "odd": {"budget": 1}}, "the settings of the recipe odd are not a configuration"),
        ({"base": {}, "odd": {"period": 0}}, "period must be at least 1"),
    ],
)
def test_recipes_that_are_wrong_are_refused(tmp_path, recipes, message):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "recipes": recipes}))
    with pytest.raises(ValueError, match=message):
        load_recipes(path)


def test_evolutions_that_are_wrong_are_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    for evolutions, message in (
        ({"odd": {"period": 1}}, "the settings of the recipe odd are not a configuration"),
        ({"odd": {"pairs": 0}}, "pairs must be at least 1"),
        ({"published": {}}, "two recipes are called published"),
    ):
        path.write_text(yaml.safe_dump({**PLAN, "recipes": RECIPES, "evolutions": evolutions}))
        with pytest.raises(ValueError, match=message):
            load_recipes(path)


def test_an_overview_is_a_geometric_mean_over_tasks():
    def found(ratio, losses):
        seeds = {str(i): {"dev_loss": loss, **({} if loss is None else {"test_after": 0.5})} for i, loss in enumerate(losses)}
        return {"lr": 1e-4, "forwards_over_mezo": ratio, "seeds": seeds}

    record = {"result": {"a": {"trained": found(0.5, (0.4, 0.6))}, "b": {"trained": found(2.0, (0.4, None))}}}
    result = overview(record)["trained"]
    assert result["forwards_over_mezo"] == pytest.approx(1)
    assert result["tasks"]["a"]["loss"] == pytest.approx(0.5)
    assert result["tasks"]["a"]["loss_sd"] == pytest.approx(0.02**0.5)
    assert result["tasks"]["b"]["loss"] == math.inf
    assert result["tasks"]["b"]["metric"] == 0.25


def test_a_shipped_fine_tuner_can_be_made_again(tmp_path, monkeypatch):
    small = replace(SHIPPED["tiny-reviews"], steps=2, period=1, batch_size=2, train=8, measured=2, minibatches=1)
    monkeypatch.setitem(SHIPPED, "tiny-reviews", small)
    monkeypatch.setitem(SHIPPED_FINETUNERS, "tiny-reviews", tmp_path / "shipped")
    assert command(monkeypatch, l2l_main, "ship", "tiny-reviews", "--out", tmp_path / "run") == 0
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


def test_the_theorys_scales_are_runs_on_the_budget(plan, tmp_path, monkeypatch):
    words = ("study", plan, "--out", tmp_path / "runs", "--record", tmp_path / "record.json", "--scales", "bound")
    assert command(monkeypatch, theory_main, *words, "bound_permuted") == 0
    found = load_record(tmp_path / "record.json")["result"]["sentence"]["methods"]
    sizes = np.array(split(load_model("tiny-reviews")[0]).sizes)
    for entry in found.values():
        assert np.square(entry["sigma"]) @ sizes == pytest.approx(sizes.sum())
    assert found["mezo"]["predicted_gain"] == 1
    assert sorted(np.argsort(found["bound"]["sigma"])) == list(range(len(sizes)))
    assert found["bound"]["sigma"] != found["bound_permuted"]["sigma"]


def test_statistics_are_kept_as_a_file(tmp_path, monkeypatch, capsys):
    words = ("--model", "tiny-reviews", "--task", "reviews_sentence", "--examples", 4, "--probes", 2)
    assert command(monkeypatch, theory_main, "measure", *words, "--record", tmp_path / "record.json") == 0
    record = load_record(tmp_path / "record.json")
    found = BlockStatistics.of(record["result"]["blocks"])
    assert len(found.names) == 20
    assert "20 blocks in" in capsys.readouterr().out
    assert record["config"]["probes"] == 2


def test_a_plan_that_is_wrong_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "seeds": []}))
    with pytest.raises(ValueError, match="a list of one or more whole seeds"):
        load_plan(path)
    assert command(monkeypatch, theory_main, "study", path, "--out", tmp_path, "--record", tmp_path / "record.json") == 1
    assert capsys.readouterr().err.count("\n") == 1
