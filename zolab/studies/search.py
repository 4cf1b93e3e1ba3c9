"""Each method at its own best learning rate, found on other seeds than those that are reported."""

import math
from collections.abc import Generator
from typing import Any, NamedTuple


class Found(NamedTuple):
    """What a search came to.

    Args:
        lr: the rate with the lowest mean loss.
        losses: mean final dev loss of each rate that was tried, None where a run diverged; keys as `rate_name` writes them.
        edge: the best rate is the lowest or highest tried, and the search was not to go further.
    """

    lr: float
    losses: dict[str, float | None]
    edge: bool

    def record(self, seeds: tuple[int, ...]) -> dict[str, Any]:
        return {"lr": self.lr, "edge": self.edge, "rounds": [{"seeds": list(seeds), "losses": self.losses}]}


def rate_name(lr: float) -> str:
    return f"{lr:.3g}"


def best_rate(
    start: float, factor: float, extend: int, seeds: tuple[int, ...]
) -> Generator[list[tuple[float, int]], dict[tuple[float, int], float], Found]:
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

    wanted = [-1, 0, 1]
    for _ in range(extend + 1):
        losses = yield [(rate(place), seed) for place in wanted for seed in seeds]
        means |= {place: sum(losses[rate(place), seed] for seed in seeds) / len(seeds) for place in wanted}
        best = min(sorted(means), key=means.__getitem__)
        if min(means) < best < max(means):
            break
        wanted = [best - 1 if best == min(means) else best + 1]
    told = {rate_name(rate(place)): means[place] if math.isfinite(means[place]) else None for place in sorted(means)}
    return Found(rate(best), told, not min(means) < best < max(means))
