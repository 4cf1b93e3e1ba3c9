"""Half precision: which weights a step moves, and how much of it arrives, by its size and the format of the weights."""

from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes

from zolab.plots import BLUE, GREEN, ORANGE, RED
from zolab.theory.precision import arriving, moving, spacing
from zolab.widgets.controls import choice, log_number
from zolab.widgets.drawing import canvas, decades, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, ahead, check_ranges, explore, settings

FORMATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
COLOURS = {"float32": BLUE, "float16": GREEN, "bfloat16": ORANGE}
ROUNDINGS = ("nearest", "stochastic")
RATES, SLOPES = (1e-9, 1e-3), (0.1, 100)
SIZE, POINTS = 0.05, 101  # root mean square of the weights, and how many stand for all of them
GOALS = ((1e-3, 0.5), (1e-6, 0.9), (1e-7, 0.9))
"""Rate, and the share of a step that arrives."""
HINTS = (
    "A larger step: its size is lr |p|, so the rate and the slope do the same to it.",
    "Where are the spaces between neighbouring numbers narrower, in float16 or in bfloat16? Or round in the other way.",
    "No format with two bytes is fine enough to round to nearest. Rounded at random, a step arrives on the average.",
)
LOW, HIGH = -10, -2  # powers of ten of a step's size


def precision_view(lr: float = 1e-6, slope: float = 10.0, dtype: str = "bfloat16", rounding: str = "nearest") -> View:
    """The share of the weights that a step moves, and the share of the step that arrives, over the step's size lr |p|.

    Weights are normal with standard deviation 0.05. The goals: half of a step in
    half precision, then 90 % at lr = 1e-6 or below, then at 1e-7.

    Args:
        lr: learning rate, 1e-9 to 1e-3.
        slope: size of the projected gradient p, 0.1 to 100.
        dtype: of the weights, a key of `FORMATS`.
        rounding: "nearest" or "stochastic"; float32 is always rounded to nearest.

    Raises:
        ValueError: an argument is out of range.
    """
    check_ranges(lr=(lr, *RATES), slope=(slope, *SLOPES))
    for name, value, known in (("dtype", dtype, FORMATS), ("rounding", rounding, ROUNDINGS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    step = lr * slope
    moves, arrives = (float(share[0]) for share in shares(dtype, rounding, (step,)))
    levels = [
        Level(
            f"{share:.0%} of a step arrives at a rate of {rate:g} or below, in half precision",
            dtype != "float32" and lr <= rate * 1.0001 and arrives >= share,
            hint,
        )
        for (rate, share), hint in zip(GOALS, HINTS, strict=True)
    ]
    with drawing():
        figure = canvas(3.8)
        for place, left, title in ((0, 0.08, "share of the weights that move"), (1, 0.57, "share of the step that arrives")):
            axes = figure.add_axes((left, 0.14, 0.4, 0.68))
            _draw(axes, place, title, dtype, rounding, np.log10(step), (moves, arrives)[place])
        goal_line(axes, GOALS[ahead(levels)][1])
    now = f"a step of {step:.1e} moves {moves:.1%} of the weights, and {arrives:.1%} of it arrives"
    return View(figure, levels, now)


def precision_panel(**start) -> Panel:
    """A panel over `precision_view`; its arguments, given here, are where the controls begin."""
    at = settings(precision_view, start)
    return explore(
        precision_view,
        lr=log_number("learning rate", at.lr, *RATES),
        slope=log_number("slope |p|", at.slope, *SLOPES),
        dtype=choice("format", at.dtype, list(FORMATS)),
        rounding=choice("rounding", at.rounding, ROUNDINGS),
    )


@cache
def shares(dtype: str, rounding: str, steps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of weights that move, and of a step that arrives, for steps of several sizes.

    Args:
        dtype, rounding: as in `precision_view`.
        steps: sizes.
    """
    quantiles = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    spaces = spacing(SIZE * torch.special.ndtri(quantiles), FORMATS[dtype])
    way = "nearest" if dtype == "float32" else rounding
    sizes = torch.tensor(steps, dtype=torch.float64)[:, None]
    arrived = arriving(sizes, spaces) if way == "nearest" else torch.ones(len(steps), POINTS)
    return moving(sizes, spaces, way).mean(1).numpy(), arrived.mean(1).numpy()


def _draw(axes: Axes, place: int, title: str, dtype: str, rounding: str, at: float, share: float) -> None:
    sizes = np.linspace(LOW, HIGH, 121)
    for name, colour in COLOURS.items():
        chosen = name == dtype
        curve = shares(name, rounding, tuple(10**sizes))[place]
        axes.plot(sizes, curve, color=colour, linewidth=2.6 if chosen else 1.2, alpha=1 if chosen else 0.6, label=name)
    axes.plot(at, share, "o", color=RED, markersize=8)
    axes.axvline(at, color=RED, linewidth=1)
    axes.set(xlim=(LOW, HIGH), ylim=(-0.02, 1.08))
    if place:
        axes.legend(fontsize=10, loc="lower left", bbox_to_anchor=(-1.22, 1.12), ncols=len(COLOURS))
    frame(axes, title, "size of the step, lr |p| (red: yours)")
    decades(axes.xaxis, LOW, HIGH)
