"""Scales that one half of some examples gives, judged by the other half: what is left of a predicted gain on new examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zolab.probe.blocks import RULES, kind_of
from zolab.theory.signal import Signal, gain, grouped, terms_of, totals
from zolab.theory.terms import StepTerms, check_finite, shared_sigma

GROUPINGS: dict[str, Callable[[str], str]] = {**RULES, "kind": kind_of}
"""What blocks share a scale: each its own, those of a layer, those of a kind of tensor."""
EMBEDDING = "embed"
ESTIMATES = ("G", "V", "t")
FEWEST_GROUPS = 6
"""Of examples: so that each of two halves has an error bar."""


@dataclass(frozen=True)
class Judged:
    """What a way to choose scales gains.

    Args:
        own: with the examples that chose them, the mean of both halves.
        other: with the other half's, the mean of both ways round.
        error: standard error of `other`, of the judging examples alone.
    """

    own: float
    other: float
    error: float


@dataclass(frozen=True)
class Estimates:
    """G_j, V_j and t_j that were kept, without the examples' groups.

    Args:
        names, sizes: of the blocks; sizes are d_j.
        estimates: of shape (3, blocks).
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    estimates: np.ndarray

    def merged(self, grouping: Callable[[str], str]) -> "Estimates":
        """Those of larger blocks: those that a function gives one name are one."""
        names, place = grouped(self.names, grouping)
        return Estimates(names, totals(self.sizes, place), totals(self.estimates, place))

    def ordered(self, names: Sequence[str]) -> "Estimates":
        """The same, the blocks in another order.

        Raises:
            ValueError: the blocks are others, or numbers are missing.
        """
        lengths = {len(self.names), len(self.sizes), self.estimates.shape[-1]}
        if sorted(names) != sorted(self.names) or lengths != {len(names)} or len(self.estimates) != len(ESTIMATES):
            raise ValueError(f"these statistics are not of the {len(names)} blocks {', '.join(names[:3])} and so on.")
        place = [self.names.index(name) for name in names]
        return Estimates(tuple(names), self.sizes[place], self.estimates[:, place])

    def terms(self, batch: int) -> StepTerms:
        """As of `Signal`."""
        return terms_of(self.sizes, self.estimates, batch)


def halves_of(point: Mapping[str, Any]) -> tuple[Estimates, Estimates]:
    """Statistics of both halves of the examples of a point of a kept gain map."""
    names, sizes = tuple(point["blocks"]), np.array(point["sizes"], float)
    one, two = (Estimates(names, sizes, np.array(half, float)) for half in point["halves"])
    return one, two


def all_of(point: Mapping[str, Any], grouping: str) -> Estimates:
    """Those of all examples of such a point, by layer or by kind as they were kept.

    By tensor they are the mean of both halves, which lacks the products of gradients of one half and the other.

    Args:
        point: of a kept gain map.
        grouping: one of `GROUPINGS`.
    """
    if grouping not in point:
        one, two = halves_of(point)
        return Estimates(one.names, one.sizes, (one.estimates + two.estimates) / 2)
    rows = point[grouping]
    estimates = [[row[name][0] for row in rows.values()] for name in ESTIMATES]
    return Estimates(tuple(rows), np.array([row["size"] for row in rows.values()], float), np.array(estimates, float))


def noise_scales(statistics: Signal | Estimates, grouping: Callable[[str], str]) -> np.ndarray:
    """sigma_j^2 proportional to G / V, one for the blocks that a grouping puts together; negative G count as 0.

    Where noise rules and t is proportional to V, a step gains the more, the more of it lies in the block of the highest G / V:
    these scales prefer such blocks in proportion, and do not go that far. Ones where no block has a signal.

    Args:
        statistics: statistics of the blocks.
        grouping: from a block's name to that of its group.
    """
    return _scales(statistics, grouping, lambda signals, noises: signals / np.maximum(noises, 1e-300))


def shared_signal(statistics: Sequence[Estimates], batch: int) -> np.ndarray:
    """One sigma per block for several tasks: sigma_j^2 is the mean of theirs by `noise_scales`, each on the budget.

    Args:
        statistics: of each task, the blocks being the same.
        batch: examples in a minibatch; these scales do not depend on it.
    """
    squares = [np.square(noise_scales(each, str)) for each in statistics]
    return np.sqrt(np.mean([s / np.average(s, weights=of.sizes) for s, of in zip(squares, statistics, strict=True)], axis=0))


def shared_best(statistics: Sequence[Estimates], batch: int) -> np.ndarray:
    """The same by `zolab.theory.terms.shared_sigma`, the best of one step; arguments as there."""
    return shared_sigma([each.terms(batch) for each in statistics])


def shrunk(sigma: np.ndarray, weight: float) -> np.ndarray:
    """Scales with the square 1 - weight + weight sigma_j^2: on the budget if sigma is, and less concentrated.

    Args:
        sigma: of the blocks.
        weight: between 0, where all are 1, and 1.
    """
    return np.sqrt(1 - weight + weight * np.square(sigma))


def transferred(
    halves: Sequence[tuple[Estimates, Estimates]], choose: Callable[[Estimates], np.ndarray], batch: int
) -> np.ndarray:
    """Gains of scales that one task's examples choose, judged by another's.

    Args:
        halves: of each task, statistics of both halves of its examples.
        choose: scales from statistics.
        batch: examples in a minibatch.

    Returns:
        Shape (tasks, tasks, 2, 2): chosen by a task's half, judged by another task's half. NaN where both are one half.
    """
    scales = [[choose(half) for half in pair] for pair in halves]
    out = np.full((len(halves), len(halves), 2, 2), np.nan)
    for a, b, i, j in np.ndindex(out.shape):
        if (a, i) != (b, j):
            out[a, b, i, j] = gain(halves[b][j].terms(batch), scales[a][i])
    return out


