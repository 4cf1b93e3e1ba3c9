"""Texts laid end to end without padding; a beginning that several texts share is laid, and computed, once."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tokens = tuple[int, ...]
Home = tuple[int, list[int]]  # the number of a text's pack; and for each of its places, the index into `places` there

# Tokens packed into one pass. More saves passes, each of which reads every weight; less saves attention between strangers,
# which is computed and masked.
PACK_TOKENS = 512


class Pack(NamedTuple):
    """Texts in one row, each seeing only itself.

    Args:
        input_ids: int64 of shape (1, tokens).
        position_ids: int64 of shape (1, tokens), from 0 in each text.
        attention_mask: bool of shape (1, 1, tokens, tokens), or None for a single text, which needs none.
        places: int64 of shape (places,): the tokens in the row at which logits are needed, each once.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    places: Tensor


def pack(texts: Sequence[Tokens], places: Sequence[Sequence[int]], causal: bool) -> tuple[list[Pack], list[Home]]:
    """Lay texts into few packs.

    In a causal model a token depends on what stands before it alone. So texts that begin alike are laid as a tree: they
    branch off one trunk, positions count from its root, and a token sees its ancestors.

    Args:
        texts: token ids of each text.
        places: for each text, the indices of the tokens at which logits are needed.
        causal: whether the model is causal; without that, only equal texts are laid once.

    Returns:
        The packs, and the home of each text in them.
    """
    packs: list[Pack] = []
    homes: dict[int, Home] = {}
    for number, members in enumerate(_groups(texts, causal)):
        laid, nodes = _lay([texts[i] for i in members], causal)
        needed = sorted({nodes[k][at] for k, i in enumerate(members) for at in places[i]})
        row_of = {node: row for row, node in enumerate(needed)}
        for k, i in enumerate(members):
            homes[i] = (number, [row_of[nodes[k][at]] for at in places[i]])
        packs.append(laid._replace(places=torch.tensor(needed)))
    return packs, [homes[i] for i in range(len(texts))]


def _groups(texts: Sequence[Tokens], causal: bool) -> list[list[int]]:
    """Indices of the texts of each pack: trees kept whole, as many as fit into PACK_TOKENS; a larger tree is alone."""
    trees: list[tuple[int, list[int]]] = []
    for i in sorted(range(len(texts)), key=texts.__getitem__):  # texts that begin alike become neighbours
        shared = _shared(texts[trees[-1][1][-1]], texts[i], causal) if trees else 0
        if 2 * shared >= len(texts[i]):
            size, members = trees.pop()
            trees.append((size + len(texts[i]) - shared, [*members, i]))
        else:
            trees.append((len(texts[i]), [i]))
    groups: list[list[int]] = []
    room = 0
    for size, members in sorted(trees):
        if size > room:
            groups.append([])
            room = PACK_TOKENS
        groups[-1] += members
        room -= size
    return groups


def _shared(a: Tokens, b: Tokens, causal: bool) -> int:
    """Number of tokens at the beginning of a second text that need not be computed again after a first."""
    if not causal:
        return len(a) if a == b else 0
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _lay(texts: Sequence[Tokens], causal: bool) -> tuple[Pack, list[list[int]]]:
    """A pack without places, and for each text where in the pack its tokens are."""
    shares = [_shared(a, b, causal) for a, b in zip([(), *texts], texts, strict=False)]
    size = sum(map(len, texts)) - sum(shares)
    ids, positions, mask = [], [], torch.zeros(size, size, dtype=torch.bool)
    nodes: list[list[int]] = [[]]
    for text, shared in zip(texts, shares, strict=True):
        new = list(range(len(ids), len(ids) + len(text) - shared))
        nodes.append(nodes[-1][:shared] + new)
        ids += text[shared:]
        positions += range(shared, len(text))
        sees = torch.ones(len(new), len(text), dtype=torch.bool)
        mask[len(ids) - len(new) : len(ids), nodes[-1]] = sees.tril(shared) if causal else sees
    alone = size == max(map(len, texts))
    mask = None if alone else mask[None, None]
    return Pack(torch.tensor([ids]), torch.tensor([positions]), mask, torch.tensor([])), nodes[1:]
