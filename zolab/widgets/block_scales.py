"""Block scales: what a step is expected to gain when each block of the weights gets its own sigma."""

from functools import cache

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, GREEN, RED
from zolab.theory.terms import StepTerms
from zolab.widgets.controls import log_number, number
from zolab.widgets.drawing import canvas, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, ahead, check_ranges, explore, settings
from zolab.widgets.walks import landscape_of

FACTORS = (1.1, 1.25, 1.4)
HINTS = (
    "Less for the steep block, more for the flat one: move along the green line, which spends the whole budget.",
    "Another sigma has another best rate: the dashed line on the right says what each gains at its own. Raise the rate.",
    "The flat block as far as the budget allows, the steep one near 0.3, and a rate ten times the best one of sigma = 1.",
)
WIDEST = 1.5
SIDE = 76


def block_scales_view(sigma1: float = 1.0, sigma2: float = 1.0, lr: float = 0.0126) -> View:
    """The expected change of one step on the two-block quadratic, over both sigmas and along the budget.

    The goals: within the budget, gain 1.1, 1.25 and 1.4 times what sigma = 1 does at its best learning rate.

    Args:
        sigma1, sigma2: scales of the steep and the flat block, 0 to 1.5.
        lr: learning rate.

    Raises:
        ValueError: an argument is out of range.
    """
    check_ranges(sigma1=(sigma1, 0, WIDEST), sigma2=(sigma2, 0, WIDEST))
    if not 0 < lr < np.inf:
        raise ValueError(f"lr must be > 0 and finite, got {lr}.")
    terms, one, sigmas = two_blocks(), np.ones(2), np.array([sigma1, sigma2])
    change, best = float(terms.change(sigmas, lr)), float(terms.best_change(one))
    spent = float(terms.sizes @ sigmas**2 / terms.sizes.sum())
    times, best_lr = change / best, terms.best_lr(one)
    levels = [
        Level(
            f"within the budget, expect {factor} times what sigma = 1 gains at its best learning rate ({best_lr:.3g})",
            bool(times >= factor and spent <= 1 + 1e-9),
            hint,
        )
        for factor, hint in zip(FACTORS, HINTS, strict=True)
    ]
    with drawing():
        figure = canvas(4.2)
        _draw_plane(figure.add_axes((0.075, 0.13, 0.4, 0.77)), sigmas, lr, -best, terms)
        line = figure.add_axes((0.57, 0.13, 0.41, 0.77))
        _draw_line(line, sigmas, lr, -best, change, terms)
        goal_line(line, FACTORS[ahead(levels)])
    now = f"{times:.2f} times" if times >= 0 else f"the loss rises by {-times:.2f} times as much"
    now += f", with {spent:.0%} of the budget"
    return View(figure, levels, now)


def block_scales_panel(**start) -> Panel:
    """A panel over `block_scales_view`; its arguments, given here, are where the controls begin."""
    at = settings(block_scales_view, start)
    return explore(
        block_scales_view,
        sigma1=number("sigma 1", at.sigma1, 0, WIDEST, 0.05),
        sigma2=number("sigma 2", at.sigma2, 0, WIDEST, 0.05),
        lr=log_number("learning rate", at.lr, 1e-3, 0.5),
    )


@cache
def two_blocks() -> StepTerms:
    """The landscape "two_blocks" at its start; a quadratic's curvature is the difference of two gradients."""
    place = landscape_of("two_blocks")
    x, y = place.start
    g = np.array(place.gradient(x, y))
    curvature = np.array([place.gradient(x + 1, y)[0], place.gradient(x, y + 1)[1]]) - g
    return StepTerms(np.array(place.blocks), g**2, g**2, curvature, curvature * g**2)


def _budget(terms: StepTerms) -> np.ndarray:
    """The scales on the budget, from the flat block alone to the steep one alone, shape (places, 2)."""
    angles = np.linspace(0, np.pi / 2, 201)
    return terms.on_budget(np.stack([np.sin(angles), np.cos(angles)], -1))


def _draw_plane(axes: Axes, sigmas: np.ndarray, lr: float, unit: float, terms: StepTerms) -> None:
    side = np.linspace(0, WIDEST, SIDE)
    change = terms.change(np.stack(np.meshgrid(side, side), -1), lr) / unit
    ends = {"vmin": -FACTORS[-1], "vmax": FACTORS[-1]}
    axes.imshow(change, origin="lower", extent=(0, WIDEST, 0, WIDEST), cmap="RdBu_r", aspect="auto", **ends)
    axes.contour(side, side, change, [0], colors=BLACK, linewidths=1)
    axes.plot(*_budget(terms).T, color=GREEN, linewidth=2.5, label="budget")
    axes.plot(1, 1, "s", color="white", markeredgecolor=BLACK, markersize=8, label="sigma = 1")
    axes.plot(*sigmas, "o", color=RED, markeredgecolor=BLACK, markersize=10, label="yours", clip_on=False)
    axes.set(xlim=(0, WIDEST), ylim=(0, WIDEST))
    axes.grid(visible=False)
    axes.legend(fontsize=10, frameon=True, loc="upper right")
    frame(axes, "blue: the loss falls, red: it rises", "sigma 1 (steep block)", "sigma 2 (flat block)")


def _draw_line(axes: Axes, sigmas: np.ndarray, lr: float, unit: float, change: float, terms: StepTerms) -> None:
    low, high = -0.6, 1.9
    budget = _budget(terms)
    at_rate, best = -terms.change(budget, lr) / unit, -terms.best_change(budget) / unit
    axes.plot(budget[:, 0], at_rate, color=GREEN, label="on the budget, this learning rate")
    axes.plot(budget[:, 0], best, color=GREEN, linestyle="--", linewidth=1.2, label="each at its best")
    axes.plot(1, 1, "s", color="white", markeredgecolor=BLACK, markersize=8)
    mark = {"color": RED, "markeredgecolor": BLACK, "markersize": 10, "clip_on": False}
    axes.plot(sigmas[0], np.clip(-change / unit, low, high), "o", **mark)
    axes.set(xlim=(0, WIDEST), ylim=(low, high))
    axes.legend(fontsize=10, frameon=True, loc="lower left")
    frame(axes, "expected gain; sigma = 1 at its best has 1", "sigma 1 (steep block)")
