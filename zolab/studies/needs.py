"""What a cell of a plan declares to a cluster: cores, GPUs, and the main memory that it is predicted to take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from zolab.models import KEPT
from zolab.runs.config import Config, require
from zolab.runs.memory import Tokens, predicted, weights_of
from zolab.studies.cost import planned
from zolab.studies.expected import TOKENS
from zolab.studies.plan import Plan, configuration, variants
from zolab.tasks import load_task
from zolab.tasks.packing import PACK_TOKENS

PROCESS = 1_000_000_000
"""Bytes of a process before it loads a model: Python, torch, the libraries around them, and the data of a task."""


@dataclass(frozen=True)
class Needs:
    """Of a cell.

    Args:
        cpus: cores, and torch's threads.
        gpus: of one machine, or a part of one.
        memory: bytes of main memory.
    """

    cpus: int
    gpus: float
    memory: int

    def __str__(self) -> str:
        return described(self.cpus, self.gpus, self.memory)

    def fit(self, cpus: float, gpus: float, memory: float) -> int:
        """How many such cells have room at once on a machine."""
        pairs = ((cpus, self.cpus), (gpus, self.gpus), (memory, self.memory))
        return min(math.floor(available / needed) for available, needed in pairs if needed)


def described(cpus: float, gpus: float, memory: float) -> str:
    """So much of a machine, for people."""
    return f"{cpus:g} CPU{'s' * (cpus != 1)}, {gpus:g} GPU{'s' * (gpus != 1)} and {memory / 1e9:.1f} GB"


def needs_of(plan: Plan, cpus: int = 1, gpus: float | None = None, memory: float | None = None) -> Needs:
    """What each cell of a plan declares: room for the largest of them, so that a worker may run them all.

    Args:
        plan: the plan.
        cpus: cores.
        gpus: GPUs; one by default where the plan's device is cuda, none elsewhere.
        memory: bytes of main memory; predicted by default, from the models' configurations and the length of texts.

    Raises:
        ValueError: a number is out of range, a cell asks for a GPU by its number, or the memory cannot be predicted.
    """
    require(type(cpus) is int and cpus >= 1, f"cpus must be a whole number of at least 1, got {cpus!r}.")
    configs = list(_configurations(plan))
    devices = {config.device for config in configs}
    on_gpu = any(torch.device(device).type == "cuda" for device in devices)
    numbered = [device for device in devices if torch.device(device).index is not None]
    require(not numbered, f"device is {', '.join(numbered)}, and Ray gives each run a GPU of its own: write device: cuda.")
    gpus = float(on_gpu) if gpus is None else gpus
    require(on_gpu or not gpus, f"gpus is {gpus:g}, but the plan's device is {', '.join(devices)}: write device: cuda in it.")
    require(not on_gpu or 0 < gpus < math.inf, f"gpus must be positive where the plan's device is cuda, got {gpus:g}.")
    if memory is None:
        return Needs(cpus, gpus, PROCESS + max(map(_memory, configs)))
    require(0 < memory < math.inf, f"memory must be a positive number of bytes, got {memory:g}.")
    return Needs(cpus, gpus, int(memory))


def _configurations(plan: Plan) -> Iterator[Config]:
    """Of the plan's cells, rates and seeds aside."""
    for task in plan.tasks:
        for own in planned(plan, task).values():
            for way in variants(own):
                yield configuration(plan.settings(task, way, 1e-6, plan.seeds[0]))


def _memory(config: Config) -> int:
    """Main memory of a run, a kept copy of the model included."""
    try:
        weights = sum(tensor.nbytes for tensor in weights_of(config.model, config.dtype))
        copy_bytes = weights if weights <= KEPT else 0
        if torch.device(config.device).type == "cuda":  # weights pass through it
            return weights + copy_bytes
        full = replace(config, tuning="full", tuning_args="") if config.first_order else config  # more than an adapter takes
        return predicted(full, _tokens(config)).total + copy_bytes
    except OSError as error:
        raise ValueError(f"what a run takes cannot be predicted here ({error}): say it with --memory.") from error


def _tokens(config: Config) -> Tokens:
    """Of a batch, or of a pass of an evaluation if that has more."""
    length = TOKENS.get(config.task) or _longest(config.task, config.data_seed, config.train, config.dev, config.test)
    return Tokens(max(config.batch_size, PACK_TOKENS // length), length)


@cache
def _longest(name: str, *drawn: Any) -> int:
    """Tokens of a task's longest training example, at most: a tokenizer makes no more of a text than it has bytes."""
    task = load_task(name)
    sizes = (len("".join((example.prompt, *example.candidates)).encode()) for example in task.sample(*drawn).train)
    return min(task.max_length, max(sizes))
