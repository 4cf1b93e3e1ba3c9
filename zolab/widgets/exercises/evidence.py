"""Exercises of notebooks 09 and 11: what runs and printed tables show."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from zolab.pertnn.philox import cuda_linear
from zolab.studies.cost import cells, planned
from zolab.studies.outcomes import Record
from zolab.studies.papers import printed, wins
from zolab.studies.plan import Plan
from zolab.studies.statistics import difference
from zolab.widgets.exercises.entry import Entry, need

TABLE = {"paper": "2510.00419", "table": "1"}
TUNER = "zo_finetuner"


def another_seed(distance: float) -> tuple[bool, str]:
    draws = [cuda_linear(5, 64, seed=seed, offset=0)[0] for seed in range(40)]
    measured = float(np.median([np.median(np.abs(one - other)) for one, other in combinations(draws, 2)]))
    return abs(distance / measured - 1) < 0.05, f"you say {distance:.3f}, 780 pairs of seeds say {measured:.3f}"


def three_seeds(study: Record, by_interval: int, by_errors: int) -> tuple[bool, str]:
    """The study, and of the ten triples of seeds on `passage` how many decide by the t interval, and by two standard errors."""
    ours, theirs = (study.runs("passage", name).final for name in ("trained", "MeZO"))
    apart = [(ours - theirs)[list(triple)] for triple in combinations(range(len(ours)), 3)]
    intervals = sum(difference(each, np.zeros(3)).word != "undecided" for each in apart)
    errors = sum(bool(abs(each.mean()) > 2 * each.std(ddof=1) / 3**0.5) for each in apart)
    now = (
        f"you say {by_interval} and {by_errors}; of {len(apart)} triples {intervals} decide by the interval, {errors} by errors"
    )
    return (by_interval, by_errors) == (intervals, errors), now


def another_order(sigma: Sequence[float], owner: Sequence[str], shuffled: Sequence[float]) -> tuple[bool, str]:
    """`sigma` and `owner` of section 2, and sigma in another order."""
    old, kinds, new = np.asarray(sigma, float), np.asarray(owner), np.asarray(shuffled, float)
    need(old.shape == kinds.shape == new.shape, "all three need an entry for each block.")
    same = all(np.allclose(np.sort(old[kinds == kind]), np.sort(new[kinds == kind])) for kind in set(kinds))
    moved, alike = float(np.mean(~np.isclose(old, new))), float(stats.spearmanr(old, new).statistic)
    now = f"{'only' if same else 'not only'} within kinds, {moved:.0%} of the blocks moved, rank correlation {alike:+.2f}"
    return same and moved > 0.5 and alike > 0.5, now


def count_wins(count: Callable[[np.ndarray], tuple[int, int]]) -> tuple[bool, str]:
    """A function of losses, shape (methods, cells), that counts the cells in which the first method is best."""
    rows = printed(**TABLE, measure="train_loss").pivot(index="method", columns=["model", "task"], values="value")
    rows = rows.fillna(np.inf)  # a method without a number there
    messages, met = [], True
    for others in (tuple(name for name in rows.index if name != TUNER), ("mezo",)):
        answer = tuple(count(rows.loc[[TUNER, *others]].to_numpy()))
        right = tuple(wins("train_loss", TUNER, others, ties=ties, **TABLE)[0] for ties in (False, True))
        met &= answer == right
        messages.append(
            f"beside {len(others)} method{'s' * (len(others) > 1)} you count {answer}, the printed numbers hold {right}"
        )
    return met, "; ".join(messages)


def by_luck(probability: float) -> tuple[bool, str]:
    won, count = wins("train_loss", TUNER, ("mezo",), **TABLE)
    measured = float(stats.binom.sf(won - 1, count, 0.5))
    return abs(
        probability / measured - 1
    ) < 0.02, f"you say {probability:.2g}, for {won} or more of {count} it is {measured:.2g}"


def more_seeds(plan: Plan, seeds: int, runs: int) -> tuple[bool, str]:
    """A plan, another number of reported seeds, and how many runs it then takes at least."""
    need(type(seeds) is int and seeds != len(plan.seeds), f"give another number of seeds than the plan's {len(plan.seeds)}.")
    rows = sum(len(planned(plan, task)) for task in plan.tasks)
    least = cells(plan)[0] + (seeds - len(plan.seeds)) * rows
    return runs == least, f"you say {runs}, {rows} rows of the plan take {least} with {seeds} seeds, searches included"


EVIDENCE: dict[str, Sequence[Entry]] = {
    "09": (
        (
            *("Another seed", 1, 10, "the median distance of two independent draws of W1 by `cuda_linear`, within 5 %"),
            *(
                "draw two seeds, 64 rows of 5 each, and take the median of |difference|; several pairs scatter less",
                another_seed,
            ),
        ),
        (
            *(
                "Three seeds",
                2,
                15,
                "of ten triples of seeds on `passage`, how many decide by the t interval, and how many by two standard errors",
            ),
            *(
                "paired by seed, trained minus MeZO; with three seeds the interval is 4.3 standard errors to each side",
                three_seeds,
            ),
        ),
        (
            *(
                "Another order",
                2,
                15,
                "σ shuffled within kinds of blocks, over half of them moved, with a rank correlation above 0.5",
            ),
            *("a kind with two blocks has one other order; a kind with one has none", another_order),
        ),
    ),
    "11": (
        (
            *("Count again", 1, 10, "a function that counts wins, strictly and with ties, as the printed Table 1 has them"),
            *("strictly: below every other row; with ties: not above any", count_wins),
        ),
        (
            *("By luck", 2, 10, "the probability of so many wins over MeZO if each cell were a coin's, within 2 %"),
            *("a sum over the upper tail of a binomial distribution, the observed number included", by_luck),
        ),
        (
            *("What do seeds cost?", 1, 5, "the least number of runs of a plan with another number of reported seeds"),
            *("searches have seeds of their own: only reported runs grow, one for each row of the price table", more_seeds),
        ),
    ),
}
