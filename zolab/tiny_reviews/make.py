"""Train a shipped model from its recipe, and write its folder: weights, tokenizer, record, card."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from zolab.models import load_model
from zolab.records import environment
from zolab.records.files import ready, write_atomically
from zolab.tiny_reviews.card import card
from zolab.tiny_reviews.corpus import Review, reviews, train_tokenizer
from zolab.tiny_reviews.perplexity import perplexities
from zolab.tiny_reviews.pretrain import build, lean, train
from zolab.tiny_reviews.recipe import Recipe


def make_reviews(recipe: Recipe, out: Path) -> dict[str, Any]:
    """tiny-reviews: its tokenizer, and its weights from nothing; returns its record.

    Raises OSError, before it begins, if `out` cannot be.
    """
    ready(out / "training.json")
    known = reviews("pretrain")
    tokenizer = train_tokenizer([review.text for review in known], recipe.vocabulary)
    model = build(recipe)
    lean(model, tokenizer, known, recipe.seed)
    return _make("tiny-reviews", model, tokenizer, known, recipe, out)


def make_critic(recipe: Recipe, out: Path) -> dict[str, Any]:
    """tiny-reviews-critic: the shipped tiny-reviews, trained on in the spelling of critics' sentences."""
    ready(out / "training.json")
    return _make("tiny-reviews-critic", *load_model("tiny-reviews"), reviews("pretrain", critical=True), recipe, out)


MAKERS = {"tiny-reviews": make_reviews, "tiny-reviews-critic": make_critic}


def _make(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    known: list[Review],
    recipe: Recipe,
    out: Path,
) -> dict[str, Any]:
    training = train(model, tokenizer, known, recipe)
    texts = [review.text for review in reviews("validation", critical="critic" in name)]
    record: dict[str, Any] = {
        "name": name,
        "command": f"python -m zolab pretrain {name}",
        "recipe": asdict(recipe),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": training,
        "perplexity": perplexities(model, tokenizer, [review.text for review in known], texts),
        **{key: value for key, value in environment().items() if key != "commit"},
    }
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_atomically(out / "training.json", (json.dumps(record, indent=1) + "\n").encode())
    write_atomically(out / "README.md", card(record).encode())
    return record
