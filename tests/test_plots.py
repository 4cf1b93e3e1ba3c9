"""Figures: drawn from records, written once, with their origin."""

import json
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from zolab import MeZO
from zolab.landscapes import LANDSCAPES, run
from zolab.plots import (
    BLACK,
    BLUE,
    METHOD_COLOURS,
    bars,
    changed,
    headline,
    landscape_map,
    legend_below,
    look,
    meta_training,
    save_figure,
    stacked_bars,
    training_curve,
)

RECORD = {
    "config": {"model": "m", "task": "t"},
    "result": {"steps": 50, "forwards": 200},
    "steps": [{"loss": 1.0 - 0.01 * i} for i in range(50)],
    "evaluations": [{"split": "dev", "forwards": f, "loss": 1 - f / 400} for f in (0, 100, 200)],
}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_training_curve_is_against_forward_passes():
    figure = training_curve(RECORD)
    (axes,) = figure.axes
    batches, smooth, dev = axes.lines
    assert list(batches.get_xdata()[:2]) == [4, 8]
    assert np.isclose(smooth.get_ydata()[-1], np.mean(batches.get_ydata()[-12:]))
    assert list(dev.get_xdata()) == [0, 100, 200]
    assert axes.get_xlabel() == "forward passes"
    assert "loss" in axes.get_ylabel()
    assert figure.get_suptitle() == "In 200 forward passes the dev loss falls from 1.00 to 0.50 nats"
    assert [text.get_text() for text in training_curve(RECORD, chance=0.5).legends[0].get_texts()][-1] == "chance, 0.50"


def test_meta_training_shows_resets_and_the_blocks_that_learning_moved():
    def record(sigma):
        steps = [{"step": i, "loss": 1.0, "meta_loss": 0.999} for i in range(6)]
        steps[0]["sigma"], steps[4]["sigma"] = [1.0] * 8, sigma
        return {"config": {"period": 2}, "result": {"steps": steps}}

    moved = [1.0, 5.0, 1.0, 0.1, 1.1, 1.0, 3.0, 1.0]
    figure = meta_training(record(moved))
    clean, fall, sigma = figure.axes
    assert list(clean.lines[0].get_ydata()) == [1.0] * 6
    assert np.allclose(fall.lines[0].get_ydata(), 1.0)
    assert [line.get_xdata()[0] for line in clean.lines[1:]] == [2, 4]
    ends = [line.get_ydata()[-1] for line in sigma.lines if list(line.get_xdata()) == [0, 4]]
    assert sorted(ends[6::2]) == [0.1, 3.0, 5.0]
    assert ends[1::2] == [1.0] * 6
    twin = meta_training(record(moved), record(moved)).axes[2]
    assert {line.get_ydata()[-1] for line in twin.lines[1:12:2]} <= set(moved)


def test_a_title_is_made_from_what_is_drawn():
    assert changed(0.634, 0.571) == "falls from 0.63 to 0.57"
    assert changed(0.571, 0.634, 3) == "rises from 0.571 to 0.634"
    assert changed(0.631, 0.629) == "stays at 0.63"
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.plot([0, 1], label="a line")
    headline(figure, "a finding of many words that " * 3)
    legend_below(axes)
    figure.canvas.draw()
    assert figure.get_suptitle().count("\n") == 2
    assert axes.get_legend() is None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a line"]


def test_bars_show_values_and_units():
    (axes,) = bars(["a", "b"], [1.0, 2.5], "MB", "title").axes
    assert {text.get_text().strip() for text in axes.texts} == {"1 MB", "2.5 MB"}
    assert axes.get_xlabel() == "MB"


def test_limits_within_reach_are_lines_and_sums_stand_beside_them():
    rows = {"a": {"weights": 2.0, "states": 1.0}, "b": {"weights": 2.0}}
    (axes,) = stacked_bars(rows, {"weights": BLACK, "states": BLUE}, "GB", "title", limits={"2 GB": 2, "40 GB": 40}).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[2, 2]]
    assert [text.get_text() for text in axes.texts] == ["3", "2", "2 GB"]
    assert axes.texts[0].get_position()[0] == axes.get_xlim()[1]
    (axes,) = stacked_bars(rows, {"weights": BLACK, "states": BLUE}, "GB", "title").axes
    assert axes.texts[1].get_position()[0] < 2.1  # at the bar's own end
    assert not axes.lines


def test_the_look_does_not_leak():
    before = dict(plt.rcParams)
    with look():
        assert plt.rcParams["axes.titleweight"] == "bold"
    assert dict(plt.rcParams) == before


def test_saving_notes_the_origin_and_refuses_large_pictures(tmp_path):
    path = save_figure(training_curve(RECORD), "00_curve", tmp_path, "00_start_here")
    assert path.read_bytes().startswith(b"\x89PNG")
    entry = json.loads((tmp_path / "manifest.json").read_text())["00_curve"]
    assert entry["notebook"] == "00_start_here"
    assert set(entry) == {"notebook", "commit", "machine"}
    figure, axes = plt.subplots(figsize=(9, 9))
    axes.imshow(np.random.default_rng(0).random((900, 900)))
    with pytest.raises(ValueError, match="more than 200"):
        save_figure(figure, "00_noise", tmp_path, "00_start_here")
    assert not (tmp_path / "00_noise.png").exists()


def test_landscape_map_draws_the_walks():
    landscape = LANDSCAPES["beale"]
    walks = {"Adam": run(partial(torch.optim.Adam, lr=1e-2), landscape, 5), "MeZO": run(MeZO, landscape, 5)}
    axes = landscape_map(landscape, walks).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert {name: lines[name].get_color() for name in walks} == {name: METHOD_COLOURS[name] for name in walks}
    assert np.array_equal(lines["Adam"].get_xydata(), walks["Adam"].positions)
    assert (axes.get_xlim(), axes.get_ylim()) == landscape.window
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("x", "y", "Beale")
