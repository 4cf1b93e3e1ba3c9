"""Pretraining: rows of plain text and questions without padding, AdamW, one cycle of the learning rate."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zolab.tiny.corpus import Document, Review, documents

BLOCK = 2000  # reviews that are turned into rows at once, and whose rows are shuffled


@dataclass(frozen=True)
class Recipe:
    """What decides the weights: the model's sizes, and how it is trained.

    Args:
        vocabulary, width, layers, heads, inner, context: sizes of the LLaMA; heads share nothing, embeddings are tied.
        row: tokens in a row; `rows`: rows in a batch; `steps`: batches.
        lr: its highest value, reached after `warm_up` steps and kept until the last `decay` of them, when it falls to zero.
        weight_decay: of matrices.
        plain: share of rows that are plain text alone (it also fills what questions leave of theirs).
        seed: of weights and texts.
    """

    vocabulary: int = 2048
    width: int = 128
    layers: int = 2
    heads: int = 4
    inner: int = 320
    context: int = 256
    row: int = 128
    rows: int = 16
    steps: int = 8000
    lr: float = 3e-3
    warm_up: int = 100
    decay: float = 0.6
    weight_decay: float = 0.1
    plain: float = 0.15
    seed: int = 0


class Rows(NamedTuple):
    """Texts end to end; all int64 of shape (rows, tokens).

    Args:
        ids: the tokens.
        owner: the number of the text, within its row, that a token belongs to.
        learned: what the token after this one is: 1 of plain text, 2 of an answer, 0 nothing to learn.
    """

    ids: Tensor
    owner: Tensor
    learned: Tensor


def build(recipe: Recipe) -> LlamaForCausalLM:
    """The model with random weights; the global RNG is not touched."""
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.inner,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        initializer_range=0.03,
        **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        return LlamaForCausalLM(config)


def train(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, reviews: Sequence[Review], recipe: Recipe, progress: bool = True
) -> dict[str, Any]:
    """Train a model in place on labelled reviews.

    Returns:
        Steps, tokens and seconds, and the mean losses of plain text and of answers over the last hundred steps.
    """
    matrices = {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay}
    vectors = {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, vectors], lr=recipe.lr, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(recipe, step))
    seen, start = [], time.perf_counter()
    model.train()
    batches = itertools.islice(_batches(tokenizer, reviews, recipe), recipe.steps)
    with tqdm(batches, total=recipe.steps, disable=not progress, mininterval=10, ncols=110) as bar:
        for rows in bar:
            text, answer = losses(model, rows)
            optimizer.zero_grad()
            (text + answer).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            seen.append((text.item(), answer.item()))
            bar.set_postfix_str("loss of text {:.2f}, of answers {:.3f}".format(*np.mean(seen[-100:], 0)), refresh=False)
    model.eval()
    text, answer = np.mean(seen[-100:], 0)
    tokens = recipe.steps * recipe.rows * recipe.row
    seconds = time.perf_counter() - start
    return {"steps": recipe.steps, "tokens": tokens, "seconds": seconds, "text_loss": text, "answer_loss": answer}


def losses(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean loss of plain text, and of answers; each text of a row sees only itself."""
    ids, owner, learned = rows
    mask = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]
    positions = torch.arange(ids.shape[1]) - torch.searchsorted(owner, owner)
    hidden = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state

    def loss_of(kind: int) -> Tensor:
        row, column = torch.nonzero(learned == kind, as_tuple=True)
        return nn.functional.cross_entropy(model.lm_head(hidden[row, column]), ids[row, column + 1])

    return loss_of(1), loss_of(2)


def lay(
    tokenizer: PreTrainedTokenizerFast,
    pages: Sequence[Document],
    plain: Iterator[int],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Rows:
    """Questions side by side; plain text in what is left of their rows, and in a share of rows of its own.

    Args:
        pages: questions; those longer than a row are left out.
        plain: tokens of plain text.
        rng: decides which rows are plain text alone.
    """
    full = tokenizer([page.text + page.answer for page in pages])["input_ids"]
    asked = map(len, tokenizer([page.text for page in pages])["input_ids"])
    rows: list[tuple[list[int], list[int], list[int]]] = [([], [], [])]

    def add(ids: list[int], learned: list[int]) -> None:
        for column, values in zip(rows[-1], (ids, [len(set(rows[-1][1]))] * len(ids), learned), strict=True):
            column.extend(values)

    def fill() -> None:
        if room := recipe.row - len(rows[-1][0]):
            add([tokenizer.bos_token_id, *itertools.islice(plain, room - 1)], [1] * (room - 1) + [0])
        rows.append(([], [], []))

    for ids, start in zip(full, asked, strict=True):
        if len(ids) > recipe.row:
            continue
        if len(rows[-1][0]) + len(ids) > recipe.row:
            fill()
            while rng.random() < recipe.plain:
                fill()
        add(ids, [0] * (start - 1) + [2] * (len(ids) - start) + [0])
    fill()
    return Rows(*torch.tensor(rows[:-1]).unbind(1))


def _batches(tokenizer: PreTrainedTokenizerFast, reviews: Sequence[Review], recipe: Recipe) -> Iterator[Rows]:
    rng = np.random.default_rng(recipe.seed)
    plain = _plain_tokens(tokenizer, reviews, rng)
    while True:
        for block in np.array_split(rng.permutation(len(reviews)), -(-len(reviews) // BLOCK)):
            rows = lay(tokenizer, list(documents([reviews[i] for i in block], rng)), plain, recipe, rng)
            order = torch.from_numpy(rng.permutation(len(rows.ids)))
            for chosen in order.split(recipe.rows):
                if len(chosen) == recipe.rows:
                    yield Rows(*(column[chosen] for column in rows))


def _plain_tokens(tokenizer: PreTrainedTokenizerFast, reviews: Sequence[Review], rng: np.random.Generator) -> Iterator[int]:
    """The tokens of all reviews, one review after the other, again and again."""
    while True:
        for i in rng.permutation(len(reviews)):
            yield from tokenizer(reviews[i].text, verbose=False)["input_ids"][1:]
            yield tokenizer.eos_token_id


def _rate(recipe: Recipe, step: int) -> float:
    """Share of the highest learning rate: up, level, down."""
    left = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return min(1.0, (step + 1) / recipe.warm_up, max(left, 0.0))
