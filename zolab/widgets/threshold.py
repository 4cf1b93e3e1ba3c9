"""A threshold on a model's probability: how many answers it gets right, and what no threshold changes."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, ORANGE, RED
from zolab.tasks.judgement import auc
from zolab.widgets.controls import number
from zolab.widgets.drawing import canvas, drawing, frame
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore

REACH = 8.0  # log-odds of the threshold
HALF, CLOSE = 0.5, 0.01
HINTS = (
    "Nearly all sentences lie on one side of 0. Move the threshold into the middle of the dots.",
    "A threshold beyond most sentences gives one answer to all of them: right for one class, wrong for the other.",
    "Where the two curves of the left picture cross, a step to either side loses as much as it gains.",
)


def threshold_view(scores: np.ndarray, answers: np.ndarray, threshold: float = 0.0) -> View:
    """Which answers a threshold on the log-odds makes, and where it stands on the curve of all thresholds.

    The goals: more right answers than at even odds, then at least half of each class, then nearly as many as any threshold has.

    Args:
        scores: probability of the second answer for each example, in (0, 1), shape (examples,).
        answers: the right answer of each, 0 or 1, shape (examples,).
        threshold: log-odds from which on the second answer is given, -8 to 8; 0 is a probability of one half.

    Raises:
        ValueError: the threshold is out of range, probabilities are, or a class has no example.
    """
    check_ranges(threshold=(threshold, -REACH, REACH))
    scores, answers = np.asarray(scores, float), np.asarray(answers)
    if scores.shape != answers.shape or scores.ndim != 1 or not np.all((scores > 0) & (scores < 1)):
        raise ValueError(f"scores must be probabilities, one for each answer; got shapes {scores.shape} and {answers.shape}.")
    if set(answers.tolist()) != {0, 1}:
        raise ValueError(f"answers must be 0 and 1, both of them, got {sorted(set(answers.tolist()))}.")
    odds = np.log(scores) - np.log1p(-scores)
    cuts = np.concatenate([[-np.inf], np.sort(odds)])
    rates = np.array([[np.mean(odds[answers == kind] > cut) for kind in (0, 1)] for cut in cuts])  # of the second answer
    share = np.mean(answers)
    best = float((share * rates[:, 1] + (1 - share) * (1 - rates[:, 0])).max())
    right = {kind: float(np.mean((odds[answers == kind] > threshold) == kind)) for kind in (0, 1)}
    accuracy, even = (float(np.mean((odds > cut) == answers)) for cut in (threshold, 0.0))
    with drawing():
        figure = canvas(3.8)
        _draw_odds(figure.add_axes((0.075, 0.14, 0.5, 0.75)), odds, answers, threshold)
        _draw_curve(figure.add_axes((0.66, 0.14, 0.32, 0.75)), rates, (1 - right[0], right[1]), auc(scores, answers))
    levels = (
        Level(f"more right answers than the {even:.1%} at even odds", accuracy > even, HINTS[0]),
        Level(f"also at least {HALF:.0%} right of each class", min(right.values()) >= HALF, HINTS[1]),
        Level(f"within {CLOSE:.0%} of the {best:.1%} that the best threshold has", accuracy >= best - CLOSE - 1e-9, HINTS[2]),
    )
    chance = 1 / (1 + np.exp(-threshold))
    each = f"{right[0]:.0%} of one class, {right[1]:.0%} of the other"
    return View(figure, levels, f"{accuracy:.1%} are right above a probability of {chance:.3g}, {each}")


def threshold_panel(scores: np.ndarray | None = None, answers: np.ndarray | None = None, threshold: float = 0.0) -> Panel:
    """A panel over `threshold_view`.

    Args:
        scores, answers: as there; without them, 200 drawn examples of a model that prefers one answer.
        threshold: where the slider begins.
    """
    if scores is None or answers is None:
        scores, answers = drawn()
    view = partial(threshold_view, np.asarray(scores), np.asarray(answers))
    return explore(view, threshold=number("threshold", threshold, -REACH, REACH, 0.05))


def drawn(examples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and answers of a model whose log-odds differ by one standard deviation between classes, around -2."""
    rng = np.random.default_rng(0)
    answers = np.arange(examples) % 2
    return 1 / (1 + np.exp(2.0 - rng.normal(size=examples) - answers)), answers


def _draw_odds(axes: Axes, odds: np.ndarray, answers: np.ndarray, threshold: float) -> None:
    at, top = np.linspace(-REACH, REACH, 161), 0.0
    for kind, colour, label in ((0, ORANGE, "first answer is right"), (1, BLUE, "second answer is right")):
        own = odds[answers == kind]
        width = 1.06 * max(own.std(), 0.1) * len(own) ** -0.2  # Silverman's rule
        density = np.exp(-(((at[:, None] - own) / width) ** 2) / 2).sum(1) / (len(own) * width * np.sqrt(2 * np.pi))
        top = max(top, density.max())
        axes.plot(at, density, color=colour, linewidth=1.8, label=label)
        axes.plot(
            np.clip(own, -REACH, REACH), np.full(len(own), -0.03 - 0.03 * kind), "|", color=colour, markersize=6, alpha=0.7
        )
    axes.axvline(threshold, color=RED, linewidth=1.5)
    axes.set(xlim=(-REACH, REACH), ylim=(-0.09, 1.4 * top))
    axes.legend(fontsize=10, frameon=True, loc="upper left")
    frame(axes, "how often which log-odds occur", "log-odds of the second answer (red: threshold)")


def _draw_curve(axes: Axes, rates: np.ndarray, point: tuple[float, float], area: float) -> None:
    axes.plot(rates[:, 0], rates[:, 1], color=BLACK, linewidth=1.5)
    axes.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8, linestyle=":")
    axes.plot(*point, "o", color=RED, markeredgecolor=BLACK, markersize=9, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    frame(axes, f"ROC curve, AUC {area:.2f}", "second answer where it is wrong", "where it is right")
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
