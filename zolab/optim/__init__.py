"""Zeroth-order optimizers, one file each, and the probe they share."""

from collections.abc import Iterable

from torch import nn

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.mezo import MeZO
from zolab.optim.trajectory import StepRecord, Trajectory

METHODS: dict[str, type[ZeroOrderOptimizer]] = {"mezo": MeZO}


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
    optimizer = by_class[trajectory.method](params, eps=trajectory.eps, seed=trajectory.seed, samples=trajectory.samples)
    optimizer.replay(trajectory.records)
    return optimizer


__all__ = ["METHODS", "MeZO", "StepRecord", "Trajectory", "ZeroOrderOptimizer", "replay"]
