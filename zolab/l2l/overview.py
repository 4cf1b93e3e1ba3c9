"""What a study of several tasks comes to: every method beside MeZO."""

import math
from typing import Any

import numpy as np


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
