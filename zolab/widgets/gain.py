"""Effective rank and noise: what the best scale for each block gains over one scale for all."""

from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREEN, RED
from zolab.theory.terms import StepTerms
from zolab.widgets.controls import log_number, number, whole
from zolab.widgets.drawing import canvas, decades, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, ahead, check_ranges, explore, settings

RANKS, LARGEST_NOISE, MOST_BLOCKS, WIDEST = (1, 100), 300, 12, 2
CURVE = 13  # ranks at which the curve is computed
LEVELS = (
    (1.2, 0.0, "A loss that depends on one number has rank 1. Give it more outputs: raise the rank."),
    (2.0, 0.0, "Blocks must differ in what they have of the gradient for each unit of curvature: raise the spread."),
    (2.0, 100.0, "Noise follows the curvature: at a high rank the blocks that carry it are not those with the gradient."),
)


def gain_view(rank: float = 1.0, noise: float = 0.0, blocks: int = 6, spread: float = 0.5) -> View:
    """The largest expected descent of a step over all sigma, over that of sigma = 1, each at its best learning rate.

    A model of a language model's loss. Block j has a share of the squared gradient, G_j, and the blocks differ in its density,
    G_j / d_j. The share 1 / rank of the curvature t_j lies along the gradient, the rest is spread over all weights alike; a
    minibatch's noise has the shares of the curvature. At rank 1 that is a loss which depends on one number, the difference
    of two logits: t_j is proportional to G_j, and no sigma gains anything.

    The goals: a gain of 1.2, then of 2, then of 2 under much noise.

    Args:
        rank: effective rank of the Gauss-Newton matrix, 1 to 100.
        noise: V / B over G, a minibatch's noise in units of the squared gradient, 0 to 300.
        blocks: how many, 2 to 12, of sizes from 1 to 100.
        spread: standard deviation of log10 (G_j / d_j), 0 to 2.

    Raises:
        ValueError: an argument is out of range.
    """
    check_ranges(rank=(rank, *RANKS), noise=(noise, 0, LARGEST_NOISE), spread=(spread, 0, WIDEST))
    check_ranges(blocks=(blocks, 2, MOST_BLOCKS))
    gain, sigma = best(rank, noise, blocks, spread)
    levels = [
        Level(f"the best sigma gains {factor:g} times" + f" with a noise of at least {least:g}" * (least > 0),
              bool(gain >= factor and noise >= least), hint)
        for factor, least, hint in LEVELS
    ]  # fmt: skip
    with drawing():
        figure = canvas(3.9)
        ranks = figure.add_axes((0.075, 0.14, 0.41, 0.76))
        _draw_ranks(ranks, rank, noise, blocks, spread, gain)
        goal_line(ranks, np.log10(LEVELS[ahead(levels)][0]))
        _draw_blocks(figure.add_axes((0.57, 0.14, 0.41, 0.76)), modelled(rank, noise, blocks, spread), sigma)
    return View(figure, levels, f"{gain:.2f} times what sigma = 1 does")


def gain_panel(**start) -> Panel:
    """A panel over `gain_view`; its arguments, given here, are where the controls begin."""
    at = settings(gain_view, start)
    return explore(
        gain_view,
        rank=log_number("rank", at.rank, *RANKS),
        noise=number("noise", at.noise, 0, LARGEST_NOISE, 5),
        blocks=whole("blocks", at.blocks, 2, MOST_BLOCKS),
        spread=number("spread", at.spread, 0, WIDEST, 0.1),
    )


def modelled(rank: float, noise: float, blocks: int, spread: float) -> StepTerms:
    """The terms of the model that `gain_view` describes."""
    sizes = np.logspace(0, 2, blocks)[::-1]
    places = np.arange(blocks) * 0.618034 % 1  # as even as can be, and in no order of sizes
    density = 10 ** (spread * (places - places.mean()) / places.std())
    squares = density * sizes / (density @ sizes)
    traces = squares / rank + (1 - 1 / rank) * sizes / sizes.sum()
    along = (np.outer(squares, squares) + noise * np.outer(traces, traces)) / rank
    return StepTerms(sizes, squares, squares + noise * traces, traces, along)


@lru_cache(maxsize=1024)
def best(rank: float, noise: float, blocks: int, spread: float) -> tuple[float, np.ndarray]:
    """The gain of the best sigma over sigma = 1, and that sigma."""
    terms = modelled(rank, noise, blocks, spread)
    sigma = terms.best_sigma()
    return float(terms.best_change(sigma) / terms.best_change(np.ones(blocks))), sigma


def _draw_ranks(axes: Axes, rank: float, noise: float, blocks: int, spread: float, gain: float) -> None:
    low, high = np.log10(RANKS)
    ranks = np.logspace(low, high, CURVE)
    curves = {f"noise {noise:g}": (noise, GREEN, 2.4)}
    if noise:
        curves["no noise"] = (0.0, BLUE, 1.2)
    for label, (level, colour, width) in curves.items():
        gains = [best(float(r), level, blocks, spread)[0] for r in ranks]
        axes.plot(np.log10(ranks), np.log10(gains), color=colour, linewidth=width, label=label)
    axes.plot(np.log10(rank), np.log10(gain), "o", color=RED, markeredgecolor=BLACK, markersize=9)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set(xlim=(-0.05, 2.05), ylim=(-0.15, 2.3))
    axes.legend(fontsize=10, frameon=True, loc="upper left")
    frame(axes, "gain of the best sigma over sigma = 1", "effective rank (dot: yours)")
    decades(axes.xaxis, 0, 2)
    decades(axes.yaxis, 0, 2)


def _draw_blocks(axes: Axes, terms: StepTerms, sigma: np.ndarray) -> None:
    places = np.arange(len(sigma)) + 1
    shares = {"gradient": terms.squares, "curvature": terms.traces, "budget": terms.sizes * sigma**2}
    for (name, values), colour, shift in zip(shares.items(), (BLUE, RED, GREEN), (-0.27, 0, 0.27), strict=True):
        axes.bar(places + shift, values / values.sum(), width=0.25, color=colour, label=name)
    axes.set(xlim=(0.4, len(sigma) + 0.6), ylim=(0, 1.02))
    axes.legend(fontsize=10, frameon=True, loc="upper right")
    frame(axes, "shares of the blocks, and the best budget", "block, the largest first")
