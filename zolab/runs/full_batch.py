"""The objective over all training examples, for methods that need more than a batch."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zolab.runs.config import Config
from zolab.runs.objectives import closure
from zolab.tasks import Example, Task


def full_loss(
    task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], config: Config
) -> float:
    """The mean of the objective over examples, in the memory of a batch: `config.batch_size` of them at a time."""
    parts = [examples[i : i + config.batch_size] for i in range(0, len(examples), config.batch_size)]
    losses = [float(closure(config.objective, task, model, tokenizer, part)()) for part in parts]
    return math.fsum(len(part) * loss for part, loss in zip(parts, losses, strict=True)) / len(examples)
