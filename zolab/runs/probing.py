"""Which way a run's steps see moved weights."""

from collections.abc import Callable
from typing import Any

from torch import nn

from zolab.optim import ZeroOrderOptimizer
from zolab.runs.config import Config


def choose_probe(config: Config, optimizer: Any, model: nn.Module, loss: Callable[[], Any]) -> None:
    """Look through the model where that is better, unless its weights are read elsewhere too.

    Args:
        config: of the run, whose `probe` says what is wanted.
        optimizer: of the run; first-order ones see their weights as they are.
        model: whose modules would be looked through.
        loss: of a batch, for a try.

    Raises:
        ValueError, RuntimeError: the model cannot be looked through, and the configuration wants nothing else.
    """
    if not isinstance(optimizer, ZeroOrderOptimizer):
        return
    better = optimizer.faster_through(config.dtype, config.device)
    if config.probe == "in_place" or (config.probe == "auto" and not better):
        return
    try:
        if viewed := optimizer.look_through(model).viewed:
            viewed.try_out(loss)
    except (ValueError, RuntimeError):
        if config.probe == "through" or config.per_example:
            raise
        optimizer.look_through(None)
