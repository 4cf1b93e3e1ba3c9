"""Zeroth-order optimizers, one file each, and the probe they share."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from zolab.optim.adamezo import AdaMeZO
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.meazo import MEAZO
from zolab.optim.mezo import MeZO
from zolab.optim.mezo_adam import MeZOAdam
from zolab.optim.mezo_momentum import MeZOMomentum
from zolab.optim.mezo_switch import MeZOSwitch
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.optim.zo_adamu import ZOAdaMU
from zolab.optim.zo_finetuner import ZOFineTuner

METHODS: dict[str, type[ZeroOrderOptimizer]] = {
    "mezo": MeZO,
    "mezo_momentum": MeZOMomentum,
    "mezo_adam": MeZOAdam,
    "mezo_switch": MeZOSwitch,
    "adamezo": AdaMeZO,
    "meazo": MEAZO,
    "zo_adamu": ZOAdaMU,
    "zo_finetuner": ZOFineTuner,
}


def replay(model: nn.Module | Iterable, trajectory: Trajectory) -> ZeroOrderOptimizer:
    """Turn base weights into fine-tuned weights by taking a run's steps again, without forward passes.

    Args:
        model: the base model, or the parameters in the order and grouping that the run's optimizer was given.
        trajectory: from `optimizer.trajectory` or `Trajectory.load`.

    Returns:
        The optimizer, ready to go on with the run.

    Raises:
        ValueError: the trajectory's method is unknown, or its steps do not follow each other.
    """
    by_class = {method.__name__: method for method in METHODS.values()}
    if trajectory.method not in by_class:
        raise ValueError(f"no method called {trajectory.method}; the methods are {', '.join(by_class)}.")
    params = model.named_parameters() if isinstance(model, nn.Module) else model
    samples: dict[str, Any] = {} if trajectory.samples == 1 else {"samples": trajectory.samples}
    settings: dict[str, Any] = {"eps": trajectory.eps, "seed": trajectory.seed, **samples, **trajectory.settings}
    optimizer = by_class[trajectory.method](params, **settings)
    optimizer.replay(trajectory.records)
    return optimizer


__all__ = [
    "MEAZO",
    "METHODS",
    "AdaMeZO",
    "MeZO",
    "MeZOAdam",
    "MeZOMomentum",
    "MeZOSwitch",
    "StepRecord",
    "Trajectory",
    "ZOAdaMU",
    "ZOFineTuner",
    "ZeroOrderOptimizer",
    "replay",
]
