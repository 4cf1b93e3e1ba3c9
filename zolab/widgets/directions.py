"""The meta-gradient from sampled directions: how many it takes until their mean points where the true one does."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREY, ORANGE, RED
from zolab.widgets.controls import choice, log_number
from zolab.widgets.drawing import canvas, decades, drawing, frame, goal_line
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore, settings

MOST = 100_000  # directions; a mean of more than were measured is the formula's
CLOSE, SPARE = 0.9, 1.25
PARTS = ("all", "all but the largest", "the smaller half")
HINTS = (
    "The mean of n directions has n times less noise in the square. Raise n until the dots reach the dotted line.",
    "The block with the largest gradient is learned first. Choose what is left without it, and raise n again.",
    "Their share of the squared gradient is small, and the noise is that of all blocks. The curve says how far to go.",
)


def directions_view(
    samples: Mapping[float, np.ndarray],
    goal: np.ndarray,
    directions: float = 1,
    part: str = PARTS[0],
    eps: float | str = 1e-3,
) -> View:
    """Cosine between the mean of sampled meta-gradients and the true one against the number of directions; and each block's.

    While steps are short and sigma is 1, a direction's slopes are proportional to a_j S, with a_j ~ N(0, G_j) and S the sum
    of all a_k. Their mean is G_j, their second moments follow from those of the normal distribution, and the mean of n has

        cosine ~ sqrt(n / (n + 1 + m)),    m = (sum over all G) (sum over the part G_j) / (sum over the part G_j^2)

    where m is the number of blocks if all are alike. It is the ratio of root mean squares.

    The goals: a cosine of 0.9; the same without the largest block; then for the smaller half of the blocks, and with few
    more directions than the formula asks for.

    Args:
        samples: by eps, the meta-gradient from each direction, shape (measured, blocks).
        goal: the true one, up to a factor, shape (blocks,); minus it is proportional to G_j.
        directions: n, 1 to 100,000, rounded. Up to the measured ones means are measured, beyond that predicted.
        part: the blocks that count, of `PARTS`; they are ordered by G.
        eps: finite-difference radius, one that was measured.

    Raises:
        ValueError: an argument is out of range, or shapes do not fit.
    """
    check_ranges(directions=(directions, 1, MOST))
    measured, squares = _of_eps(samples, eps), np.abs(np.asarray(goal, float))
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}.")
    if measured.ndim != 2 or measured.shape[1:] != squares.shape or len(squares) < 3 or not squares.all():
        raise ValueError(
            f"samples and goal must have the same 3 blocks or more, none 0; got {measured.shape}, {squares.shape}."
        )
    n, blocks = round(directions), members(squares, part)
    means = means_of(measured, n)
    cosine, predicted = cosines(means[:, blocks], goal[blocks]), float(formula(n, squares, blocks))
    now = float(np.median(cosine)) if n <= len(measured) else predicted
    everywhere = float(formula(n, squares, members(squares, PARTS[0])))
    every = float(np.median(cosines(means, goal))) if n <= len(measured) else everywhere
    with drawing():
        figure = canvas(4.1)
        _draw_cosines(figure.add_axes((0.075, 0.135, 0.46, 0.775)), measured, goal, blocks, n, now)
        shown = means[0] if n <= len(measured) else measured.mean(0)
        _draw_blocks(figure.add_axes((0.655, 0.135, 0.325, 0.775)), shown, goal, blocks, min(n, len(measured)))
    least = needed(squares, blocks)
    last = part == PARTS[2] and now >= CLOSE and n <= SPARE * least
    levels = (
        Level(f"a cosine of {CLOSE:g} with the true meta-gradient", every >= CLOSE, HINTS[0]),
        Level(f"also {CLOSE:g} without the block that has the largest gradient", part != PARTS[0] and now >= CLOSE, HINTS[1]),
        Level(f"{CLOSE:g} for {PARTS[2]} of the blocks, with the fewest directions to within {SPARE - 1:.0%}", last, HINTS[2]),
    )
    how = f"median of {len(means)} means, {predicted:.2f} predicted" if n <= len(measured) else "predicted"
    return View(figure, levels, f"{n:,} direction{'s' * (n > 1)}, cosine {now:.2f} ({how}) for {part}")


def directions_panel(samples: Mapping[float, np.ndarray] | None = None, goal: np.ndarray | None = None, **start) -> Panel:
    """A panel over `directions_view`.

    Args:
        samples, goal: as there; without them, 50 drawn directions of 30 blocks.
        start: where the controls begin.
    """
    if samples is None or goal is None:
        samples, goal = drawn()
    at, radii = settings(directions_view, start), [f"{eps:g}" for eps in samples]
    view = partial(directions_view, {float(eps): each for eps, each in zip(radii, samples.values(), strict=True)}, goal)
    return explore(
        view,
        directions=log_number("directions", at.directions, 1, MOST),
        part=choice("blocks", at.part, PARTS),
        eps=choice("eps", f"{at.eps:g}", radii),
    )


def drawn(directions: int = 50, blocks: int = 30) -> tuple[dict[float, np.ndarray], np.ndarray]:
    """Samples and goal of blocks whose G_j fall by a factor of 1.4 each, of a loss with a third derivative and rounding."""
    rng, squares = np.random.default_rng(0), 1.4 ** -np.arange(blocks)
    along = rng.normal(size=(directions, blocks)) * np.sqrt(squares)
    slope = along.sum(1)
    off = {eps: eps**2 * slope**3 + 1e-6 / eps * rng.normal(size=directions) for eps in (1e-5, 1e-3, 1.0)}
    return {eps: -(slope + error)[:, None] * along for eps, error in off.items()}, -squares


def members(squares: np.ndarray, part: str) -> np.ndarray:
    """The blocks of a part, those with the least G first."""
    order = np.argsort(squares)
    return order[: {PARTS[0]: len(order), PARTS[1]: len(order) - 1, PARTS[2]: len(order) // 2}[part]]


def formula(n: float | np.ndarray, squares: np.ndarray, blocks: np.ndarray) -> float | np.ndarray:
    """The predicted cosine of a mean of n directions."""
    return np.sqrt(n / (n + _noise(squares, blocks)))


def needed(squares: np.ndarray, blocks: np.ndarray) -> float:
    """How many directions the formula asks for."""
    return CLOSE**2 / (1 - CLOSE**2) * _noise(squares, blocks)


def cosines(means: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Cosine of each row with the goal."""
    return means @ goal / (np.linalg.norm(means, axis=1) * np.linalg.norm(goal))


