"""One question of a task with its candidate answers, and a digest of many."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Example:
    """One templated example.

    Args:
        prompt: the text before the answer; for a masked model, the text around `MASK`.
        candidates: the texts that may follow it, separator included; for generation, the first gold answer alone.
        answer: index of the right candidate.
        also: indices of further right candidates, if there are several.
        references: gold answers that a generated text is compared with, each of one or several spans; empty unless the task
            generates.
    """

    prompt: str
    candidates: tuple[str, ...]
    answer: int
    also: tuple[int, ...] = ()
    references: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self):
        if not all(0 <= right < len(self.candidates) for right in (self.answer, *self.also)):
            known = f"there are {len(self.candidates)} candidates, from 0"
            raise ValueError(f"the answer to {self.prompt[-40:]!r} is number {self.answer}, but {known}; correct the template.")


def digest(examples: Iterable[Example]) -> str:
    """16 hex digits of the SHA-256 over all that examples say, in their order: equal only for the same data and template."""
    hasher = hashlib.sha256()
    for example in examples:  # JSON keeps texts apart that would be one when laid end to end
        hasher.update(json.dumps(astuple(example), default=int).encode() + b"\n")
    return hasher.hexdigest()[:16]


def shared_candidates(examples: Sequence[Example]) -> tuple[str, ...]:
    """The candidates that all examples share, two or more: then they are classes. Empty where there are none such."""
    distinct = {example.candidates for example in examples}
    candidates = distinct.pop() if len(distinct) == 1 else ()
    return candidates if len(candidates) > 1 else ()


def by_class(examples: Sequence[Example]) -> list[list[Example]]:
    """The examples of each class, in the order of the candidates that all share; empty where they share none."""
    labels = range(len(shared_candidates(examples)))
    return [[example for example in examples if example.answer == label] for label in labels]
