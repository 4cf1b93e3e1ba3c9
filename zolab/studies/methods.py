"""Which method wins at equal forward passes? The plan's own methods, each at its own best learning rate."""

from pathlib import Path
from typing import Any

from zolab.runs.config import require
from zolab.studies.plan import Plan, Prepared, check_run

OPTIONS: dict[str, Any] = {}
BEFORE = ""


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task."""
    require(bool(plan.methods), "methods must be one or more names with settings of their own.")
    for task in plan.tasks:
        for own in plan.methods.values():
            check_run(plan, task, own)


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The settings of the plan's methods."""
    return Prepared(plan.methods)
