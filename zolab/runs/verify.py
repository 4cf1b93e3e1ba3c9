"""A finished run checked from its trajectory: the same weights once more, and the losses that its record claims for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zolab.models import trained_digest
from zolab.optim import Trajectory, replay
from zolab.records import environment, load_record
from zolab.runs.config import Config
from zolab.runs.events import RECORD
from zolab.runs.identity import check_same, identity
from zolab.runs.tuning import load_tuned
from zolab.tasks import Evaluation, Task, load_task

TOLERANCE = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 2e-2}
"""How far a loss, in nats, may be from the recorded one on another machine, by what is computed in."""
CLOSE = 0.02
"""How far a metric, a fraction, may be from it there: an example whose candidates are nearly equal can go either way."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    Args:
        name: of what is compared.
        holds: whether it is as the record says; None where the record says nothing, or weights differ on another kind of device
            than the run's, which says nothing.
        message: what was found, for people.
    """

    name: str
    holds: bool | None
    message: str


def finished(folder: Path, trajectory: Path | None = None) -> tuple[dict[str, Any], Trajectory]:
    """Record and trajectory of a finished run.

    Args:
        folder: of the run.
        trajectory: its file, if it lies elsewhere.

    Raises:
        OSError: one of them is missing.
        ValueError: one of them is damaged or was changed, they are not of the same run, or the run has no trajectory.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder of a finished run, or the trajectory.npz in it.")
    record = load_record(folder / "record.json", RECORD)
    best = record["result"]["best_step"]
    if Config(optimizer=record["config"].get("optimizer", "mezo")).first_order:
        where = f"the weights of its best step are in {folder}, weights-{best}.safetensors"
        raise ValueError(f"{folder} is a first-order run, which keeps no trajectory to replay; {where}.")
    path = trajectory or folder / "trajectory.npz"
    steps = Trajectory.load(path)
    grads = [list(step.projected_grads) for step in steps.records]
    if len(grads) != best or grads != [step["projected_grads"] for step in record["steps"][:best]]:
        raise ValueError(f"{path} is not of the run that record.json tells of; restore one of them.")
    return record, steps


def device_here(recorded: str) -> str:
    """The device of a run, or what this machine has in its place: its first GPU, or the CPU."""
    wanted, there = torch.device(recorded), torch.cuda.device_count()
    if wanted.type != "cuda" or (wanted.index or 0) < there:
        return recorded
    return "cuda" if there else "cpu"


def verify(
    folder: Path,
    trajectory: Path | None = None,
    curve: bool = False,
    tolerance: float | None = None,
    device: str | None = None,
) -> Iterator[Check]:
    """Check a finished run; each check comes as soon as it is made.

    Args:
        folder: of the run.
        trajectory: its file, if it lies elsewhere.
        curve: evaluate on dev wherever the run did, up to its best step, instead of there alone.
        tolerance: how far a loss may be from the recorded one, in nats; by default 0 with the run's processor, card, number of
            threads and version of torch, and `TOLERANCE` otherwise. The run's number of threads is used if it can be.
        device: where to replay and evaluate; by default `device_here`. Other weights on another kind of device than the run's
            are not held against it: their last bits may differ.

    Raises:
        OSError, ValueError: as in `finished`, or base model, tokenizer or data are not the run's.
        FloatingPointError: an evaluation has no finite loss.
    """
    record, steps = finished(folder, trajectory)
    with _threads_of(record):
        yield from _checks(folder, record, steps, curve, tolerance, device)


def _checks(
    folder: Path, record: dict[str, Any], steps: Trajectory, curve: bool, tolerance: float | None, device: str | None
) -> Iterator[Check]:
    config, result = _configuration(record, folder), record["result"]
    begun_on, config = config.device, replace(config, device=device or device_here(config.device))
    elsewhere = torch.device(begun_on).type != torch.device(config.device).type
    task: Task = load_task(config.task, config.autocast)
    task.offsets = tuple(record.get("calibration", {}).get("offsets", ()))
    examples = task.sample(config.data_seed, config.train, config.dev, config.test)
    model, tokenizer = load_tuned(config)
    check_same(identity(model, tokenizer, examples._asdict()), record, folder, "bring it back")
    allowed = tolerance
    if allowed is None:
        allowed = 0.0 if _same_place(record) and not elsewhere else TOLERANCE["bfloat16" if config.autocast else config.dtype]
    with torch.no_grad():  # the first pass of a process may differ in the last bit, as in the run itself
        task.loss(model, task.encode(tokenizer, examples.train[: config.batch_size]).to(config.device))
    optimizer = replay(model, replace(steps, records=[]))
    dev = [e for e in record["evaluations"] if e["split"] == "dev" and e["step"] < result["best_step"]] if curve else []
    for claimed in (*dev, result["dev"]):
        optimizer.replay(steps.records[optimizer.steps : claimed["step"]])
        evaluation = task.evaluate(model, tokenizer, examples.dev)
        yield _compared(f"dev, step {claimed['step']}", task, evaluation, claimed, allowed)
    yield _weights(model, result, elsewhere)
    evaluation = task.evaluate(model, tokenizer, examples.test)
    yield _compared(f"test, step {result['best_step']}", task, evaluation, result["test"]["after"], allowed)


@contextmanager
def _threads_of(record: dict[str, Any]) -> Iterator[None]:
    """As many threads as the run had, on which last bits depend, where this machine has so many cores."""
    before, recorded = torch.get_num_threads(), record.get("machine", {}).get("threads")
    fits = type(recorded) is int and 0 < recorded <= (os.cpu_count() or 1)
    torch.set_num_threads(recorded if fits else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _configuration(record: dict[str, Any], folder: Path) -> Config:
    try:
        config = Config(**record["config"])
    except TypeError as error:
        raise ValueError(f"the configuration of {folder} has settings that are not known here ({error}).") from error
    config.validate()
    return config


def _same_place(record: dict[str, Any]) -> bool:
    """Whether this process must give the bits that the run's gave."""
    current = environment()
    recorded, now = ({**e.get("machine", {}), **e.get("versions", {})} for e in (record, current))
    return all(now[key] == recorded.get(key) for key in ("processor", "gpu", "threads", "torch"))


def _weights(model: nn.Module, result: dict[str, Any], elsewhere: bool) -> Check:
    digest, claimed = trained_digest(model), result.get("weights")
    steps = f"{result['best_step']} steps replayed, digest {digest}"
    if claimed is None:
        return Check(
            "weights", None, f"{steps}; the record is older than digests of weights, and holds none to compare it with"
        )
    if digest != claimed and elsewhere:
        return Check("weights", None, f"{steps}; {claimed} on the run's kind of device, whose last bits may differ from these")
    return Check("weights", digest == claimed, steps if digest == claimed else f"{steps}, where the record says {claimed}")


def _compared(name: str, task: Task, evaluation: Evaluation, claimed: dict[str, Any], allowed: float) -> Check:
    gap, far = abs(evaluation.loss - claimed["loss"]), abs(evaluation.metric - claimed["metric"])
    holds = gap <= allowed and far <= (CLOSE if allowed else 0.0) and evaluation.examples == claimed["examples"]
    measured = f"loss {evaluation.loss:.6f}, {task.metric} {100 * evaluation.metric:.1f} %, {evaluation.examples} examples"
    recorded = f"the record says {claimed['loss']:.6f}, {100 * claimed['metric']:.1f} %, {claimed['examples']}"
    limit = f"allowed {allowed:g}" if allowed else "exactly" if holds else "allowed 0"
    return Check(name, holds, f"{measured}; {recorded} (difference {gap:.2g}, {limit})")
