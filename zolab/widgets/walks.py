"""Walks by the name of a method, each taken once: what a moved control does not touch is not walked again."""

from functools import lru_cache, partial

from zolab.landscapes import LANDSCAPES, Descent, Landscape, Protocol, numbers
from zolab.optim.checks import check_betas
from zolab.plots import METHOD_COLOURS

FIRST_ORDER = {"Adam": numbers.adam, "SGD": numbers.sgd}
METHODS = {
    **{"MeZO": numbers.mezo, "AdaMeZO": numbers.adamezo, "MEAZO": numbers.meazo, "MeZO-Adam": numbers.mezo_adam},
    **{"MeZO-momentum": numbers.mezo_momentum, "ZO-AdaMU": numbers.zo_adamu},
}
MOST_STEPS = 2500  # as in AdaMeZO's longest figure


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
    """Walk on a landscape in plain numbers, as `zolab.landscapes.run` does with the optimizers themselves.

    Args:
        landscape: key of `LANDSCAPES`.
        method: key of `METHOD_COLOURS`.
        lr, eps, seed: of the method; a first-order method takes only lr.
        steps: how many.
        horizon, betas: of AdaMeZO, in the paper's scaling.
        fixed: two directions in turn, as in AdaMeZO's figure, instead of fresh ones.

    Raises:
        ValueError: there is no such landscape or method, or an argument is out of range.
    """
    place = landscape_of(landscape)
    if steps < 1 or not eps > 0:
        raise ValueError(f"steps must be at least 1 and eps above 0, got {steps} and {eps}.")
    if method in FIRST_ORDER:
        return numbers.take(FIRST_ORDER[method](lr), place, steps)
    if method not in METHODS:
        raise ValueError(f"no method called {method}; the methods are {', '.join(METHOD_COLOURS)}.")
    # The paper's phases for 20,000 steps, shrunk to this walk's length.
    phases = {"phases": (steps // 20, 4 * steps // 5, steps)}
    own = {"AdaMeZO": {"horizon": horizon, "betas": check_betas(betas)}, "ZO-AdaMU": phases}.get(method, {})
    draw = numbers.given(Protocol.directions) if fixed else numbers.draws(seed, place.blocks)
    return numbers.take(partial(METHODS[method], **own)(lr, draw), place, steps, eps)


def landscape_of(key: str) -> Landscape:
    """The landscape of this key. Raises ValueError if there is none."""
    if key not in LANDSCAPES:
        raise ValueError(f"no landscape called {key}; the landscapes are {', '.join(LANDSCAPES)}.")
    return LANDSCAPES[key]
