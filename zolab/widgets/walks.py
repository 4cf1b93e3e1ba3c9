"""Walks by the name of a method, each taken once: what a moved control does not touch is not walked again."""

from functools import lru_cache, partial

import torch

import zolab.optim
from zolab.landscapes import LANDSCAPES, Descent, Landscape, Protocol, run
from zolab.plots import METHOD_COLOURS

FIRST_ORDER = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}
MOST_STEPS = 50  # of four methods at once: more would make a slider's reader wait


@lru_cache(maxsize=256)
def walk(
    landscape: str,
    method: str,
    lr: float,
    eps: float,
    steps: int,
    seed: int,
    horizon: int = 10,
    betas: tuple[float, float] = (0.7, 0.9),
    fixed: bool = False,
) -> Descent:
    """Walk on a landscape; asked again with the same arguments, the same walk is given.

    Args:
        landscape: key of `LANDSCAPES`.
        method: key of `METHOD_COLOURS`.
        lr, eps, seed: of the optimizer; a first-order method takes only lr.
        steps: how many.
        horizon, betas: of AdaMeZO, in the paper's scaling.
        fixed: two directions in turn, as in AdaMeZO's figure, instead of fresh ones.

    Raises:
        ValueError: there is no such landscape or method, or an argument is out of range.
    """
    place = landscape_of(landscape)
    if method in FIRST_ORDER:
        return run(partial(FIRST_ORDER[method], lr=lr), place, steps)
    if method not in METHOD_COLOURS:
        raise ValueError(f"no method called {method}; the methods are {', '.join(METHOD_COLOURS)}.")
    # The paper's phases for 20,000 steps, shrunk to this walk's length.
    phases = {"phases": (steps // 20, 4 * steps // 5, steps)}
    own = {"AdaMeZO": {"horizon": horizon, "betas": betas}, "ZOAdaMU": phases}.get(method, {})
    optimizer = partial(getattr(zolab.optim, method), lr=lr, eps=eps, seed=seed, **own)
    return run(optimizer, place, steps, directions=Protocol.directions if fixed else None)


def landscape_of(key: str) -> Landscape:
    """The landscape of this key. Raises ValueError if there is none."""
    if key not in LANDSCAPES:
        raise ValueError(f"no landscape called {key}; the landscapes are {', '.join(LANDSCAPES)}.")
    return LANDSCAPES[key]
