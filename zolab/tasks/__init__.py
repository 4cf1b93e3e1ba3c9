"""Tasks by name."""

from zolab.tasks.base import Evaluation, Example, Splits, Task
from zolab.tasks.scoring import Batch
from zolab.tasks.sentiment import SST2, RottenTomatoes

TASKS: dict[str, type[Task]] = {task.name: task for task in (RottenTomatoes, SST2)}


def load_task(name: str) -> Task:
    """The task of that name. Raises ValueError with the known names if there is none."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}.")
    return TASKS[name]()


__all__ = ["TASKS", "Batch", "Evaluation", "Example", "Splits", "Task", "load_task"]
