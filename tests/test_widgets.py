"""Panels: pure functions, controls at their ends and middles, goals that can be met, errors that are said and raised."""

import base64
import gc
import io
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from zolab import Direction, MeZO
from zolab.landscapes import LANDSCAPES, Landscape, Protocol, run
from zolab.noise import direction
from zolab.optim import METHODS
from zolab.plots import METHOD_COLOURS
from zolab.studies.compare import LINE, overall
from zolab.studies.family import name_of
from zolab.studies.outcomes import Record
from zolab.widgets import (
    PANELS,
    Level,
    View,
    block_scales_view,
    bounds_view,
    choice,
    directions_view,
    division_view,
    explore,
    extremes,
    gain_view,
    horizon_panel,
    horizon_view,
    landscape_panel,
    landscape_view,
    log_number,
    mass_kept,
    number,
    printed_view,
    rates,
    several,
    switch,
    threshold_view,
    two_point_panel,
    two_point_view,
    verdict_view,
    whole,
)
from zolab.widgets import bounds as bounds_module
from zolab.widgets import directions as directions_module
from zolab.widgets import division as division_module
from zolab.widgets import gain as gain_module
from zolab.widgets import printed as printed_module
from zolab.widgets import threshold as threshold_module
from zolab.widgets import verdict as verdict_module
from zolab.widgets.block_scales import two_blocks
from zolab.widgets.horizon import LONG
from zolab.widgets.panel import wrapped
from zolab.widgets.two_point import secant_slope
from zolab.widgets.walks import FIRST_ORDER, walk


def picture_of(panel):
    return np.asarray(Image.open(io.BytesIO(panel.image.value)).convert("RGB"))


@pytest.mark.parametrize("name", PANELS)
def test_every_control_at_its_ends_and_middle(name):
    panel = PANELS[name]()
    for control in panel.controls.values():
        start, pictures = control.value, set()
        for value in extremes(control):
            control.value = value
            pictures.add(picture_of(panel).tobytes())
            assert "Goal" in panel.goal.value
            assert "✗" not in panel.goal.value
        control.value = start
        assert len(pictures) > 1, f"{control.description} changes nothing"


@pytest.mark.parametrize("name", PANELS)
def test_pictures_are_pure_and_of_a_size_that_fits_a_notebook(name):
    first, second = PANELS[name](), PANELS[name]()
    assert first.image.value == second.image.value
    assert picture_of(first).shape[1] == 860
    assert plt.get_fignums() == []


