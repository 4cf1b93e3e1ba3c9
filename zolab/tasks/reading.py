"""Reading comprehension with answers in free text, with MeZO's prompts."""

from collections.abc import Sequence
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
        return _answered(prompt, row["answers"]["text"])

    def judge(self, text: str, references: Sequence[str]) -> dict[str, float]:
        return {"f1": squad_f1(text, references), "em": squad_em(text, references)}


class DROP(Generation):
    """Discrete reasoning over paragraphs: answers are numbers, dates or spans.

    A row's gold spans may be several answers or the parts of one, and the data set does not say which. `f1` and `em`, the
    papers' metric, take them as several answers, so that one part of an answer already counts in full. `official_f1` and
    `official_em` take them as parts of one answer. Where a row has one span, as nearly all do, only the normalisation differs.
    """

    name = "drop"
    source = Source("drop", ("ucinlp/drop", None), ("passage", "question", "answers_spans.spans"))

    def template(self, row: dict[str, Any]) -> Example:
        prompt = f"Passage: {row['passage']}\nQuestion: {row['question'].strip()}\nAnswer:"
        return _answered(prompt, row["answers_spans"]["spans"])

    def judge(self, text: str, references: Sequence[str]) -> dict[str, float]:
        papers = {"f1": squad_f1(text, references), "em": squad_em(text, references)}
        return papers | {"official_f1": drop_f1([text], references), "official_em": drop_em([text], references)}


def _answered(prompt: str, answers: Sequence[str]) -> Example:
    """The first gold answer and the end of its line are learned, all gold answers are right."""
    return Example(prompt, (f" {answers[0]}\n",), 0, references=tuple(answers))
