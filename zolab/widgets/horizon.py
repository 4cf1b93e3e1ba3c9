"""The horizon of AdaMeZO: how much of each moment h past steps hold, and where leaving out the rest leads."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zolab.landscapes import LANDSCAPES
from zolab.plots import BLACK, BLUE, METHOD_COLOURS, ORANGE
from zolab.widgets.controls import choice, log_number, number, whole
from zolab.widgets.drawing import backdrop, canvas, draw_ahead, draw_map, drawing, frame, pane
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore, settings
from zolab.widgets.walks import landscape_of, walk

LONG = 40  # past steps: at the largest beta on the panel they hold 98.5 % of a moment
STEPS = 50
ENOUGH, SHORT = 0.95, 10
HINTS = (
    "The first moment forgets faster, since beta 1 is smaller: 0.7^h must fall below 0.05.",
    "The second moment needs 0.9^h below 0.05. Take more past steps, and see where the curve of what is kept ends.",
    "With few steps the moments have to forget faster: which beta has beta^10 below 0.05?",
)
HEIGHT = 4.2
MAP = (0.57, 0.13, 0.41, 0.77)
COLOURS = {"first": BLUE, "second": ORANGE}


def mass_kept(beta: float, horizon: int) -> float:
    """The share of an exponential average that its last `horizon` terms hold, 1 - beta^h."""
    return 1 - beta**horizon


def horizon_view(
    horizon: int = 10, beta1: float = 0.7, beta2: float = 0.9, landscape: str = "sophia", lr: float = 5e-2, seed: int = 0
) -> View:
    """What a horizon keeps of AdaMeZO's moments, and its walk beside that of a horizon of 40, in the same directions.

    The goals: a horizon that holds 95 % of the first moment, then of both, then of both with 10 steps at most.

    Args:
        horizon: h, how many past steps are summed, 1 to 40.
        beta1, beta2: decay rates of the two moments, in [0, 0.9].
        landscape: key of `LANDSCAPES`.
        lr, seed: of the optimizer.

    Raises:
        ValueError: an argument is out of range.
    """
    place = landscape_of(landscape)
    check_ranges(horizon=(horizon, 1, LONG))
    walks = [walk(landscape, "AdaMeZO", lr, 1e-3, STEPS, seed, h, (beta1, beta2)) for h in (horizon, LONG)]
    masses = {"first": mass_kept(beta1, horizon), "second": mass_kept(beta2, horizon)}
    with drawing():
        figure = canvas(HEIGHT)
        backdrop(figure, _draw_frame, landscape)
        _draw_masses(figure.add_axes((0.08, 0.13, 0.4, 0.77)), horizon, {"first": beta1, "second": beta2}, masses)
        axes = pane(figure, MAP, *place.window)
        ends = [f"{it.losses[-1] - place.minimum:.2g}" for it in walks]
        looks = ((horizon, METHOD_COLOURS["AdaMeZO"], 1.4, 3), (LONG, BLACK, 3.2, 2))  # the long walk shows on both sides
        for (h, colour, width, order), it, end in zip(looks, walks, ends, strict=True):
            axes.plot(*it.positions.T, color=colour, linewidth=width, zorder=order, label=f"h = {h}: ends {end} above")
            axes.plot(*it.positions[-1], "X" if it.stopped else "o", color=colour, markersize=5 + width, zorder=order)
        axes.legend(fontsize=10, frameon=True)
    both = min(masses.values()) >= ENOUGH
    levels = (
        Level(f"a horizon that holds {ENOUGH:.0%} of the first moment", masses["first"] >= ENOUGH, HINTS[0]),
        Level(f"a horizon that holds {ENOUGH:.0%} of both moments", both, HINTS[1]),
        Level(f"{ENOUGH:.0%} of both with a horizon of {SHORT} at most", both and horizon <= SHORT, HINTS[2]),
    )
    shares = f"h = {horizon} holds {masses['first']:.1%} of the first and {masses['second']:.1%} of the second"
    now = f"{shares}; its walk ends {ends[0]} above the minimum, {ends[1]} with h = {LONG}"
    notes = tuple(f"h = {h} {it.stopped}" for h, it in zip((horizon, LONG), walks, strict=True) if it.stopped)
    return View(figure, levels, now, notes)


def horizon_panel(**start) -> Panel:
    """A panel over `horizon_view`; its arguments, given here, are where the controls begin."""
    at = settings(horizon_view, start)
    draw_ahead(_draw_frame, HEIGHT)
    return explore(
        horizon_view,
        horizon=whole("horizon h", at.horizon, 1, LONG),
        beta1=number("beta 1", at.beta1, 0, 0.9, 0.05),
        beta2=number("beta 2", at.beta2, 0, 0.9, 0.05),
        landscape=choice("landscape", at.landscape, list(LANDSCAPES)),
        lr=log_number("learning rate", at.lr, 1e-3, 1),
        seed=whole("seed", at.seed, 0, 50),
    )


def _draw_frame(figure: Figure, landscape: str) -> None:
    draw_map(figure.add_axes(MAP), landscape, f"{landscape_of(landscape).title}: {STEPS} steps of AdaMeZO")


def _draw_masses(axes: Axes, horizon: int, betas: dict[str, float], masses: dict[str, float]) -> None:
    k = np.arange(LONG + 1)
    for moment, beta in betas.items():
        weight = (1 - beta) * beta**k
        axes.stairs(weight[:-1], k, color=COLOURS[moment], linewidth=1.3)
        axes.stairs(weight[:horizon], k[: horizon + 1], color=COLOURS[moment], fill=True, alpha=0.45,
                    label=f"{moment} moment: {masses[moment]:.1%} kept")  # fmt: skip
    axes.axvline(horizon, color=BLACK, linestyle=":", linewidth=1)
    axes.set(xlim=(0, LONG), ylim=(0, None))
    frame(axes, "weight of a past step in a moment", "steps ago")
    axes.legend(fontsize=10, frameon=True, loc="upper right")
