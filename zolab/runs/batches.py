"""Which training examples a step sees."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from zolab.runs.config import require
from zolab.tasks import Example, Task, by_class, shared_candidates


class Settings(Protocol):
    """What batches and calibration depend on, of a run's configuration or of learning to learn's."""

    @property
    def batch_size(self) -> int: ...

    @property
    def balanced(self) -> bool: ...

    @property
    def calibrate(self) -> int: ...

    @property
    def seed(self) -> int: ...


def batch_at(examples: Sequence[Example], size: int, seed: int, step: int, balanced: bool = False) -> list[Example]:
    """The batch of a step: batches walk through a permutation of the training examples, a new one each epoch.

    Args:
        examples: the training examples.
        size: of a batch, at most as many.
        seed: of the permutations.
        step: number of the step; any batch can be had without those before it.
        balanced: as many examples of each class, each class walking through permutations of its own. What the number of classes
            leaves over of a batch goes to one class after another, so that all get equally many in the long run. Where one
            permutation of a class ends in a batch and the next begins, an example may come twice.
    """
    if balanced:
        return _balanced(examples, size, seed, step)
    epoch, place = divmod(step, len(examples) // size)
    order = np.random.default_rng((seed, epoch)).permutation(len(examples))
    return [examples[i] for i in order[place * size : (place + 1) * size]]


def _balanced(examples: Sequence[Example], size: int, seed: int, step: int) -> list[Example]:
    classes, batch = by_class(examples), []
    for label, members in enumerate(classes):
        start, end = (_taken(label, at, size, len(classes)) for at in (step, step + 1))
        for epoch in range(start // len(members), -(-end // len(members))):
            order, begins = np.random.default_rng((seed, epoch, label)).permutation(len(members)), epoch * len(members)
            batch += [members[i] for i in order[max(start - begins, 0) : end - begins]]
    return batch


def _taken(label: int, step: int, size: int, classes: int) -> int:
    """How many examples of a class the batches before a step had: their equal shares, and turns at what is left over."""
    share, left = divmod(size, classes)
    return step * share + -(-(step * left - label) // classes)


def has_classes(task: Task, training: Sequence[Example] | None = None) -> bool:
    """Whether a task's examples share their candidates; without examples, whether they may."""
    return task.objective == "options" and (training is None or bool(shared_candidates(training)))


def check_classes(config: Settings, task: Task, training: Sequence[Example] | None = None) -> None:
    """Raise ValueError unless a task has the classes that a configuration's `balanced` and `calibrate` need.

    Args:
        config: of the run, or of learning to learn.
        task: its task.
        training: its training examples; without them only what the task says of itself is checked.
    """
    for name, on in (("balanced", config.balanced), ("calibrate", config.calibrate)):
        message = f"{name} needs classes, the same candidates in every example, which {task.name} does not have: leave it out."
        require(not on or has_classes(task, training), message)
    if training is None:
        return
    if config.balanced:
        candidates = shared_candidates(training)
        counts = np.bincount([example.answer for example in training], minlength=len(candidates))
        least, needed = int(counts.argmin()), -(-config.batch_size // len(candidates))
        message = f"{counts[least]} of the {len(training)} training examples of {task.name} are {candidates[least].strip()}"
        require(
            counts[least] >= needed, f"{message}, and balanced batches take up to {needed}: raise train, or lower batch_size."
        )
    if config.calibrate:
        message = f"calibrate {config.calibrate} exceeds the {len(training)} training examples of {task.name}: lower it."
        require(config.calibrate <= len(training), message)
        present = {example.answer for example in calibration_examples(config, training)}
        missing = [name.strip() for number, name in enumerate(shared_candidates(training)) if number not in present]
        message = f"none of the {config.calibrate} examples for calibration is {missing and missing[0]}"
        require(not missing, f"{message}, so that its offset would say nothing: raise calibrate, or, in a run, add --balanced.")


def calibration_examples(config: Settings, training: Sequence[Example]) -> list[Example]:
    """The training examples on which a run's offsets are fitted: those that its first batches would have."""
    return batch_at(training, config.calibrate, config.seed, 0, config.balanced)
