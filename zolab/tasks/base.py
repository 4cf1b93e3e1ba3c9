"""What a task is: rows of a data set turned into prompts with candidate answers, a training loss and a metric."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zolab.tasks.data import Source
from zolab.tasks.scoring import Batch, encode, option_log_probs


@dataclass(frozen=True)
class Example:
    """One templated example.

    Args:
        prompt: the text before the answer.
        candidates: the texts that may follow it, separator included; for generation, the first gold answer alone.
        answer: index of the right candidate.
        references: gold answers that a generated text is compared with; empty unless the task generates.
    """

    prompt: str
    candidates: tuple[str, ...]
    answer: int
    references: tuple[str, ...] = ()


class Splits(NamedTuple):
    """Examples to train on, to choose a checkpoint by, and to report on."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]


class Evaluation(NamedTuple):
    """Mean loss and mean metric (a fraction) over `examples` examples."""

    loss: float
    metric: float
    examples: int


class Task(ABC):
    """A data set, its template, its loss and its metric. A new task is a subclass with `source` and `template`.

    `objective` is "options" (cross-entropy over the candidates' mean log-probabilities) or "answer" (language-model loss on
    the right candidate's tokens), as MeZO's `train_as_classification` has it.
    """

    name: ClassVar[str]
    source: ClassVar[Source]
    metric: ClassVar[str] = "accuracy"
    objective: ClassVar[str] = "options"

    @abstractmethod
    def template(self, row: dict[str, Any]) -> Example:
        """A row of the data set as a prompt with candidates."""

    def sample(self, seed: int = 0, train: int = 1000, dev: int = 500, test: int = 1000) -> Splits:
        """Draw examples as MeZO does: train and dev from the training split, test from the validation split.

        Args:
            seed: of the permutation; the same seed gives the same examples on every machine.
            train, dev, test: numbers of examples. When the training split is smaller than train + dev, dev keeps its size and
                train gets the rest; test is capped at what there is.

        Raises:
            ValueError: a size is below 1, or nothing would be left to train on.
            OSError: the data cannot be had; the message names the ways out.
        """
        for name, size in (("train", train), ("dev", dev), ("test", test)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1 example, got {size}.")
        pool = self.source.rows("train")
        drawn = _permuted(pool, seed)[: train + dev]
        if len(drawn) <= dev:
            raise ValueError(f"{self.name} has {len(pool)} training rows; dev={dev} leaves none to train on: lower dev.")
        held_out = _permuted(self.source.rows("validation"), seed)[:test]
        return Splits(*([self.template(row) for row in rows] for rows in (drawn[:-dev], drawn[-dev:], held_out)))

    def encode(self, tokenizer, examples: Sequence[Example], max_length: int = 2048) -> Batch:
        """Tokenise examples once, ready for `loss`."""
        if self.objective == "answer":
            answers = [(e.prompt, (e.candidates[e.answer],), 0) for e in examples]
        else:
            answers = [(e.prompt, e.candidates, e.answer) for e in examples]
        return encode(tokenizer, answers, max_length)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The training loss of a batch, float32, one number."""
        if self.objective == "answer":
            return -option_log_probs(model, batch, per_token=True).mean()
        return _option_losses(option_log_probs(model, batch), batch).mean()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, tokenizer, examples: Sequence[Example], batch_size: int = 32) -> Evaluation:
        """Mean option loss and accuracy: the candidate with the highest mean log-probability wins, without calibration."""
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
        losses, right = 0.0, 0
        for start in range(0, len(order), batch_size):
            chosen = [examples[i] for i in order[start : start + batch_size]]
            batch = encode(tokenizer, [(e.prompt, e.candidates, e.answer) for e in chosen]).to(_device(model))
            scores = option_log_probs(model, batch)
            losses += float(_option_losses(scores, batch).sum())
            right += sum(int(s.argmax()) == a for s, a in zip(scores.split(batch.sizes), batch.answers, strict=True))
        return Evaluation(losses / len(examples), right / len(examples), len(examples))

    @torch.no_grad()
    def predict(self, model: nn.Module, tokenizer, examples: Sequence[Example]) -> Tensor:
        """Probability of each candidate, a row an example (for tasks whose examples have equally many candidates)."""
        batch = self.encode(tokenizer, examples).to(_device(model))
        return torch.stack([s.softmax(0) for s in option_log_probs(model, batch).split(batch.sizes)])


def _option_losses(scores: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy over each example's candidates, which may differ in number."""
    per_example = zip(scores.split(batch.sizes), batch.answers, strict=True)
    return torch.stack([-s.log_softmax(0)[answer] for s, answer in per_example])


def _permuted(rows: Sequence, seed: int) -> list:
    return [rows[int(i)] for i in np.random.RandomState(seed).permutation(len(rows))]


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
