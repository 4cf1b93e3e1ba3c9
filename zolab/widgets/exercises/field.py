"""Exercises of notebook 04."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from zolab.studies.field_figures import rate_table
from zolab.studies.outcomes import Record
from zolab.studies.statistics import holm
from zolab.widgets.exercises.entry import Entry, need

METHODS, SEEDS = 20, 5


def between_rates(study: Record, name: str, fall: float) -> tuple[bool, str]:
    """The record, a method, and by how much its loss would fall (nats)."""
    names, places, losses = rate_table(study, study.tasks[0])
    below, above = (losses[:, list(places).index(k)] for k in (-1, 1))
    curved, tilted = (below + above) / 2, (above - below) / 2
    falls = {
        method: float(tilted[row] ** 2 / (4 * curved[row]))
        for row, method in enumerate(names)
        if max(below[row], above[row]) < 0.5 and curved[row] > 0
    }
    need(name in falls, f"{name!r} has no two neighbours within half a nat; those that have: {', '.join(falls)}.")
    most = max(falls, key=falls.__getitem__)
    right = name == most and abs(fall - falls[name]) < 0.001
    return right, f"{name} would fall by {falls[name]:.3f} nats, you say {fall:.3f}; the largest fall is {falls[most]:.3f}"


def luck_of_many(probability: float) -> tuple[bool, str]:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(4000, METHODS + 1, SEEDS))  # MeZO comes first
    apart = losses[:, 1:] - losses[:, :1]
    t = apart.mean(-1) / (apart.std(-1, ddof=1) / SEEDS**0.5)
    significant = np.abs(t) > stats.t.ppf(0.975, SEEDS - 1)
    measured, each = float(significant.any(1).mean()), float(significant.mean())
    now = f"you say {probability:.2f}, 4,000 such studies say {measured:.2f}; a single comparison errs in {each:.1%}"
    return abs(probability - measured) < 0.05, now


def holm_by_hand(adjust: Callable[[np.ndarray], Sequence[float]]) -> tuple[bool, str]:
    """A function from p-values to adjusted ones."""
    rng, off = np.random.default_rng(0), 0.0
    for count in (1, 2, 5, 20):
        values = rng.uniform(size=count) ** 3
        answer = np.asarray(adjust(values.copy()), float)
        need(answer.shape == values.shape, f"{count} p-values go in, an array of shape {answer.shape} comes out.")
        off = max(off, float(np.abs(answer - holm(values.tolist())).max()))
    return off < 1e-9, f"on families of 1 to 20 comparisons you are off by at most {off:.2g}"


FIELD: dict[str, Sequence[Entry]] = {
    "04": (
        (
            *(
                "Between two rates",
                2,
                15,
                "the method whose loss would fall most between the rates of the grid, and its fall within 0.001 nats",
            ),
            *("through (-1, a), (0, 0) and (1, b) goes y = (a + b) x² / 2 + (b - a) x / 2", between_rates),
        ),
        (
            *(
                "Luck of many",
                2,
                10,
                "the probability that at least one of 20 methods, all as good as MeZO, is decidedly off it, within 0.05",
            ),
            *(
                "the twenty comparisons share MeZO's runs, so they are not independent: draw such studies and count",
                luck_of_many,
            ),
        ),
        (
            *("Holm by hand", 2, 10, "a function that gives the adjusted p-values of any family of comparisons"),
            *(
                "the smallest of m times m, the next times m - 1, and so on; none above 1, none below the one before it",
                holm_by_hand,
            ),
        ),
    ),
}
