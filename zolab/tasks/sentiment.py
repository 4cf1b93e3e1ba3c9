"""Sentiment of single sentences, with the prompt and verbalizers of MeZO's SST-2 (arXiv 2305.17333, appendix)."""

from typing import Any, ClassVar

from zolab.tasks.base import Example, Task
from zolab.tasks.data import Embedded, Source

VERBALIZERS = (" terrible", " great")


class SST2(Task):
    """Stanford Sentiment Treebank, two classes (GLUE)."""

    name = "sst2"
    source: ClassVar[Source] = Source("sst2", ("nyu-mll/glue", "sst2"), ("sentence",), labels=(0, 1))

    def template(self, row: dict[str, Any]) -> Example:
        return Example(f"{row['sentence'].strip()} It was", VERBALIZERS, row["label"])


class RottenTomatoes(Task):
    """Rotten Tomatoes review sentences, two classes; embedded, needs no network."""

    name = "rotten_tomatoes"
    source = Embedded()

    def template(self, row: dict[str, Any]) -> Example:
        return Example(f"{row['text'].strip()} It was", VERBALIZERS, row["label"])


class ShortRottenTomatoes(RottenTomatoes):
    """Its sentences of at most twelve words, 1,307 and 413 of them: a run on SmolLM2-135M takes minutes on a laptop."""

    name = "rotten_tomatoes_short"
    source = Embedded(words=12)
    dev = 200
    test = 400