def means_of(samples: np.ndarray, n: int) -> np.ndarray:
    """Means of n directions, none of which is in two of them; of all that there are, if they are fewer."""
    n = min(n, len(samples))
    return samples[: len(samples) // n * n].reshape(-1, n, samples.shape[1]).mean(1)


def _noise(squares: np.ndarray, blocks: np.ndarray) -> float:
    own = squares[blocks]
    return float(1 + squares.sum() * own.sum() / np.square(own).sum())


def _of_eps(samples: Mapping[float, np.ndarray], eps: float | str) -> np.ndarray:
    if float(eps) not in samples:
        raise ValueError(f"eps must be one of {', '.join(f'{each:g}' for each in samples)}, got {eps}.")
    return np.asarray(samples[float(eps)], float)


def _draw_cosines(axes: Axes, measured: np.ndarray, goal: np.ndarray, blocks: np.ndarray, n: int, now: float) -> None:
    squares, grid = np.abs(goal), np.logspace(0, np.log10(MOST), 101)
    axes.plot(np.log10(grid), formula(grid, squares, blocks), color=BLACK, linewidth=1.5, label="formula")
    count = 1
    while count <= len(measured):
        cosine = cosines(means_of(measured, count)[:, blocks], goal[blocks])
        label = "means of n, measured" if count == 1 else None
        axes.plot(np.full(len(cosine), np.log10(count)), cosine, "o", color=BLUE, alpha=0.5, markersize=5, label=label)
        count *= 2
    axes.plot(np.log10(n), now, "D", color=RED, markeredgecolor=BLACK, markersize=9, linestyle="none", label="yours")
    goal_line(axes, CLOSE, right=True)
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set(xlim=(-0.1, np.log10(MOST) + 0.1), ylim=(-1.03, 1.06))
    axes.legend(fontsize=9.5, frameon=True, loc="lower right")
    frame(axes, f"n = {n:,}: cosine {now:.2f} with the true meta-gradient", "directions n", "cosine")
    decades(axes.xaxis, 0, 5, 5)


def _draw_blocks(axes: Axes, mean: np.ndarray, goal: np.ndarray, blocks: np.ndarray, n: int) -> None:
    share, size = np.abs(goal) / np.abs(goal).sum(), np.log10(np.abs(mean) / np.abs(goal).sum() + 1e-30)
    right, x = mean * goal > 0, np.log10(share)
    low = min(int(np.floor(x.min())), -2)
    line = np.linspace(low, 0, 50)
    axes.plot(line, line, color=BLACK, linewidth=1.2, label="the truth")
    axes.plot(line, (line + np.log10((1 + 10**line) / n)) / 2, "--", color=ORANGE, linewidth=1.5, label="noise of the mean")
    counts = np.isin(np.arange(len(goal)), blocks)
    axes.plot(x[~counts], np.clip(size[~counts], low - 0.9, 0.9), ".", color=GREY, markersize=5)
    for sign, marker, fill, label in ((right, "o", BLUE, "right sign"), (~right, "s", "white", "wrong sign")):
        chosen = sign & counts
        colour = BLUE if marker == "o" else RED
        axes.plot(x[chosen], np.clip(size[chosen], low - 0.9, 0.9), marker, color=colour, markerfacecolor=fill, markersize=6,
                  linestyle="none", label=label)  # fmt: skip
    axes.set(xlim=(low - 0.1, 0.1), ylim=(low - 1, 1))
    axes.legend(fontsize=9.5, frameon=True, loc="upper left")
    wrong, of = int((~right[blocks]).sum()), len(blocks)
    frame(axes, f"n = {n}: {wrong} of {of} signs are wrong", "share of the squared gradient", "size in the mean")
    axes.yaxis.set_label_coords(-0.55 / (axes.get_window_extent().width / axes.figure.dpi), 0.5)
    decades(axes.xaxis, low, 0)
    decades(axes.yaxis, low, 0)
