"""What a study of several tasks comes to: every method beside MeZO."""

import math
from typing import Any

import numpy as np

from zolab.studies.sweep import resampled_ratios

GOAL = 0.6
INFORMED = ("density", "best", "bound")  # need gradients of the very task


def overview(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each method of a record, over its tasks; a diverged seed counts with an infinite loss and a metric of zero.

    Args:
        record: of `zolab.studies.controls` or `zolab.studies.recipes`; its result is {task: {method: outcome of `zolab.studies.sweep`}}.

    Returns:
        {method: {"forwards_over_mezo": geometric mean over the tasks that it ran on, "tasks": {task: its own
        "forwards_over_mezo" and "lr", and mean and standard deviation over the seeds of the final dev loss ("loss",
        "loss_sd") and of the test metric ("metric", "metric_sd"); the deviation of one seed, or with a diverged one, is NaN}}}
    """
    found: dict[str, dict[str, Any]] = {}
    for task, methods in record["result"].items():
        for name, outcome in methods.items():
            seeds = outcome["seeds"].values()
            losses = [math.inf if seed["dev_loss"] is None else seed["dev_loss"] for seed in seeds]
            metrics = [seed.get("test_after", 0.0) for seed in seeds]
            entry = {"forwards_over_mezo": outcome["forwards_over_mezo"], "lr": outcome["lr"]}
            for key, values in (("loss", losses), ("metric", metrics)):
                spread = float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else math.nan
                entry |= {key: float(np.mean(values)), f"{key}_sd": spread}
            found.setdefault(name, {"tasks": {}})["tasks"][task] = entry
    for method in found.values():
        ratios = [entry["forwards_over_mezo"] for entry in method["tasks"].values()]
        method["forwards_over_mezo"] = float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-12)))))
    return found


def resampled(record: dict[str, Any], draws: int = 200) -> dict[str, np.ndarray]:
    """The geometric mean of `overview` with each task's seeds drawn again, the same ones for all methods, shape (draws,)."""
    logs: dict[str, list[np.ndarray]] = {}
    for number, methods in enumerate(record["result"].values()):
        for name, outcome in methods.items():
            ratios = resampled_ratios(outcome, methods["mezo"], draws, seed=number)
            logs.setdefault(name, []).append(np.log(np.maximum(ratios, 1e-12)))
    return {name: np.exp(np.mean(rows, 0)) for name, rows in logs.items()}


def verdict(record: dict[str, Any], spreads: dict[str, np.ndarray], method: str = "trained") -> list[str]:
    """What a record says about a method, in sentences: its forward passes, and which controls it beats.

    A control is beaten if the method's geometric mean is lower, and clearly so if it is in 95 % of the redrawn seeds.

    Args:
        record: as `overview` takes it, all methods on the same tasks.
        spreads: `resampled` of it.
        method: the one that is judged.

    Raises:
        ValueError: the record lacks the method, or a method ran on other tasks.
    """
    means = overview(record)
    if method not in means:
        raise ValueError(f"the record has no method {method!r}; it has {', '.join(means)}.")
    tasks = means[method]["tasks"].keys()
    if other := [name for name, entry in means.items() if entry["tasks"].keys() != tasks]:
        raise ValueError(f"{', '.join(other)} ran on other tasks than {method}; a mean over tasks compares only equal ones.")
    ours = means[method]["forwards_over_mezo"]
    low, high = np.quantile(spreads[method], (0.05, 0.95), method="nearest")
    goal = "reaches" if ours <= GOAL else "misses"
    told = [f"{method} takes {ours:.2f} times MeZO's forward passes ({low:.2f} to {high:.2f}): {goal} the goal of {GOAL}"]
    others = [name for name in means if name != method]
    groups = {
        "controls that have not seen gradients": [name for name in others if name not in (*INFORMED, "frozen")],
        "controls that have seen the task's gradients": [name for name in others if name in INFORMED],
        "controls that keep its own first sigma": [name for name in others if name == "frozen"],
    }
    for group, names in ((group, names) for group, names in groups.items() if names):
        beaten = [name for name in names if ours < means[name]["forwards_over_mezo"]]
        clear = [name for name in beaten if np.mean(spreads[method] < spreads[name]) >= 0.95]
        rest = [name for name in names if name not in beaten]
        sentence = f"beats {len(beaten)} of {len(names)} {group}, {len(clear)} clearly"
        told.append(sentence + (f"; not {', '.join(rest)}" if rest else ""))
    return told


def decided(record: dict[str, Any], other: str, method: str = "trained") -> dict[str, list[str]]:
    """The tasks where a method's final dev loss is "lower" or "higher" than another's by two standard errors, or "undecided".

    The differences are paired: a seed has the same batches and directions for every method. A task with a diverged seed is
    undecided.

    Args:
        record: as `overview` takes it.
        other, method: both ran on every task.
    """
    found: dict[str, list[str]] = {"lower": [], "higher": [], "undecided": []}
    for task, methods in record["result"].items():
        losses = [[seed["dev_loss"] for seed in methods[name]["seeds"].values()] for name in (method, other)]
        gap = np.subtract(*np.array(losses, dtype=float))  # None becomes NaN, and every comparison with it is false
        error = gap.std(ddof=1) / len(gap) ** 0.5
        kind = "lower" if gap.mean() < -2 * error else "higher" if gap.mean() > 2 * error else "undecided"
        found[kind].append(task)
    return found


def written(table: dict[str, dict[str, Any]], key: str, digits: int, factor: float = 1.0) -> str:
    """A text table, methods by tasks: mean ± standard deviation over the seeds.

    Args:
        table: of `overview`.
        key: "loss" or "metric".
        digits: behind the point.
        factor: by which both are multiplied; 100 gives percent.
    """
    tasks = list(dict.fromkeys(task for entry in table.values() for task in entry["tasks"]))
    lines = [f"{key:11}" + "".join(f"{task:>16}" for task in tasks)]
    for name, entry in table.items():
        pairs = ((factor * e[key], factor * e[f"{key}_sd"]) if e else None for e in map(entry["tasks"].get, tasks))
        cells = (f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}" if pair else "" for pair in pairs)
        lines.append(f"{name:11}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)
