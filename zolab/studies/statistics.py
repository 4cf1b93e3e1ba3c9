"""How two methods are compared, everywhere in zolab: paired by seed, with intervals, counted and corrected.

Fixed target: the forward passes that a run takes until its smoothed dev loss (median of its last three evaluations) is at or
below a target that the base method sets, its mean final loss. A run that never gets there is censored: it counts with all of
its forward passes, which draws a ratio towards one. Methods are compared by the ratio of medians, with a bootstrap over seeds.
A target above the loss before training, such as one diverged run leaves, says nothing: every run is there at once, and the
ratio counts as one.

Equal budget: differences of the final dev loss, and of the mean of the loss curve over the logarithm of forward passes, with
the t interval of their mean over seeds. Several differences are judged together, with Holm's correction.

Across tasks: geometric means of ratios and means of differences, with the t interval over tasks, each of which counts as one
number. What the seeds add to its spread shows in how the tasks differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 4000
SMOOTHING = 3  # evaluations
FEWEST = 6
"""Runs whose whole range covers a median with 95 %: of n, with 1 - 2^(1 - n). A bootstrap of fewer decides nothing."""
FEWEST_TASKS = 3
"""Tasks that an interval over tasks takes."""


@dataclass(frozen=True)
class Runs:
    """One method on one task, a row for each seed.

    Args:
        forwards: forward passes at each evaluation, shape (evaluations,).
        losses: dev losses, shape (seeds, evaluations); a run that diverged is infinite throughout.
        metrics: test metric of each seed, a fraction; NaN for a run that diverged.
        seeds: which they are.
        kept: losses were kept at all; a record may hold metrics alone.
    """

    forwards: np.ndarray
    losses: np.ndarray
    metrics: np.ndarray
    seeds: tuple[int, ...]
    kept: bool = True

    @property
    def final(self) -> np.ndarray:
        """Last dev loss of each seed."""
        return self.losses[:, -1]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Args:
        value: the number.
        low, high: ends of the interval, infinite where runs diverged or there are too few; NaN where there is none.
        null: what no effect would give: one for ratios, zero for differences.
        bound: "≤" or "≥" where censored or diverged runs leave only a bound, "–" where they, or a void target, leave nothing.
        p: of a two-sided test against `null`, NaN where there is none.
        n: runs or tasks behind it.
        least: so many of them it takes to decide anything.
    """

    value: float
    low: float
    high: float
    null: float = 0.0
    bound: str = ""
    p: float = float("nan")
    n: int = 0
    least: int = 2

    @property
    def word(self) -> str:
        """lower, higher or undecided: whether the interval leaves out no effect."""
        if self.n < self.least:
            return "undecided"
        return "lower" if self.high < self.null else "higher" if self.low > self.null else "undecided"

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """Such as 0.80 (0.55 to 1.30), 0.80 (–) where there is no interval, or ≤ 0.80 (…) where there is only a bound."""
        form = f"{'+' if sign else ''}.{digits}f"
        low, high = (f"{end:{form}}" if np.isfinite(end) else "-∞" if end < 0 else "∞" for end in (self.low, self.high))
        if self.bound == "–" or not np.isfinite(self.value):
            return "–"
        if np.isnan(self.low) and np.isnan(self.high):
            return f"{self.bound + ' ' if self.bound else ''}{self.value:{form}} (–)"
        return f"{self.bound + ' ' if self.bound else ''}{self.value:{form}} ({low} to {high})"


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Median of the last `SMOOTHING` evaluations at each evaluation; of those that there are at the first ones."""
    return np.stack([np.median(losses[..., max(0, k - SMOOTHING + 1) : k + 1], axis=-1) for k in range(losses.shape[-1])], -1)


def target_of(base: Runs) -> float:
    """Mean final dev loss of the base method, over the seeds that did not diverge."""
    finite = base.final[np.isfinite(base.final)]
    return float(finite.mean()) if len(finite) else float("nan")


def forwards_to(runs: Runs, target: float) -> np.ndarray:
    """Forward passes of each seed until its smoothed dev loss is at or below a target, linear in between; infinite if never."""
    passes = np.full(len(runs.losses), np.inf)
    for i, curve in enumerate(smoothed(runs.losses)):
        below = np.flatnonzero(curve <= target)
        if len(below):
            k = below[0]
            share = 0.0 if k == 0 else (curve[k - 1] - target) / (curve[k - 1] - curve[k])
            before = runs.forwards[max(k - 1, 0)]
            passes[i] = before + share * (runs.forwards[k] - before)
    return passes


def log_mean(runs: Runs) -> np.ndarray:
    """Mean of each seed's loss curve over the logarithm of forward passes, from the first evaluation after training began."""
    x, y = np.log(runs.forwards[1:]), runs.losses[:, 1:]
    if len(x) < 2:
        return runs.final
    return ((y[:, 1:] + y[:, :-1]) / 2 * np.diff(x)).sum(1) / (x[-1] - x[0])


