"""What the panels about landscapes share: walks by the name of a method, each taken once, and maps drawn once."""

from functools import cache, lru_cache, partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import zolab.optim
from zolab.landscapes import LANDSCAPES, Descent, Landscape, Protocol, run
from zolab.plots import METHOD_COLOURS, landscape_contours, landscape_marks

FIRST_ORDER = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}
MOST_STEPS = 400


@lru_cache(maxsize=256)
def walk(
    landscape: str, method: str, lr: float, eps: float, steps: int, seed: int, horizon: int = 10, fixed: bool = False
) -> Descent:
    """Walk on a landscape; asked again with the same arguments, the same walk is given.

    Args:
        landscape: key of `LANDSCAPES`.
        method: key of `METHOD_COLOURS`.
        lr, eps, seed: of the optimizer; a first-order method takes only lr.
        steps: how many.
        horizon: of AdaMeZO.
        fixed: two directions in turn, as in AdaMeZO's figure, instead of fresh ones.

    Raises:
        ValueError: there is no such landscape or method, or an argument is out of range.
    """
    place = landscape_of(landscape)
    if method in FIRST_ORDER:
        return run(partial(FIRST_ORDER[method], lr=lr), place, steps)
    if method not in METHOD_COLOURS:
        raise ValueError(f"no method called {method}; the methods are {', '.join(METHOD_COLOURS)}.")
    # The paper's phases for 20,000 steps, shrunk to this walk's length.
    phases = {"phases": (steps // 20, 4 * steps // 5, steps)}
    own = {"AdaMeZO": {"horizon": horizon}, "ZOAdaMU": phases}.get(method, {})
    optimizer = partial(getattr(zolab.optim, method), lr=lr, eps=eps, seed=seed, **own)
    return run(optimizer, place, steps, directions=Protocol.directions if fixed else None)


def landscape_of(key: str) -> Landscape:
    """The landscape of this key. Raises ValueError if there is none."""
    if key not in LANDSCAPES:
        raise ValueError(f"no landscape called {key}; the landscapes are {', '.join(LANDSCAPES)}.")
    return LANDSCAPES[key]


def draw_map(axes: Axes, key: str) -> None:
    """The landscape's map with its start and minima, as a picture that is drawn once."""
    landscape = landscape_of(key)
    (left, right), (bottom, top) = landscape.window
    axes.imshow(_map(key), extent=(left, right, bottom, top), aspect="auto")
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y")
    axes.locator_params(nbins=4)
    axes.grid(visible=False)
    landscape_marks(landscape, axes)


def draw_every_map() -> None:
    """Draw the maps ahead, about a second, so that choosing a landscape is as quick as any other move."""
    for key in LANDSCAPES:
        _map(key)


@cache
def _map(key: str) -> np.ndarray:
    figure = Figure(figsize=(5, 5), dpi=100, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    landscape_contours(landscape_of(key), axes)
    axes.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def heights(landscape: Landscape, losses: np.ndarray, floor: float) -> np.ndarray:
    """log10 of how far losses are above the minimum, not below log10(floor)."""
    return np.log10(np.maximum(losses - landscape.minimum, floor))


def decades(axes: Axes, low: int, high: int, most: int = 5) -> None:
    """Label a y axis that holds log10 of something, cheaper to draw than matplotlib's log scale."""
    places = range(low, high + 1, max(1, -(-(high - low) // most)))
    axes.set_yticks(places, [f"1e{place}" if place not in (0, 1) else f"{10**place}" for place in places])
    axes.set_ylim(low, high)
