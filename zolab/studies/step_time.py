"""What a step of each method costs in time, part by part: forward passes, passes along a direction, and what else there is."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from zolab.l2l import History
from zolab.models import load_model
from zolab.noise import Direction
from zolab.optim import METHODS, StepRecord
from zolab.pertnn import PertNN, features
from zolab.probe.blocks import mean_and_variance, moments, split
from zolab.probe.updates import Update, apply
from zolab.runs.memory import Tokens
from zolab.studies.step_memory import META, loss_of, optimizer_of, step_of

PARTS = ("forward passes", "passes along a direction", "fine-tuner's network", "backward pass and update")
"""Of a step's seconds. What is no forward pass and no network in a zeroth-order step is passes over the weights."""


def step_seconds(model: str, ways: Sequence[str], tokens: Tokens, repeats: int = 3) -> dict[str, dict[str, float]]:
    """Seconds of each of `PARTS` of a step, in float32 on the CPU: medians, forward passes and steps timed in turn.

    Args:
        model: name of the model.
        ways: names of methods, or of `zolab.studies.step_memory.META`.
        tokens: of a batch.
        repeats: timed steps of each.
    """
    seconds, loaded = {}, load_model(model)[0]
    loss = loss_of(loaded, tokens.rows, tokens.length)
    for way in ways:
        with ExitStack() as around:
            step = _past_warm_up(loaded, way, loss) if way in METHODS else step_of(loaded, way, loss, around)
            step_time, forward = in_turn(repeats, step, torch.no_grad()(loss))
        seconds[way] = _parts(way, step_time, forward, network_seconds(loaded) if way == "zo_finetuner" else 0.0)
    return seconds


def direction_seconds(model: nn.Module, repeats: int = 3) -> float:
    """Seconds of one pass along a direction: each weight is read, moved by what is made for it, and written."""
    params = [parameter.data for parameter in model.parameters()]
    blocks = tuple(range(len(params)))
    update = Update(blocks, [Direction(0, 0)], [[1e-12] * len(params)], [1.0] * len(params))
    return in_turn(repeats, lambda: apply(params, update))[0]


@torch.no_grad()
def network_seconds(model: nn.Module, repeats: int = 3) -> float:
    """Seconds in which a PertNN reads the weights' moments and proposes the scales of a step."""
    params, pertnn, start = [parameter.data for parameter in model.parameters()], PertNN(split(model)), History()

    def proposed() -> None:
        mean, variance = mean_and_variance(pertnn.blocks.totals(sums.T).T, pertnn.blocks.sizes)
        pertnn(features(mean, variance, start.losses, start.raw))

    sums = moments(params)  # in a run, part of the pass that takes the step
    return in_turn(repeats, proposed)[0]


def in_turn(repeats: int, *functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each function, called in turn, once before it counts."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, own in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            own.append(time.perf_counter() - began)
    return [statistics.median(own[1:]) for own in times]


def _past_warm_up(model: nn.Module, way: str, loss: Callable[..., Any]) -> Callable[[], Any]:
    """A step whose method remembers as many earlier ones as it ever does."""
    optimizer = optimizer_of(model, way)
    past = range(optimizer.horizon + 1) if hasattr(optimizer, "horizon") else ()
    optimizer.skip([StepRecord(step, (1.0,), (1e-12,), (0.0,)) for step in past])
    closure = (lambda: loss("none")) if optimizer.per_example else loss
    return lambda: optimizer.step(closure)


def _parts(way: str, total: float, forward: float, network: float) -> dict[str, float]:
    if way in METHODS and not METHODS[way].differentiates:
        passes = METHODS[way].forwards(1) * forward
        rest = max(total - passes - network, 0.0)
        return dict(zip(PARTS, (min(passes, total), rest, network, 0.0), strict=True))
    before = 2 * forward if way in META else forward  # the probe of a meta-step
    return dict(zip(PARTS, (min(before, total), 0.0, 0.0, max(total - before, 0.0)), strict=True))
