"""The landscape explorer: several methods on one function, seen from above, against forward passes, and in space."""

from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from zolab.landscapes import LANDSCAPES, Descent, Landscape
from zolab.plots import BLACK, METHOD_COLOURS, YELLOW
from zolab.widgets.controls import choice, log_number, rates, several, switch, whole
from zolab.widgets.drawing import (
    backdrop,
    canvas,
    decades,
    draw_ahead,
    draw_map,
    drawing,
    frame,
    goal_line,
    heights,
    pane,
)
from zolab.widgets.panel import Level, Panel, View, ahead, explore, settings
from zolab.widgets.walks import FIRST_ORDER, MOST_STEPS, landscape_of, walk

MOST_METHODS = 4
GAP, BUDGET = 0.1, 100
GAPS = (1, GAP, GAP)
HINTS = (
    "A rate too low arrives nowhere within the budget, one too high jumps out of the map: try rates a factor of two apart.",
    "Every method has a rate of its own. One that divides by a moment takes steps of about its rate, whatever the slope is.",
    "Tick a second zeroth-order method and look for its rate alone. On some landscapes none but one method gets there.",
)
FLOOR = 1e-4  # losses closer to the minimum are drawn here
PASSES = np.log10(3 * MOST_STEPS)
MESH = 25
HEIGHT = 5.2
ABOVE, COSTS, SPACE = (0.065, 0.1, 0.44, 0.76), (0.61, 0.6, 0.37, 0.26), (0.53, 0.0, 0.47, 0.48)
CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
REACH = 1.45  # from the middle, in the units of `_seen`: no turn or tilt takes a corner or a label farther up or down


def landscape_view(
    landscape: str = "sophia",
    methods: Sequence[str] = ("Adam", "MeZO", "AdaMeZO"),
    lr: float | Mapping[str, float] = 1e-2,
    eps: float = 1e-3,
    steps: int = 50,
    seed: int = 0,
    horizon: int = 10,
    fixed: bool = False,
    azimuth: int = -60,
    elevation: int = 40,
) -> View:
    """Walks of several methods on one landscape. The goals: close to the minimum with forward passes only, and few of
    them; then closer, then with two methods.

    Args:
        landscape: key of `LANDSCAPES`.
        methods: one to four of `METHOD_COLOURS`.
        lr: learning rate of all methods, or a mapping from their names; what a good one is differs between them.
        eps, seed: of the zeroth-order methods.
        steps: of every method.
        horizon: of AdaMeZO.
        fixed: two directions in turn, as in AdaMeZO's figure, instead of fresh ones.
        azimuth, elevation: where the view in space is seen from, in degrees.

    Raises:
        ValueError: no method or too many, one without a learning rate, or an argument is out of range.
    """
    if not 1 <= len(methods) <= MOST_METHODS:
        raise ValueError(f"{len(methods)} methods are chosen; choose 1 to {MOST_METHODS}, as many as the legend holds.")
    place = landscape_of(landscape)
    rate = lr if isinstance(lr, Mapping) else dict.fromkeys(methods, lr)
    if lacking := [method for method in methods if method not in rate]:
        raise ValueError(f"lr has no rate for {', '.join(lacking)}; give one for each of {', '.join(methods)}.")
    walks = {method: walk(landscape, method, rate[method], eps, steps, seed, horizon, fixed=fixed) for method in methods}
    levels, now = _standing(place, walks, fixed)
    with drawing():
        figure = canvas(HEIGHT)
        backdrop(figure, _draw_frames, landscape)
        _draw_paths(figure, place, walks, GAPS[ahead(levels)])
        _draw_in_space(figure, landscape, walks, azimuth, elevation)
    notes = tuple(f"{method} {it.stopped}" for method, it in walks.items() if it.stopped)
    return View(figure, levels, now, notes)


def landscape_panel(**start) -> Panel:
    """A panel over `landscape_view`; its arguments, given here, are where the controls begin."""
    at = settings(landscape_view, start)
    draw_ahead(_draw_frames, HEIGHT)
    methods = several("methods", at.methods, list(METHOD_COLOURS), MOST_METHODS)
    start_of = at.lr if isinstance(at.lr, Mapping) else dict.fromkeys(METHOD_COLOURS, at.lr)
    return explore(
        landscape_view,
        methods=methods,
        landscape=choice("landscape", at.landscape, list(LANDSCAPES)),
        lr=rates({name: start_of.get(name, 1e-2) for name in METHOD_COLOURS}, 1e-4, 1, methods),
        eps=log_number("eps", at.eps, 1e-7, 1),
        steps=whole("steps", at.steps, 10, MOST_STEPS, 10),
        seed=whole("seed", at.seed, 0, 50),
        horizon=whole("horizon h", at.horizon, 1, 30),
        azimuth=whole("turn (°)", at.azimuth, -180, 180, 10),
        elevation=whole("tilt (°)", at.elevation, 0, 90, 5),
        fixed=switch("only two directions, in turn", at.fixed),
    )


def _standing(place: Landscape, walks: dict[str, Descent], fixed: bool) -> tuple[list[Level], str]:
    """How close the zeroth-order methods came within the goals' budget."""
    gaps = {
        method: (it.losses[it.forwards <= BUDGET] - place.minimum).min()
        for method, it in walks.items()
        if method not in FIRST_ORDER
    }
    within = f"above the minimum within {BUDGET} forward passes, in fresh directions"
    who = ("a zeroth-order method", "a zeroth-order method", "two zeroth-order methods, each at its own rate,")
    levels = [
        Level(f"{name} less than {gap:g} {within}", not fixed and sum(each < gap for each in gaps.values()) >= count, hint)
        for name, gap, count, hint in zip(who, GAPS, (1, 1, 2), HINTS, strict=True)
    ]
    if not gaps:
        return levels, "no zeroth-order method is chosen"
    gaps_text = [f"{method} came to {gap:.2g}" for method, gap in sorted(gaps.items(), key=itemgetter(1))]
    return levels, ", ".join(gaps_text) + (", in two directions" if fixed else "")


