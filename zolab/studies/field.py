"""The field of methods: what each keeps and costs, its best learning rate, and first order beside zeroth at equal cost."""

import copy
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.models import load_model, model_bytes
from zolab.runs.batches import batch_at
from zolab.runs.config import Config, make_optimizer
from zolab.runs.objectives import closure
from zolab.studies.compare import decided
from zolab.studies.family import NORMALISED, family
from zolab.studies.outcomes import Record
from zolab.studies.plan import configuration, forwards
from zolab.studies.search import rate_name
from zolab.studies.statistics import Estimate, Ratio, Runs, difference, holm, target_of
from zolab.tasks import load_task

BOTH = "SGD fused, checkpointed"
"""The label of the first-order method that takes the least memory."""
LONG = 110  # characters of a line, of which a notebook shows no more at once


@dataclass(frozen=True)
class Taken:
    """What steps of a method took.

    Args:
        forwards: forward passes that a step counts as, on average.
        seconds: of a step, over `forwards`: what a forward pass that is counted takes.
        kept: what the optimizer holds from one step to the next, as a multiple of the weights.
    """

    forwards: float
    seconds: float
    kept: float


def timed(methods: Mapping[str, dict[str, Any]], base: dict[str, Any], steps: int = 24) -> dict[str, Taken]:
    """Time steps of methods in turn, each on a copy of the model and on the same batches.

    The first half of the steps is not timed: AdaMeZO's horizon fills, first passes set up. A full batch is a single batch here.

    Args:
        methods: settings of each, as a plan has them, with `lr`.
        base: settings that all share: `model`, `task`, `batch_size`.
        steps: that each takes, at least 2.
    """
    configs = {name: configuration({**base, **own, "lr": 1e-9, "steps": steps}) for name, own in methods.items()}
    first = next(iter(configs.values()))
    task, (model, tokenizer) = load_task(first.task), load_model(first.model, first.dtype, first.device)
    train = task.sample(0, first.batch_size * steps, 1, 1).train
    models = {name: copy.deepcopy(model) for name in configs}
    optimizers: dict[str, Any] = {name: make_optimizer(config, models[name]) for name, config in configs.items()}
    for name, config in configs.items():
        if config.per_example:
            optimizers[name].look_through(models[name])
    times: dict[str, list[float]] = {name: [] for name in configs}
    for step in range(steps):
        batch = batch_at(train, first.batch_size, 0, step)
        for name, optimizer in optimizers.items():
            loss = closure(first.objective, task, models[name], tokenizer, batch, each=configs[name].per_example)
            began = time.perf_counter()
            optimizer.step(loss)
            times[name].append(time.perf_counter() - began)
    costs, half = {}, steps // 2
    for name, config in configs.items():
        passes = (_passes(config, steps) - _passes(config, half)) / (steps - half)
        kept = held_bytes(optimizers[name], models[name]) / model_bytes(models[name])
        costs[name] = Taken(passes, statistics.mean(times[name][half:]) / passes, kept)
    return costs


def _passes(config: Config, steps: int) -> int:
    return forwards(replace(config, train=config.batch_size), steps)


