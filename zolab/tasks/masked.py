"""Classification by a word at a mask, for RoBERTa-like models, with k training and k dev examples of each class.

Templates and label words are LM-BFF's (arXiv 2012.15723), which MeZO uses for RoBERTa-large.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from zolab.tasks.base import Example, Splits, Task
from zolab.tasks.data import CONVERTED, Source
from zolab.tasks.scoring import Batch, batch_of
from zolab.tasks.sentiment import SST2
from zolab.tasks.superglue import RTE

MASK = "<mask>"


@dataclass(frozen=True)
class MaskedExample(Example):
    """An example whose prompt is made of `pieces`, tokenised one by one; one of them is `MASK`."""

    pieces: tuple[str, ...] = ()


class MaskedTask(Task):
    """A task whose answer is one word at a mask; the loss is the cross-entropy over the label words there.

    A subclass has `source`, `words` (label words by class) and `pieces`. `train` and `dev` count examples of each class.
    `limits` cuts single pieces, by index, to a number of tokens, before the whole is cut to `max_length`.
    """

    source: ClassVar[Source]
    train = 16
    dev = 16
    max_length = 128
    words: ClassVar[tuple[str, ...]]
    limits: ClassVar[dict[int, int]] = {}

    @abstractmethod
    def pieces(self, row: dict[str, Any]) -> tuple[str, ...]:
        """The text of a row, with `MASK` where the label word belongs."""

    def answer(self, row: dict[str, Any]) -> int:
        """Index of the right label word."""
        return row[self.source.label]

    def template(self, row: dict[str, Any]) -> MaskedExample:
        pieces = self.pieces(row)
        candidates = tuple(f" {word}" for word in self.words)
        return MaskedExample("".join(pieces), candidates, self.answer(row), pieces=pieces)

    def sample(self, seed: int = 0, train: int | None = None, dev: int | None = None, test: int | None = None) -> Splits:
        """Draw examples as LM-BFF does; MeZO's seeds are 13, 21, 42, 87 and 100.

        Args:
            seed: of the permutation of the training split, whose first examples of each class are trained on and whose next
                ones are dev; `test` examples are drawn with seed 42 whatever the seed.
            train, dev: numbers of examples of each class; where a class has fewer, dev gets what is left.
            test: number of examples, capped at what there is.

        Raises:
            ValueError: a size is below 1, a class has no rows, none are left for dev, or a drawn row is not as it should be.
            OSError: the data cannot be had; the message names the ways out.
        """
        train, dev = self._size("train", train), self._size("dev", dev)
        pool = self.source.rows("train")
        order, labels = np.random.RandomState(seed).permutation(len(pool)), pool.classes()
        classes = [order[labels[order] == label] for label in self.source.labels]
        learned, checked = (
            [self._example(pool, i) for i in dealt([rows[part] for rows in classes])]
            for part in (slice(train), slice(train, train + dev))
        )
        if not checked:
            raise ValueError(f"{self.name} has no class of more than {train} examples, so that none are left for dev.")
        return Splits(learned, checked, self.held_out(seed, test))

    def held_out(self, seed: int = 0, test: int | None = None) -> list[Example]:
        """The same `test` examples for every seed."""
        return super().held_out(42, test)

    def demonstrate(self, examples: Sequence[Example], shots: int = 32, seed: int = 0, among: bool = False) -> list[Example]:
        """Masked models answer without demonstrations: `ValueError` for any other number of shots than 0."""
        if shots:
            raise ValueError(f"{self.name} is for masked language models, which take no demonstrations; use shots=0.")
        return list(examples)

    def are_cut(self, tokenizer, examples: Sequence[Example]) -> list[bool]:
        """For each example, whether a piece is longer than its limit, or the whole than there is room for."""
        room, masked = min(self.max_length, tokenizer.model_max_length), cast(Sequence[MaskedExample], examples)
        whole = ([len(self._ids(tokenizer, piece)) for piece in e.pieces] for e in masked)
        return [sum(sizes) + 2 > room or any(sizes[index] > limit for index, limit in self.limits.items()) for sizes in whole]

    def _encode_all(self, tokenizer, examples: Sequence[Example], max_length: int, apart: bool = False) -> Batch:
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{self.name} fills in a mask, and this tokenizer has no mask token; use a RoBERTa-like model.")
        max_length = min(max_length, tokenizer.model_max_length)
        words = {word: _one_token(tokenizer, word) for word in {word for e in examples for word in e.candidates}}
        masked = cast(Sequence[MaskedExample], examples)
        texts = [tuple(self._tokens(tokenizer, e.pieces))[:max_length] for e in masked]
        for text, example in zip(texts, examples, strict=True):
            if (masks := text.count(tokenizer.mask_token_id)) != 1:
                raise ValueError(f"{example.prompt[:60]!r} has {masks} masks in {max_length} tokens, not 1; change the text.")
        candidates = [(text, words[word]) for text, e in zip(texts, examples, strict=True) for word in e.candidates]
        places = [[text.index(tokenizer.mask_token_id)] for text, _ in candidates]
        questions = [(e.prompt, e.candidates, e.answer) for e in examples]
        texts, targets = [text for text, _ in candidates], [[word] for _, word in candidates]
        return batch_of(texts, places, targets, questions, masked=True, apart=apart)

    def _tokens(self, tokenizer, pieces: Sequence[str]) -> list[int]:
        ids = [tokenizer.cls_token_id]
        for index, piece in enumerate(pieces):
            ids += self._ids(tokenizer, piece)[: self.limits.get(index)]
        return [*ids, tokenizer.sep_token_id]

    def _ids(self, tokenizer, piece: str) -> list[int]:
        if piece == MASK:
            return [tokenizer.mask_token_id]
        return tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]


def _one_token(tokenizer, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        cure = "use another model, or a task with other words"
        raise ValueError(f"the label word {word!r} must be one token, and this tokenizer makes {len(ids)} of it; {cure}.")
    return ids[0]


class MaskedSST2(MaskedTask):
    """Sentiment of film review sentences, two classes."""

    name = "masked_sst2"
    source = SST2.source
    words = ("terrible", "great")

    def pieces(self, row: dict[str, Any]) -> tuple[str, ...]:
        return (row["sentence"], " It was", MASK, ".")


class MaskedSST5(MaskedTask):
    """Sentiment of film review sentences, five classes."""

    name = "masked_sst5"
    source = Source("sst5", ("SetFit/sst5", None), ("text",), labels=(0, 1, 2, 3, 4), held_out="test")
    words = ("terrible", "bad", "okay", "good", "great")
    limits: ClassVar = {0: 110}

    def pieces(self, row: dict[str, Any]) -> tuple[str, ...]:
        return (row["text"], " It was", MASK, ".")


class MaskedSNLI(MaskedTask):
    """Does a premise entail a hypothesis, contradict it, or neither? Rows on which the annotators disagree are left out."""

    name = "masked_snli"
    source = Source("snli", ("stanfordnlp/snli", None), ("premise", "hypothesis"), labels=(0, 1, 2), unlabelled=-1)
    words = ("Yes", "Maybe", "No")
    max_length = 256

    def pieces(self, row: dict[str, Any]) -> tuple[str, ...]:
        hypothesis = row["hypothesis"]
        return (row["premise"][:-1], "?", MASK, ",", f" {hypothesis[:1].lower()}{hypothesis[1:]}")


class MaskedMNLI(MaskedSNLI):
    """The same question in many genres; tested on the matched ones."""

    name = "masked_mnli"
    source = Source(
        "mnli", ("nyu-mll/glue", "mnli"), ("premise", "hypothesis"), labels=(0, 1, 2), held_out="validation_matched"
    )
    limits: ClassVar = {0: 240}


class MaskedRTE(MaskedMNLI):
    """The same question with two answers; SuperGLUE's rows, which are GLUE's."""

    name = "masked_rte"
    source = RTE.source
    words = ("Yes", "No")


class MaskedTREC(MaskedTask):
    """What does a question ask for? Classes are matched by name: the data set numbers them in another order than LM-BFF."""

    name = "masked_trec"
    source = Source(
        "trec", ("CogComp/trec", None), ("text",), "coarse_label", tuple(range(6)), held_out="test", revision=CONVERTED
    )
    by_name: ClassVar = {
        "DESC": "Description",
        "ENTY": "Entity",
        "ABBR": "Expression",
        "HUM": "Human",
        "LOC": "Location",
        "NUM": "Number",
    }
    words = tuple(by_name.values())
    limits: ClassVar = {2: 110}

    def pieces(self, row: dict[str, Any]) -> tuple[str, ...]:
        return (MASK, ":", f" {row['text']}")

    def answer(self, row: dict[str, Any]) -> int:
        in_the_data = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
        return list(self.by_name).index(in_the_data[row["coarse_label"]])


def dealt(parts: Sequence[np.ndarray]) -> list[int]:
    """Numbers of rows, one of each class after another, so that the first few are of all classes."""
    most = max(map(len, parts), default=0)
    return [int(rows[i]) for i in range(most) for rows in parts if i < len(rows)]