def _draw_frames(figure: Figure, landscape: str) -> None:
    place = landscape_of(landscape)
    draw_map(figure.add_axes(ABOVE), landscape, place.title)
    costs = figure.add_axes(COSTS, xlim=(0, PASSES), ylim=_decades_of(place))
    costs.axvline(np.log10(BUDGET), color=BLACK, linestyle=":", linewidth=1)
    frame(costs, "f above its minimum", "forward passes (a backward pass is two)")
    decades(costs.yaxis, *_decades_of(place))
    decades(costs.xaxis, 0, 3)


def _decades_of(place: Landscape) -> tuple[int, int]:
    """What the chart of losses shows: from the floor to ten times the start's decade."""
    return int(np.log10(FLOOR)), int(np.floor(heights(place, place(*place.start), FLOOR))) + 2


def _draw_paths(figure: Figure, place: Landscape, walks: dict[str, Descent], gap: float) -> None:
    above = pane(figure, ABOVE, *place.window)
    costs = pane(figure, COSTS, (0, PASSES), _decades_of(place))
    for method, it in walks.items():
        colour = METHOD_COLOURS[method]
        above.plot(*it.positions.T, color=colour, linewidth=1.3, label=method)
        above.plot(*it.positions[-1], "X" if it.stopped else "o", color=colour, markersize=6)
        passes = np.log10(np.maximum(it.forwards + 2 * it.backwards, 1))
        costs.plot(passes, heights(place, it.losses, FLOOR), color=colour, linewidth=1.3)
    goal_line(costs, np.log10(gap))
    figure.legend(*above.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.055, 1.0), ncols=MOST_METHODS)


def _draw_in_space(figure: Figure, landscape: str, walks: dict[str, Descent], azimuth: float, elevation: float) -> None:
    """The surface as cells from the farthest to the nearest, which is all that a height field needs, and the paths on it."""
    place, (x, y, z) = landscape_of(landscape), _mesh(landscape)
    shape = figure.get_figwidth() * SPACE[2] / (figure.get_figheight() * SPACE[3])
    axes = pane(figure, SPACE, (-REACH * shape, REACH * shape), (-REACH, REACH))
    low, high = z.min(), z.max()
    across, up, near = _seen(place, x, y, (z - low) / (high - low), azimuth, elevation)
    corners = [np.stack([across, up, near, z], -1)[i : i - 1 or None, j : j - 1 or None] for i, j in CORNERS]
    cells: Any = np.stack(corners, 2).reshape(-1, 4, 4)
    cells = cells[np.argsort(cells[:, :, 2].mean(1))]
    surface = PolyCollection(cells[:, :, :2], array=cells[:, :, 3].mean(1), cmap="YlGnBu_r", lw=0.3, edgecolor="face")
    surface.set_clim(low - 0.6 * (high - low), high)
    axes.add_collection(surface, autolim=False)
    (left, right), (bottom, top) = place.window
    for method, it in walks.items():
        inside = (it.positions >= (left, bottom)).all(1) & (it.positions <= (right, top)).all(1)
        height = np.where(inside, (heights(place, it.losses, GAP) - low) / (high - low), np.nan)
        across, up = np.where(inside, it.positions.T, np.nan)
        across, up, _ = _seen(place, across, up, height, azimuth, elevation)
        axes.plot(across, up, color=METHOD_COLOURS[method], linewidth=1.3)
    across, up = np.transpose(place.minima)
    across, up, _ = _seen(place, across, up, np.zeros(len(place.minima)), azimuth, elevation)
    axes.plot(across, up, "*", color=YELLOW, markeredgecolor=BLACK, markersize=12)
    middle = (left + right) / 2, (bottom + top) / 2
    for name, sides in (
        ("x", [(middle[0], side) for side in (bottom, top)]),
        ("y", [(side, middle[1]) for side in (left, right)]),
    ):
        across, up, _ = max((_seen(place, *side, -0.2, azimuth, elevation) for side in sides), key=itemgetter(2))
        axes.text(across, up, name, ha="center", va="center")


def _seen(place: Landscape, x, y, height, azimuth: float, elevation: float) -> tuple:
    """Points as seen from far away: to the right, up, and towards the eye; the window spans a square of side 1.8."""
    (left, right), (bottom, top) = place.window
    turn, tilt = np.radians(azimuth), np.radians(elevation)
    x, y = 1.8 * (x - left) / (right - left) - 0.9, 1.8 * (y - bottom) / (top - bottom) - 0.9
    towards, height = x * np.cos(turn) + y * np.sin(turn), 1.2 * np.asarray(height) - 0.6
    across = y * np.cos(turn) - x * np.sin(turn)
    return across, height * np.cos(tilt) - towards * np.sin(tilt), towards * np.cos(tilt) + height * np.sin(tilt)


@cache
def _mesh(landscape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface log10(f - minimum), on a grid that has the minima among its points."""
    place = landscape_of(landscape)
    sides = [
        np.union1d(np.linspace(*side, MESH), at) for side, at in zip(place.window, np.transpose(place.minima), strict=True)
    ]
    x, y = np.meshgrid(*sides)
    return x, y, heights(place, place(x, y), GAP)
