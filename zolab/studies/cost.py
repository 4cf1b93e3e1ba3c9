"""What a plan will cost, before it runs: cells, forward passes, and hours from a few timed passes.

The papers' models are not timed, but expected (`zolab.studies.expected`): neither their weights nor a network is needed.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from zolab.models import load_model
from zolab.runs.config import Config
from zolab.runs.memory import CONTEXT, Tokens, fits, predicted
from zolab.studies.expected import CARD, SHAPES, TOKENS, seconds_of
from zolab.studies.plan import Plan, configuration, forwards, lr_of, variants
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
        memory: bytes at its peak, of the papers' models; None of others.
        alone: of the seconds, those that several GPUs which share its batches do not take less of; None likewise.
        batch: examples in a batch.
    """

    task: str
    method: str
    cells: tuple[int, int]
    forwards: int
    seconds: float | None
    memory: float | None = None
    alone: float | None = None
    batch: int = 1

    @property
    def cards(self) -> int:
        """H100s that hold one cell; one on the machine at hand."""
        return math.ceil(self.memory / (CARD * 1e9 - CONTEXT)) if self.memory else 1


def costs(plan: Plan) -> list[Cost]:
    """The cost of every method on every task; what a study does before its runs is not counted."""
    rows, known = [], {}
    for task in plan.tasks:
        for method, own in planned(plan, task).items():
            config = configuration(plan.settings(task, variants(own)[0], 1e-6, plan.seeds[0]))
            cells = _cells(plan, task, own)
            if config.model in SHAPES and config.task in TOKENS:
                generates = load_task(config.task).metric == "f1"
                passes, alone = seconds_of(config, _evaluated(config), generates)
                tokens = Tokens(config.batch_size, TOKENS[config.task])
                memory, seconds = predicted(replace(config, device="cuda"), tokens).total, passes + alone
            else:
                key = config.model, config.task, config.batch_size, config.dtype, config.device, config.autocast
                if key not in known:
                    known[key] = _timed(config)
                seconds, memory, alone = _seconds(config, known[key]), None, None
            rows.append(Cost(task, method, cells, forwards(config), seconds, memory, alone, config.batch_size))
    return rows


def cells(plan: Plan) -> tuple[int, int]:
    """How many cells a plan has, at least and, if each search goes on past every edge, at most."""
    counts = [_cells(plan, task, own) for task in plan.tasks for own in planned(plan, task).values()]
    return sum(least for least, _ in counts), sum(most for _, most in counts)


def planned(plan: Plan, task: str) -> dict[str, dict[str, Any]]:
    """Settings of a task's methods, as far as they are known before the study's own work."""
    if hasattr(plan.kind, "planned"):
        return plan.kind.planned(plan, task)
    mezo = {"optimizer": "mezo"}  # where a study finds out what it takes
    return {name: {**mezo, **(plan.methods.get(name) or {})} for name in plan.kind.names(plan)}


def _cells(plan: Plan, task: str, own: dict[str, Any]) -> tuple[int, int]:
    lr, ways = lr_of(plan, task, own), len(variants(own))
    tried = (0 if len(lr) == ways == 1 else len(lr)) if isinstance(lr, list) else 3
    grown = 0 if isinstance(lr, list) else plan.extend
    least, most = (rates * len(plan.search_seeds) * ways for rates in (tried, tried + grown))
    return least + len(plan.seeds), most + len(plan.seeds)


def written(plan: Plan, rows: list[Cost], workers: int = 1) -> str:
    """A table for people."""
    head = f"{'task':14} {'method':24} {'cells':>9} {'forwards a cell':>16} {'minutes a cell':>15} {'GB':>6}"
    lines = [head]
    for cost in rows:
        number = f"{cost.cells[0]}" + (f"-{cost.cells[1]}" if cost.cells[1] > cost.cells[0] else "")
        minutes = "?" if cost.seconds is None else f"{cost.seconds / 60:.2f}"
        memory = "" if cost.memory is None else f"{cost.memory / 1e9:.0f}" + ("" if fits(cost.memory, CARD) else "*")
        lines.append(f"{cost.task:14} {cost.method:24} {number:>9} {cost.forwards:16,} {minutes:>15} {memory:>6}".rstrip())
    least, most = (sum(cost.cells[end] for cost in rows) for end in (0, 1))
    passes = [sum(cost.cells[end] * cost.forwards for cost in rows) for end in (0, 1)]
    lines.append(f"{least} to {most} cells, {passes[0]:,} to {passes[1]:,} forward passes for training")
    times = [cost.seconds for cost in rows if cost.seconds is not None]
    if len(times) == len(rows):
        expected = all(cost.memory for cost in rows)
        shared = 3600 * (1 if expected else workers)
        hours = [sum(c.cells[end] * c.cards * each for c, each in zip(rows, times, strict=True)) / shared for end in (0, 1)]
        where = "of an H100, from measured steps" if expected else f"with {workers} worker{'s' * (workers > 1)}"
        ends = [f"{end:,.2f}" if end < 10 else f"{end:,.0f}" for end in hours]
        lines.append(f"about {' to '.join(dict.fromkeys(ends))} hours {where}")
    else:
        lines.append("hours: unknown where a model or its data is not on this machine")
    if not all(fits(cost.memory or 0, CARD) for cost in rows):
        lines.append(f"*: more than the {CARD} GB of one H100 have room for, so each of its hours counts once a card")
    if plan.base.get("patience"):
        lines.append("at most: a run stops when its dev loss no longer falls")
    if plan.kind.BEFORE:
        lines.append(f"not counted: {plan.kind.BEFORE}")
    return "\n".join(lines)


def _timed(config: Config) -> dict[str, float] | None:
    """Seconds of a forward pass on a batch, and of evaluating an example."""
    try:
        task = load_task(config.task, config.autocast)
        model, tokenizer = load_model(config.model, config.dtype, config.device)
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
    return 1.25 * forwards(config) * timed["forward"] + _evaluated(config) * timed["example"]


def _evaluated(config: Config) -> int:
    """Examples, of all evaluations of a run together."""
    task: Any = load_task(config.task)
    dev, test = (getattr(config, split) or getattr(task, split) for split in ("dev", "test"))
    return (config.steps // config.eval_every + 3) * dev + 2 * test
