"""Bounds: what the published bounds promise for one step of a model with two blocks, beside what is to be expected."""

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED
from zolab.theory.bounds import CORRECTIONS, BoundTerms, block_bound, mezo_bound
from zolab.theory.terms import StepTerms
from zolab.widgets.controls import log_number, number, switch
from zolab.widgets.drawing import canvas, decades, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, ahead, check_ranges, explore, settings

SIZES = np.array([10, 100])
SQUARES = np.array([0.5, 0.5])
FLAT = 0.01
"""Largest eigenvalue of the second block's Hessian, which is a multiple of the identity, as the first block's is."""
FACTORS = (1.5, 2, 3)
HINTS = (
    "At a ratio of 10 both blocks have the same trace, and nothing is gained. Make the small block flatter or steeper.",
    "The learning rate limits the gain as long as the green line still rises at the red one: raise it.",
    "Off the budget no rate matters, since the length of sigma is part of it. Or take a small block far from the ratio 10.",
)
RATIOS, LARGEST_NOISE, RATES = (0.1, 1000), 10, (1e-3, 10)
LOW, HIGH = -2, 6


def bounds_view(curvature_ratio: float = 10.0, noise: float = 0.0, lr: float = 0.1, budget: bool = True) -> View:
    """The expected change of one step over the learning rate, and the bounds on it; and how sigma can share the budget.

    The goals: a model and a learning rate at which the best sigma gains 1.5, 2 and 3 times what sigma = 1 does at its best.

    Args:
        curvature_ratio: largest eigenvalue of the small block's Hessian over that of the large one's, 0.1 to 1000.
        noise: V / B over G, a minibatch's noise in units of the squared gradient, 0 to 10; each weight has the same.
        lr: learning rate, 1e-3 to 10.
        budget: whether sigma must keep sum_j d_j sigma_j^2 = sum_j d_j; else its length is free, and no learning rate matters.

    Raises:
        ValueError: an argument is out of range.
    """
    check_ranges(curvature_ratio=(curvature_ratio, *RATIOS), noise=(noise, 0, LARGEST_NOISE), lr=(lr, *RATES))
    terms, bound = two_blocks(curvature_ratio, noise)
    one, unit = np.ones(2), -float(terms.best_change(np.ones(2)))
    gain = float(best_gain(terms, np.array([lr]), budget)[0]) / unit
    promised, change = -float(block_bound(bound, one, lr, CORRECTIONS)) / unit, -float(terms.change(one, lr)) / unit
    note = f"At this rate sigma = 1 gains {change:.2f} and Theorem 3's corrected sum promises {promised:.2f}: it is no bound."
    notes = (note,) if change < promised - 1e-9 else ()
    levels = [
        Level(f"the best sigma gains {factor} times what sigma = 1 gains at its best rate ({terms.best_lr(one):.3g})",
              bool(gain >= factor), hint)
        for factor, hint in zip(FACTORS, HINTS, strict=True)
    ]  # fmt: skip
    with drawing():
        figure = canvas(4.4)
        rates, shares = (figure.add_axes(place) for place in ((0.075, 0.125, 0.48, 0.79), (0.635, 0.125, 0.335, 0.79)))
        _draw_rates(rates, terms, bound, lr, budget, unit)
        _draw_shares(shares, terms, lr, budget, unit)
        for axes in (rates, shares):
            goal_line(axes, FACTORS[ahead(levels)])
    return View(figure, levels, f"{gain:.2f} times", notes)


def bounds_panel(**start) -> Panel:
    """A panel over `bounds_view`; its arguments, given here, are where the controls begin."""
    at = settings(bounds_view, start)
    return explore(
        bounds_view,
        curvature_ratio=log_number("curvatures", at.curvature_ratio, *RATIOS),
        noise=number("noise", at.noise, 0, LARGEST_NOISE, 0.25),
        lr=log_number("learning rate", at.lr, *RATES),
        budget=switch("keep the budget", at.budget),
    )


