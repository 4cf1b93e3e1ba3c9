"""Figures of studies say what is drawn, and draw what the record has."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from zolab.plots import BLUE, GREEN, ORANGE, RED
from zolab.studies.figures import aside, beside_base, colours_of, loss_curves, scales_figure, searched_rates, spelled
from zolab.studies.outcomes import Record
from zolab.studies.recipes import sigma_by_tensor
from zolab.studies.statistics import Estimate

RECORDS = Path(__file__).resolve().parent.parent / "figures" / "records"


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_names_of_intervals_that_leave_out_zero():
    estimates = {name: Estimate(low + 0.1, low, low + 0.2, n=5) for name, low in (("a", -0.5), ("b_c", -0.1), ("d", 0.1))}
    assert aside(estimates, "MeZO") == "final loss below MeZO's by its own interval: a; above: d"
    many = {str(k): Estimate(-0.2, -0.3, -0.1, n=5) for k in range(4)}
    assert aside(many, "MeZO") == "final loss below MeZO's by its own interval: 4 of 4; above: none"
    assert [spelled(name) for name in ("MeZOAdam", "gain_several", "HiZOO")] == ["MeZO-Adam", "gain several", "HiZOO"]


def test_one_task_shows_its_seeds():
    record = Record.load(RECORDS / "08_recipes.json")
    figure = beside_base(record, "one recipe", methods=["gain_several"])
    (ours, base), *_ = record.pairs("gain_several").values()
    right = figure.axes[1]
    assert any(np.array_equal(line.get_xdata(), ours.final - base.final) for line in right.lines)
    assert " ".join(figure.get_suptitle().split()).startswith("one recipe: final loss below MeZO's by its own interval:")
    assert figure.axes[0].get_legend() is None
    assert len(figure.legends) == 1


def test_a_curve_names_what_ends_lowest_and_shows_every_end():
    record = Record.load(RECORDS / "09_tiny.json")
    colours = {"MeZO": BLUE, "trained": RED}
    (axes,) = loss_curves(record, "critic", colours, "critic").axes
    ends = {name: record.runs("critic", name).final for name in colours}
    assert axes.get_title(loc="left") == f"critic\n{min(ends, key=lambda name: ends[name].mean())} ends lowest"
    low, high = axes.get_ylim()
    assert all(low < end.mean() - end.std() and end.mean() + end.std() < high for end in ends.values())


def test_no_curve_is_named_lowest_where_all_end_level():
    record = Record.load(RECORDS / "11_reproduction.json")
    colours = colours_of(["MeZO", "HiZOO", "ZO Fine-tuner"])
    (axes,) = loss_curves(record, "next", colours, "next").axes
    means = [record.runs("next", name).final.mean() for name in colours]
    apart = float(axes.get_title(loc="left").removeprefix("next\nall end within ").removesuffix(" nats"))
    assert max(means) - min(means) <= apart <= max(means) - min(means) + 0.001


def test_colours_tell_methods_apart():
    assert colours_of(["HiZOO", "MeZO", "LOZO"]) == {"HiZOO": ORANGE, "MeZO": BLUE, "LOZO": GREEN}
    assert len(set(colours_of([*"abcdefg"]).values())) == 7


def test_rates_name_the_least_and_the_most_that_the_highest_costs():
    record = Record.load(RECORDS / "03_methods.json")
    (task,) = record.tasks
    figure = searched_rates(record, task, "six", before=1.26)
    ends = {}
    for name in record.methods(task):
        search = record.search(task, name)
        losses = {float(rate): loss for rate, loss in search["rounds"][-1]["losses"].items()}
        if max(losses) > search["lr"]:
            ends[name] = losses[max(losses)]
    least, most = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
    title = " ".join(figure.get_suptitle().split())
    assert (
        title
        == f"six: at the highest rate {spelled(least)} ends at {ends[least]:.2f} nats, {spelled(most)} at {ends[most]:.2f}"
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "before training"
    fewer = searched_rates(record, task, "two", methods=["MeZO", "AdaMeZO"])
    assert [text.get_text() for text in fewer.legends[0].get_texts()] == ["MeZO", "AdaMeZO"]


def test_scales_are_drawn_by_tensor_whatever_their_blocks():
    tensors = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    kinds = sigma_by_tensor({"embed_tokens": 0.5, "mlp.up_proj": 2.0}, tensors)
    layers = sigma_by_tensor({tensors[0]: 1.0, "model.layers.0": 0.0, "model.layers.1": 3.0}, tensors)
    assert (kinds, layers) == ([0.5, 2.0, 2.0], [1.0, 0.0, 3.0])
    with pytest.raises(ValueError, match="take the model's own"):
        sigma_by_tensor({"other": 1.0}, tensors)
    figure = scales_figure({"kinds": kinds, "layers": layers, "again": layers}, ["embed", "0.up", "1.up"])
    (shade,) = figure.axes[0].images
    assert shade.get_array()[1].tolist() == pytest.approx([0, np.log2(1e-3), np.log2(3)])
    assert "1.up has the largest σ in 2 of 3 cases" in " ".join(figure.get_suptitle().split())
