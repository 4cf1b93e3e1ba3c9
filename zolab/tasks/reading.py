"""Reading comprehension with answers in free text, with MeZO's prompts."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from zolab.tasks.base import Example
from zolab.tasks.data import Source
from zolab.tasks.generation import Generation
from zolab.tasks.metrics import drop_em, drop_f1, squad_em, squad_f1


class SQuAD(Generation):
    """Questions about Wikipedia paragraphs, version 1.1; official F1 and exact match over all gold answers."""

    name = "squad"
    source = Source("squad", ("rajpurkar/squad", None), ("title", "context", "question", "answers.text"))

    def template(self, row: dict[str, Any]) -> Example:
        prompt = f"Title: {row['title']}\nContext: {row['context']}\nQuestion: {row['question'].strip()}\nAnswer:"
        return _answered(prompt, [(text,) for text in row["answers"]["text"]])

    def judge(self, text: str, references: Sequence[Sequence[str]]) -> dict[str, float]:
        golds = list(chain(*references))
        return {"f1": squad_f1(text, golds), "em": squad_em(text, golds)}


class DROP(SQuAD):
    """Discrete reasoning over paragraphs: answers are numbers, dates or spans.

    `f1` and `em` are the papers' metric: each span of a row counts as an answer of its own, so that one part of an answer
    already counts in full. `official_f1` and `official_em` want all parts of an answer, and the best annotator counts. The
    held-out rows of the Hub are the answers of several annotators, one list without marks between them. A number or a date
    is always a whole answer; several different spans are taken as the parts of one, which is strict where they are not.
    """

    name = "drop"
    source = Source("drop", ("ucinlp/drop", None), ("passage", "question", "answers_spans.spans", "answers_spans.types"))

    def template(self, row: dict[str, Any]) -> Example:
        prompt = f"Passage: {row['passage']}\nQuestion: {row['question'].strip()}\nAnswer:"
        spans, types = row["answers_spans"]["spans"], row["answers_spans"]["types"]
        if len(spans) != len(types):
            raise ValueError(
                f"DROP needs a type for each span, and there are {len(spans)} spans, {len(types)} types; correct it."
            )
        typed = list(zip(spans, types, strict=True))
        parts = tuple(dict.fromkeys(span for span, kind in typed if kind == "span"))
        answers = [parts if kind == "span" else (span,) for span, kind in typed]
        return _answered(prompt, dict.fromkeys(answers))

    def judge(self, text: str, references: Sequence[Sequence[str]]) -> dict[str, float]:
        official = {"official_f1": drop_f1, "official_em": drop_em}
        best = {name: max(metric([text], answer) for answer in references) for name, metric in official.items()}
        return super().judge(text, references) | best


def _answered(prompt: str, answers: Iterable[tuple[str, ...]]) -> Example:
    """The first span of the first gold answer and the end of its line are learned."""
    references = tuple(answers)
    return Example(prompt, (f" {references[0][0]}\n",), 0, references=references)
