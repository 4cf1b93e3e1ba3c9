"""What a task is: rows of a data set turned into prompts with candidate answers, a training loss and a metric."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from zolab.models import context_of
from zolab.tasks.data import DataSource, Table
from zolab.tasks.example import Example, shared_candidates
from zolab.tasks.scoring import Batch, encode, option_log_probs, option_means, token_log_probs
from zolab.tasks.tokens import joined, tokenize


class Splits(NamedTuple):
    """Examples to train on, to choose a checkpoint by, and to report on."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]


class Scores(NamedTuple):
    """The loss over all examples, and each metric (a fraction) example by example, in their order."""

    loss: float
    metrics: dict[str, np.ndarray]


class Evaluation(NamedTuple):
    """Mean loss and mean metric (a fraction) over `examples` examples."""

    loss: float
    metric: float
    examples: int


class Task(ABC):
    """A data set, its template, its loss and its metric. A new task is a subclass with `source` and `template`.

    `objective` is "options" (cross-entropy over the candidates' mean log-probabilities) or "answer" (language-model loss on
    the right candidate's tokens), as MeZO's `train_as_classification` has it. `train`, `dev` and `test` are the numbers of
    examples that the papers draw, `max_length` the number of tokens to which they cut a text. `offsets` are added to the scores
    of the candidates wherever these are compared, one to each, as calibration does; none by default.

    Args:
        autocast: run models in bfloat16 where torch deems it safe; losses stay float32.
    """

    name: str
    source: ClassVar[DataSource]
    metric: str = "accuracy"
    objective: str = "options"
    train: int = 1000
    dev: int = 500
    test: int = 1000
    max_length: int = 2048
    offsets: tuple[float, ...] = ()

    def __init__(self, autocast: bool = False):
        self.autocast = autocast

    @abstractmethod
    def template(self, row: dict[str, Any]) -> Example:
        """A row of the data set as a prompt with candidates."""

    def sample(self, seed: int = 0, train: int | None = None, dev: int | None = None, test: int | None = None) -> Splits:
        """Draw examples as MeZO does: train and dev from the training split, test from the held-out split.

        Args:
            seed: of the permutation; the same seed gives the same examples on every machine.
            train, dev, test: numbers of examples, by default the papers'. When the training split is smaller than
                train + dev, dev keeps its size and train gets the rest; test is capped at what there is.

        Raises:
            ValueError: a size is below 1, nothing would be left to train on, or a drawn row is not as the task needs it.
            OSError: the data cannot be had; the message names the ways out.
        """
        train, dev, test = self._size("train", train), self._size("dev", dev), self._size("test", test)
        pool, apart = self.source.rows("train"), getattr(self.source, "dev", "train")
        if apart != "train":  # data of one's own may have dev examples of their own
            chosen = self._draw(self.source.rows(apart), seed, dev)
            return Splits(self._draw(pool, seed, train), chosen, self.held_out(seed, test))
        examples = self._draw(pool, seed, train + dev)
        if len(examples) <= dev:
            raise ValueError(f"{self.name} has {len(pool)} training rows; dev={dev} leaves none to train on: lower dev.")
        return Splits(examples[:-dev], examples[-dev:], self.held_out(seed, test))

    def held_out(self, seed: int = 0, test: int | None = None) -> list[Example]:
        """The `test` examples that `sample` draws with this seed; errors as there."""
        return self._draw(self.source.rows(self.source.held_out), seed, self._size("test", test))

    def demonstrate(self, examples: Sequence[Example], shots: int = 32, seed: int = 0, among: bool = False) -> list[Example]:
        """The examples with solved ones before each, a new draw of training examples for each, as MeZO's in-context runs.

        Args:
            examples: those to be answered.
            shots: demonstrations before each; 0 gives the examples as they are.
            seed: of the draws.
            among: they are training examples themselves, and none stands solved before itself.

        Raises:
            ValueError: there are fewer training examples than shots, or a drawn row is not as the task needs it.
        """
        if not shots:
            return list(examples)
        pool = self.source.rows("train")
        if not 0 < shots <= len(pool) - among:
            message = f"shots must be between 0 and the {len(pool) - among} training rows of {self.name} for one example"
            raise ValueError(f"{message}, got {shots}.")
        demonstrated = []
        for example, draw in zip(examples, np.random.RandomState(seed).randint(0, 10000, len(examples)), strict=True):
            drawn = [e for e in self._draw(pool, int(draw), shots + among) if not among or e != example][:shots]
            solved = [(e.prompt + e.candidates[e.answer]).strip() for e in drawn]
            demonstrated.append(replace(example, prompt="\n\n".join([*solved, example.prompt.lstrip(" ")])))
        return demonstrated

    def encode(self, tokenizer, examples: Sequence[Example], max_length: int | None = None, apart: bool = False) -> Batch:
        """Tokenise examples once, ready for `loss`; texts are cut to `max_length` tokens, by default the papers'.

        With `apart` no row of a forward pass holds texts of two examples, as methods need that treat each by itself.
        """
        if self.objective == "answer":
            examples = [replace(e, candidates=(e.candidates[e.answer],), answer=0, also=()) for e in examples]
        return self._encode_all(tokenizer, examples, max_length or self.max_length, apart)

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """The training loss of a batch, float32, one number."""
        return self._losses(token_log_probs(model, batch, self.autocast), batch).mean()

    def terms(self, batch: Batch) -> int:
        """How many numbers `loss` is the mean of: examples, or tokens of right candidates."""
        if self.objective != "answer":
            return len(batch.sizes)
        return int(torch.isin(batch.options, torch.tensor(batch.right, device=batch.options.device)).sum())

    def losses(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """What each example adds to the training loss, float32 of shape (examples,); `loss` is the mean, up to rounding."""
        losses, count = self._losses(token_log_probs(model, batch, self.autocast), batch), len(batch.sizes)
        if self.objective != "answer":
            return losses
        sizes, right = (torch.tensor(part, device=losses.device) for part in (batch.sizes, batch.right))
        owners = torch.arange(count, device=losses.device).repeat_interleave(sizes)[batch.options]
        right_owners = owners[torch.isin(batch.options, right)]
        return losses.new_zeros(count).index_add(0, right_owners, losses) * (count / len(losses))

    def shifted(self, scores: Tensor) -> Tensor:
        """The scores of an example's candidates with their offsets, if there are any; shape (candidates,)."""
        return scores + scores.new_tensor(self.offsets) if self.offsets else scores

    def evaluate(self, model: PreTrainedModel, tokenizer, examples: Sequence[Example], batch_size: int = 32) -> Evaluation:
        """The training loss over all examples, and the mean of the task's metric; errors as for `score`."""
        loss, metrics = self.score(model, tokenizer, examples, batch_size)
        return Evaluation(loss, float(metrics[self.metric].mean()), len(examples))

    def score(self, model: PreTrainedModel, tokenizer, examples: Sequence[Example], batch_size: int = 32) -> Scores:
        """Loss and accuracy: the candidate with the highest mean log-probability wins, `offsets` added where there are any.

        Raises:
            ValueError: the model or the tokenizer is none for this task.
            FloatingPointError: the loss of an example is not finite, as when float16 overflows.
        """
        return self.compare(model, tokenizer, examples, batch_size)[0]

    @torch.no_grad()
    def compare(
        self, model: PreTrainedModel, tokenizer, examples: Sequence[Example], batch_size: int = 32
    ) -> tuple[Scores, np.ndarray]:
        """The same, with the score of each candidate before offsets, float64 of shape (examples, candidates).

        Without columns where the examples do not share their candidates; errors as for `score`.
        """
        losses, right, lost = [], np.zeros(len(examples)), 0
        plain = np.zeros((len(examples), len(shared_candidates(examples))))
        for chosen in chunks(examples, batch_size):
            batch = self._encode_all(tokenizer, [examples[i] for i in chosen], self._room(model)).to(device_of(model))
            tokens = token_log_probs(model, batch, self.autocast)
            losses.append(self._losses(tokens, batch))
            for i, scores in zip(chosen, option_means(tokens, batch).split(batch.sizes), strict=True):
                right[i] = int(self.shifted(scores).argmax()) in (examples[i].answer, *examples[i].also)
                lost += not _sound(scores, examples[i].answer)
                plain[i] = scores[: plain.shape[1]].double().cpu().numpy()
        _check_none(lost, model, examples)
        return Scores(float(torch.cat(losses).mean()), {"accuracy": right}), plain

    @torch.no_grad()
    def predict(self, model: PreTrainedModel, tokenizer, examples: Sequence[Example]) -> Tensor:
        """Probability of each candidate, a row an example, where all have equally many candidates; errors as for `score`."""
        batch = self._encode_all(tokenizer, examples, self._room(model)).to(device_of(model))
        scores = option_log_probs(model, batch, self.autocast).split(batch.sizes)
        _check_none(sum(not _sound(s, e.answer) for s, e in zip(scores, examples, strict=True)), model, examples)
        return torch.stack([self.shifted(s).softmax(0) for s in scores])

    def are_cut(self, tokenizer, examples: Sequence[Example]) -> list[bool]:
        """For each example, whether its prompt loses tokens because it and a candidate are longer than there is room for."""
        room = min(self.max_length, tokenizer.model_max_length)
        lengths = map(len, tokenize(tokenizer, [joined(e.prompt, candidate) for e in examples for candidate in e.candidates]))
        return [max(islice(lengths, len(e.candidates))) > room for e in examples]

    def blind(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metric, on these examples, of answers that do not look at the prompt.

        "chance" draws a candidate. "majority" always gives the answer that is right most often here, where all examples have
        the same candidates: the best that a constant answer can do.
        """
        rights = [{e.answer, *e.also} for e in examples]
        values = {"chance": float(np.mean([len(right) / len(e.candidates) for right, e in zip(rights, examples, strict=True)]))}
        if len({e.candidates for e in examples}) == 1:
            values["majority"] = max(Counter(chain(*rights)).values()) / len(examples)
        return values

    def _encode_all(self, tokenizer, examples: Sequence[Example], max_length: int, apart: bool = False) -> Batch:
        """With every candidate, whatever the objective."""
        return encode(tokenizer, [(e.prompt, e.candidates, e.answer) for e in examples], max_length, apart)

    def _losses(self, tokens: Tensor, batch: Batch) -> Tensor:
        """What the training loss is the mean of: examples, or tokens of right candidates (long answers weigh more)."""
        right = torch.tensor(batch.right, device=tokens.device)
        if self.objective == "answer":
            return -tokens[torch.isin(batch.options, right)]
        per_example = zip(option_means(tokens, batch).split(batch.sizes), batch.answers, strict=True)
        return torch.stack([-self.shifted(scores).log_softmax(0)[answer] for scores, answer in per_example])

    def _room(self, model: PreTrainedModel) -> int:
        """Tokens that a text may have when the model is at hand."""
        return int(min(self.max_length, context_of(model)))

    def _size(self, split: str, size: int | None) -> int:
        size = getattr(self, split) if size is None else size
        if size < 1:
            raise ValueError(f"{split} must be at least 1 example, got {size}.")
        return size

    def _draw(self, pool: Table, seed: int, size: int) -> list[Example]:
        return [self._example(pool, int(i)) for i in np.random.RandomState(seed).permutation(len(pool))[:size]]

    def _example(self, pool: Table, index: int) -> Example:
        return self._templated(pool[index], pool.place(index))

    def _templated(self, row: dict[str, Any], place: str) -> Example:
        try:
            return self.template(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def cut(task: Task, tokenizer, examples: Sequence[Example]) -> int:
    """How many of the examples lose tokens when the task trains or evaluates on them.

    Args:
        task: the task.
        tokenizer: that of a loaded model, whose `model_max_length` is at most the model's context.
        examples: drawn ones.
    """
    return sum(task.are_cut(tokenizer, examples))


def _sound(scores: Tensor, answer: int) -> bool:
    """Whether the candidates' log-probabilities give a finite loss."""
    return bool(scores[answer].isfinite() and not scores.isnan().any())


def _check_none(lost: int, model: PreTrainedModel, examples: Sequence[Example]) -> None:
    if lost:
        raise FloatingPointError(
            f"{lost} of {len(examples)} examples have no finite loss under {type(model).__name__} in {dtype_of(model)}; "
            "use float32, or other weights."
        )


def chunks(examples: Sequence[Example], size: int, key: Callable[[str], Any] = str) -> Iterator[list[int]]:
    """Indices of the examples, `size` at a time, sorted by their prompts so that those that begin alike come together."""
    order = sorted(range(len(examples)), key=lambda i: key(examples[i].prompt))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def device_of(model: PreTrainedModel) -> torch.device:
    return next(model.parameters()).device


def dtype_of(model: PreTrainedModel) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