class TestPanel:
    def view(self, a=1.0, methods=("x",)):
        if a > 5:
            raise ValueError("a is too large; choose at most 5.")
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.add_axes((0, 0, 1, 1), ylim=(0, 10)).plot([0, a])
        levels = Level("a < above 1", a > 1, "more than 1"), Level("a < above 3", a > 3, "more than <3>")
        return View(figure, levels, f"a = {a:g}", ("it is <b>",) if a == 2 else ())

    def test_a_moved_control_redraws_and_turns_the_goal_line(self):
        panel = explore(self.view, a=number("a", 1, 0, 10, 0.5))
        before = panel.image.value
        assert "○ Goal 1 of 2: a &lt; above 1. Now: a = 1." in panel.goal.value
        assert "more than 1</details>" in panel.hint.value
        panel.controls["a"].value = 1.5
        assert "○ Goal 2 of 2: a &lt; above 3. Now: a = 1.5." in panel.goal.value
        assert "more than &lt;3&gt;</details>" in panel.hint.value
        panel.controls["a"].value = 4
        assert panel.image.value != before
        assert "✓ Goal met, the last of 2: a &lt; above 3. Now: a = 4." in panel.goal.value
        assert panel.hint.value == ""

    def test_a_saved_copy_has_the_picture(self):
        panel = explore(self.view, a=number("a", 1, 0, 10, 0.5))
        bundle = panel._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert base64.b64decode(bundle["image/png"]) == panel.image.value

    def test_notes_are_said(self):
        panel = explore(self.view, a=number("a", 2, 0, 10, 0.5))
        assert "⚠ it is &lt;b&gt;" in panel.goal.value

    def test_errors_are_shown_and_raised_and_the_picture_stays(self):
        panel = explore(self.view, a=number("a", 4, 0, 10, 0.5))
        before = panel.image.value
        with pytest.raises(ValueError, match="too large"):
            panel.controls["a"].value = 6
        assert "✗ a is too large; choose at most 5." in panel.goal.value
        assert panel.image.value == before
        panel.controls["a"].value = 4.5
        assert "✗" not in panel.goal.value

    def test_the_collector_waits_for_the_picture_only(self):
        enabled = []

        def view(a):
            enabled.append(gc.isenabled())
            return self.view(a)

        panel = explore(view, a=number("a", 1, 0, 10, 0.5))
        with pytest.raises(ValueError, match="too large"):
            panel.controls["a"].value = 6
        assert enabled == [False, False]
        assert gc.isenabled()

    def test_errors_of_the_first_picture_are_raised(self):
        with pytest.raises(ValueError, match="too large"):
            explore(self.view, a=number("a", 7, 0, 10, 0.5))

    def test_redrawn_while_a_slider_moves(self):
        controls = [number("a", 1, 0, 2, 1), log_number("b", 1, 0.1, 10), whole("c", 1, 0, 2)]
        assert all(control.continuous_update for control in controls)

    def test_rates_are_those_of_all_methods_and_the_ticked_ones_are_shown(self):
        ticked = several("methods", ("a",), ("a", "b"), 2)
        control = rates({"a": 0.1, "b": 0.01}, 1e-3, 1, ticked)
        values = []
        control.observe(lambda change: values.append(change.new), "value")
        assert [slider.layout.display for slider in control.sliders.values()] == [None, "none"]
        ticked.value = ("b",)
        assert [slider.layout.display for slider in control.sliders.values()] == ["none", None]
        control.sliders["b"].value = 1.0
        control.value = {"a": 1.0, "b": 0.5}
        assert [slider.value for slider in control.sliders.values()] == [1.0, 0.5]
        assert values == [{"a": 0.1, "b": 1.0}, {"a": 1.0, "b": 0.5}]
        assert extremes(control)[0] == {"a": 1e-3, "b": 1e-3}

    def test_several(self):
        control = several("methods", ("b",), ("a", "b", "c"), 2)
        values = []
        control.observe(lambda change: values.append(change.new), "value")
        control.boxes[0].value = True
        control.value = ("c",)
        assert [box.value for box in control.boxes] == [False, False, True]
        control.boxes[2].value = False
        assert values == [("a", "b"), ("c",), ()]

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: number("eps", 3, 0, 2, 0.1), "eps must be between 0 and 2, got 3"),
            (lambda: log_number("eps", 0, 0, 2), "eps must be between"),
            (lambda: whole("steps", 1.5, 0, 2), "steps must be a whole number between 0 and 2"),
            (lambda: choice("f", "d", ["a", "b"]), "f must be one of a, b"),
            (lambda: several("methods", ("d",), ["a", "b"], 2), "methods must be some of a, b"),
            (lambda: several("methods", "a", ["a", "b"], 2), "methods must be some of a, b"),
            (lambda: two_point_panel(radius=1), "no radius; it has landscape, eps"),
            (lambda: two_point_panel(eps=3.0), "eps must be between"),
        ],
    )
    def test_bad_settings(self, make, match):
        with pytest.raises(ValueError, match=match):
            make()

    def test_extremes(self):
        assert extremes(log_number("b", 1, 1e-2, 1e2)) == [0.01, 1, 100]
        assert extremes(whole("c", 1, 0, 5)) == [0, 2, 5]
        assert extremes(switch("d", True)) == [False, True]
        assert extremes(choice("e", "a", ["a", "b"])) == ["a", "b"]
        assert extremes(several("f", (), ("a", "b", "c"), 2)) == [("a",), ("a", "b"), ("b", "c")]

    def test_a_view_is_shown_by_jupyter(self):
        view = self.view(4)
        assert view._repr_png_().startswith(b"\x89PNG")
        assert str(view) == view.line == "✓ Goal met, the last of 2: a < above 3. Now: a = 4."

    def test_what_is_printed_fits_a_notebook(self):
        line = f'○ 1 {"a word " * 40}check("01", 1, a)\n  Hint: {"of words " * 30}'
        assert max(map(len, wrapped(line).splitlines())) <= LINE
        assert wrapped(line).split() == line.split()
        assert sum(not row.startswith("  ") for row in wrapped(line).splitlines()) == 1

    @pytest.mark.parametrize("easy", [False, True])
    def test_the_line_that_is_drawn_is_that_of_the_next_goal(self, easy):
        view = two_point_view("beale", eps=0.5 if easy else 1e-4)
        assert view.reached == (1 if easy else 2)
        (line,) = [line for line in view.figure.axes[1].lines if line.get_linestyle() == ":"]
        assert line.get_ydata()[0] == pytest.approx(-5 if easy else -10)


