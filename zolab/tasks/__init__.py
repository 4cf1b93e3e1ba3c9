"""Tasks by name."""

from zolab.tasks.base import Evaluation, Example, Scores, Splits, Task, cut, digest
from zolab.tasks.masked import MaskedMNLI, MaskedRTE, MaskedSNLI, MaskedSST2, MaskedSST5, MaskedTREC
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
        name: one of `TASKS`; `ValueError` with the known names for any other.
        autocast: run models in bfloat16 where torch deems it safe; losses stay float32.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}.")
    return TASKS[name](autocast)


__all__ = ["TASKS", "Batch", "Evaluation", "Example", "Scores", "Splits", "Task", "cut", "digest", "load_task"]
