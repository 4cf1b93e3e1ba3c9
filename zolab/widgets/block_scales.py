"""Block scales: what a step is expected to gain when each block of the weights gets its own sigma."""

from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, GREEN, RED
from zolab.widgets.drawing import canvas, drawing, frame, goal_line
from zolab.widgets.panel import Panel, View, explore, log_number, number, settings
from zolab.widgets.walks import landscape_of

FACTOR = 1.4
WIDEST = 1.5
SIDE = 76


class Blocks(NamedTuple):
    """A block-diagonal quadratic at one point, an entry a block.

    Args:
        sizes: d_j, number of weights.
        squares: G_j, squared norm of the gradient's part.
        traces: t_j, trace of the Hessian's block H_j.
        curvatures: q_j = g_j' H_j g_j.
    """

    sizes: np.ndarray
    squares: np.ndarray
    traces: np.ndarray
    curvatures: np.ndarray


def expected_change(sigmas: np.ndarray, lr: float, blocks: Blocks) -> np.ndarray:
    """Expected change of the loss in one step along z_j ~ N(0, sigma_j^2) in all blocks at once, in the limit of small eps.

        -lr sum_j s_j G_j + lr^2/2 [(sum_j s_j G_j)(sum_k t_k s_k) + 2 sum_j s_j^2 q_j],   s_j = sigma_j^2

    Exact for a quadratic without minibatch noise, by the normal distribution's fourth moments. The blocks do not separate:
    the slope along z is made in all of them, and multiplies the noise of each.

    Args:
        sigmas: shape (..., blocks).
        lr: learning rate.
        blocks: the quadratic.

    Returns:
        Shape (...).
    """
    gain, noise = _terms(sigmas, blocks)
    return -lr * gain + lr**2 / 2 * noise


def best_change(sigmas: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The learning rate that is best for these sigmas, and the expected change there."""
    gain, noise = _terms(sigmas, blocks)
    return gain / noise, -(gain**2) / (2 * noise)


def on_budget(sigma1: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Pairs (sigma_1, sigma_2) with sum_j d_j sigma_j^2 = sum_j d_j, the expected squared length of MeZO's direction."""
    rest = blocks.sizes.sum() - blocks.sizes[0] * np.square(sigma1)
    return np.stack([sigma1, np.sqrt(np.maximum(rest, 0) / blocks.sizes[1])], -1)


def block_scales_view(sigma1: float = 1.0, sigma2: float = 1.0, lr: float = 0.0126) -> View:
    """The expected change of one step on the two-block quadratic, over both sigmas and along the budget.

    The goal: within the budget, gain clearly more than sigma = 1 does at the learning rate that is best for it.

    Args:
        sigma1, sigma2: scales of the steep and the flat block, 0 to 1.5.
        lr: learning rate.

    Raises:
        ValueError: an argument is out of range.
    """
    for name, sigma in (("sigma1", sigma1), ("sigma2", sigma2)):
        if not 0 <= sigma <= WIDEST:
            raise ValueError(f"{name} must lie in [0, {WIDEST}], got {sigma}.")
    if not 0 < lr < np.inf:
        raise ValueError(f"lr must be > 0 and finite, got {lr}.")
    blocks = two_blocks()
    sigmas = np.array([sigma1, sigma2])
    change = float(expected_change(sigmas, lr, blocks))
    best_lr, best = best_change(np.ones(2), blocks)
    spent = float(blocks.sizes @ sigmas**2 / blocks.sizes.sum())
    with drawing():
        figure = canvas(4.2)
        _draw_plane(figure.add_axes((0.075, 0.13, 0.4, 0.77)), sigmas, lr, -best, blocks)
        _draw_line(figure.add_axes((0.57, 0.13, 0.41, 0.77)), sigmas, lr, -best, change, blocks)
    goal = f"within the budget, expect {FACTOR} times what sigma = 1 gains at its best learning rate ({best_lr:.3g})"
    times = change / best
    now = f"{times:.2f} times" if times >= 0 else f"the loss rises by {-times:.2f} times as much"
    now += f", with {spent:.0%} of the budget"
    return View(figure, goal, now, bool(times >= FACTOR and spent <= 1 + 1e-9))


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
def two_blocks() -> Blocks:
    """The landscape "two_blocks" at its start; a quadratic's curvature is the difference of two gradients."""
    place = landscape_of("two_blocks")
    x, y = place.start
    g = np.array(place.gradient(x, y))
    curvature = np.array([place.gradient(x + 1, y)[0], place.gradient(x, y + 1)[1]]) - g
    return Blocks(np.array(place.blocks), g**2, curvature, curvature * g**2)


def _terms(sigmas: np.ndarray, blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    s = np.square(sigmas)
    gain = s @ blocks.squares
    return gain, gain * (s @ blocks.traces) + 2 * np.square(s) @ blocks.curvatures


def _draw_plane(axes: Axes, sigmas: np.ndarray, lr: float, unit: float, blocks: Blocks) -> None:
    side = np.linspace(0, WIDEST, SIDE)
    change = expected_change(np.stack(np.meshgrid(side, side), -1), lr, blocks) / unit
    ends = {"vmin": -FACTOR, "vmax": FACTOR}
    axes.imshow(change, origin="lower", extent=(0, WIDEST, 0, WIDEST), cmap="RdBu_r", aspect="auto", **ends)
    axes.contour(side, side, change, [0], colors=BLACK, linewidths=1)
    budget = on_budget(np.linspace(0, WIDEST, 200), blocks)
    axes.plot(*budget[budget[:, 1] > 0].T, color=GREEN, linewidth=2.5, label="budget")
    axes.plot(1, 1, "s", color="white", markeredgecolor=BLACK, markersize=8, label="sigma = 1")
    axes.plot(*sigmas, "o", color=RED, markeredgecolor=BLACK, markersize=10, label="yours", clip_on=False)
    axes.set(xlim=(0, WIDEST), ylim=(0, WIDEST))
    axes.grid(visible=False)
    axes.legend(fontsize=10, frameon=True, loc="upper right")
    frame(axes, "blue: the loss falls, red: it rises", "sigma 1 (steep block)", "sigma 2 (flat block)")


def _draw_line(axes: Axes, sigmas: np.ndarray, lr: float, unit: float, change: float, blocks: Blocks) -> None:
    low, high = -0.6, 1.9
    sigma1 = np.linspace(0, (blocks.sizes.sum() / blocks.sizes[0]) ** 0.5, 201)
    budget = on_budget(sigma1, blocks)
    here, best = -expected_change(budget, lr, blocks) / unit, -best_change(budget, blocks)[1] / unit
    axes.plot(sigma1, here, color=GREEN, label="on the budget, this learning rate")
    axes.plot(sigma1, best, color=GREEN, linestyle="--", linewidth=1.2, label="each at its best")
    goal_line(axes, FACTOR)
    axes.plot(1, 1, "s", color="white", markeredgecolor=BLACK, markersize=8)
    mark = {"color": RED, "markeredgecolor": BLACK, "markersize": 10, "clip_on": False}
    axes.plot(sigmas[0], np.clip(-change / unit, low, high), "o", **mark)
    axes.set(xlim=(0, WIDEST), ylim=(low, high))
    axes.legend(fontsize=10, frameon=True, loc="lower left")
    frame(axes, "expected gain; sigma = 1 at its best has 1", "sigma 1 (steep block)")
