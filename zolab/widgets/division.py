"""How two blocks divide a budget: the best division depends on the learning rate at which a step is taken."""

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREEN, GREY, RED
from zolab.theory.terms import StepTerms
from zolab.widgets.controls import log_number, number
from zolab.widgets.drawing import canvas, drawing, frame
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore, settings

SIZES = np.array([10, 100])
SQUARES = np.array([1.0, 0.3])
FLAT = 0.1
"""Curvature of the large block, in every direction; that of the small one is a multiple of it."""
RATES, RATIOS, LARGEST_NOISE = (0.1, 4), (1, 100), 10
TICKS = (0.1, 0.25, 0.5, 1, 2, 4)  # rates at which the curves over the learning rate are labelled
EDGE = 2.0
GRID = np.linspace(-EDGE, EDGE, 401)
FLOOR = -1.5  # of the left picture
NEAR, HALF = 1.6, 0.5
HINTS = (
    "A large step pays for curvature, and the steep block has it. Raise the rate at which the step is taken.",
    "At small rates gradient alone counts. Learn a where it is largest, and use it far from that rate.",
    "Where does the right curve fall most steeply at rates near 1? Try less curvature, or noise with more of it.",
)


def division_view(learned: float = 0.25, used: float = 0.25, curvatures: float = 10.0, noise: float = 0.0) -> View:
    """The expected descent of a step over a, where raw sigma = (e^a, e^-a) is put on the budget; and the best a at each rate.

    Block 1 has 10 weights and most of the gradient, block 2 has 100. The expectation is that of `StepTerms`, exact on a
    parabola. Learning rates are in units of that which is best for sigma = 1, a = 0; descents, of its descent at_learned.

    The goals: a rate at which the steep block should be damped; an a, learned at one rate, that gains less than a = 0 at
    another; then one that raises the loss there although the rates are within a factor of 1.6 and a = 0 still gains.

    Args:
        learned: learning rate at which a is chosen, 0.1 to 4.
        used: learning rate of the step, 0.1 to 4.
        curvatures: of block 1 over that of block 2, 1 to 100.
        noise: V / B over G, a minibatch's noise in units of the squared gradient, 0 to 10; each weight has the same.

    Raises:
        ValueError: an argument is out of range.
    """
    check_ranges(learned=(learned, *RATES), used=(used, *RATES))
    check_ranges(curvatures=(curvatures, *RATIOS), noise=(noise, 0, LARGEST_NOISE))
    at_learned, at_used = descents(curvatures, noise, np.array([learned, used]))
    places = at_learned.argmax(), at_used.argmax()
    chosen, best = GRID[list(places)]
    carried, even = at_used[places[0]], at_used[len(GRID) // 2]
    with drawing():
        figure = canvas(4.1)
        _draw_descents(figure.add_axes((0.075, 0.135, 0.46, 0.775)), (learned, used), (at_learned, at_used), places)
        _draw_best(figure.add_axes((0.615, 0.135, 0.365, 0.775)), (learned, used), (chosen, best), curvatures, noise)
    near = max(learned, used) <= NEAR * min(learned, used) * (1 + 1e-9)
    levels = (
        Level("a rate of the step at which the best a is negative, so that the steep block is damped", best < 0, HINTS[0]),
        Level("an a, learned at another rate, with which that step gains less than with a = 0", carried < even, HINTS[1]),
        Level(
            f"it raises the loss there, learned within {NEAR} times that rate, while a = 0 gains {HALF:g} or more",
            carried < 0 and near and even >= HALF,
            HINTS[2],
        ),
    )
    now = f"the best a is {_written(best)} and gains {at_used.max():.2f}, a = 0 {even:.2f}"
    notes = ("At this rate every a raises the loss.",) if at_used.max() < 0 else ()
    return View(figure, levels, f"{now}, the learned {_written(chosen)} {carried:.2f}", notes)


def division_panel(**start) -> Panel:
    """A panel over `division_view`; its arguments, given here, are where the controls begin."""
    at = settings(division_view, start)
    return explore(
        division_view,
        learned=log_number("a learned at", at.learned, *RATES),
        used=log_number("used at", at.used, *RATES),
        curvatures=log_number("curvatures", at.curvatures, *RATIOS),
        noise=number("noise", at.noise, 0, LARGEST_NOISE, 0.25),
    )


def two_blocks(curvatures: float, noise: float) -> StepTerms:
    """The small block with most of the gradient, the large one, and a multiple of the identity as each one's Hessian."""
    variances = noise * SQUARES.sum() * SIZES / SIZES.sum()
    return StepTerms.isotropic(SIZES, SQUARES, variances, FLAT * np.array([curvatures, 1]))


def descents(curvatures: float, noise: float, rates: np.ndarray | float) -> np.ndarray:
    """Expected descent at each a of the grid, over that of sigma = 1 at its best rate, shape (rates, 401).

    Args:
        curvatures, noise: as in `division_view`.
        rates: in units of that best rate, shape (rates,), or one number.
    """
    terms, one = two_blocks(curvatures, noise), np.ones(2)
    sigma = terms.on_budget(np.exp(np.stack([GRID, -GRID], -1)))
    lrs = np.asarray(rates)[..., None] * terms.best_lr(one)
    return terms.change(sigma, lrs) / terms.best_change(one)


def _written(a: float) -> str:
    """With a sign, and whether it lies at the edge of what is searched."""
    return f"{'≥ ' if a == EDGE else '≤ ' if a == -EDGE else ''}{a:+.2f}"


def _draw_descents(axes: Axes, rates: tuple[float, float], curves: tuple, places: tuple) -> None:
    (learned, used), (at_learned, at_used) = rates, curves
    top = FLOOR + (max(1.0, at_used.max(), at_learned.max()) - FLOOR) / 0.68  # the legend stands above the curves
    axes.plot(GRID, at_learned, "--", color=BLUE, linewidth=1.5, label=f"where a is learned, rate {learned:.2g}")
    axes.plot(GRID, at_used, color=GREEN, linewidth=2.4, label=f"where it is used, rate {used:.2g}")
    axes.plot(GRID[places[0]], at_learned.max(), "o", color=BLUE, markeredgecolor=BLACK, markersize=7)
    axes.plot(GRID[places[1]], at_used.max(), "o", color=GREEN, markeredgecolor=BLACK, markersize=9)
    carried = at_used[places[0]]
    axes.plot([GRID[places[0]]] * 2, [at_learned.max(), max(carried, FLOOR)], ":", color=RED, linewidth=1.3)
    mark = "D" if carried >= FLOOR else "v"
    axes.plot(GRID[places[0]], max(carried, FLOOR * 0.97), mark, color=RED, markeredgecolor=BLACK, markersize=8,
              linestyle="none", label="what the learned a gains")  # fmt: skip
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.text(-0.04, FLOOR + 0.02 * (top - FLOOR), "sigma = 1", fontsize=10, ha="right")
    axes.set(xlim=(-EDGE - 0.05, EDGE + 0.05), ylim=(FLOOR, top))
    axes.legend(fontsize=9.5, frameon=True, loc="upper left")
    title = f"the learned a gains {carried:.2f}, the best {at_used.max():.2f}"
    frame(axes, title, "a (to the right, the steep block's sigma grows)", "descent / best of sigma = 1")


def _draw_best(axes: Axes, rates: tuple[float, float], chosen: tuple, curvatures: float, noise: float) -> None:
    grid = np.geomspace(RATES[0], RATES[1], 33)
    curves = {f"noise {noise:g}": (noise, GREEN, 2.4)} | ({"no noise": (0.0, GREY, 1.2)} if noise else {})
    for label, (level, colour, width) in curves.items():
        best = GRID[descents(curvatures, level, grid).argmax(1)]
        axes.plot(np.log10(grid), best, color=colour, linewidth=width, label=label)
    for rate, a, colour, size in zip(rates, chosen, (BLUE, GREEN), (7, 9), strict=True):
        axes.plot(np.log10(rate), a, "o", color=colour, markeredgecolor=BLACK, markersize=size)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set(xlim=(-1.03, np.log10(RATES[1]) + 0.03), ylim=(-EDGE - 0.1, EDGE + 0.1))
    axes.legend(fontsize=9.5, frameon=True, loc="lower left")
    frame(axes, "best a at each rate", "learning rate / best of sigma = 1")
    axes.set_xticks(np.log10(TICKS), [f"{tick:g}" for tick in TICKS])
