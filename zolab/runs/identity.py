"""What a result depends on besides its settings: names of models, data and files can come to stand for something else."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from zolab.models import adapter_digest, architecture, fingerprint, tokenizer_digest
from zolab.tasks import Example, digest

PARTS = {
    "base": "the base model's weights are",
    "architecture": "the base model's config.json is",
    "adapter": "the adapter's settings or first weights are",
    "tokenizer": "the tokenizer is",
    "data": "the examples of {} are",
}


def identity(model: nn.Module, tokenizer: Any, examples: Mapping[str, Iterable[Example]]) -> dict[str, Any]:
    """A digest of each part, for a log or a record.

    Args:
        model: with the weights that the run begins with.
        tokenizer: its tokenizer.
        examples: as drawn, by split or task; their template is part of them.
    """
    data = {name: digest(drawn) for name, drawn in examples.items()}
    return {**identity_of_model(model), "tokenizer": tokenizer_digest(tokenizer), "data": data}


def identity_of_model(model: nn.Module) -> dict[str, str]:
    """The parts that decide what a trajectory leads to."""
    adapter = adapter_digest(model)
    return {"base": fingerprint(model), "architecture": architecture(model), **({"adapter": adapter} if adapter else {})}


def check_same(now: Mapping[str, Any], known: Mapping[str, Any], where: Any, advice: str) -> None:
    """Raise ValueError, naming the part, unless what a run depends on is what it was.

    Args:
        now: of `identity`.
        known: the same as it was noted; parts that older runs did not note are not compared.
        where: names the run.
        advice: ends the sentence.
    """
    for part, sentence in PARTS.items():
        if part not in known or part not in now or known[part] == now[part]:
            continue
        names = [name for name in now["data"] if known["data"].get(name) != now["data"][name]] if part == "data" else []
        raise ValueError(f"{sentence.format(' and '.join(names))} no longer what {where} was started with; {advice}.")
