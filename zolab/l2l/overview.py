"""What a study of several tasks comes to: every method beside MeZO."""

import math
from typing import Any

import numpy as np

from zolab.sweep import resampled_ratios

GOAL = 0.6
INFORMED = ("density", "best", "bound")  # need gradients of the very task


def overview(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each method of a record, over its tasks; a diverged seed counts with an infinite loss and a metric of zero.

    Args:
        record: of `zolab.l2l.controls` or `zolab.l2l.recipes`; its result is {task: {method: outcome of `zolab.sweep`}}.

    Returns:
        {method: {"forwards_over_mezo": geometric mean over the tasks that it ran on, "tasks": {task: its own
        "forwards_over_mezo" and "lr", and mean and standard deviation over the seeds of the final dev loss ("loss",
        "loss_sd") and of the test metric ("metric", "metric_sd")}}}
    """
    found: dict[str, dict[str, Any]] = {}
    for task, methods in record["result"].items():
        for name, outcome in methods.items():
            seeds = outcome["seeds"].values()
            losses = [math.inf if seed["dev_loss"] is None else seed["dev_loss"] for seed in seeds]
            metrics = [seed.get("test_after", 0.0) for seed in seeds]
            entry = {"forwards_over_mezo": outcome["forwards_over_mezo"], "lr": outcome["lr"]}
            for key, values in (("loss", losses), ("metric", metrics)):
                finite = bool(np.isfinite(values).all())
                entry |= {key: float(np.mean(values)), f"{key}_sd": float(np.std(values, ddof=1)) if finite else math.inf}
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


def verdict(record: dict[str, Any], method: str = "trained", draws: int = 200) -> list[str]:
    """What a record says about a method, in sentences: its forward passes, and which controls it beats.

    A control is beaten if the method's geometric mean is lower, and clearly so if it is in 95 % of the redrawn seeds.

    Args:
        record: as `overview` takes it, all methods on the same tasks.
        method: the one that is judged.
        draws: of `resampled`.

    Raises:
        ValueError: the record lacks the method, or a method ran on other tasks.
    """
    means, again = overview(record), resampled(record, draws)
    if method not in means:
        raise ValueError(f"the record has no method {method!r}; it has {', '.join(means)}.")
    tasks = means[method]["tasks"].keys()
    if other := [name for name, entry in means.items() if entry["tasks"].keys() != tasks]:
        raise ValueError(f"{', '.join(other)} ran on other tasks than {method}; a mean over tasks compares only equal ones.")
    ours = means[method]["forwards_over_mezo"]
    low, high = np.quantile(again[method], (0.05, 0.95), method="nearest")
    goal = "reaches" if ours <= GOAL else "misses"
    told = [f"{method} takes {ours:.2f} times MeZO's forward passes ({low:.2f} to {high:.2f}): {goal} the goal of {GOAL}"]
    others = [name for name in means if name != method]
    groups = {
        "controls that have not seen gradients": [name for name in others if name not in (*INFORMED, "frozen")],
        "controls that have seen the task's gradients": [name for name in others if name in INFORMED],
        "controls that keep its own first sigma": [name for name in others if name == "frozen"],
    }
    for group, names in groups.items():
        beaten = [name for name in names if ours < means[name]["forwards_over_mezo"]]
        clear = [name for name in beaten if np.mean(again[method] < again[name]) >= 0.95]
        rest = [name for name in names if name not in beaten]
        sentence = f"beats {len(beaten)} of {len(names)} {group}, {len(clear)} clearly"
        told.append(sentence + (f"; not {', '.join(rest)}" if rest else ""))
    return told
