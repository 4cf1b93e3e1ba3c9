"""Pretraining: rows of plain text and questions without padding, AdamW, one cycle of the learning rate."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from zolab.tiny_reviews.corpus import Document, Review, documents
from zolab.tiny_reviews.recipe import Recipe

BLOCK = 2000  # reviews that are turned into rows at once, and whose rows are shuffled


class Rows(NamedTuple):
    """Texts end to end; all int64 of shape (rows, tokens).

    Args:
        ids: the tokens.
        owner: the number of the text, within its row, that a token belongs to.
        learned: what the token after this one is: 1 of plain text, 2 of an answer, 0 nothing to learn.
        label: of the review that the text is from, -1 if it is from several.
    """

    ids: Tensor
    owner: Tensor
    learned: Tensor
    label: Tensor


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


@torch.no_grad()
def lean(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], seed: int) -> None:
    """Begin with what counting gives: the log-odds of each token in liked reviews, along one direction of the embeddings.

    Without it, the first 500 steps go into learning what single words say.
    """
    counts = np.ones((2, len(tokenizer)))
    for ids, review in zip(tokenizer([review.text for review in reviews], verbose=False)["input_ids"], reviews, strict=True):
        counts[review.label] += np.bincount(ids, minlength=len(tokenizer))
    odds = np.log(counts[1] / counts[1].sum()) - np.log(counts[0] / counts[0].sum())
    weight: Any = model.get_input_embeddings().weight
    direction = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(seed))
    weight += 0.5 * torch.outer(torch.from_numpy(odds).float().clamp(-2, 2), direction / direction.norm())


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], recipe: Recipe, progress: bool = True
) -> dict[str, Any]:
    """Train a model in place on labelled reviews.

    Returns:
        Steps, tokens, seconds and those of a processor, and the mean of each loss over the last hundred steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        probe = nn.Linear(recipe.width, 1)
    matrices = {"params": [p for p in (*model.parameters(), probe.weight) if p.ndim > 1], "weight_decay": recipe.weight_decay}
    vectors = {"params": [p for p in (*model.parameters(), probe.bias) if p.ndim == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, vectors], lr=recipe.lr, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(recipe, step))
    history, start, busy = [], time.perf_counter(), time.process_time()
    model.train()
    batches = itertools.islice(_batches(tokenizer, reviews, recipe), recipe.steps)
    with tqdm(batches, total=recipe.steps, disable=not progress, mininterval=10, ncols=110) as bar:
        for rows in bar:
            parts = losses(model, probe, rows)
            optimizer.zero_grad()
            text, answer, opinion = parts
            (text + answer + opinion).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            history.append([part.item() for part in parts])
            bar.set_postfix_str(
                "loss of text {:.2f}, answers {:.3f}, probe {:.3f}".format(*np.mean(history[-100:], 0)), refresh=False
            )
    model.eval()
    means = np.mean(history[-100:], 0)
    return {
        "steps": recipe.steps,
        "tokens": recipe.steps * recipe.rows * recipe.row,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        **{f"{name}_loss": float(mean) for name, mean in zip(("text", "answer", "probe"), means, strict=True)},
    }


def losses(model: Any, probe: nn.Module, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss of plain text, of answers, and of the label read off every hidden state by a linear probe.

    Each text of a row sees only itself.
    """
    ids, owner, learned, label = rows
    mask = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]
    positions = torch.arange(ids.shape[1]) - torch.searchsorted(owner.contiguous(), owner.contiguous())
    hidden = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state

    def loss_of(kind: int) -> Tensor:
        row, column = torch.nonzero(learned == kind, as_tuple=True)
        return nn.functional.cross_entropy(model.lm_head(hidden[row, column]), ids[row, column + 1])

    known = label >= 0
    opinion = nn.functional.binary_cross_entropy_with_logits(probe(hidden[known])[:, 0], label[known].float())
    return loss_of(1), loss_of(2), opinion


def lay(
    tokenizer: PreTrainedTokenizerBase,
    pages: Sequence[Document],
    plain: Iterator[tuple[list[int], int]],
    recipe: Recipe,
    rng: np.random.Generator,
) -> Rows:
    """Questions side by side; plain text in what is left of their rows, and in a share of rows of its own.

    Args:
        pages: questions; those longer than a row are left out.
        plain: tokens and label of plain texts; what does not fit is cut.
        rng: decides which rows are plain text alone.
    """
    full = tokenizer([page.text + page.answer for page in pages])["input_ids"]
    text_lengths = map(len, tokenizer([page.text for page in pages])["input_ids"])
    rows: list[tuple[list[int], ...]] = [([], [], [], [])]

    def add(ids: list[int], learned: list[int], label: int) -> None:
        size, number = len(ids), len(set(rows[-1][1]))
        for column, values in zip(rows[-1], (ids, [number] * size, learned, [label] * size), strict=True):
            column.extend(values)

    def fill() -> None:
        while room := recipe.row - len(rows[-1][0]):
            ids, label = next(plain)
            ids = ids[:room]
            add(ids, [1] * (len(ids) - 1) + [0], label)
        rows.append(([], [], [], []))

    for page, ids, start in zip(pages, full, text_lengths, strict=True):
        if len(ids) > recipe.row:
            continue
        if len(rows[-1][0]) + len(ids) > recipe.row:
            fill()
            while rng.random() < recipe.plain:
                fill()
        add(ids, [0] * (start - 1) + [2] * (len(ids) - start) + [0], page.label)
    fill()
    return Rows(*torch.tensor(rows[:-1]).unbind(1))


def _batches(tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], recipe: Recipe) -> Iterator[Rows]:
    rng = np.random.default_rng(recipe.seed)
    plain = _plain_texts(tokenizer, reviews, recipe, rng)
    while True:
        for block in np.array_split(rng.permutation(len(reviews)), -(-len(reviews) // BLOCK)):
            rows = lay(tokenizer, list(documents([reviews[i] for i in block], rng)), plain, recipe, rng)
            order = torch.from_numpy(rng.permutation(len(rows.ids)))
            for chosen in order.split(recipe.rows):
                if len(chosen) == recipe.rows:
                    yield Rows(*(column[chosen] for column in rows))


def _plain_texts(
    tokenizer: PreTrainedTokenizerBase, reviews: Sequence[Review], recipe: Recipe, rng: np.random.Generator
) -> Iterator[tuple[list[int], int]]:
    """The reviews in pieces of a row each, a new order each time, again and again."""
    while True:
        for i in rng.permutation(len(reviews)):
            ids = [*tokenizer(reviews[i].text, verbose=False)["input_ids"][1:], tokenizer.eos_token_id]
            for start in range(0, len(ids), recipe.row - 1):
                yield [tokenizer.bos_token_id, *ids[start : start + recipe.row - 1]], reviews[i].label


def _rate(recipe: Recipe, step: int) -> float:
    """Share of the highest learning rate: up, level, down."""
    left = (recipe.steps - step) / (recipe.decay * recipe.steps)
    return min(1.0, (step + 1) / recipe.warm_up, max(left, 0.0))