def ratio_scales(statistics: Signal, grouping: Callable[[str], str], batch: int) -> np.ndarray:
    """sigma_j^2 proportional to G / (V / batch + G), one for the blocks that a grouping puts together; negative G count as 0.

    Where noise rules it is a block's signal to noise. Ones where no block has a signal.

    Args:
        statistics: statistics of the blocks.
        grouping: from a block's name to that of its group.
        batch: examples in a minibatch.
    """
    return _scales(
        statistics, grouping, lambda signals, noises: signals / np.maximum(signals + np.maximum(noises, 0) / batch, 1e-300)
    )


def _scales(
    statistics: Signal | Estimates, grouping: Callable[[str], str], ratio: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """sigma_j whose squares are a function of each group's G, not below 0, and V; ones where that is 0 everywhere."""
    merged = statistics.merged(grouping)
    check_finite(merged.terms(1))
    _, place = grouped(statistics.names, grouping)
    signals, noises, _ = merged.estimates
    squares = ratio(np.maximum(signals, 0), noises)
    return np.sqrt(squares)[place] if squares.any() else np.ones(len(place))


def best_scales(statistics: Signal, batch: int) -> np.ndarray:
    """The scales with which one step gains most, one for each block; ones where no block has a signal, or none is curved."""
    terms = statistics.terms(batch)
    return terms.best_sigma() if (terms.squares > 0).any() and terms.traces.any() else np.ones(len(terms.sizes))


def density_scales(statistics: Signal) -> np.ndarray:
    """sigma_j^2 proportional to G_j / d_j; ones where no block has a signal."""
    squared = np.maximum(statistics.estimates[0], 0)
    return np.sqrt(squared / statistics.sizes) if squared.any() else np.ones(len(squared))


def without_embedding(names: Sequence[str]) -> np.ndarray:
    """Sigma of blocks by their names: one for all but embeddings, which stay as they are."""
    return np.array([0.0 if EMBEDDING in name else 1.0 for name in names])


def chosen(statistics: Signal, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Scales by every way that the map compares, from the same statistics.

    Args:
        statistics: of the examples that may choose.
        batch: examples in a minibatch.
        seed: of the permutation.
    """
    ways = {f"signal to noise by {name}": ratio_scales(statistics, rule, batch) for name, rule in GROUPINGS.items()}
    ways |= {f"G / V by {name}": noise_scales(statistics, rule) for name, rule in GROUPINGS.items()}
    by_layer = ways["signal to noise by layer"]
    ways["the same, permuted"] = by_layer[np.random.default_rng(seed).permutation(len(by_layer))]
    ways["best of one step"] = best_scales(statistics, batch)
    ways["density"] = density_scales(statistics)
    if 0 < (fixed := without_embedding(statistics.names)).sum() < len(fixed):
        ways["embedding frozen"] = fixed
    return ways


def judged(statistics: Signal, batch: int, seed: int = 0) -> dict[str, Judged]:
    """Each way's gain, in sample and on the other half.

    Args:
        statistics: of at least `FEWEST_GROUPS` groups.
        batch: examples in a minibatch.
        seed: of the permutation.

    Raises:
        ValueError: there are fewer groups.
    """
    if len(statistics) < FEWEST_GROUPS:
        raise ValueError(f"both halves need error bars: at least {FEWEST_GROUPS} groups of examples, got {len(statistics)}.")
    halves = statistics.halves()
    scales = [chosen(half, batch, seed) for half in halves]
    out = {}
    for way in scales[0]:
        own = [gain(half.terms(batch), mine[way]) for half, mine in zip(halves, scales, strict=True)]
        other = [half.gain(theirs[way], batch) for half, theirs in zip(halves, reversed(scales), strict=True)]
        values, errors = np.array(other).T
        out[way] = Judged(float(np.mean(own)), float(values.mean()), float(np.hypot(*errors) / 2))
    return out


def agreement(statistics: Signal) -> Mapping[str, float]:
    """Correlation of both halves' G / V over layers and over kinds; NaN where there is only one of them."""
    out = {}
    for name in ("layer", "kind"):
        merged = [half.merged(GROUPINGS[name]).estimates for half in statistics.halves()]
        ratios = [squared / np.maximum(variances, 1e-300) for squared, variances, _ in merged]
        out[name] = float(np.corrcoef(*ratios)[0, 1]) if len(ratios[0]) > 1 else float("nan")
    return out


def noise_rank(statistics: Signal) -> float:
    """(tr S)^2 / tr(S^2) of the covariance S of an example's gradient: in how many directions its noise lies.

    From the products of two groups' mean gradients, (g + e_k)'(g + e_l), e_k being a group's noise. What belongs to one group,
    g'e_k, is taken out; the variance of what is left, e_k'e_l, is tr(S^2) over the sizes of both groups.

    Args:
        statistics: of at least 4 groups.
    """
    groups, sizes = len(statistics), np.outer(statistics.counts, statistics.counts)
    products = statistics.products.sum(-1) / sizes
    np.fill_diagonal(products, 0)
    means = products.sum(1) / (groups - 1)
    own = (groups - 1) / (groups - 2) * (means - means.mean())
    pairs = np.triu_indices(groups, 1)
    left = (products - means.mean() - own[:, None] - own)[pairs]
    variance = np.square(left).sum() / (len(left) - groups)
    return float(statistics.estimates[1].sum() ** 2 / max(variance * sizes[pairs].mean(), 1e-300))