class TestLandscape:
    def test_one_colour_a_method_and_one_legend_entry(self):
        figure = landscape_view(methods=("MeZO", "SGD"), steps=5).figure
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["MeZO", "SGD"]
        above, costs, _ = figure.axes
        for axes in (above, costs):
            assert {METHOD_COLOURS["MeZO"], METHOD_COLOURS["SGD"]} <= {line.get_color() for line in axes.lines}

    def test_a_backward_pass_counts_as_two(self):
        costs = landscape_view(methods=("MeZO", "SGD"), steps=5, lr=1e-3).figure.axes[1]
        assert [round(10 ** line.get_xdata()[-1]) for line in costs.lines[:2]] == [10, 15]

    @pytest.mark.parametrize("methods", [(), tuple(METHOD_COLOURS)])
    def test_as_many_methods_as_the_legend_holds(self, methods):
        with pytest.raises(ValueError, match=f"{len(methods)} methods are chosen; choose 1 to 4"):
            landscape_view(methods=methods)

    def test_a_method_without_a_rate_is_said(self):
        rates_of_two = {"MeZO": 0.01, "SGD": 0.1}
        with pytest.raises(ValueError, match="lr has no rate for Adam, AdaMeZO; give one for each of Adam, MeZO, AdaMeZO"):
            landscape_view(methods=("Adam", "MeZO", "AdaMeZO"), lr=rates_of_two)
        assert landscape_view(methods=("MeZO",), lr=rates_of_two, steps=5).figure

    def test_too_many_methods_are_said_in_the_panel(self):
        panel = landscape_panel(methods=("Adam", "SGD", "MeZO", "MEAZO"), steps=10)
        with pytest.raises(ValueError, match="5 methods"):
            panel.controls["methods"].boxes[3].value = True
        assert "✗ 5 methods are chosen" in panel.goal.value

    def test_a_path_that_hits_nan_stops_and_says_so(self):
        view = landscape_view("beale", ("SGD",), lr=1.0, steps=50)
        assert len(view.notes) == 1
        assert view.notes[0].startswith("SGD stopped in step")
        panel = landscape_panel(landscape="beale", methods=("SGD",), lr=1.0, steps=50)
        assert "⚠ SGD stopped in step" in panel.goal.value

    def test_the_goal_asks_for_a_zeroth_order_method_in_fresh_directions(self):
        assert landscape_view("beale", ("MeZO",), lr=0.03).reached == 2
        assert landscape_view("beale", ("MeZO",), lr=0.03, steps=20).reached == 1
        assert landscape_view("beale", ("MeZO", "MEAZO"), lr=0.03).reached == 2
        assert landscape_view("beale", ("MeZO", "MEAZO"), lr={"MeZO": 0.03, "MEAZO": 0.4}).met
        two = landscape_view("tilted_ellipse", ("MeZO",), lr=0.1, fixed=True)
        assert two.reached == 0
        assert "in two directions" in two.now
        adam = landscape_view("tilted_ellipse", ("Adam",), lr=0.1)
        assert adam.reached == 0
        assert "no zeroth-order method" in adam.now

    @pytest.mark.parametrize("landscape", ["sophia", "two_blocks"])  # one parameter, and two
    @pytest.mark.parametrize("fixed", [False, True])
    @pytest.mark.parametrize("method", METHOD_COLOURS)
    def test_walks_are_those_of_the_optimizers(self, landscape, fixed, method):
        steps, own = 60, {"AdaMeZO": {"horizon": 7, "betas": (0.6, 0.8)}, "ZO-AdaMU": {"phases": (3, 48, 60)}}.get(method, {})
        if method in FIRST_ORDER:
            theirs = run(partial(getattr(torch.optim, method), lr=1e-3), LANDSCAPES[landscape], steps)
        else:
            optimizer = partial(METHODS[name_of(method)], lr=1e-3, eps=1e-2, seed=3, **own)
            theirs = run(optimizer, LANDSCAPES[landscape], steps, directions=Protocol.directions if fixed else None)
        ours = walk(landscape, method, 1e-3, 1e-2, steps, 3, 7, (0.6, 0.8), fixed)
        assert np.allclose(ours.positions, theirs.positions, atol=2e-5)  # of numbers up to 7 in float32
        assert theirs.length > 0.01
        assert np.array_equal(ours.forwards, theirs.forwards)
        assert np.array_equal(ours.backwards, theirs.backwards)

    @pytest.mark.parametrize(("method", "lr"), [("SGD", 100.0), ("MeZO", 1e60), ("AdaMeZO", 1e60)])
    def test_a_walk_that_leaves_the_numbers_stops(self, method, lr):
        walked = walk("beale", method, lr, 1e-3, 50, 0)
        assert walked.stopped.startswith(f"stopped in step {len(walked.positions)} of 50: ")
        assert np.isfinite(walked.losses).all()

    @pytest.mark.parametrize("method", METHOD_COLOURS)
    def test_every_method_walks(self, method):
        moved = walk("two_blocks", method, 1e-3, 1e-3, 15, 0, horizon=3)
        assert len(moved.positions) == 16
        assert moved.length > 0

    def test_bad_names(self):
        with pytest.raises(ValueError, match="no landscape called hill; the landscapes are sophia"):
            landscape_view("hill")
        with pytest.raises(ValueError, match="no method called Magic; the methods are Adam"):
            landscape_view(methods=("Magic",))


