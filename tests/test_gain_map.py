"""The gain map: what is chosen by one half and judged by the other, and the command that measures it on several tasks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zolab.__main__ import main
from zolab.records import load_record
from zolab.studies.gain_figures import LABELS, WAYS, gain_figure, signal_figure, transfer_figure
from zolab.studies.gain_map import finite
from zolab.studies.gain_transfer import effective_rates, gain_rows, gain_text, points_at, transfer, with_signal
from zolab.theory.judged import (
    ESTIMATES,
    GROUPINGS,
    Estimates,
    agreement,
    all_of,
    best_scales,
    chosen,
    judged,
    noise_rank,
    noise_scales,
    ratio_scales,
    shared_best,
    shared_signal,
    shrunk,
    transferred,
)
from zolab.theory.signal import Signal, gain

RECORDS = Path(__file__).resolve().parent.parent / "figures" / "records"
NAMES = ("model.embed_tokens.weight", *(f"model.layers.{i}.{kind}.weight" for i in range(4) for kind in ("up", "down")))
SIZES = np.array([400, *[40] * 8])
SLOPES = np.array([0.0, 0.0, 0.0, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0])  # of a weight: the second layer alone has a signal


def simulated_signal(rng, examples, groups=8, slopes=SLOPES, spread=1.0):
    """A Signal of normal gradients, in weights of one size of noise."""
    of = np.repeat(np.arange(len(SIZES)), SIZES)
    gradients = slopes[of] + spread * rng.normal(size=(examples, len(of)))
    sums = np.stack([gradients[k::groups].sum(0) for k in range(groups)])
    by_block = np.eye(len(SIZES))[of]
    lengths = np.stack([np.square(gradients[k::groups]).sum(0) @ by_block for k in range(groups)])
    products = np.stack([(sums[k] * sums) @ by_block for k in range(groups)])
    counts = np.array([len(gradients[k::groups]) for k in range(groups)])
    return Signal(NAMES, SIZES, counts, lengths, products, lengths)


def test_larger_blocks_are_sums_of_smaller_ones():
    statistics = simulated_signal(np.random.default_rng(0), 64)
    merged = statistics.merged(lambda name: "all")
    assert merged.estimates[:, 0] == pytest.approx(statistics.estimates.sum(1))
    assert merged.sizes.tolist() == [SIZES.sum()]
    layers = statistics.merged(lambda name: name.split(".")[2])
    assert layers.names == ("weight", "0", "1", "2", "3")
    assert layers.estimates[0, 2] == pytest.approx(statistics.estimates[0, 3:5].sum())


def test_shared_scales_are_the_mean_of_tasks_on_the_budget_and_shrink_towards_one():
    noise, sizes = np.ones(3), np.array([2.0, 1.0, 1.0])
    one, two = (Estimates(("a", "b", "c"), sizes, np.array([g, noise, noise])) for g in ((1, 2, 0), (-1, 0, 4)))
    squares = np.square(shared_signal([one, two], 16))
    np.testing.assert_allclose(squares, [0.5, 1.0, 2.0])  # the mean of (1, 2, 0) and (0, 0, 4), each of which has mean 1
    assert squares @ sizes == pytest.approx(sizes.sum())
    for weight in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(np.square(shrunk(np.sqrt(squares), weight)), 1 - weight + weight * squares)


def test_the_best_scales_of_several_tasks_gain_most_on_all_of_them():
    points = points_at(load_record(RECORDS / "06_gain_map.json"), 0)
    kept = [all_of(p, "kind") for p in points if p["task"] in ("reviews_sentence", "reviews_next")]
    sigma, rng = shared_best(kept, 16), np.random.default_rng(0)

    def total(scales):
        return sum(np.log(gain(each.terms(16), scales)) for each in kept)

    assert np.square(sigma) @ kept[0].sizes == pytest.approx(kept[0].sizes.sum(), rel=1e-6)
    others = [sigma * np.exp(spread * rng.normal(size=len(sigma))) for spread in (0.01, 0.1, 1.0) for _ in range(50)]
    assert total(sigma) > max(map(total, [*others, *np.eye(len(sigma)), np.ones(len(sigma))])) - 1e-6
    for each in kept:
        alone = replace(each, estimates=np.maximum(each.estimates, 0))
        assert gain(alone.terms(16), shared_best([each], 16)) == pytest.approx(
            gain(alone.terms(16), best_scales(alone, 16)), rel=1e-3
        )
    silent = replace(kept[0], estimates=-kept[0].estimates)
    assert (shared_best([silent], 16) == 1).all()


def test_effective_rates_are_those_of_the_first_order_and_of_the_curvature():
    rows = {"a": {"size": 2, "G": [3, 1], "V": [8, 1], "t": [1, 0]}, "b": {"size": 1, "G": [-1, 1], "V": [8, 1], "t": [3, 0]}}
    rates = effective_rates({"kind": rows}, {"a": 2.0, "b": 0.5}, batch=8)
    assert rates["descent"] == pytest.approx(2.0)
    assert rates["curvature"] == pytest.approx((2 * 1 + 0.5 * 3) / 4)
    assert rates["gain"] == pytest.approx((6**2 / ((2 * 4 + 0.5) * 3.5)) / (3**2 / (5 * 4)))
    assert effective_rates({"kind": rows}, {"a": 1.0, "b": 1.0}, batch=8) == pytest.approx(dict.fromkeys(rates, 1.0))


def test_statistics_of_all_examples_are_those_that_were_kept():
    (point,) = [p for p in points_at(load_record(RECORDS / "06_gain_map.json"), 0) if p["task"] == "reviews_next"]
    layer, tensor = all_of(point, "layer"), all_of(point, "tensor")
    assert layer.estimates[:, 0].tolist() == [point["layer"][layer.names[0]][name][0] for name in ESTIMATES]
    assert tensor.names == tuple(point["blocks"])
    merged = tensor.merged(GROUPINGS["layer"])
    assert merged.names == layer.names
    np.testing.assert_allclose(merged.estimates[1:], layer.estimates[1:], rtol=0.02)


def test_scales_follow_signal_to_noise_and_gain_on_the_other_half():
    statistics = simulated_signal(np.random.default_rng(1), 256)
    sigma = ratio_scales(statistics, lambda name: name.rsplit(".", 2)[0], batch=16)
    assert sigma[3] == sigma[4] > 3 * max(sigma[[0, 1, 2, 5, 6, 7, 8]])
    ways = judged(statistics, batch=16)
    by_layer, permuted = ways["signal to noise by layer"], ways["the same, permuted"]
    assert by_layer.other > 3
    assert abs(permuted.other) < by_layer.other / 3
    assert ways["embedding frozen"].other > 1.5
    assert agreement(statistics)["layer"] > 0.9


@pytest.mark.parametrize("strength", [0.0, 1.0, 10.0])
def test_the_rank_of_the_noise_is_that_of_its_covariance_whatever_the_signal(strength):
    signals = (simulated_signal(np.random.default_rng(seed), 400, slopes=strength * SLOPES) for seed in range(20))
    assert 1 / np.mean([1 / noise_rank(each) for each in signals]) == pytest.approx(SIZES.sum(), rel=0.2)


def test_without_a_signal_a_promise_holds_in_sample_alone():
    statistics = [simulated_signal(np.random.default_rng(seed), 64, slopes=np.full(len(SIZES), 0.05)) for seed in range(30)]
    ways = [judged(one, batch=16)["signal to noise by tensor"] for one in statistics]
    assert np.median([way.own for way in ways]) > 1.3
    assert np.median([way.other for way in ways]) < 1.1


def test_scales_along_which_the_loss_does_not_fall_gain_less_than_nothing():
    statistics = simulated_signal(np.random.default_rng(4), 512)
    halves = statistics.halves()
    quiet = np.where(halves[1].estimates[0] < 0, 1.0, 0.0)
    assert quiet.any()
    assert gain(halves[1].terms(16), quiet) < 0
    assert all(
        np.isfinite(sigma).all()
        for sigma in chosen(simulated_signal(np.random.default_rng(5), 8, slopes=0 * SLOPES), 16).values()
    )


def test_the_map_of_two_tasks_along_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    def mapped(*more, tasks=("reviews_sentence", "reviews_next"), steps=("0", "2")):
        words = [
            "--model",
            "tiny-random-llama",
            "--examples",
            "24",
            "--balanced",
            "--groups",
            "6",
            "--dev",
            "4",
            "--batch_size",
            "2",
        ]
        places = ["--out", str(tmp_path / "out"), "--record", str(tmp_path / "map.json")]
        return main(["map", *words, "--calibrate", "8", "--tasks", ",".join(tasks), "--steps", *steps, *places, *more])

    assert mapped(steps=["0"]) == 0
    first = {path.name: path.read_text() for path in (tmp_path / "out").glob("*.json")}
    assert mapped() == 0
    assert all((tmp_path / "out" / name).read_text() == text for name, text in first.items())
    record = load_record(tmp_path / "map.json")
    points = record["result"]["points"]
    assert [(point["task"], point["step"]) for point in points] == [
        (task, step) for task in ("reviews_sentence", "reviews_next") for step in (0, 2)
    ]
    assert len(points[0]["offsets"]) == 2
    assert points[2]["offsets"] == []  # its answers are texts of their own
    for point in points:
        assert set(point["total"]) == {"size", *ESTIMATES}
        halves = np.array(point["halves"])
        assert halves.shape == (2, 3, len(point["blocks"]))
        assert sum(row["V"][0] for row in point["layer"].values()) == pytest.approx(point["total"]["V"][0], rel=1e-3)
    (table,) = (text for text in [capsys.readouterr().out] if "in sample -> other half" in text)
    assert [line.split()[0] for line in table.splitlines()[-4:]] == [point["task"] for point in points]
    base = points_at(record, 0)
    (axes,) = gain_figure(base, "gains").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["reviews_sentence", "reviews_next"]
    drawn_ways = axes.get_legend_handles_labels()[1]
    assert set(drawn_ways) == {LABELS.get(way, way) for way in base[0]["gains"]}
    assert set(base[0]["gains"]) <= set(WAYS)
    layers, kinds = signal_figure(base, "signals").axes
    assert (len(layers.get_xticks()), len(kinds.get_xticks())) == (len(base[0]["layer"]), len(base[0]["kind"]))
    assert points[0]["dev"] != points[1]["dev"]
    assert json.dumps(points[0]) != json.dumps(points[1])
    assert mapped("--lr", "1e-3") == 1
    assert "measured with other settings (lr); choose another folder" in capsys.readouterr().err
    assert mapped(steps=["-1"]) == 1
    assert "steps must be 0 or more" in capsys.readouterr().err
    assert mapped("--examples", "24", "24", "24") == 1
    assert "one for each of the 2 tasks; got 3" in capsys.readouterr().err
    assert mapped("--groups", "5") == 1
    assert "groups must be between 6 and the 24 examples" in capsys.readouterr().err


def test_a_task_has_its_own_number_of_examples_and_no_balance_where_a_class_is_rare(tmp_path, capsys):
    words = ["--model", "tiny-random-llama", "--tasks", "reviews_sentence,reviews_writer", "--examples", "40", "11"]
    places = ["--out", str(tmp_path / "out"), "--record", str(tmp_path / "map.json")]
    assert main(["map", *words, "--balanced", "--groups", "6", "--dev", "4", "--batch_size", "6", *places]) == 0
    assert re.search(r"reviews_writer: \d examples of a class cannot be dealt to 6 groups", capsys.readouterr().out)
    sentence, writer = load_record(tmp_path / "map.json")["result"]["points"]
    assert (sentence["balanced"], writer["balanced"]) == (True, False)
    assert (sentence["examples"] % 12, writer["examples"]) == (0, 11)


def test_a_gain_that_too_few_examples_leave_open_is_kept_as_none_and_drawn_as_a_dash():
    assert finite({"own": 1.0, "other": float("nan"), "error": float("inf")}) == {"own": 1.0, "other": None, "error": None}
    point = {"total": {"G": [3.0, 1.0]}, "gains": {"a": {"own": 1.0, "other": 2.0, "error": 0.5}}}
    assert gain_text(point, "a") == "2.00 ± 0.50"
    assert gain_text({**point, "total": {"G": [2.9, 1.0]}}, "a") == "–"
    assert gain_text(point, "b") == "–"
    for other, error, text in ((2.0, None, "–"), (None, None, "–"), (2.0, 2.5, "–"), (0.1, 0.9, "0.10 ± 0.90")):
        assert gain_text({**point, "gains": {"a": {"own": 1.0, "other": other, "error": error}}}, "a") == text


def test_the_page_says_which_points_are_of_balanced_batches_and_reads_older_ones_that_do_not():
    points = load_record(RECORDS / "06_gain_map.json")["result"]["points"][:1]
    older = [{name: value for name, value in point.items() if name != "balanced"} for point in points]
    expected = str(older[0]["examples"])
    for point, text in ((older[0], expected), ({**older[0], "balanced": True}, f"{expected}, balanced")):
        assert gain_rows([point])[1][1] == text
    assert gain_rows([{**older[0], "balanced": False}])[1][1] == expected
    assert gain_rows([{**older[0], "total": {"G": [-1.0, 2.0], "V": [9.0, 1.0]}}])[1][3:5] == [
        "-1 ± 2",
        "–",
    ]  # no noise to signal


# --- carried over to other tasks


def estimates_of(statistics):
    return Estimates(statistics.names, statistics.sizes, statistics.estimates)


def test_kept_estimates_give_the_scales_and_gains_of_the_signal_itself():
    statistics = simulated_signal(np.random.default_rng(3), 256)
    for grouping in GROUPINGS.values():
        ours, expected = estimates_of(statistics).merged(grouping), statistics.merged(grouping)
        assert ours.names == expected.names
        np.testing.assert_allclose(ours.estimates, expected.estimates, rtol=1e-12)
        assert noise_scales(estimates_of(statistics), grouping) == pytest.approx(noise_scales(statistics, grouping))
    sigma = noise_scales(statistics, GROUPINGS["layer"])
    assert gain(estimates_of(statistics).terms(16), sigma) == pytest.approx(statistics.gain(sigma, 16)[0])


def test_where_noise_rules_a_step_gains_the_more_the_more_it_prefers_blocks_of_high_g_over_v():
    rng = np.random.default_rng(4)
    statistics = Estimates(NAMES, SIZES, np.stack([1e-6 * rng.random(len(SIZES)), SIZES, SIZES]))
    sigma = noise_scales(statistics, lambda name: name)
    assert sigma**2 == pytest.approx(statistics.estimates[0] / SIZES)
    gains = [gain(statistics.terms(1), sigma**power) for power in (0, 1, 2, 8)]
    assert gains[0] == pytest.approx(1)
    assert gains == sorted(gains)


def test_tasks_share_scales_where_the_same_layer_has_the_signal():
    """Two tasks whose signal lies in one layer, and one where it lies in another."""
    moved = np.roll(SLOPES, 2)
    pairs = [
        tuple(map(estimates_of, simulated_signal(np.random.default_rng(seed), 512, slopes=slopes).halves()))
        for seed, slopes in ((6, SLOPES), (7, SLOPES), (8, moved))
    ]
    gains = transferred(pairs, lambda half: noise_scales(half, GROUPINGS["layer"]), batch=16)
    assert gains.shape == (3, 3, 2, 2)
    assert np.isnan(gains[0, 0, 0, 0])
    assert np.isnan(gains[0, 0, 1, 1])
    mean = np.nanmean(gains, (2, 3))
    assert min(mean[0, 0], mean[0, 1], mean[1, 0], mean[2, 2]) > 2
    assert max(mean[0, 2], mean[1, 2], mean[2, 0], mean[2, 1]) < 0.5


def test_points_of_two_models_share_no_scales():
    point = {"task": "a", "blocks": ["x"], "sizes": [1], "halves": [[[1.0], [1.0], [1.0]]] * 2}
    with pytest.raises(ValueError, match="one model only"):
        transfer([point, {**point, "blocks": ["y"]}], 16)
    assert transfer([point, point], 16)[0, 1] == pytest.approx(1.0)


def test_the_figure_of_what_tasks_share_has_each_gain_in_its_place():
    record = load_record(RECORDS / "06_gain_map.json")
    base = with_signal(points_at(record, 0))
    assert {point["task"] for point in points_at(record, 0)} - {point["task"] for point in base} == {
        "reviews_agree",
        "reviews_genre",
    }
    gains = np.nanmean(transfer(base, record["config"]["batch_size"]), (2, 3))
    axes, _ = transfer_figure(base, record["config"]["batch_size"], "shared").axes
    assert [text.get_text() for text in axes.texts] == [f"{gain:.2g}" for gain in gains.flat]
    assert [text.get_text() for text in axes.get_xticklabels()] == [point["task"].removeprefix("reviews_") for point in base]
