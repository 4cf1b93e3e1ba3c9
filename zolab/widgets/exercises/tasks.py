"""Exercises of notebook 05."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from zolab.tasks import Example
from zolab.tasks.metrics import interval
from zolab.tasks.packing import pack
from zolab.widgets.exercises.entry import Entry, need

RIGHT = 0.55  # of the answers


@torch.no_grad()
def _scores(model: Any, tokenizer: Any, example: Example) -> np.ndarray:
    """Sum and mean of the log-probabilities of each candidate's tokens, shape (2, candidates)."""
    rows = []
    for candidate in example.candidates:
        ids = tokenizer(example.prompt + candidate)["input_ids"]
        first = len(tokenizer(example.prompt.rstrip(" "))["input_ids"])
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows.append([float(logs[place - 1, ids[place]]) for place in range(first, len(ids))])
    return np.array([[sum(row) for row in rows], [float(np.mean(row)) for row in rows]])


def sum_or_mean(model: Any, tokenizer: Any, one: Example, other: Example) -> tuple[bool, str]:
    """Two examples of two candidates: the sum is right on the first alone, the mean on the second alone."""
    met, messages = True, []
    for example, expected in ((one, (True, False)), (other, (False, True))):
        need(len(example.candidates) == 2, f"an example has {len(example.candidates)} candidates; give it two.")
        right = tuple(bool(row.argmax() == example.answer) for row in _scores(model, tokenizer, example))
        met &= right == expected
        messages.append(", ".join(f"the {way} is {'right' if is_ else 'wrong'}" for way, is_ in zip(("sum", "mean"), right)))  # noqa: B905
    return met, f"first, {messages[0]}; second, {messages[1]}"


def sharing(ratio: Callable[[int, int, int, int], float]) -> tuple[bool, str]:
    """A function of the tokens of passage, question and ending, and of the number of questions with two endings each."""
    met, messages = True, []
    for passage, question, ending, count in ((100, 10, 3, 1), (100, 10, 3, 8), (40, 20, 2, 4), (300, 5, 8, 16)):
        fresh = iter(range(1, 10_000))

        def words(n: int, fresh: Any = fresh) -> tuple[int, ...]:
            return tuple(next(fresh) for _ in range(n))

        start = words(passage)
        texts = [start + query + words(ending) for query in [words(question) for _ in range(count)] for _ in range(2)]
        packs, _ = pack([text[:-1] for text in texts], [range(len(text) - 1) for text in texts], causal=True)
        computed = sum(len(part.places) for part in packs)
        measured = sum(map(len, texts)) / computed
        answer = ratio(passage, question, ending, count)
        met &= bool(abs(answer / measured - 1) < 0.01)
        messages.append(f"{count} questions: you say {answer:.2f}, packs say {measured:.2f}")
    return met, "; ".join(messages)


def enough_questions(n: int) -> tuple[bool, str]:
    need(type(n) is int and n > 1, f"n must be a whole number above 1, got {n!r}.")

    def low(count: int) -> float:
        return interval([RIGHT] * count)[0]

    least = next(count for count in range(2, 10_000) if low(count) > 0.5)
    return abs(n / least - 1) < 0.05, f"of {n:,} questions {RIGHT:.0%} right leave an interval from {low(n):.1%}"


TASKS: dict[str, Sequence[Entry]] = {
    "05": (
        (
            *("How many questions?", 1, 5, "the least number of questions of which 55 % right is above chance, within 5 %"),
            *("half the width of a 95 % interval is about 1.96 sqrt(p (1 - p) / n), and has to be 5 points", enough_questions),
        ),
        (
            *(
                "Sum instead of mean",
                2,
                15,
                "an example on which the sum is right and the mean wrong, and one the other way round",
            ),
            *(
                "a long candidate whose words follow from each other has a high mean and a low sum",
                sum_or_mean,
            ),
        ),
        (
            *(
                "Sharing by size",
                2,
                10,
                "the tokens of rows without sharing over those that packs compute, as a function, within 1 %",
            ),
            *(
                "the passage is computed once, a question once for both of its endings, and an ending's last token never",
                sharing,
            ),
        ),
    ),
}
