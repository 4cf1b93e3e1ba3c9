"""What a run lowers: the training loss, or what a metric lacks to 1, which has no gradient and needs none.

A zeroth-order step asks for nothing but a number, so that any function of the weights will do:

    from zolab import MeZO
    from zolab.models import load_model
    from zolab.tasks.generation import generate

    model, tokenizer = load_model("tiny-reviews")
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-2)

    def brevity() -> float:
        return float(sum(map(len, generate(model, tokenizer, ["The film was", "I did"], max_new_tokens=8))))

    for _ in range(3):
        print(optimizer.step(brevity))

A metric of few examples takes few values, and is often the same on both sides of the weights. The projected gradient is 0 then:
the step says nothing about where to go. A larger eps or batch makes that rarer. A run's `forwards` counts evaluations of the
objective; for F1 each is many forward passes, since the model writes its answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from zolab.runs.config import require
from zolab.runs.ranks import ALONE, Ranks
from zolab.runs.shards import shared_loss
from zolab.tasks import Example, Task

LOSS = "loss"


def check_objective(name: str, task: Task, differentiates: bool = False) -> None:
    """Raise ValueError unless an objective is the loss or the task's metric, and has a gradient if the method needs one."""
    known = f"{task.name} is judged by its {task.metric}; write {LOSS} or {task.metric}."
    require(name in (LOSS, task.metric), f"there is no objective {name[:80]!r} here: {known}")
    require(name == LOSS or not differentiates, f"{name} has no gradient, which this method needs; write {LOSS}.")


def closure(
    name: str,
    task: Task,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    each: bool = False,
    ranks: Ranks = ALONE,
    shard: bool = False,
) -> Callable[[], Tensor | float]:
    """What an optimizer's step measures on a batch, to make it small.

    Args:
        name: "loss", or the task's metric: then 1 minus its mean over the batch.
        task, model, tokenizer: the model is on its device.
        examples: the batch, or this rank's share of it.
        each: the loss of each example as a vector, for the methods that need it.
        ranks: those who share the batch: what is measured is the mean over all of it.
        shard: they share the weights, too, and want a gradient (`zolab.runs.shards.shared_loss`).
    """
    if name == LOSS:
        batch = task.encode(tokenizer, examples, apart=each).to(next(model.parameters()).device)
        measure, terms = partial(task.losses if each else task.loss, model, batch), task.terms(batch)
    else:
        measure, terms = lambda: 1.0 - task.evaluate(model, tokenizer, examples, len(examples)).metric, len(examples)
    if shard:
        return shared_loss(task, model, batch, ranks)
    if ranks.count == 1:
        return measure
    average = ranks.averaging(terms)
    return lambda: average(float(measure()))


def rank(name: str, evaluation: Mapping[str, Any]) -> tuple[float, ...]:
    """Of an evaluation on dev, as a log has it: the lowest is kept. The objective decides, then the loss."""
    return (evaluation["loss"],) if name == LOSS else (-evaluation["metric"], evaluation["loss"])


def flat(steps: Sequence[Mapping[str, Any]]) -> int:
    """How many steps measured the same on both sides of the weights; none of those that took gradients."""
    return sum(bool(step["projected_grads"]) and not any(step["projected_grads"]) for step in steps)