def held_bytes(optimizer: Any, model: nn.Module) -> int:
    """Bytes of the tensors that an optimizer holds, those of the model left out.

    Args:
        optimizer: whose attributes are searched, through lists, mappings and modules.
        model: what it trains.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(optimizer, model, set())}
    return sum(size for place, size in sizes.items() if place not in own)


def _tensors(value: Any, model: nn.Module, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        if value.grad is not None:
            yield value.grad
    elif id(value) not in seen and value is not model:
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield from value.parameters()
        elif isinstance(value, Mapping):
            for part in list(value.values()):
                yield from _tensors(part, model, seen)
        elif isinstance(value, list | tuple):
            for part in value:
                yield from _tensors(part, model, seen)
        elif isinstance(value, torch.optim.Optimizer) or type(value).__module__.startswith("zolab.optim"):
            yield from _tensors(vars(value), model, seen)


def labelled(record: Record) -> Record:
    """A record in which methods have the labels of the family, whatever its plan called them; one optimizer, one method.

    Raises:
        ValueError: a method's optimizer is no member of the family, or two methods have the same.
    """
    plan, members = record.plan, family()
    names = {name: own["optimizer"] for name, own in plan["methods"].items()}
    if len(set(names.values())) < len(names) or not set(names.values()) <= set(members):
        raise ValueError(f"methods must be different members of the family, got {', '.join(names.values())}.")
    new = {name: members[optimizer].label for name, optimizer in names.items()}
    result = record.content["result"]
    search = {task: {new[name]: search_of for name, search_of in methods.items()} for task, methods in result["search"].items()}
    result = {**result, "search": search, "cells": [{**cell, "method": new[cell["method"]]} for cell in result["cells"]]}
    config = {**plan, "methods": {new[name]: own for name, own in plan["methods"].items()}}
    return Record({**record.content, "config": config, "result": result})


def carried(here: Record, task: str, there: Record, there_task: str) -> dict[str, dict[str, Any]]:
    """Settings for a model on which few methods were searched: a method's own rate there, or one that follows another's.

    A rate that was not searched there is the one here, times what the rate of MeZO changed by, whose steps grow with the slope,
    or that of MEAZO for methods whose steps do not. It is a guess, and no search.

    Args:
        here, task: a record of all methods, and its task.
        there, there_task: a record of a few, MeZO and MEAZO among them, on the other model.
    """
    ours, theirs = chosen(here, task), {own["optimizer"]: own["lr"] for own in chosen(there, there_task).values()}
    rates = {own["optimizer"]: own["lr"] for own in ours.values()}
    change = {guide: theirs[guide] / rates[guide] for guide in ("mezo", "meazo")}
    guess = {name: rates[name] * change["meazo" if name in NORMALISED else "mezo"] for name in rates}
    return {label: {**own, "lr": theirs.get(own["optimizer"], guess[own["optimizer"]])} for label, own in ours.items()}


def cost_rows(
    taken: Mapping[str, Taken], measured: Mapping[str, Mapping[str, float]], beyond: Mapping[str, float]
) -> list[list[str]]:
    """A table of what methods keep and cost, a row each and a head.

    Args:
        taken: by the optimizer's name, from `timed`.
        measured: the rows of a kept benchmark of all methods, by the optimizer's name; a dash stands for one that it lacks.
        beyond: peak memory, from `memory_beyond`.
    """
    rows = [["method", "what it changes", "passes a step", "kept", "memory", "time"]]
    for name, member in family().items():
        if name not in taken:
            continue
        cost, bench = taken[name], measured.get(name, {})
        memory = f"{beyond[member.label]:.2f}" if member.label in beyond else "–"
        over = f"{bench['step_over_forwards']:.2f}" if bench else "–"
        rows.append([member.label, member.idea, f"{cost.forwards:g}", f"{cost.kept:.2f}", memory, over])
    return rows


def memory_beyond(methods: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float]:
    """Peak memory beyond that of forward passes, as a multiple of the weights, by label.

    Args:
        methods: results of the benchmark of all methods.
        first: those of the benchmark of first-order steps, where MeZO's peak stands for that of forward passes.
    """
    members = family()
    multiples = {members[name].label: row["stored_weights"] for name, row in methods["methods"].items() if name in members}
    ways = {name: member.label for name, member in members.items() if f"{name}_peak_bytes" in first and name != "mezo"}
    ways["sgd_fused_checkpointed"] = BOTH
    for name, label in ways.items():
        multiples[label] = (first[f"{name}_peak_bytes"] - first["mezo_peak_bytes"]) / first["weights_bytes"]
    return multiples


def written(rows: list[list[str]]) -> str:
    """A text table; the first two columns to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        [cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in rows
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def chosen(record: Record, task: str) -> dict[str, dict[str, Any]]:
    """The settings of each method of a record, with the learning rate that its search chose on a task."""
    return {name: {**record.plan["methods"][name], "lr": record.search(task, name)["lr"]} for name in record.methods(task)}


def settings_text(record: Record, task: str, source: str, key: str, notebook: str = "04_field_of_methods") -> str:
    """A file of notebooks/params: what `chosen` says, each method with how its rate was found.

    Args:
        record: of a study.
        task: its name in the record.
        source: file of the record, for people.
        key: the notebook's parameter.
        notebook: whose parameter that is.
    """
    plan = record.plan
    name = f"{ {**plan['base'], **plan['tasks'][task]}['model'] }"
    lines = [
        f"# {name} on {plan['tasks'][task]['task']}: each method's best learning rate, and how it was found. Written by",
        f"# notebooks/{notebook}.ipynb (settings_text) from {source}.",
        f"#   papermill notebooks/{notebook}.ipynb runs/{notebook}.ipynb --cwd notebooks \\",
        f"#       -f notebooks/params/{name}.yaml",
        f"{key}:",
    ]
    for method, own in chosen(record, task).items():
        search = record.search(task, method)
        values = ", ".join(f"{k}: {_yaml(v)}" for k, v in own.items())
        entry, origin = f"  {method}: {{{values}}}", f"  # {_origin_of_rate(search)}"
        lines += [origin, entry] if len(entry + origin) > LONG else [entry + origin]
    return "\n".join(lines) + "\n"


def _origin_of_rate(search: Mapping[str, Any]) -> str:
    """Of a method's rate: from which rates and seeds, if it was searched."""
    last = search["rounds"][-1]
    tried = sorted(map(float, last["losses"]))
    if not tried:
        return "as the plan has it"
    seeds = f"seed{'s' * (len(last['seeds']) > 1)} {', '.join(map(str, last['seeds']))}"
    edge = "; at the edge of its grid" if search["edge"] else ""
    return f"best of {len(tried)} rates, {rate_name(tried[0])} to {rate_name(tried[-1])}, {seeds}{edge}"


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        digits, _, power = f"{value:.3e}".partition("e")
        return f"{digits.rstrip('0').ljust(3, '0')}e{int(power):+03d}"
    return f'"{value}"' if isinstance(value, str) and not value.isidentifier() else str(value)


def at_cost(runs: Runs, each: float) -> Runs:
    """The same runs against another cost than forward passes, such as seconds: so much for each pass."""
    return replace(runs, forwards=runs.forwards * each)


def ratio_at_cost(ours: Runs, base: Runs, each: float, base_each: float) -> Estimate:
    """What a method spends until it is at the base method's mean final loss, over what that spends; ratio of medians.

    Args:
        ours, base: runs of the same seeds.
        each, base_each: cost of one forward pass of each.
    """
    return Ratio(at_cost(ours, each), at_cost(base, base_each), target_of(base)).estimate()


def difference_at_cost(ours: Runs, base: Runs, each: float, base_each: float) -> Estimate:
    """Dev loss minus the base method's where both have spent as much as the one that spent less in all; arguments as above."""
    ours, base = at_cost(ours, each), at_cost(base, base_each)
    spent = min(ours.forwards[-1], base.forwards[-1])
    return difference(losses_at(ours, spent), losses_at(base, spent))


def beside_at(pairs: Mapping[str, tuple[Runs, Runs]], spent: float) -> dict[str, tuple[Estimate, str]]:
    """Methods beside a base method where each run has spent so much, judged together by Holm's correction.

    Args:
        pairs: of each method, its runs and the base method's on the same seeds.
        spent: forward passes, or another cost in which the runs are.

    Returns:
        For each method its dev loss minus the base method's, and whether that is lower, higher or undecided.
    """
    gaps = {name: difference(losses_at(ours, spent), losses_at(base, spent)) for name, (ours, base) in pairs.items()}
    adjusted = holm([gap.p for gap in gaps.values()])
    words = [decided(gap, p) for gap, p in zip(gaps.values(), adjusted, strict=True)]
    return {name: (gap, word) for (name, gap), word in zip(gaps.items(), words, strict=True)}


def losses_at(runs: Runs, spent: float) -> np.ndarray:
    """Dev loss of each seed at a cost, linear between evaluations; infinite for a run that diverged."""
    losses = [np.interp(spent, runs.forwards, row) if np.isfinite(row).all() else np.inf for row in runs.losses]
    return np.array(losses)
