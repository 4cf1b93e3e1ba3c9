"""Is a model a good testbed? What MeZO recovers of Adam's gain on each task, and why."""

import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from zolab.models import load_model
from zolab.runs.config import Config
from zolab.studies import methods
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE, Plan, Prepared
from zolab.studies.scales import start_of
from zolab.tasks import load_task
from zolab.tasks.scoring import option_log_probs
from zolab.tiny_reviews.pretrain import Recipe, build

OPTIONS: dict[str, Any] = {}
BEFORE = ""
ADAM = "Adam"
GAP = 0.01  # of accuracy or F1: below it there is no gap that could be closed

check, names = methods.check_runs, methods.names


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The plan's methods; on its first task the effective rank with the model's weights and with those it began with."""
    measured: dict[str, Any] = {}
    if task == next(iter(plan.tasks)):
        config = start_of(plan, task)
        measured = {"pretrained": effective_rank(config), "untrained": effective_rank(config, build(Recipe()).eval())}
    return Prepared(plan.methods, {"effective_rank": measured} if measured else {})


def shares(record: Record) -> dict[str, dict[str, Any]]:
    """Of each task `zero_shot`, and `adam` and `mezo`, test metrics averaged over seeds, one that diverged counting nothing;
    `closed`, (MeZO - zero-shot) / (Adam - zero-shot), None where Adam gains less than `GAP`; and the rates.
    """
    entries = {}
    for task in record.tasks:
        before = [cell["test_before"] for cell in record.cells(task, BASE) if cell.get("test_before") is not None]
        zero = statistics.mean(before) if before else record.measured[task]["zero_shot"]
        ours, best = ([c.get("test_after", 0.0) for c in record.cells(task, name)] for name in (BASE, ADAM))
        gain = statistics.mean(best) - zero
        closed = (statistics.mean(ours) - zero) / gain if gain >= GAP else None
        rates = {key: record.search(task, name)["lr"] for key, name in (("mezo_lr", BASE), ("adam_lr", ADAM))}
        entries[task] = {"zero_shot": zero, "adam": best, "mezo": ours, "closed": closed, **rates}
    return entries


def halved(entries: dict[str, dict[str, Any]]) -> list[str]:
    """The tasks of `shares` on which MeZO closes at least half of the gap."""
    return [task for task, entry in entries.items() if entry["closed"] is not None and entry["closed"] >= 0.5]


def effective_rank(config: Config, model: PreTrainedModel | None = None, examples: int = 64) -> dict[str, float]:
    """Trace of the Gauss-Newton matrix over its largest eigenvalue: how many directions the loss bends in, at most.

    For two candidates the matrix is the mean of p (1 - p) g g^T, g the gradient of the difference of their scores; what it
    has besides zeros are the eigenvalues of the examples' Gram matrix. MeZO's rate depends on this number instead of the
    dimension (Malladi et al. 2023, section 4).

    Args:
        config: names the task, and the model.
        model: another one than the configuration's.
        examples: over which the mean is taken.

    Raises:
        ValueError: the task is not a choice between candidates.
    """
    task, (loaded, tokenizer) = load_task(config.task), load_model(config.model)
    if task.objective != "options":
        raise ValueError(f"the effective rank needs a task with options, and {config.task} has none; put another one first.")
    model, rows = model or loaded, []
    for example in task.sample(0, config.train, config.dev, 1).train[:examples]:
        first, second = option_log_probs(model, task.encode(tokenizer, [example]))
        slope = torch.autograd.grad(second - first, list(model.parameters()))
        p = torch.sigmoid(second - first).item()
        rows.append((p * (1 - p) / examples) ** 0.5 * torch.cat([part.flatten() for part in slope]))
    eigenvalues = torch.linalg.eigvalsh(torch.stack(rows) @ torch.stack(rows).T)
    trace, largest = float(eigenvalues.sum()), float(eigenvalues[-1])
    return {"trace": trace, "largest": largest, "ratio": trace / largest}
