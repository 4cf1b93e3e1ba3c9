"""What a plan will cost, before it runs: cells, forward passes, and hours from a few timed passes."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from zolab.models import load_model
from zolab.runs.config import Config
from zolab.studies.plan import Plan, configuration, forwards
from zolab.tasks import load_task

TIMED = 32  # dev examples


@dataclass(frozen=True)
class Cost:
    """Of the cells of one method on one task.

    Args:
        task, method: names in the plan.
        cells: number that will run, at least and, if the search goes on past every edge, at most.
        forwards: training forward passes of one cell.
        seconds: of one cell, evaluations included; None where its model or data is not on this machine.
    """

    task: str
    method: str
    cells: tuple[int, int]
    forwards: int
    seconds: float | None


def costs(plan: Plan) -> list[Cost]:
    """The cost of every method on every task, from a timed batch; what a study does before its runs is not counted."""
    found, known = [], {}
    least = 3 * len(plan.search_seeds) + len(plan.seeds)
    cells = least, least + plan.extend * len(plan.search_seeds)
    for task in plan.tasks:
        for method in plan.kind.names(plan):
            own = {"optimizer": "mezo"} | (plan.methods.get(method) or {})
            config = configuration(plan.settings(task, own, 1e-6, plan.seeds[0]))
            key = config.model, config.task, config.batch_size, config.dtype, config.device
            if key not in known:
                known[key] = _timed(config)
            found.append(Cost(task, method, cells, forwards(config), _seconds(config, known[key])))
    return found


def written(plan: Plan, found: list[Cost], workers: int = 1) -> str:
    """A table for people."""
    lines = [f"{'task':14} {'method':18} {'cells':>9} {'forwards a cell':>16} {'minutes a cell':>15}"]
    for cost in found:
        number = f"{cost.cells[0]}" + (f"-{cost.cells[1]}" if cost.cells[1] > cost.cells[0] else "")
        minutes = "?" if cost.seconds is None else f"{cost.seconds / 60:.2f}"
        lines.append(f"{cost.task:14} {cost.method:18} {number:>9} {cost.forwards:16,} {minutes:>15}")
    least, most = (sum(cost.cells[end] for cost in found) for end in (0, 1))
    passes = [sum(cost.cells[end] * cost.forwards for cost in found) for end in (0, 1)]
    lines.append(f"{least} to {most} cells, {passes[0]:,} to {passes[1]:,} forward passes for training")
    times = [cost.seconds for cost in found if cost.seconds is not None]
    if len(times) == len(found):
        hours = [
            sum(cost.cells[end] * each for cost, each in zip(found, times, strict=True)) / 3600 / workers for end in (0, 1)
        ]
        lines.append(f"about {hours[0]:.2f} to {hours[1]:.2f} hours with {workers} worker{'s' * (workers > 1)}")
    else:
        lines.append("hours: unknown where a model or its data is not on this machine")
    if plan.kind.BEFORE:
        lines.append(f"not counted: {plan.kind.BEFORE}")
    return "\n".join(lines)


def _timed(config: Config) -> dict[str, float] | None:
    """Seconds of a forward pass on a batch, and of evaluating an example."""
    try:
        task, (model, tokenizer) = load_task(config.task), load_model(config.model, config.dtype, config.device)
        examples = task.sample(config.data_seed, config.train, config.dev, 2)
    except OSError:
        return None
    batch = task.encode(tokenizer, examples.train[: config.batch_size]).to(config.device)

    def passes() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            task.loss(model, batch).item()
        return time.perf_counter() - began

    passes()
    forward, chosen, began = min(passes() for _ in range(5)), examples.dev[:TIMED], time.perf_counter()
    task.evaluate(model, tokenizer, chosen)
    return {"forward": forward, "example": (time.perf_counter() - began) / len(chosen)}


def _seconds(config: Config, timed: dict[str, float] | None) -> float | None:
    if timed is None:
        return None
    task: Any = load_task(config.task)
    dev, test = (getattr(config, split) or getattr(task, split) for split in ("dev", "test"))
    evaluated = (config.steps // config.eval_every + 3) * dev + 2 * test
    return 1.25 * forwards(config) * timed["forward"] + evaluated * timed["example"]