class TestTwoPoint:
    def test_a_parabola_is_exact_and_a_cubic_is_not(self):
        assert two_point_view("ellipse", eps=1.0).met
        assert not two_point_view("sophia", eps=1.0).met

    @pytest.mark.parametrize(("precision", "eps"), [("float64", 1e-5), ("float32", 3e-3)])
    def test_the_goal_lies_between_rounding_and_bending(self, precision, eps):
        goal = [two_point_view("sophia", eps=radius, precision=precision).met for radius in (1e-10, eps, 0.3)]
        assert goal == [False, True, False]

    def test_the_slope_is_what_mezo_measures(self):
        place, position = LANDSCAPES["beale"], np.array(LANDSCAPES["beale"].start, float)
        optimizer = MeZO([torch.nn.Parameter(torch.from_numpy(position))], lr=0.0, eps=1e-3, seed=7)
        optimizer.step(lambda: place(*position.tolist()))
        (measured,) = optimizer.trajectory.records[0].projected_grads
        z = direction(Direction(7, 0), 0, 2).double().numpy()
        # float64 weights get the direction of torch's own functions, which are a few float32 units from the kernel's.
        assert np.isclose(secant_slope(place, z, 1e-3, "float64"), measured, rtol=1e-6)

    @pytest.mark.parametrize(
        "change", [{"eps": 0.0}, {"eps": 2.0}, {"precision": "float8"}, {"landscape": "hill"}, {"seed": -1}]
    )
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match=r"got|no landscape"):
            two_point_view(**change)


