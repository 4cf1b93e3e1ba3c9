"""Classification and multiple choice from SuperGLUE, with MeZO's prompts (arXiv 2305.17333, appendix E)."""

from typing import Any, ClassVar

import datasets

from zolab.tasks.base import Example, Task
from zolab.tasks.data import Source, mapped

HUB = "aps/super_glue"


class RTE(Task):
    """Recognizing Textual Entailment: does the premise entail the hypothesis?"""

    name = "rte"
    source: ClassVar[Source] = Source("rte", (HUB, "rte"), ("premise", "hypothesis"), labels=(0, 1))

    def template(self, row: dict[str, Any]) -> Example:
        prompt = f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true? Yes or No?\n'
        return Example(prompt, ("Yes", "No"), row["label"])


class CB(Task):
    """CommitmentBank: entailment, contradiction or neither. 250 training examples, so dev takes 100."""

    name = "cb"
    source = Source("cb", (HUB, "cb"), ("premise", "hypothesis"), labels=(0, 1, 2))
    dev = 100

    def template(self, row: dict[str, Any]) -> Example:
        prompt = f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"? Yes, No, or Maybe?\n'
        return Example(prompt, ("Yes", "No", "Maybe"), row["label"])


def _untitled(rows: datasets.Dataset) -> datasets.Dataset:
    """SuperGLUE's rows of BoolQ as in the original: the answer under its own name, passages without the article's title."""
    if "answer" in rows.column_names or not {"label", "passage"} <= set(rows.column_names):
        return rows
    rows = rows.rename_column("label", "answer")
    return mapped(rows, lambda row: {"passage": (row["passage"] or "").partition(" -- ")[2] or row["passage"]})


class BoolQ(Task):
    """Yes-or-no questions about a passage; Yes is the first candidate. The original data set, as MeZO has it."""

    name = "boolq"
    source = Source("boolq", ("google/boolq", None), ("passage", "question"), "answer", labels=(0, 1), adapt=_untitled)

    def template(self, row: dict[str, Any]) -> Example:
        question = row["question"] if row["question"].endswith("?") else row["question"] + "?"
        question = question[0].upper() + question[1:]
        return Example(f"{row['passage']} {question}\n", ("Yes", "No"), 0 if row["answer"] else 1)


class WSC(Task):
    """Winograd schemas: whom does a pronoun mean? Of its 554 training examples, dev takes 500 and 54 are trained on."""

    name = "wsc"
    source = Source("wsc", (HUB, "wsc.fixed"), ("text", "span1_text", "span2_text"), labels=(0, 1))

    def template(self, row: dict[str, Any]) -> Example:
        pronoun, noun = row["span2_text"].lower(), row["span1_text"]
        prompt = f'{row["text"]}\nIn the previous sentence, does the pronoun "{pronoun}" refer to {noun}? Yes or No?\n'
        return Example(prompt, ("No", "Yes"), row["label"])


class WiC(Task):
    """Words in context: does a word mean the same in two sentences?"""

    name = "wic"
    source = Source("wic", (HUB, "wic"), ("word", "sentence1", "sentence2"), labels=(0, 1))

    def template(self, row: dict[str, Any]) -> Example:
        question = f'Does the word "{row["word"]}" have the same meaning in these two sentences? Yes, No?'
        return Example(f"{question}\n{row['sentence1']}\n{row['sentence2']}\n", ("No", "Yes"), row["label"])


class MultiRC(Task):
    """Reading comprehension; each proposed answer is an example of its own, and the metric is plain accuracy (not F1a)."""

    name = "multirc"
    source = Source("multirc", (HUB, "multirc"), ("paragraph", "question", "answer"), labels=(0, 1))

    def template(self, row: dict[str, Any]) -> Example:
        claim = f'I found this answer "{row["answer"]}". Is that correct? Yes or No?'
        return Example(f"{row['paragraph']}\nQuestion: {row['question']}\n{claim}\n", ("No", "Yes"), row["label"])


class COPA(Task):
    """Choice of plausible alternatives: a cause or an effect. 400 training examples, so dev takes 100."""

    name = "copa"
    source = Source("copa", (HUB, "copa"), ("premise", "choice1", "choice2", "question"), labels=(0, 1))
    objective = "answer"
    dev = 100

    def template(self, row: dict[str, Any]) -> Example:
        conjunctions = {"effect": "so", "cause": "because"}
        if row["question"] not in conjunctions:
            raise ValueError(f"COPA asks for a cause or an effect, and a row asks for {row['question']!r}; correct it.")
        prompt = f"{row['premise'].rstrip().removesuffix('.')} {conjunctions[row['question']]} "
        return Example(prompt, (_continued(row["choice1"]), _continued(row["choice2"])), row["label"])


class ReCoRD(Task):
    """Which entity of a news article fills the gap in a sentence? Any of the gold ones is right, the first is trained on."""

    name = "record"
    source = Source("record", (HUB, "record"), ("passage", "query", "entities", "answers"))
    objective = "answer"

    def template(self, row: dict[str, Any]) -> Example:
        if "@placeholder" not in row["query"]:
            raise ValueError(f"the ReCoRD query {row['query']!r} has no @placeholder for the entity; correct it.")
        if strange := set(row["answers"]) - set(row["entities"]):
            raise ValueError(f"the ReCoRD answer {min(strange)!r} is not one of the row's entities; correct it.")
        prompt = row["passage"].replace("@highlight\n", "- ") + "\n-"
        candidates = tuple(" " + row["query"].replace("@placeholder", entity) for entity in row["entities"])
        first, *others = (row["entities"].index(answer) for answer in row["answers"])
        return Example(prompt, candidates, first, also=tuple(others))


def _continued(choice: str) -> str:
    """A sentence as the second half of one: its first word in lower case, unless that is I."""
    first, space, rest = choice.partition(" ")
    return (first if first == "I" else first.lower()) + space + rest
