"""The objective over all training examples, for methods that need more than a batch."""

import math
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zolab.runs.config import Config
from zolab.runs.objectives import closure
from zolab.runs.ranks import ALONE, Ranks
from zolab.tasks import Example, Task


def full_loss(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: Config,
    ranks: Ranks = ALONE,
) -> float:
    """The mean of the objective over examples, in the memory of a batch: `config.batch_size` of them at a time.

    Several ranks evaluate some of these parts each.
    """
    parts = ranks.share([examples[i : i + config.batch_size] for i in range(0, len(examples), config.batch_size)])
    losses = [float(closure(config.objective, task, model, tokenizer, part)()) for part in parts]
    total, count = math.fsum(len(part) * loss for part, loss in zip(parts, losses, strict=True)), sum(map(len, parts))
    return ranks.averaging(count)(total / count if count else 0.0)
