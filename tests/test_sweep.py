"""A sweep searches learning rates, extends the search past its edge, runs every seed at the best, and goes on when stopped."""

import itertools
import math

import numpy as np
import pytest
import yaml

from zolab.records import load_record
from zolab.studies.sweep import forwards_ratio, load_plan, resampled_ratios, sweep

PLAN = {
    "base": {
        **{"model": "tiny-random-llama", "task": "rotten_tomatoes", "batch_size": 2, "steps": 3},
        **{"train": 10, "dev": 4, "test": 2, "eval_every": 3},
    },
    "factor": 10,
    "extend": 1,
    "seeds": [0, 1],
    "methods": {
        "MeZO": {"optimizer": "mezo", "lr": 1e-3},
        "AdaMeZO": {"optimizer": "adamezo", "lr": 1e-4, "optim_args": "horizon=1"},
    },
}


def written(tmp_path, **changes):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    plan = load_plan(written(folder))
    return folder, plan, sweep(plan, folder / "out", progress=False)


def test_the_best_rate_of_the_first_seed_is_used_for_all(finished):
    _, _, record = finished
    for method in record.values():
        searched = {float(lr): loss for lr, loss in method["searched"].items()}
        assert 3 <= len(searched) <= 4
        assert searched[method["lr"]] == min(searched.values())
        assert set(method["seeds"]) == {"0", "1"}
        assert method["seeds"]["0"]["dev_loss"] == searched[method["lr"]]
        assert all(seed["forwards"] == 6 for seed in method["seeds"].values())


def test_neighbouring_rates_are_a_factor_apart_and_the_edge_is_extended_once(finished):
    _, _, record = finished
    for method in record.values():
        rates = sorted(map(float, method["searched"]))
        assert all(math.isclose(b / a, 10, rel_tol=0.01) for a, b in itertools.pairwise(rates))
        inner = [rate for rate in (rates[0], rates[-1]) if rate == method["lr"]]
        assert len(rates) == 4 or not inner


def test_a_second_call_reads_what_the_first_one_did(finished):
    folder, plan, record = finished
    logs = {path: path.read_bytes() for path in (folder / "out").glob("*/log.jsonl")}
    assert len(logs) >= 8
    assert sweep(plan, folder / "out", progress=False) == record == load_record(folder / "out" / "record.json")["result"]
    assert all(path.read_bytes() == content for path, content in logs.items())


