"""Which method wins at equal forward passes? The plan's own methods, each at its own best learning rate."""

from bisect import bisect_right
from functools import partial
from pathlib import Path
from typing import Any

from zolab.runs.config import Config, require
from zolab.studies.plan import Plan, Prepared, check_run, forwards

OPTIONS: dict[str, Any] = {}
BEFORE = ""


def check_runs(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task."""
    require(bool(plan.methods), "methods must be one or more names with settings of their own.")
    for task in plan.tasks:
        for own in plan.methods.values():
            check_run(plan, task, own)


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task, with as many forward passes as the others."""
    check_runs(plan)
    for task in plan.tasks:
        configs = {name: check_run(plan, task, own) for name, own in plan.methods.items()}
        passes = {name: forwards(config) for name, config in configs.items()}
        few, many = min(passes, key=passes.__getitem__), max(passes, key=passes.__getitem__)
        steps, taken = range(configs[many].steps + 1), partial(forwards, configs[many])
        require(
            passes[many] - passes[few] < max(map(_a_step, configs.values())),  # the numbers of steps may not divide evenly
            f"on {task}, {many} takes {passes[many]:,} forward passes and {few} {passes[few]:,}: give {many} "
            f"{bisect_right(steps, passes[few], key=taken) - 1:,} steps, so that they can be compared.",
        )


def _a_step(config: Config) -> int:
    """Forward passes of a run's last step, or of one more if that takes more."""
    before, last, after = (forwards(config, config.steps + more) for more in (-1, 0, 1))
    return max(last - before, after - last)


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The settings of the plan's methods."""
    return Prepared(plan.methods)
