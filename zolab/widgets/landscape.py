"""The landscape explorer: several methods on one function, seen from above, against forward passes, and in space."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.axes import Axes

from zolab.landscapes import LANDSCAPES, Descent, Landscape
from zolab.plots import BLACK, METHOD_COLOURS, YELLOW
from zolab.widgets.drawing import canvas, decades, draw_every_map, draw_map, drawing, frame, goal_line, heights
from zolab.widgets.panel import Panel, View, choice, explore, log_number, settings, several, switch, whole
from zolab.widgets.walks import FIRST_ORDER, MOST_STEPS, landscape_of, walk

MOST_METHODS = 4
GAP, BUDGET = 0.1, 200
FLOOR = 1e-4  # losses closer to the minimum are drawn here
MESH = 25


def landscape_view(
    landscape: str = "sophia",
    methods: Sequence[str] = ("Adam", "MeZO", "AdaMeZO"),
    lr: float = 1e-2,
    eps: float = 1e-3,
    steps: int = 100,
    seed: int = 0,
    horizon: int = 10,
    fixed: bool = False,
    azimuth: int = -60,
    elevation: int = 40,
) -> View:
    """Walks of several methods on one landscape. The goal: close to the minimum with forward passes only, and few of them.

    Args:
        landscape: key of `LANDSCAPES`.
        methods: one to four of `METHOD_COLOURS`.
        lr: of every method; what a good one is differs between them.
        eps, seed: of the zeroth-order methods.
        steps: of every method.
        horizon: of AdaMeZO.
        fixed: two directions in turn, as in AdaMeZO's figure, instead of fresh ones.
        azimuth, elevation: where the view in space is seen from, in degrees.

    Raises:
        ValueError: no method or too many, or an argument is out of range.
    """
    if not 1 <= len(methods) <= MOST_METHODS:
        raise ValueError(f"{len(methods)} methods are chosen; choose 1 to {MOST_METHODS}, as many as the legend holds.")
    place = landscape_of(landscape)
    walks = {method: walk(landscape, method, lr, eps, steps, seed, horizon, fixed=fixed) for method in methods}
    with drawing():
        figure = canvas(5.2)
        above = figure.add_axes((0.065, 0.1, 0.44, 0.76))
        _draw_above(above, landscape, walks)
        _draw_costs(figure.add_axes((0.61, 0.6, 0.37, 0.26)), place, walks)
        _draw_in_space(figure.add_axes((0.53, 0.0, 0.47, 0.46), projection="3d"), landscape, walks, azimuth, elevation)
        figure.legend(*above.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.055, 1.0), ncols=MOST_METHODS)
    goal = f"a zeroth-order method less than {GAP:g} above the minimum within {BUDGET} forward passes, in fresh directions"
    notes = tuple(f"{method} {it.stopped}" for method, it in walks.items() if it.stopped)
    return View(figure, goal, *_standing(place, walks, fixed), notes)


def landscape_panel(**start) -> Panel:
    """A panel over `landscape_view`; its arguments, given here, are where the controls begin."""
    at = settings(landscape_view, start)
    draw_every_map()
    return explore(
        landscape_view,
        methods=several("methods", at.methods, list(METHOD_COLOURS), MOST_METHODS),
        landscape=choice("landscape", at.landscape, list(LANDSCAPES)),
        lr=log_number("learning rate", at.lr, 1e-4, 1),
        eps=log_number("eps", at.eps, 1e-7, 1),
        steps=whole("steps", at.steps, 10, MOST_STEPS, 10),
        seed=whole("seed", at.seed, 0, 50),
        horizon=whole("horizon h", at.horizon, 1, 30),
        azimuth=whole("turn (°)", at.azimuth, -180, 180, 10),
        elevation=whole("tilt (°)", at.elevation, 0, 90, 5),
        fixed=switch("only two directions, in turn", at.fixed),
    )


def _standing(place: Landscape, walks: dict[str, Descent], fixed: bool) -> tuple[str, bool]:
    """How close the zeroth-order methods came within the goal's budget."""
    gaps = {
        method: (it.losses[it.forwards <= BUDGET] - place.minimum).min()
        for method, it in walks.items()
        if method not in FIRST_ORDER
    }
    if not gaps:
        return "no zeroth-order method is chosen", False
    best = min(gaps, key=gaps.get)
    now = f"{best} came to {gaps[best]:.2g}" + (", in two directions" if fixed else "")
    return now, bool(gaps[best] < GAP and not fixed)


def _draw_above(axes: Axes, landscape: str, walks: dict[str, Descent]) -> None:
    draw_map(axes, landscape, landscape_of(landscape).title)
    for method, it in walks.items():
        axes.plot(*it.positions.T, color=METHOD_COLOURS[method], linewidth=1.3, label=method)
        axes.plot(*it.positions[-1], "X" if it.stopped else "o", color=METHOD_COLOURS[method], markersize=6)


def _draw_costs(axes: Axes, place: Landscape, walks: dict[str, Descent]) -> None:
    top = 1
    for method, it in walks.items():
        height = heights(place, it.losses, FLOOR)
        axes.plot(it.forwards + 2 * it.backwards, height, color=METHOD_COLOURS[method], linewidth=1.3)
        top = max(top, min(int(np.ceil(height.max())), 6))
    goal_line(axes, np.log10(GAP))
    frame(axes, "f above its minimum", "forward passes (a backward pass is two)")
    decades(axes.yaxis, int(np.log10(FLOOR)), top)
    axes.set_ylim(np.log10(FLOOR), top)


def _draw_in_space(axes: Axes, landscape: str, walks: dict[str, Descent], azimuth: int, elevation: int) -> None:
    place, (x, y, z) = landscape_of(landscape), _mesh(landscape)
    low, high = z.min(), z.max()
    axes.computed_zorder = False  # the paths lie on the surface: draw them over it
    axes.plot_surface(x, y, z, cmap="Greys", vmin=low, vmax=2 * high - low, rstride=1, cstride=1, lw=0.3, edgecolor="#AAAAAA")
    (left, right), (bottom, top) = place.window
    for method, it in walks.items():
        inside = (it.positions >= (left, bottom)).all(1) & (it.positions <= (right, top)).all(1)
        path = np.column_stack([it.positions, heights(place, it.losses, GAP)])
        axes.plot(*np.where(inside[:, None], path, np.nan).T, color=METHOD_COLOURS[method], linewidth=1.3)
    axes.plot(*np.transpose(place.minima), [low] * len(place.minima), "*", color=YELLOW, markeredgecolor=BLACK, markersize=12)
    axes.view_init(elevation, azimuth)
    axes.set_box_aspect((1, 1, 0.7), zoom=1.5)
    axes.set_axis_off()


@cache
def _mesh(landscape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface log10(f - minimum), on a grid that has the minima among its points."""
    place = landscape_of(landscape)
    sides = [
        np.union1d(np.linspace(*side, MESH), at) for side, at in zip(place.window, np.transpose(place.minima), strict=True)
    ]
    x, y = np.meshgrid(*sides)
    return x, y, heights(place, place(x, y), GAP)
