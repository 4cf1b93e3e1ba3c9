"""One step of MeZO on a measured loss: two points along a random direction, the slope between them, and where it leads."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from zolab.noise import Direction
from zolab.plots import BLACK, BLUE, GREEN, GREY, RED
from zolab.probe.in_place import Perturbation
from zolab.widgets.controls import log_number, whole
from zolab.widgets.drawing import canvas, drawing, frame, goal_line, named_line
from zolab.widgets.panel import Level, Panel, View, ahead, check_ranges, explore

RADII = np.array([10 ** (tenths / 10) for tenths in range(-30, -9)])
"""1e-3 to 0.1, at every position of a slider."""
PLACES = np.concatenate([-RADII[::-1], [0], RADII])
"""Distances along a direction at which a loss is measured."""
EPS, RATES = (1e-3, 0.1), (1e-5, 0.1)
TRIED = np.array([10 ** (tenths / 10) for tenths in range(-50, -9)])
HALF, MOST = 0.5, 0.9
WINDOWS = (0.003, 0.01, 0.03, 0.1)
"""Of the left picture, which shows the narrowest that has both points and the step."""
HINTS = (
    "The step jumps over the valley and up the other side. A lower learning rate makes it shorter.",
    "The mean falls most shortly before the first directions begin to rise: raise the rate until then, position by position.",
    "A large eps takes the slope where the loss already bends. Lower it until the bars stand still, then move the rate again.",
)


def step_view(losses: np.ndarray, direction: int = 0, eps: float = 1e-3, lr: float = 4e-3) -> View:
    """A loss along one random direction, the slope that two points of it give and the step that follows; and all directions.

    The goals: a step that goes down; steps that go down far in the mean; and that with as many directions as possible.

    Args:
        losses: at the distances `PLACES` along each direction, shape (directions, places), as from `losses_along`.
        direction: which of them is drawn, from 0.
        eps: distance of the two points from the weights, 1e-3 to 0.1, in units of the direction's standard deviation.
        lr: learning rate, 1e-5 to 0.1. The step ends at the distance -lr times the slope, or where the measured part ends.

    Raises:
        ValueError: an argument is out of range, or losses have another shape.
    """
    losses = np.asarray(losses, float)
    if losses.ndim != 2 or losses.shape[1] != len(PLACES) or not np.isfinite(losses).all():
        raise ValueError(f"losses must be finite, {len(PLACES)} for each direction; got shape {losses.shape}.")
    check_ranges(direction=(direction, 0, len(losses) - 1), eps=(eps, *EPS), lr=(lr, *RATES))
    slopes = slopes_of(losses, eps)
    changes, own = changes_of(losses, eps, lr), -lr * float(slopes[direction])
    largest, most, best = _best(losses.tobytes(), len(losses))
    falls, mean = int((changes < 0).sum()), -float(changes.mean())
    every = f"{most} of the {len(losses)}" if most < len(losses) else f"all {most}"
    levels = (
        Level("a step that lowers the loss", bool(changes[direction] < 0), HINTS[0]),
        Level(f"a mean fall over all directions of {HALF * largest:.3g} nats", mean >= HALF * largest, HINTS[1]),
        Level(f"one of {MOST * best:.3g}, with {every} directions going down", mean >= MOST * best and falls >= most, HINTS[2]),
    )
    goal = (0.0, -HALF * largest, -MOST * best)[ahead(levels)]
    with drawing():
        figure = canvas(3.8)
        _draw_slice(figure.add_axes((0.085, 0.14, 0.48, 0.75)), losses[direction], eps, float(slopes[direction]), own)
        _draw_changes(figure.add_axes((0.665, 0.14, 0.32, 0.75)), changes, direction, goal)
    moved = "fell" if changes[direction] < 0 else "rose"
    all_directions = (
        f"{falls} of {len(losses)} directions go down, and the mean {'falls' if mean > 0 else 'rises'} by {abs(mean):.3g}"
    )
    now = f"the loss {moved} by {abs(changes[direction]):.2g}; {all_directions}"
    beyond = int((lr * np.abs(slopes) > RADII[-1]).sum())
    notes = (f"{beyond} of the steps end beyond what was measured; they are cut off there.",) if beyond else ()
    return View(figure, levels, now, notes)


def step_panel(losses: np.ndarray | None = None, direction: int = 0, eps: float = 1e-3, lr: float = 4e-3) -> Panel:
    """A panel over `step_view`; arguments as there, and without losses those of `drawn`."""
    losses = drawn() if losses is None else np.asarray(losses, float)
    return explore(
        partial(step_view, losses),
        direction=whole("direction", direction, 0, len(losses) - 1),
        eps=log_number("eps", eps, *EPS),
        lr=log_number("learning rate", lr, *RATES),
    )


def losses_along(model: nn.Module, loss: Callable[[], torch.Tensor], seeds: Sequence[int]) -> np.ndarray:
    """A model's loss at the distances `PLACES` along random directions: 42 forward passes for each; no weight stays moved.

    Args:
        model: whose parameters are moved, all together, along a Gaussian direction z, by t z.
        loss: called without arguments, a scalar on a fixed batch.
        seeds: one for each direction.

    Returns:
        Losses in nats, shape (seeds, places).
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    losses = np.empty((len(seeds), len(PLACES)))
    middle = len(RADII)
    with torch.no_grad():
        losses[:, middle] = float(loss())
        for row, seed in zip(losses, seeds, strict=True):
            for place, radius in enumerate(RADII.tolist(), start=1):
                probe = Perturbation(weights, tuple(range(len(weights))), Direction(seed, 0), [radius] * len(weights))
                probe.plus()
                row[middle + place] = float(loss())
                probe.minus()
                row[middle - place] = float(loss())
                probe.leave()
    return losses


