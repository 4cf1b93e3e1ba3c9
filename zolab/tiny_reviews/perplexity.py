"""How well held-out text is predicted, beside the two simplest language models there are."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import nn

WINDOW = 128


def windows(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Texts in windows of `WINDOW` tokens, each after the token that begins a text."""
    rows = []
    for ids in tokenizer(list(texts), verbose=False)["input_ids"]:
        body = ids[1:]
        rows += [[ids[0], *body[i : i + WINDOW - 1]] for i in range(0, len(body), WINDOW - 1)]
    return rows


@torch.no_grad()
def model_nll(model: nn.Module, parts: Sequence[Sequence[int]]) -> float:
    """Sum over all windows of the negative log-likelihood, in nats."""
    total = 0.0
    parts = sorted(parts, key=len)
    for start in range(0, len(parts), 16):
        chunk = parts[start : start + 16]
        ids = torch.tensor([[*part, *[1] * (len(chunk[-1]) - len(part))] for part in chunk])
        labels = torch.where(torch.arange(ids.shape[1]) < torch.tensor([[len(part)] for part in chunk]), ids, -100)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)  # padding is on the right: no token sees it
        total += nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum").item()
    return total


def ngram_nll(known: Sequence[Sequence[int]], parts: Sequence[Sequence[int]], vocabulary: int) -> tuple[float, float]:
    """The same for unigrams, one added to each count, and for bigrams mixed with them by Witten and Bell's weights."""
    ones = Counter(token for part in known for token in part[1:])
    twos = Counter(pair for part in known for pair in pairwise(part))
    firsts = Counter()
    for (first, _), count in twos.items():
        firsts[first] += count
    kinds = Counter(first for first, _ in twos)
    total = ones.total() + vocabulary
    unigram = bigram = 0.0
    for part in parts:
        for first, second in pairwise(part):
            single = (ones[second] + 1) / total
            unigram -= math.log(single)
            if firsts[first]:
                single = (twos[first, second] + kinds[first] * single) / (firsts[first] + kinds[first])
            bigram -= math.log(single)
    return unigram, bigram


def perplexities(model: nn.Module, tokenizer, known: Sequence[str], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Perplexity per token and per word, and bits per byte, of held-out texts.

    Args:
        known: texts that the n-gram models count in.
        texts: held-out ones.
    """
    parts = windows(tokenizer, texts)
    unigram, bigram = ngram_nll(windows(tokenizer, known), parts, len(tokenizer))
    tokens = sum(len(part) - 1 for part in parts)
    words, size = (sum(map(len, pieces)) for pieces in ([t.split() for t in texts], [t.encode() for t in texts]))
    nll = {"model": model_nll(model, parts), "bigram": bigram, "unigram": unigram}
    return {
        name: {"token": math.exp(nats / tokens), "word": math.exp(nats / words), "bits_per_byte": nats / size / math.log(2)}
        for name, nats in nll.items()
    }
