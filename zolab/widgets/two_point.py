"""The two-point estimate: a secant through x - eps z and x + eps z, and how far its slope is from the true one."""

import numpy as np
from matplotlib.axes import Axes

from zolab.landscapes import LANDSCAPES, Landscape
from zolab.noise import Direction, direction
from zolab.plots import BLACK, BLUE, ORANGE, RED
from zolab.widgets.controls import choice, log_number, whole
from zolab.widgets.drawing import canvas, decades, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, ahead, explore, settings
from zolab.widgets.walks import landscape_of

TARGETS = {"float64": (1e-2, 1e-5, 1e-10), "float32": (1e-2, 1e-3, 1e-4)}
"""Relative errors to reach in each precision; the last is a decade or two above the smallest that there is."""
HINTS = (
    "A smaller eps: the secant's two points move together, and the curve bends less between them.",
    "For each decade of eps the error falls by two, as long as bending makes it: follow the line to the left.",
    "Still further left the error rises again, since f is rounded. Stop at the lowest point of the line.",
)
WIDEST = 1.0
FLOOR, TOP = -14, 2


def two_point_view(landscape: str = "sophia", eps: float = 0.5, seed: int = 0, precision: str = "float64") -> View:
    """A landscape cut along the first direction of a seed, t -> f(start + t z), with the secant that MeZO measures.

    The goals: slopes with ever smaller relative errors. A large eps sees the curve bend, a small one sees f's rounding.

    Args:
        landscape: key of `LANDSCAPES`.
        eps: radius of the probe, in (0, 1].
        seed: of the direction z.
        precision: "float64" or "float32", in which f is evaluated.

    Raises:
        ValueError: an argument is out of range.
    """
    place = landscape_of(landscape)
    if not 0 < eps <= WIDEST:
        raise ValueError(f"eps must lie in (0, {WIDEST:g}], got {eps}.")
    if precision not in TARGETS:
        raise ValueError(f"precision must be one of {', '.join(TARGETS)}, got {precision}.")
    z = direction(Direction(seed, 0), 0, 2).double().numpy()
    true = float(np.dot(place.gradient(*place.start), z))
    slope = float(secant_slope(place, z, eps, precision))
    error = float(relative_error(slope, true))
    levels = [
        Level(f"a slope in {precision} with a relative error below {target:g}", error < target, hint)
        for target, hint in zip(TARGETS[precision], HINTS, strict=True)
    ]
    target = TARGETS[precision][ahead(levels)]
    with drawing():
        figure = canvas(3.8)
        _draw_slice(figure.add_axes((0.08, 0.14, 0.4, 0.75)), place, z, eps, slope, true)
        _draw_errors(figure.add_axes((0.58, 0.14, 0.4, 0.75)), place, z, true, eps, error, precision, target)
    now = f"the secant says {slope:.10g}, the derivative is {true:.10g}, relative error {error:.1e}"
    return View(figure, levels, now)


def two_point_panel(**start) -> Panel:
    """A panel over `two_point_view`; its arguments, given here, are where the controls begin."""
    at = settings(two_point_view, start)
    return explore(
        two_point_view,
        eps=log_number("eps", at.eps, 1e-12, WIDEST),
        seed=whole("seed", at.seed, 0, 50),
        landscape=choice("landscape", at.landscape, list(LANDSCAPES)),
        precision=choice("precision", at.precision, list(TARGETS)),
    )


def secant_slope(landscape: Landscape, z: np.ndarray, eps: float | np.ndarray, precision: str) -> np.ndarray:
    """(f(x + eps z) - f(x - eps z)) / (2 eps) at the landscape's start, with f evaluated in `precision`."""
    plus, minus = (
        landscape(*(np.asarray(x + sign * eps * along, precision) for x, along in zip(landscape.start, z, strict=True)))
        for sign in (1, -1)
    )
    return (plus.astype(float) - minus.astype(float)) / (2 * np.asarray(eps))


def relative_error(slope: float | np.ndarray, true: float) -> float | np.ndarray:
    return np.abs(slope - true) / max(abs(true), 1e-300)


def _draw_slice(axes: Axes, place: Landscape, z: np.ndarray, eps: float, slope: float, true: float) -> None:
    def f(t):
        return place(*(x + t * along for x, along in zip(place.start, z, strict=True)))

    t = np.linspace(-1.1 * WIDEST, 1.1 * WIDEST, 201)
    axes.plot(t, f(t), color=BLACK)
    axes.axline((0, f(0.0)), slope=true, color=BLUE, linestyle="--", linewidth=1.3, label=f"derivative {true:.4g}")
    axes.axline((0, (f(eps) + f(-eps)) / 2), slope=slope, color=RED, linewidth=1.3, label=f"secant {slope:.4g}")
    axes.plot([-eps, eps], [f(-eps), f(eps)], "o", color=RED, markersize=7)
    low, high = f(t).min(), f(t).max()
    axes.set(xlim=(t[0], t[-1]), ylim=(low - 0.1 * (high - low), high + 0.1 * (high - low)))
    frame(axes, f"{place.title} along z: f(start + t z)", "t")
    axes.legend(fontsize=10)


def _draw_errors(axes: Axes, place: Landscape, z, true: float, eps: float, error: float, precision: str, target: float) -> None:
    radii = np.logspace(-12, np.log10(WIDEST), 121)
    floor = 10.0**FLOOR
    errors = relative_error(secant_slope(place, z, radii, precision), true)
    axes.plot(np.log10(radii), np.log10(np.clip(errors, floor, None)), color=ORANGE, linewidth=1.2)
    goal_line(axes, np.log10(target))
    axes.plot(np.log10(eps), np.log10(np.clip(error, floor, 10.0**TOP)), "o", color=RED, markersize=8)
    frame(axes, f"relative error of the slope, {precision}", "eps (too small: rounding, too large: bending)")
    decades(axes.xaxis, -12, 0)
    decades(axes.yaxis, FLOOR, TOP)
    axes.set(xlim=(-12.3, 0.3), ylim=(FLOOR, TOP))