def slopes_of(losses: np.ndarray, eps: float) -> np.ndarray:
    """The slope between the points at eps and at -eps along each direction, shape (directions,)."""
    plus, minus = (np.array([np.interp(place, PLACES, row) for row in losses]) for place in (eps, -eps))
    return (plus - minus) / (2 * eps)


def changes_of(losses: np.ndarray, eps: float, lr: float | np.ndarray) -> np.ndarray:
    """What a step along each direction does to the loss, linear between measured places; shape (directions, *of lr)."""
    changes = [
        np.interp(-slope * lr, PLACES, row) - row[len(RADII)] for slope, row in zip(slopes_of(losses, eps), losses, strict=True)
    ]
    return np.array(changes)


def drawn(directions: int = 10) -> np.ndarray:
    """Losses of a model that is made up: slopes of about 2 and a curvature of about 100 along each direction."""
    rng = np.random.default_rng(0)
    slopes, bends = 2 * rng.normal(size=(directions, 1)), 100 * rng.uniform(0.5, 1.5, (directions, 1))
    return 2 + slopes * PLACES + bends * PLACES**2 / (2 + 20 * np.abs(PLACES))


@lru_cache(maxsize=8)
def _best(content: bytes, directions: int) -> tuple[float, int, float]:
    """The largest mean fall at any eps and rate; the most directions that go down; the largest mean fall with so many."""
    losses = np.frombuffer(content).reshape(directions, len(PLACES))
    changes = np.array([changes_of(losses, eps, TRIED) for eps in RADII.tolist()])
    falls, mean = (changes < 0).sum(1), -changes.mean(1)
    return float(mean.max()), int(falls.max()), float(mean[falls == falls.max()].max())


def _draw_slice(axes: Axes, losses: np.ndarray, eps: float, slope: float, step: float) -> None:
    reach = next((wide for wide in WINDOWS if wide >= 1.3 * max(eps, abs(step))), WINDOWS[-1])
    inside = np.abs(PLACES) <= 1.01 * reach
    centre, end = float(losses[len(RADII)]), float(np.clip(step, -RADII[-1], RADII[-1]))
    plus, minus = np.interp([eps, -eps], PLACES, losses)
    low, high = losses[inside].min(), losses[inside].max()
    axes.plot(PLACES, losses, color=BLACK, linewidth=1.6)
    axes.axline((0, (plus + minus) / 2), slope=slope, color=BLUE, linewidth=1.2, label=f"slope {slope:.3g}")
    axes.plot([-eps, eps], [minus, plus], "o", color=BLUE, markersize=7, label="the two losses")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.plot(end, np.interp(end, PLACES, losses), "D", color=RED, markeredgecolor=BLACK, markersize=8, label="after the step")
    axes.plot(0, centre, "o", color=BLACK, markersize=5)
    axes.set(xlim=(-reach, reach), ylim=(low - 0.1 * (high - low), high + 0.45 * (high - low)))
    axes.legend(fontsize=10, frameon=True, loc="upper center", ncols=3, columnspacing=1, handletextpad=0.4)
    frame(axes, "the loss along one direction (nats)", "t, the distance along z: weights at θ + t z")


def _draw_changes(axes: Axes, changes: np.ndarray, direction: int, goal: float) -> None:
    colours = [GREEN if change < 0 else RED for change in changes]
    bars = axes.bar(range(len(changes)), changes, color=colours, width=0.7)
    bars[direction].set(edgecolor=BLACK, linewidth=2)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    named_line(axes, float(changes.mean()), "mean", right=True, color=BLUE, linewidth=1.5)
    goal_line(axes, goal)
    low, high = min(float(changes.min()), goal, 0.0), max(float(changes.max()), 0.0)
    room = 0.08 * (high - low or 1.0)
    axes.set(xlim=(-0.6, len(changes) - 0.4), ylim=(low - room, high + room))
    frame(axes, "change of the loss by one step", "direction (framed: yours)")
    axes.set_xticks(range(0, len(changes), -(-len(changes) // 10)))