def two_blocks(curvature_ratio: float, noise: float) -> tuple[StepTerms, BoundTerms]:
    """10 weights and 100, each block with half of the squared gradient and a multiple of the identity as its Hessian."""
    norms = FLAT * np.array([curvature_ratio, 1])
    variances = noise * SQUARES.sum() * SIZES / SIZES.sum()
    terms = StepTerms.isotropic(SIZES, SQUARES, variances, norms)
    return terms, BoundTerms(SIZES, SQUARES, variances, norms, SIZES, norms.max(), terms.traces.sum() / norms.max(), batch=1)


def best_gain(terms: StepTerms, lrs: np.ndarray, budget: bool) -> np.ndarray:
    """The largest expected descent over all sigma at each learning rate, shape (lrs,)."""
    sigma = _shared(terms, np.linspace(0, 1, 401))
    if not budget:
        return np.full(len(lrs), -terms.best_change(sigma).min())
    gain, noise = terms.gain(sigma)[:, None], terms.noise(sigma)[:, None]
    return (lrs * gain - lrs**2 / 2 * noise).max(0)


def _shared(terms: StepTerms, shares: np.ndarray) -> np.ndarray:
    """The sigma on the budget of which the small block has this share, shape (shares, 2)."""
    return np.sqrt(np.stack([shares, 1 - shares], -1) * terms.sizes.sum() / terms.sizes)


def _draw_rates(axes: Axes, terms: StepTerms, bound: BoundTerms, lr: float, budget: bool, unit: float) -> None:
    low, high = np.log10(RATES)
    lrs, one = np.logspace(low, high, 161), np.ones(2)
    curves = {
        "sigma = 1": (terms.change(one, lrs), BLACK, "-", 2.6),
        "best sigma": (-best_gain(terms, lrs, budget), GREEN, "-", 2.0),
        "Theorem 2": (mezo_bound(bound, lrs), PURPLE, "--", 1.6),
        "Theorem 3, printed": (block_bound(bound, one, lrs), ORANGE, "--", 1.6),
        "Theorem 3, corrected": (block_bound(bound, one, lrs, CORRECTIONS), BLUE, "--", 1.6),
    }
    for label, (change, colour, style, width) in curves.items():
        axes.plot(np.log10(lrs), -change / unit, style, color=colour, linewidth=width, label=label)
    axes.axvline(np.log10(lr), color=RED, linewidth=1)
    axes.set(xlim=np.log10(RATES), ylim=(LOW, HIGH))
    axes.legend(fontsize=9.5, frameon=True, loc="upper left")
    frame(axes, "gain: expected (lines), promised (dashes)", "learning rate (red: yours)")
    decades(axes.xaxis, -3, 1)


def _draw_shares(axes: Axes, terms: StepTerms, lr: float, budget: bool, unit: float) -> None:
    shares = np.linspace(0, 1, 401)
    sigma = _shared(terms, shares)
    at_rate, best = -terms.change(sigma, lr) / unit, -terms.best_change(sigma) / unit
    for gain, chosen, label in ((at_rate, budget, "this learning rate"), (best, not budget, "each at its best")):
        axes.plot(shares, gain, color=GREEN, linestyle="-" if chosen else ":", linewidth=2 if chosen else 1.2, label=label)
    chosen = at_rate if budget else best
    place = int(chosen.argmax())
    axes.plot(shares[place], np.clip(chosen[place], LOW, HIGH), "o", color=RED, markeredgecolor=BLACK, markersize=10)
    axes.axvline(terms.sizes[0] / terms.sizes.sum(), color=BLACK, linewidth=1)
    axes.text(terms.sizes[0] / terms.sizes.sum() + 0.02, LOW + 0.1, "sigma = 1", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(LOW, HIGH))
    axes.legend(fontsize=9.5, frameon=True, loc="upper right")
    frame(axes, "gain, by share (dot: best)", "small block's share of the budget")
