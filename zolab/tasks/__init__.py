"""Tasks by name, by description, by import path."""

from pathlib import Path

from zolab.tasks.base import Evaluation, Scores, Splits, Task, cut
from zolab.tasks.description import Description
from zolab.tasks.example import Example, by_class, digest, shared_candidates
from zolab.tasks.files import SUFFIXES
from zolab.tasks.local import LocalFile
from zolab.tasks.masked import MaskedMNLI, MaskedRTE, MaskedSNLI, MaskedSST2, MaskedSST5, MaskedTREC
from zolab.tasks.own import imported, own_task
from zolab.tasks.reading import DROP, SQuAD
from zolab.tasks.reviews import REVIEWS
from zolab.tasks.scoring import Batch
from zolab.tasks.sentiment import SST2, RottenTomatoes, ShortRottenTomatoes
from zolab.tasks.superglue import CB, COPA, RTE, WSC, BoolQ, MultiRC, ReCoRD, WiC

DECODER = (SST2, RTE, CB, BoolQ, WSC, WiC, MultiRC, COPA, ReCoRD, SQuAD, DROP)
MASKED = (MaskedSST2, MaskedSST5, MaskedSNLI, MaskedMNLI, MaskedRTE, MaskedTREC)
TASKS: dict[str, type[Task]] = {task.name: task for task in (RottenTomatoes, ShortRottenTomatoes, *REVIEWS, *DECODER, *MASKED)}


def load_task(name: str, autocast: bool = False) -> Task:
    """The task of that name.

    Args:
        name: one of `TASKS`; the text of a `Description`, for a file of your own; or the import path of a subclass of `Task`,
            "package.module:MyTask", which runs that module's Python.
        autocast: run models in bfloat16 where torch deems it safe; losses stay float32.

    Raises:
        ValueError: there is no such task; or a description or its file is wrong.
        OSError: the file of a description is not there.
    """
    if name in TASKS:
        return TASKS[name](autocast)
    if name.startswith("{"):
        return own_task(Description.parse(name), autocast)
    if Path(name).suffix in SUFFIXES:
        raise ValueError(f"{name} needs a prompt, and candidates or an answer, to be a task: see zolab.tasks.Description.")
    if ":" in name:
        return imported(name)(autocast)
    raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}.")


__all__ = [
    "TASKS",
    "Batch",
    "Description",
    "Evaluation",
    "Example",
    "LocalFile",
    "Scores",
    "Splits",
    "Task",
    "by_class",
    "cut",
    "digest",
    "load_task",
    "shared_candidates",
]