def median(values: np.ndarray) -> Estimate:
    """Median with the interval of order statistics: it covers the true one with 95 % or more, whatever the distribution.

    Args:
        values: one for each run, infinite for one that never arrived. Fewer than `FEWEST` give no interval: its ends are NaN.
    """
    ordered, n = np.sort(values), len(values)
    k = int(stats.binom(n, 0.5).ppf((1 - LEVEL) / 2))  # fewer than k of n lie below the median with at most 2.5 %
    low, high = (float(ordered[k - 1]), float(ordered[n - k])) if k else (float("nan"), float("nan"))
    middle = ordered[[(n - 1) // 2, n // 2]]
    return Estimate(float(middle.mean()), low, high, null=float("nan"), n=n, least=FEWEST)


class Ratio:
    """Forward passes to a target, over those of the base method: the ratio of medians over the same seeds.

    Args:
        ours, base: runs of the same seeds.
        target: dev loss, held fixed where seeds are drawn anew; by default `target_of` the base.

    Attributes:
        reached: how many runs of each got there.
        void: the target is not below the median loss of the base method before training.
        bound: of an `Estimate`.
    """

    def __init__(self, ours: Runs, base: Runs, target: float | None = None):
        target = target_of(base) if target is None else target
        self.void = target >= float(np.median(base.losses[:, 0]))
        times, self.limits = [forwards_to(runs, target) for runs in (ours, base)], (ours.forwards[-1], base.forwards[-1])
        self.reached = tuple(int(np.isfinite(t).sum()) for t in times)
        self.times = [np.maximum(np.minimum(t, limit), 1.0) for t, limit in zip(times, self.limits, strict=True)]
        ours_late, base_late = (np.median(t) >= limit for t, limit in zip(self.times, self.limits, strict=True))
        self.bound = "–" if self.void or (ours_late and base_late) else "≥" if ours_late else "≤" if base_late else ""
        if self.bound == "–":  # budgets that differ by a pass or two are no ratio, either
            self.times = [np.ones(len(t)) for t in times]
        self.n = len(ours.seeds)

    def __call__(self, orders: np.ndarray) -> np.ndarray:
        """Logarithm of the ratio for seeds drawn anew: from indices of shape (..., seeds) to shape (...)."""
        ours, theirs = (np.median(t[orders], axis=-1) for t in self.times)
        return np.log(ours / theirs)

    def estimate(self, draws: int = DRAWS, seed: int = 0) -> Estimate:
        """With a bootstrap over seeds."""
        value, ends = float(np.exp(self(np.arange(self.n)))), np.exp(interval(self(_orders(self.n, draws, seed))))
        ends = ends if self.n > 1 else (np.nan, np.nan)  # one run has no spread
        return Estimate(value, *map(float, ends), null=1.0, bound=self.bound, n=self.n, least=FEWEST)


def difference(ours: np.ndarray, base: np.ndarray) -> Estimate:
    """Mean of paired differences with its t interval and test.

    Args:
        ours, base: one value for each seed, infinite where a run diverged. The mean is over the pairs that neither lost; the
            interval is open on the side of the method that lost more runs, and the test is Fisher's exact one of how many each
            lost.
    """
    both = np.isfinite(ours) & np.isfinite(base)
    gaps, lost = ours[both] - base[both], int(np.isinf(ours).sum() - np.isinf(base).sum())
    n = len(gaps)
    mean = float(gaps.mean()) if n else float("nan")
    error = float(gaps.std(ddof=1) / n**0.5) if n > 1 else float("inf")
    known = n > 1 and (error > 0 or mean == 0)  # equal gaps, as few test examples give, have no spread to judge them by
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error if known else float("inf")
    if lost:
        ends = (mean - half, np.inf) if lost > 0 else (-np.inf, mean + half)
        table = [[np.isinf(values).sum(), np.isfinite(values).sum()] for values in (ours, base)]
        return Estimate(mean, *ends, bound="≥" if lost > 0 else "≤", p=float(stats.fisher_exact(table).pvalue), n=len(ours))
    p = float("nan") if not known else float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else 1.0
    return Estimate(mean, mean - half, mean + half, p=p, n=n)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of several tests; NaN stays NaN and counts as one of them."""
    values = np.array([1.0 if np.isnan(p) else p for p in ps])
    order, adjusted = np.argsort(values), np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))))
    return [float("nan") if np.isnan(p) else float(a) for p, a in zip(ps, adjusted, strict=True)]


def geometric_ratio(ratios: Sequence[Ratio]) -> Estimate:
    """Geometric mean over tasks of ratios of forward passes, with the t interval of their logarithms.

    A task on which they cannot be compared counts as one, which draws the mean to one; if none can be, the mean is a dash.
    Where all can be, and there are bounds of one side, the mean is such a bound.
    """
    logs = np.array([float(ratio(np.arange(ratio.n))) for ratio in ratios])
    mean = _over_tasks(difference(logs, np.zeros(len(logs))))
    value, low, high = map(float, np.exp([mean.value, mean.low, mean.high]))
    bounds = {ratio.bound for ratio in ratios}
    bound = max(bounds) if bounds in ({"–"}, {"≥"}, {"≤"}, {"", "≥"}, {"", "≤"}) else ""
    return Estimate(value, low, high, null=1.0, bound=bound, p=mean.p, n=mean.n, least=FEWEST_TASKS)


def mean_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Mean over tasks of the mean paired difference, with its t interval.

    Args:
        pairs: values of a method and of the base method, of each task, one for each seed, infinite where a run diverged: where
            one of the two lost more runs, the task leaves only a bound.
    """
    by_task = [difference(ours, base) for ours, base in pairs]
    gaps = [{"≥": np.inf, "≤": -np.inf}.get(gap.bound, np.nan_to_num(gap.value)) for gap in by_task]  # 0 where both lost all
    ours, base = np.maximum(gaps, 0.0), np.maximum(np.negative(gaps), 0.0)  # so that an infinite gap is infinite on one side
    return _over_tasks(difference(ours, base))


def _over_tasks(mean: Estimate) -> Estimate:
    """The mean, without interval and test where there are too few tasks: of two, the spread says next to nothing."""
    return mean if mean.n >= FEWEST_TASKS else replace(mean, low=np.nan, high=np.nan, p=np.nan, least=FEWEST_TASKS)


def _orders(n: int, draws: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(n, size=(draws, n))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Quantiles of bootstrap draws, each one of the draws, so that infinite ones do no harm."""
    tail = (1 - LEVEL) / 2
    return float(np.quantile(values, tail, method="lower")), float(np.quantile(values, 1 - tail, method="higher"))
