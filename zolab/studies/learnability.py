"""Is `tiny-reviews` a good testbed? What MeZO recovers of first-order tuning on each task, and why."""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zolab.models import load_model
from zolab.records import environment, save_record
from zolab.records.files import ready
from zolab.runs.config import Config
from zolab.runs.finetune import batch_at
from zolab.studies.sweep import sweep
from zolab.tasks import load_task
from zolab.tasks.scoring import option_log_probs
from zolab.tiny_reviews.pretrain import Recipe, build

ADAM_STEPS, ADAM_RATES, ADAM_EVERY = 150, (3e-4, 1e-3, 3e-3), 30
GAP = 0.01  # of accuracy or F1: below it there is no gap that could be closed


def study(plan: dict[str, Any], out: Path, record_path: Path, command: str) -> dict[str, Any]:
    """MeZO by a plan of `load_plan` whose methods are tasks, Adam beside it, and the record of both.

    `effective_rank` is that of the plan's first task, with the pretrained weights and with random ones. A task's `closed`
    is (MeZO - zero-shot) / (Adam - zero-shot), of test metrics averaged over the seeds; None if Adam gains less than `GAP`.
    """
    ready(record_path)
    result: dict[str, Any] = {}
    first = Config(**{**plan["base"], **next(iter(plan["methods"].values()))})
    ranks = {"pretrained": effective_rank(first), "untrained": effective_rank(first, build(Recipe()).eval())}
    for name, method in plan["methods"].items():
        mezo = sweep({**plan, "methods": {name: method}}, out)[name]
        config = Config(**{**plan["base"], **method})
        adam = first_order(config, plan["seeds"])
        means = [_mean(run, key) for run, key in ((mezo, "test_before"), (adam, "test_after"), (mezo, "test_after"))]
        zero, best, ours = means
        closed = (ours - zero) / (best - zero) if best - zero >= GAP else None
        result[name] = {"zero_shot": zero, "adam": adam, "mezo": mezo, "closed": closed}
        share = "no gap" if closed is None else f"closed {closed:.2f}"
        print(f"{name:10} zero-shot {zero:.3f}   Adam {best:.3f}   MeZO {ours:.3f}   {share}", flush=True)
        record = {"command": command, "config": plan, "result": result, "effective_rank": ranks, **environment()}
        save_record(record, record_path)
    return result


def first_order(config: Config, seeds: list[int]) -> dict[str, Any]:
    """Adam on the same examples: the best of `ADAM_RATES` on the first seed, then on every seed."""
    tried = {lr: _adam(config, lr, seeds[0]) for lr in ADAM_RATES}
    best = min(tried, key=lambda lr: tried[lr]["dev_loss"])
    outcomes = {str(seed): tried[best] if seed == seeds[0] else _adam(config, best, seed) for seed in seeds}
    return {"lr": best, "searched": {f"{lr:.3g}": tried[lr]["dev_loss"] for lr in tried}, "seeds": outcomes}


def effective_rank(config: Config, model: nn.Module | None = None, examples: int = 64) -> dict[str, float]:
    """Trace of the Gauss-Newton matrix over its largest eigenvalue: how many directions the loss bends in, at most.

    For two candidates the matrix is the mean of p (1 - p) g g^T, g the gradient of the difference of their scores; what it
    has besides zeros are the eigenvalues of the examples' Gram matrix. MeZO's rate depends on this number instead of the
    dimension (Malladi et al. 2023, section 4).

    Args:
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


def _adam(config: Config, lr: float, seed: int) -> dict[str, Any]:
    """One run: a linear schedule after a short warm-up, test at the step with the lowest dev loss."""
    task = load_task(config.task)
    model, tokenizer = load_model(config.model)
    examples = task.sample(seed, config.train, config.dev, config.test)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    shape = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1 - step / ADAM_STEPS))
    outcome = {"dev_loss": float("inf")}
    for step in range(1, ADAM_STEPS + 1):
        batch = task.encode(tokenizer, batch_at(examples.train, config.batch_size, seed, step - 1))
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        shape.step()
        if step % ADAM_EVERY == 0 and (dev := task.evaluate(model, tokenizer, examples.dev).loss) < outcome["dev_loss"]:
            test = task.evaluate(model, tokenizer, examples.test).metric
            outcome = {"dev_loss": dev, "best_step": step, "test_after": test}
    return outcome


def _mean(run: dict[str, Any], key: str) -> float:
    """Over the seeds; a run that diverged has nothing right."""
    return statistics.mean(outcome.get(key, 0.0) for outcome in run["seeds"].values())


def halved(tasks: dict[str, Any]) -> list[str]:
    """The tasks of a study on which MeZO closes at least half of the gap."""
    return [name for name, task in tasks.items() if task["closed"] is not None and task["closed"] >= 0.5]
