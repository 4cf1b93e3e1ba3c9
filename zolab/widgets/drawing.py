"""Drawing for panels, where a picture may cost a tenth of a second: everything has a given place, none is searched for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zolab.landscapes import LANDSCAPES, Landscape
from zolab.plots import BLACK, landscape_map, look
from zolab.widgets.walks import landscape_of

Box = tuple[float, float, float, float]
"""left, bottom, width and height of axes, as shares of the figure."""
WIDTH = 8.6  # inches: at 100 dots an inch, a notebook's column


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in zolab's look inside this block, without its search for a layout."""
    with look(), plt.rc_context({"figure.constrained_layout.use": False}):
        yield


def canvas(height: float) -> Figure:
    """An empty picture of the panels' width, `height` inches high."""
    return Figure(figsize=(WIDTH, height), dpi=100)


def frame(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Title and labels at fixed distances, and few ticks."""
    extent, dpi = axes.get_window_extent(), axes.figure.dpi
    width, height = extent.width / dpi, extent.height / dpi
    axes.set_title(title, fontsize=11, y=1.0, pad=4)
    axes.set_xlabel(x)
    axes.xaxis.set_label_coords(0.5, -0.29 / height)
    if y:
        axes.set_ylabel(y)
        axes.yaxis.set_label_coords(-0.4 / width, 0.5)
    axes.locator_params(nbins=4)


def decades(axis, low: int, high: int, most: int = 4) -> None:
    """Label an axis that holds log10 of something, cheaper to draw than matplotlib's log scale."""
    places = range(low, high + 1, max(1, -(-(high - low) // most)))
    axis.set_ticks(places, [f"1e{place}" if place not in (0, 1) else f"{10**place}" for place in places])


def goal_line(axes: Axes, height: float, right: bool = False) -> None:
    """A dotted line to get below or above: the height that the goal asks for which the reader is to reach next."""
    named_line(axes, height, "goal", right, color=BLACK, linestyle=":", linewidth=1)


def named_line(axes: Axes, height: float, name: str, right: bool = False, **line) -> None:
    """A horizontal line with its name on it, at the left or the right end, readable where it crosses curves or bars."""
    axes.axhline(height, **line)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.5}
    style = {"color": line["color"], "fontsize": 10, "va": "center", "ha": "right" if right else "left"}
    axes.text(0.99 if right else 0.01, height, name, style, transform=axes.get_yaxis_transform(), bbox=behind, zorder=4)


def heights(landscape: Landscape, losses: np.ndarray, floor: float) -> np.ndarray:
    """log10 of how far losses are above the minimum, not below log10(floor)."""
    return np.log10(np.maximum(losses - landscape.minimum, floor))


def draw_map(axes: Axes, key: str, title: str) -> None:
    """The map of the landscape with this key, its start and its minima."""
    landscape_map(landscape_of(key), {}, axes)
    frame(axes, title, "x", "y")


def backdrop(figure: Figure, draw: Callable[[Figure, str], None], key: str) -> None:
    """Lay under a figure what `draw(figure, key)` makes of an empty one: maps and frames that only a landscape decides.

    It is drawn once for each key; the paths are then drawn over it on a `pane`.
    """
    figure.figimage(_drawn(draw, key, figure.get_figheight()), zorder=-1)


def draw_ahead(draw: Callable[[Figure, str], None], height: float) -> None:
    """Make every landscape's backdrop, in a second or two, so that choosing a landscape is as quick as any other move."""
    for key in LANDSCAPES:
        _drawn(draw, key, height)


def pane(figure: Figure, place: Box, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    """Axes without a frame, over the one that the backdrop has at this place."""
    axes = figure.add_axes(place, xlim=x, ylim=y)
    axes.set_axis_off()
    return axes


@cache
def _drawn(draw: Callable[[Figure, str], None], key: str, height: float) -> np.ndarray:
    with drawing():
        figure = canvas(height)
        draw(figure, key)
        agg = FigureCanvasAgg(figure)
        agg.draw()
        return np.array(agg.buffer_rgba())[:, :, :3]