class TestHorizon:
    def test_masses(self):
        assert round(100 * mass_kept(0.7, 10), 1) == 97.2
        assert round(100 * mass_kept(0.9, 10), 1) == 65.1
        assert np.isclose(mass_kept(0.9, 7), 0.1 * (0.9 ** np.arange(7)).sum())

    def test_the_goal(self):
        assert [horizon_view(h).reached for h in (5, 10, 28, 29)] == [0, 1, 1, 2]
        assert [horizon_view(10, beta2=beta).met for beta in (0.75, 0.7)] == [False, True]

    def test_what_is_left_out_is_all_that_differs(self):
        short, long = (walk("sophia", "AdaMeZO", 0.05, 1e-3, 12, 0, h) for h in (6, LONG))
        assert np.array_equal(short.positions[:7], long.positions[:7])
        assert not np.allclose(short.positions[7:], long.positions[7:], atol=1e-4)
        forgetful = (walk("sophia", "AdaMeZO", 0.05, 1e-3, 30, 0, h, (0.1, 0.1)) for h in (12, LONG))
        assert np.allclose(*(it.positions for it in forgetful), atol=1e-5)

    def test_the_panel_says_where_a_walk_stopped(self, monkeypatch):
        window = {"start": (0.1, 0.5), "window": ((0.01, 1), (0, 1)), "minima": ((0.01, 0.5),), "minimum": 0.01}
        monkeypatch.setitem(LANDSCAPES, "cliff", Landscape("Cliff", "x", lambda x, y: x / (x > 0), **window))
        assert "⚠" not in horizon_panel().goal.value
        assert "⚠ h = 10 stopped in step" in horizon_panel(landscape="cliff").goal.value

    @pytest.mark.parametrize("change", [{"horizon": 0}, {"horizon": LONG + 1}, {"beta1": 1.0}, {"beta2": -0.1}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match=r"must (lie )?(be )?in"):
            horizon_view(**change)


class TestBlockScales:
    def test_expected_change_is_the_mean_of_many_steps(self):
        sigmas, lr, place = np.array([0.4, 1.2]), 0.02, LANDSCAPES["two_blocks"]
        z = np.random.default_rng(0).normal(size=(400_000, 2)) * sigmas
        slopes = z @ np.array(place.gradient(*place.start))
        changes = place(*(np.array(place.start) - lr * slopes[:, None] * z).T) - place(*place.start)
        error = changes.std() / len(changes) ** 0.5
        assert abs(changes.mean() - two_blocks().change(sigmas, lr)) < 4 * error
        assert error < 0.01 * abs(changes.mean())

    def test_the_goal_takes_both_scales_and_the_learning_rate(self):
        assert not block_scales_view().met
        assert not block_scales_view(0.3, 1.3).met
        assert not block_scales_view(lr=0.126).met
        assert block_scales_view(0.3, 1.35, 0.126).met

    def test_more_than_the_budget_does_not_count(self):
        assert not block_scales_view(0.3, 1.5, 0.1).met

    @pytest.mark.parametrize("change", [{"sigma1": -0.1}, {"sigma2": 9.0}, {"lr": 0.0}, {"lr": float("nan")}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must"):
            block_scales_view(**change)


class TestGain:
    @pytest.mark.parametrize("noise", [0.0, 100.0])
    @pytest.mark.parametrize("blocks", [2, 7])
    def test_nothing_is_gained_where_the_loss_depends_on_one_number(self, noise, blocks):
        gain, _ = gain_module.best(1.0, noise, blocks, 1.5)
        assert abs(gain - 1) < 1e-6

    def test_it_rises_with_rank_noise_and_spread(self):
        start = {"rank": 5.0, "noise": 10.0, "blocks": 6, "spread": 0.5}
        gains = [gain_module.best(**{**start, **more})[0] for more in ({}, {"rank": 20.0}, {"noise": 50.0}, {"spread": 1.0})]
        assert all(gain > 1.1 * gains[0] for gain in gains[1:])
        assert abs(gain_module.best(**{**start, "spread": 0.0})[0] - 1) < 1e-6  # blocks alike but for their sizes

    def test_shares_and_totals_are_what_the_panel_says(self):
        terms = gain_module.modelled(4.0, 30.0, 6, 0.7)
        assert np.isclose(terms.squares.sum(), 1)
        assert np.isclose(terms.traces.sum(), 1)
        assert np.isclose(terms.seconds.sum() - terms.squares.sum(), 30)
        assert np.isclose(np.log10(terms.squares / terms.sizes).std(), 0.7)

    def test_the_goals(self):
        settings = ({}, {"rank": 3.0}, {"rank": 10.0}, {"rank": 10.0, "noise": 100.0})
        assert [gain_view(**change).reached for change in settings] == [0, 1, 2, 3]

    @pytest.mark.parametrize("change", [{"rank": 0.5}, {"noise": -1.0}, {"blocks": 1}, {"spread": 3.0}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must lie in"):
            gain_view(**change)


class TestThreshold:
    def test_accuracy_and_the_curve_are_those_of_counting(self):
        scores, answers = np.array([0.1, 0.2, 0.3, 0.7]), np.array([0, 1, 0, 1])
        assert (
            "75.0% are right above a probability of 0.5, 100% of one class, 50% of the other"
            in threshold_view(scores, answers).now
        )
        low = threshold_view(scores, answers, -1.7)  # a probability of 0.154
        assert "75.0% are right" in low.now
        assert "50% of one class, 100% of the other" in low.now
        assert "AUC 0.75" in low.figure.axes[1].get_title(loc="left")

    def test_the_goals(self):
        scores, answers = threshold_module.drawn()
        assert [threshold_view(scores, answers, at).reached for at in (0.0, -3.0, -1.0)] == [0, 0, 2]
        assert any(threshold_view(scores, answers, at).met for at in np.arange(-2, -1, 0.05))

    @pytest.mark.parametrize(
        ("scores", "answers", "threshold", "match"),
        [
            ([0.5, 0.5], [0, 1], 9.0, "threshold must lie in"),
            ([0.5, 1.5], [0, 1], 0.0, "scores must be probabilities"),
            ([0.5, 0.5, 0.5], [0, 1], 0.0, "one for each answer"),
            ([0.5, 0.5], [1, 1], 0.0, "answers must be 0 and 1, both of them, got \\[1\\]"),
        ],
    )
    def test_bad_arguments(self, scores, answers, threshold, match):
        with pytest.raises(ValueError, match=match):
            threshold_view(np.array(scores), np.array(answers), threshold)


class TestVerdict:
    def test_numbers_are_those_of_the_comparison(self):
        record = Record.load(verdict_module.RECORD)
        difference = overall(record, "trained", "permuted").final
        assert f"trained minus permuted: {difference.value:+.3f}" in verdict_view("permuted").now
        assert "nats over 5 tasks, undecided" in str(verdict_view("permuted", left_out=("number", "critic")))

    def test_the_goals(self):
        assert verdict_view().reached == 0
        assert verdict_view("density").reached == 1
        assert verdict_view("density", left_out=("critic",)).met
        assert verdict_view("density", left_out=("sentence",)).reached == 1

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="1 of 7 tasks are left; keep 3 at least"):
            verdict_view(left_out=("sentence", "writer", "passage", "compare", "genre", "number"))
        with pytest.raises(ValueError, match="has no task on which both trained and Magic ran"):
            verdict_view("Magic")


class TestBounds:
    def test_the_best_gain_is_the_best_scales(self):
        terms, _ = bounds_module.two_blocks(30.0, 2.0)
        lrs = np.array([1e-3, 0.05, 0.3])
        on_budget = [-terms.change(terms.best_sigma(lr), lr) for lr in lrs]
        assert np.allclose(bounds_module.best_gain(terms, lrs, True), on_budget, rtol=1e-3)
        free = -terms.best_change(terms.best_sigma())
        assert np.allclose(bounds_module.best_gain(terms, lrs, False), free, rtol=1e-3)

    def test_the_goal_takes_a_flat_small_block_and_a_rate(self):
        assert not bounds_view().met
        assert not bounds_view(budget=False).met
        assert not bounds_view(0.5, lr=0.1).met
        assert bounds_view(0.5, lr=1.0).met
        assert bounds_view(0.5, lr=0.1, budget=False).met

    def test_it_says_where_the_sum_is_no_bound(self):
        (note,) = bounds_view(lr=1.0).notes
        assert "it is no bound" in note

    @pytest.mark.parametrize("change", [{"curvature_ratio": 0.0}, {"noise": -1.0}, {"lr": 11.0}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must lie in"):
            bounds_view(**change)


class TestDivision:
    def test_descents_are_those_of_the_theory_and_even_scales_are_a_zero(self):
        terms, place = division_module.two_blocks(10.0, 2.0), 240
        sigma = terms.on_budget(np.exp(np.array([1.0, -1.0]) * division_module.GRID[place]))
        lr = 0.7 * float(terms.best_lr(np.ones(2)))
        descents = division_module.descents(10.0, 2.0, 0.7)
        assert np.isclose(descents[place], terms.change(sigma, lr) / terms.best_change(np.ones(2)))
        assert np.isclose(division_module.descents(10.0, 2.0, 1.0)[len(descents) // 2], 1)

    def test_the_best_a_falls_with_the_rate(self):
        best = [division_module.descents(10.0, 0.0, rate).argmax() for rate in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)]
        assert best == sorted(best, reverse=True)
        assert division_module.GRID[best[-1]] < 0 < division_module.GRID[best[0]]

    def test_noise_of_all_weights_asks_for_the_small_block(self):
        quiet, noisy = (division_module.descents(10.0, noise, 1.0).argmax() for noise in (0.0, 5.0))
        assert noisy > quiet

    def test_the_goals(self):
        settings = (
            {},
            {"used": 1.6, "learned": 1.6},
            {"used": 1.6, "learned": 0.5},
            {"used": 10**0.2, "learned": 1.0, "curvatures": 10**0.6},
        )
        assert [division_view(**change).reached for change in settings] == [0, 1, 2, 3]

    def test_an_a_at_the_edge_is_said_to_be_more(self):
        assert "the best a is ≥ +2.00" in division_view(used=0.1).now

    @pytest.mark.parametrize("change", [{"learned": 0.01}, {"used": 5.0}, {"curvatures": 0.5}, {"noise": -1.0}])
    def test_bad_arguments(self, change):
        with pytest.raises(ValueError, match="must lie in"):
            division_view(**change)


class TestDirections:
    def test_the_formula_is_what_many_directions_give(self):
        samples, goal = directions_module.drawn(20_000)
        squares = np.abs(goal)
        for part in directions_module.PARTS:
            blocks = directions_module.members(squares, part)
            for n in (8, 64):
                means = directions_module.means_of(samples[1e-3], n)[:, blocks]
                length = np.square(means).sum(1).mean()
                assert np.isclose(
                    np.linalg.norm(goal[blocks]) / length**0.5, directions_module.formula(n, squares, blocks), rtol=0.03
                )

    def test_alike_blocks_are_counted(self):
        assert np.isclose(directions_module.formula(10, np.ones(7), np.arange(7)), (10 / (10 + 1 + 7)) ** 0.5)

    def test_means_are_of_directions_that_no_other_mean_has(self):
        samples = np.arange(10.0)[:, None] * [1.0, 2.0]
        assert directions_module.means_of(samples, 4)[:, 0].tolist() == [1.5, 5.5]
        assert directions_module.means_of(samples, 99)[:, 1].tolist() == [9.0]

    def test_the_goals(self):
        samples, goal = directions_module.drawn()
        *_, some, half = directions_module.PARTS
        least = directions_module.needed(np.abs(goal), directions_module.members(np.abs(goal), half))
        settings = ((1,), (50,), (1000, some), (10 * least, half), (1.1 * least, half))
        assert [directions_view(samples, goal, *each).reached for each in settings] == [0, 1, 2, 2, 3]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"directions": 0}, "directions must lie in"),
            ({"part": "some"}, "part must be one of all, all but the largest"),
            ({"eps": 0.5}, "eps must be one of 1e-05, 0.001, 1, got 0.5"),
            ({"goal": np.ones(3)}, r"got \(50, 30\), \(3,\)"),
        ],
    )
    def test_bad_arguments(self, change, match):
        samples, goal = directions_module.drawn()
        with pytest.raises(ValueError, match=match):
            directions_view(**{"samples": samples, "goal": goal, **change})


class TestPrinted:
    def test_numbers_are_the_record_s_and_the_paper_s(self):
        texts = [
            text.get_text()
            for text in printed_view("sentence beside boolq", model="Llama-3.2-1B", methods=("HiZOO",)).figure.axes[0].texts
        ]
        study = Record.load(printed_module.RECORD)
        losses = np.array([cell["train_loss_last"] for cell in study.cells("sentence", "HiZOO")])
        assert f"{losses.mean():.3f} ± {losses.std(ddof=1):.3f} (10)" in texts
        assert "0.62" in texts  # Table 1, Llama-3.2-1B, BoolQ, HiZOO
        gaps = losses - [cell["train_loss_last"] for cell in study.cells("sentence", "MeZO")]
        assert f"{(gaps.mean() - (0.62 - 0.63)) / gaps.std(ddof=1):+.1f}" in texts
        percent = printed_view("number beside drop", "test metric", "OPT-1.3B", ("AdaMeZO",))
        assert "24.6 ± 1.0" in [text.get_text() for text in percent.figure.axes[0].texts]

    def test_the_picture_says_whose_model_is_ours(self):
        (heading,) = printed_view().figure.texts
        assert heading.get_text() == "Ours: tiny-reviews on sentence. Printed: Llama-3.1-8B on cb, arXiv 2510.00419."

    def test_what_is_not_printed_is_said(self):
        view = printed_view(model="OPT-1.3B", methods=("HiZOO", "AdaMeZO"))
        assert view.notes == ("Not run, diverged or not printed: MeZO, HiZOO, AdaMeZO.",)
        assert "0 of 0 pairs" in view.now

    def test_the_goals(self):
        five = ("MeZO-Adam", "HiZOO", "LOZO", "ZO Fine-tuner")
        settings = (
            {},
            {"cell": "sentence beside boolq", "model": "Llama-3.2-1B"},
            {"cell": "sentence beside boolq", "model": "Qwen2.5-14B", "methods": ("HiZOO", "ZO Fine-tuner")},
            {"model": "Llama-3.2-1B", "methods": five},
        )
        assert [printed_view(**change).reached for change in settings] == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"cell": "critic"}, "cell must be one of sentence beside sst2"),
            ({"measure": "loss"}, "measure must be one of training loss, test metric, got 'loss'"),
            ({"model": "GPT"}, "model must be one of Llama-3.2-1B"),
            ({"methods": ("MEAZO",)}, "methods must be of MeZO-Adam, .*, got 'MEAZO'"),
            ({"record": "figures/records/bench_walks.json"}, "is not the record of a study"),
        ],
    )
    def test_bad_arguments(self, change, match):
        with pytest.raises(ValueError, match=match):
            printed_view(**change)
