"""Each method at its own best learning rate, found on other seeds than those that are reported."""

import math
from collections.abc import Generator, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple


class SearchResult(NamedTuple):
    """What a search came to.

    Args:
        lr: the rate with the lowest mean loss.
        losses: mean final dev loss of each rate that was tried, None where a run diverged; keys as `rate_name` writes them.
        edge: the best rate is the lowest or highest tried, and the search was not to go further.
        optim_args: the method's own settings with which that is so, where a grid of them was tried.
    """

    lr: float
    losses: dict[str, float | None]
    edge: bool
    optim_args: str | None = None

    @property
    def loss(self) -> float:
        """At the best rate; infinite where it diverged or nothing was tried."""
        known = self.losses.get(rate_name(self.lr))
        return math.inf if known is None else known

    def round(self, seeds: tuple[int, ...]) -> dict[str, Any]:
        own = {} if self.optim_args is None else {"optim_args": self.optim_args}
        return {**own, "seeds": list(seeds) if self.losses else [], "losses": self.losses}


def record_of(results: Sequence[SearchResult], seeds: tuple[int, ...]) -> dict[str, Any]:
    """What a record keeps of a method's search: the best rate, of the best settings of a grid, whose round is the last.

    Args:
        results: for each settings of the grid what its search came to.
        seeds: on which rates were tried.
    """
    best = min(results, key=lambda one: one.loss)
    rounds = [one.round(seeds) for one in (*(one for one in results if one is not best), best)]
    return {"lr": best.lr, "edge": best.edge, "rounds": rounds}


def rate_name(lr: float) -> str:
    return f"{lr:.3g}"


def spacing(rounds: Sequence[Iterable[str]]) -> str:
    """The factor between neighbouring rates in words, such as "2.1 to 10"; empty where the rates are evenly apart.

    Args:
        rounds: the names of the rates that each of several searches tried.
    """
    steps = sorted(high / low for names in rounds for low, high in pairwise(sorted(map(float, names))))
    even = not steps or steps[-1] < 1.15 * steps[0]
    return "" if even else f"{steps[0]:.2g} to {steps[-1]:.2g}"


Search = Generator[list[tuple[float, int]], dict[tuple[float, int], float], SearchResult]


def best_listed(rates: Sequence[float], seeds: tuple[int, ...], alone: bool = True) -> Search:
    """Try these rates and no others; seeds, and what is yielded and sent, as for `best_rate`.

    Args:
        rates: which. A single one is not tried, unless other settings are tried beside it.
        seeds: as of `best_rate`.
        alone: there are no other settings.
    """
    means: dict[float, float] = {}
    if len(rates) > 1 or not alone:
        losses = yield [(rate, seed) for rate in rates for seed in seeds]
        means = {rate: sum(losses[rate, seed] for seed in seeds) / len(seeds) for rate in rates}
    best = min(rates, key=lambda rate: means.get(rate, 0.0))
    losses_by_rate = {rate_name(rate): loss if math.isfinite(loss) else None for rate, loss in sorted(means.items())}
    return SearchResult(best, losses_by_rate, len(rates) > 1 and best in (min(rates), max(rates)))


def best_rate(start: float, factor: float, extend: int, seeds: tuple[int, ...]) -> Search:
    """Search a learning rate: yields the (rate, seed) pairs that it wants, is sent their losses, returns what it found.

    The start and its two neighbours are tried first; while the best is at an edge, one more rate beyond it, at most `extend`.

    Args:
        start: the middle of the first three rates.
        factor: between neighbouring rates.
        extend: how often the grid may grow.
        seeds: of the runs whose mean final loss judges a rate; infinite where one diverged.
    """
    means: dict[int, float] = {}

    def rate(place: int) -> float:
        return float(rate_name(start * factor**place))

    places = [-1, 0, 1]
    for _ in range(extend + 1):
        losses = yield [(rate(place), seed) for place in places for seed in seeds]
        means |= {place: sum(losses[rate(place), seed] for seed in seeds) / len(seeds) for place in places}
        best = min(sorted(means), key=means.__getitem__)
        if min(means) < best < max(means):
            break
        places = [best - 1 if best == min(means) else best + 1]
    losses_by_rate = {rate_name(rate(place)): means[place] if math.isfinite(means[place]) else None for place in sorted(means)}
    return SearchResult(rate(best), losses_by_rate, not min(means) < best < max(means))