def test_a_run_that_diverges_loses_the_search(tmp_path):
    plan = load_plan(written(tmp_path, methods={"MeZO": {"optimizer": "mezo", "lr": 1e80}}, extend=0, factor=1e80, seeds=[0]))
    record = sweep(plan, tmp_path / "out", progress=False)["MeZO"]
    assert record["lr"] == 1
    assert record["searched"]["1e+160"] is None
    assert record["seeds"]["0"]["dev_loss"] == record["searched"]["1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "a list of one or more whole seeds"),
        ({"seeds": 3}, "a list of one or more whole seeds"),
        ({"seeds": ["a"]}, "a list of one or more whole seeds"),
        ({"factor": 1}, "factor > 1"),
        ({"factor": "two"}, "factor > 1"),
        ({"extend": 0.5}, "a whole extend >= 0"),
        ({"base": None}, "base must be settings"),
        ({"methods": ["a"]}, "methods one or more names"),
        ({"methods": {"MeZO": {"optimizer": "mezo"}}}, "MeZO needs an lr > 0, got None"),
        ({"methods": {"MeZO": {"lr": "1e-4"}}}, "MeZO needs an lr > 0, got '1e-4'"),
        ({"methods": {"MeZO": {"lr": 1, "steps": "four"}}}, "steps must be int, got 'four'"),
        ({"methods": {"MeZO": {"lr": 1, "steps": 4.5}}}, "steps must be int, got 4.5"),
        ({"methods": {"MeZO": {"lr": 1, "autocast": 1}}}, "autocast must be bool, got 1"),
        ({"methods": {"MeZO": {"lr": 1, "task": "nope"}}}, "unknown task 'nope'"),
        ({"extra": 1}, "exactly the keys"),
        ({"methods": {"MeZO": {"optimizer": "mezo", "lr": -1}}}, "lr"),
        ({"methods": {"MeZO": {"optimizer": "mezzo", "lr": 1}}}, "unknown optimizer"),
        ({"methods": {"MeZO": {"optimizer": "mezo", "rate": 1, "lr": 1}}}, "not a configuration"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=0"}}}, "horizon"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizont=3"}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=="}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "horizon=print()"}}}, "do not fit adamezo"),
        ({"methods": {"A": {"optimizer": "adamezo", "lr": 1, "optim_args": "3"}}}, "do not fit adamezo: write name=value"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_plan(written(tmp_path, **changes))


def test_what_is_no_yaml_is_refused(tmp_path):
    for content in (b"base: [", b"base: \xe9"):
        (tmp_path / "plan.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=r"plan\.yaml is not a YAML file .*; correct it"):
            load_plan(tmp_path / "plan.yaml")


def curve(*losses, seeds=1):
    """What a sweep finds for a method whose dev loss falls like this, evaluated every 10 forward passes."""
    outcome = {"dev_curve": [[10 * k, loss] for k, loss in enumerate(losses)]}
    return {"seeds": {str(seed): outcome for seed in range(seeds)}}


@pytest.mark.parametrize(
    ("method", "ratio"),
    [
        (curve(1.0, 0.8, 0.6), 1.0),
        (curve(1.0, 0.6, 0.5), 0.5),  # 10 forward passes to 0.6, where the base takes 20
        (curve(1.0, 0.9, 0.8), 2.0),  # 20 to 0.8, where the base takes 10
        (curve(1.0, 0.7, 0.9), 10 / 15),  # 0.7 is its lowest; the base passes it after 15
        (curve(1.0, 1.1, 1.2), math.inf),
        ({"seeds": {"0": curve(1.0, 0.5)["seeds"]["0"], "1": {"dev_loss": None}}}, math.inf),
    ],
)
def test_forwards_are_compared_at_the_lowest_loss_that_both_reach(method, ratio):
    assert forwards_ratio(method, curve(1.0, 0.8, 0.6)) == pytest.approx(ratio)


def test_ratios_of_seeds_drawn_again():
    base = curve(1.0, 0.8, 0.6, seeds=3)
    assert np.array_equal(resampled_ratios(base, base, draws=20), np.ones(20))
    fast = curve(1.0, 0.6, 0.5, seeds=2)["seeds"] | {"2": curve(1.0, 0.8, 0.6)["seeds"]["0"]}
    ratios = resampled_ratios({"seeds": fast}, base)
    assert (ratios.min(), ratios.max()) == (0.5, 1.0)  # all fast, all slow
    assert 0.5 < np.median(ratios) < 1.0
    assert np.array_equal(ratios, resampled_ratios({"seeds": fast}, base))
    broken = curve(1.0, 0.5, 0.4, seeds=1)["seeds"] | {"1": {"dev_loss": None}}
    assert {math.isinf(ratio) for ratio in resampled_ratios({"seeds": broken}, curve(1.0, 0.8, 0.6, seeds=2))} == {True, False}


@pytest.mark.parametrize(("search", "chosen"), [(1, 4.0), (2, 1.0)])
def test_the_rate_of_one_seed_gives_way_to_one_that_serves_all(tmp_path, monkeypatch, search, chosen):
    """The first seed likes 4 best; another diverges there, and does worse at 2 than at 1."""
    losses = {0: {1.0: 0.6, 2.0: 0.5, 4.0: 0.4, 8.0: 0.9}, 1: {0.5: 0.8, 1.0: 0.6, 2.0: 0.9, 4.0: None, 8.0: None}}

    def outcome(plan, name, lr, seed, out, progress):
        return {"dev_loss": losses[seed].get(lr, 0.7)}

    monkeypatch.setattr("zolab.studies.sweep._outcome", outcome)
    path = written(tmp_path, methods={"MeZO": {"optimizer": "mezo", "lr": 2.0}}, factor=2, extend=2, search=search)
    found = sweep(load_plan(path), tmp_path)["MeZO"]
    assert found["lr"] == chosen
    assert found["searched"] == {"1": 0.6, "2": 0.5, "4": 0.4, "8": 0.9}
    if search == 2:
        assert found["searched_all"] == pytest.approx({"0.5": 0.75, "1": 0.6, "2": 0.7, "4": None, "8": None})


def test_a_search_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"search must be a number of the . seeds, got 'both'"):
        load_plan(written(tmp_path, search="both"))
