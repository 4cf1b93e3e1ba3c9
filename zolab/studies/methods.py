"""Which method wins at equal forward passes? The plan's own methods, each at its own best learning rate."""

from pathlib import Path
from typing import Any

from zolab.runs.config import require
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
        a_step = {name: passes[name] // config.steps for name, config in configs.items()}
        few, many = min(passes, key=passes.__getitem__), max(passes, key=passes.__getitem__)
        require(
            passes[many] - passes[few] < max(a_step.values()),  # the numbers of steps may not divide evenly
            f"on {task}, {many} takes {passes[many]:,} forward passes and {few} {passes[few]:,}: give {many} "
            f"{passes[few] // a_step[many]:,} steps, so that they can be compared.",
        )


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The settings of the plan's methods."""
    return Prepared(plan.methods)
