"""How the learning rate changes over the steps of a run."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

WARM_UP = 20  # steps


def scheduler(name: str, optimizer: Optimizer, steps: int) -> Any:
    """A scheduler of torch.

    Args:
        name: of `zolab.runs.config.SCHEDULES`; "warmup" is the lower of two lines, one up to the full rate over `WARM_UP` steps
            and one from it to zero over the run, so that a short run stays below it (at 0.6 of it in 30 steps); the others are
            those of transformers without a warm-up.
        optimizer: whose rates it sets.
        steps: of the run.
    """
    if name == "warmup":
        return LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, 1 - step / steps))
    return get_scheduler(name, optimizer, 0, steps)
