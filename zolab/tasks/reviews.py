"""Tasks made from film reviews that `tiny-reviews` has not read, in wordings that it has not seen.

Every answer is a fact of the data: the label that the writer gave, the text that really follows, a number that stands there,
the source of a sentence. Texts are short, so that a step of a small model takes milliseconds.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import datasets

from zolab.tasks.base import Example, Task
from zolab.tasks.data import Embedded, EmbeddedReviews, Table
from zolab.tasks.reading import SQuAD

Row = dict[str, Any]
GENRES = ("comedy", "horror", "drama", "western", "war", "musical", "thriller", "romance", "documentary", "action")
NAMED = re.compile(rf"\b({'|'.join(GENRES)})\b", re.IGNORECASE)
GAP = "___"


@dataclass(frozen=True)
class Derived:
    """Rows made from other rows, the same ones on every machine.

    Args:
        make: the rows of a split's name.
        texts, labels: of the rows made, as for `Table`.
    """

    make: Callable[[str], Iterator[Row]]
    texts: tuple[str, ...]
    labels: tuple[int, ...] = ()
    held_out: str = "validation"

    def rows(self, split: str) -> Table:
        return _table(self, split)


@lru_cache
def _table(source: Derived, split: str) -> Table:
    rows = list(source.make(split))
    if source.labels:
        size = min(sum(row["label"] == label for row in rows) for label in source.labels)
        rows = [row for label in source.labels for row in [row for row in rows if row["label"] == label][:size]]
    return Table(datasets.Dataset.from_list(rows), "movie-reviews", source.texts, labels=source.labels)


def ending(text: str, words: int) -> str:
    """The last words of a text."""
    return " ".join(text.split()[-words:])


def plainly(text: str) -> str:
    """In lower case, with spaces around punctuation, as the Rotten Tomatoes sentences are written."""
    return " ".join(re.sub(r"([^\w\s'-])", r" \1 ", text.lower()).split())


def genre_of(text: str, words: int) -> tuple[str, str] | None:
    """A window around the first genre that a text names, with a gap in its place, and the genre; None if there are others."""
    first = NAMED.search(text)
    if first is None:
        return None
    genre, place = first[0].lower(), len(text[: first.start()].split())
    window = re.sub(genre, GAP, _window(text.split(), place, words), flags=re.IGNORECASE)
    return None if NAMED.search(window) or GAP not in window else (window, genre)


def number_of(text: str, words: int) -> tuple[str, str] | None:
    """A window with one number written in digits, and the number; None without one."""
    words_of = text.split()
    for place, word in enumerate(words_of):
        if re.search(r"\d", word):
            window = _window(words_of, place, words)
            numbers = re.findall(r"\d+", window)
            if len(numbers) == 1 and len(numbers[0]) <= 4:
                return window, numbers[0]
    return None


def _window(words_of: list[str], place: int, words: int) -> str:
    start = max(0, min(place - words // 2, len(words_of) - words))
    return " ".join(words_of[start : start + words])


def _reviews(split: str) -> list[Row]:
    return [dict(row) for row in EmbeddedReviews().rows(split).rows]


def _sentences(split: str) -> Iterator[Row]:
    """Sentences of at most 20 words."""
    yield from (dict(row) for row in Embedded(words=20).rows(split).rows)


def _compared(split: str) -> Iterator[Row]:
    """Two endings, one of a review of each label; the label is which of them liked the film."""
    rows = _reviews(split)
    sides = [[row["text"] for row in rows if row["label"] == label] for label in (0, 1)]
    for i, (bad, good) in enumerate(zip(*sides, strict=False)):
        pair = (ending(good, 12), ending(bad, 12))
        yield {"first": pair[i % 2], "second": pair[1 - i % 2], "label": i % 2}


def _agreeing(split: str) -> Iterator[Row]:
    """Two endings; label 1 if their writers gave the same label."""
    rows = _reviews(split)
    for one, other in zip(rows[::2], rows[1::2], strict=False):
        same = int(one["label"] == other["label"])
        yield {"first": ending(one["text"], 12), "second": ending(other["text"], 12), "label": same}


def _written(split: str) -> Iterator[Row]:
    """Sentences of critics (label 0) and viewers (label 1), in one spelling and of 6 to 20 words."""
    critics = Embedded().rows(split).rows["text"]
    viewers = [sentence for row in _reviews(split) for sentence in re.split(r"(?<=[.!?]) +", row["text"])[1:2]]
    for label, texts in enumerate((critics, viewers)):
        for text in map(plainly, texts):
            if 6 <= len(text.split()) <= 20:
                yield {"text": text, "label": label}


def _genres(split: str) -> Iterator[Row]:
    for row in _reviews(split):
        labelled = genre_of(row["text"], 16)
        if labelled and labelled[1] in ("comedy", "horror"):
            yield {"text": labelled[0], "label": int(labelled[1] == "horror")}


def _numbers(split: str) -> Iterator[Row]:
    for row in _reviews(split):
        if numbered := number_of(row["text"], 14):
            yield {"text": numbered[0], "number": numbered[1]}


def _continuations(split: str) -> Iterator[Row]:
    """A beginning, and what follows there and what follows elsewhere."""
    rows = [words[:24] for row in _reviews(split) if len(words := row["text"].split()) >= 24]
    for i, words in enumerate(rows):
        choices = [" ".join(words[16:]), " ".join(rows[i - 1][16:])]
        yield {"start": " ".join(words[:16]), "first": choices[i % 2], "second": choices[1 - i % 2], "label": i % 2}


class _Reviews(Task):
    train = 1000
    dev = 200
    test = 500


class Sentence(_Reviews):
    """Did a critic like the film? Rotten Tomatoes sentences."""

    name = "reviews_sentence"
    source = Derived(_sentences, ("text",), (0, 1))

    def template(self, row: Row) -> Example:
        return Example(f"{row['text'].strip()} Shall we keep it?", (" drop", " keep"), row["label"])


class Passage(_Reviews):
    """A yes-or-no question about a passage, as in BoolQ: was its writer pleased?"""

    name = "reviews_passage"
    source = EmbeddedReviews()

    def template(self, row: Row) -> Example:
        prompt = f"{ending(row['text'], 20)} Did they leave smiling?"
        return Example(prompt, (" Never", " Sure"), row["label"])


class Compared(_Reviews):
    """Which of two passages likes its film?"""

    name = "reviews_compare"
    source = Derived(_compared, ("first", "second"), (0, 1))

    def template(self, row: Row) -> Example:
        prompt = f"One: {row['first']}\nTwo: {row['second']}\nThe happier one is"
        return Example(prompt, (" One", " Two"), row["label"])


class Agreeing(_Reviews):
    """Do two writers agree in their judgement?"""

    name = "reviews_agree"
    source = Derived(_agreeing, ("first", "second"), (0, 1))

    def template(self, row: Row) -> Example:
        prompt = f"He: {row['first']}\nShe: {row['second']}\nDo they get along?"
        return Example(prompt, (" Never", " Sure"), row["label"])


class Written(_Reviews):
    """Who wrote a sentence, a critic or a viewer?"""

    name = "reviews_writer"
    source = Derived(_written, ("text",), (0, 1))

    def template(self, row: Row) -> Example:
        return Example(f"{row['text']} This was written by a", (" critic", " fan"), row["label"])


class Genre(_Reviews):
    """Which genre stood in the gap of a passage?"""

    name = "reviews_genre"
    source = Derived(_genres, ("text",), (0, 1))
    train = 400

    def template(self, row: Row) -> Example:
        return Example(f"{row['text']} The people were", (" laughing", " screaming"), row["label"])


class Continued(_Reviews):
    """Which of two texts follows, as in COPA: the true one is learned."""

    name = "reviews_next"
    source = Derived(_continuations, ("start", "first", "second"), (0, 1))
    objective = "answer"

    def template(self, row: Row) -> Example:
        return Example(row["start"], (f" {row['first']}", f" {row['second']}"), row["label"])


class Number(_Reviews, SQuAD):
    """Which number does a passage give? Written out, as in SQuAD."""

    name = "reviews_number"
    source = Derived(_numbers, ("text", "number"))

    def template(self, row: Row) -> Example:
        prompt = f"{row['text']}\nTell me the figure in it."
        return Example(prompt, (f" {row['number']}\n",), 0, references=((row["number"],),))


REVIEWS = (Sentence, Passage, Compared, Agreeing, Written, Genre, Continued, Number)
