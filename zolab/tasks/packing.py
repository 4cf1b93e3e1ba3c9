"""Texts laid end to end in few rows; a beginning that several texts share is laid, and computed, once."""

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Tokens = tuple[int, ...]
Home = tuple[int, list[int]]  # the number of a text's pack; and for each of its places, the index into `places` there
Tree = tuple[int, list[int]]  # texts that begin alike: the tokens they take together, and their indices

# Tokens packed into one pass. More saves passes, each of which reads every weight, and takes more memory.
PACK_TOKENS = 1024
# Tokens that a token could attend to in the time that the rest of a layer takes: few long rows leave less room unused, many
# short ones save attention between strangers, which is computed and masked.
ATTENDED = 2000


class Pack(NamedTuple):
    """Texts in rows, each seeing only itself; rows shorter than the longest end in tokens that nobody reads.

    Args:
        input_ids: int64 of shape (rows, width).
        position_ids: int64 of shape (rows, width), from 0 in each text.
        attention_mask: bool of shape (rows, 1, width, width), or None for a single text, which needs none.
        places: int64 of shape (places,): the tokens, counted row by row, at which logits are needed, each once.
        examples: the example of each row, int64 of shape (rows,) on the CPU, where rows keep examples apart; or None.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    places: Tensor
    examples: Tensor | None = None

    def to(self, device: torch.device | str) -> "Pack":
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        moved = [part.to(device) for part in (self.input_ids, self.position_ids, self.places)]
        return self._replace(input_ids=moved[0], position_ids=moved[1], attention_mask=mask, places=moved[2])


def pack(
    texts: Sequence[Tokens], places: Sequence[Sequence[int]], causal: bool, examples: Sequence[int] | None = None
) -> tuple[list[Pack], list[Home]]:
    """Lay texts into few packs.

    In a causal model a token depends on what stands before it alone. So texts that begin alike are laid as a tree: they
    branch off one trunk, positions count from its root, and a token sees its ancestors.

    Args:
        texts: token ids of each text.
        places: for each text, the indices of the tokens at which logits are needed.
        causal: whether the model is causal; without that, only equal texts are laid once.
        examples: the example of each text, if no row may hold texts of two of them.

    Returns:
        The packs, and the home of each text in them.
    """
    packs: list[Pack] = []
    homes: dict[int, Home] = {}
    for number, rows in enumerate(_passes(texts, causal, examples)):
        laid, nodes = lay([[texts[i] for i in row] for row in rows], causal)
        members = [i for row in rows for i in row]
        needed = sorted({nodes[k][at] for k, i in enumerate(members) for at in places[i]})
        index_of = {node: index for index, node in enumerate(needed)}
        for k, i in enumerate(members):
            homes[i] = (number, [index_of[nodes[k][at]] for at in places[i]])
        of_rows = None if examples is None else torch.tensor([examples[row[0]] for row in rows])
        packs.append(laid._replace(places=torch.tensor(needed), examples=of_rows))
    return packs, [homes[i] for i in range(len(texts))]


def _passes(texts: Sequence[Tokens], causal: bool, examples: Sequence[int] | None) -> list[list[list[int]]]:
    """Indices of the texts of each row of each pass; as many trees a pass as fit into PACK_TOKENS; a larger one is alone.

    Where examples are to be kept apart, each tree has a row of its own.
    """
    passes: list[list[Tree]] = []
    room = 0
    for tree in sorted(_trees(texts, causal, examples or [0] * len(texts))):
        if tree[0] > room:
            passes.append([])
            room = PACK_TOKENS
        passes[-1].append(tree)
        room -= tree[0]
    return [_rows(trees) if examples is None else [members for _, members in trees] for trees in passes]


def _trees(texts: Sequence[Tokens], causal: bool, examples: Sequence[int]) -> list[Tree]:
    """Texts of one example that share at least half of what they are."""
    trees: list[Tree] = []
    for i in sorted(range(len(texts)), key=lambda i: (examples[i], texts[i])):  # texts that begin alike become neighbours
        last = trees[-1][1][-1] if trees else i
        shared = _shared(texts[last], texts[i], causal) if last != i and examples[last] == examples[i] else 0
        if 2 * shared >= len(texts[i]):
            size, members = trees.pop()
            trees.append((size + len(texts[i]) - shared, [*members, i]))
        else:
            trees.append((len(texts[i]), [i]))
    return trees


def _rows(trees: Sequence[Tree]) -> list[list[int]]:
    """Trees laid into the number of rows that takes the least time: the largest first, each into the emptiest row."""
    sizes = [size for size, _ in trees]
    best: tuple[float, list[list[int]]] = (math.inf, [])
    for count in range(1, math.ceil(sum(sizes) / max(sizes)) + 1):
        rows: list[Tree] = [(0, []) for _ in range(count)]
        for size, members in sorted(trees, reverse=True):
            filled, before = heappop(rows)
            heappush(rows, (filled + size, before + members))
        width = max(filled for filled, _ in rows)
        best = min(best, (count * width * (ATTENDED + width), [members for _, members in rows]))
    return best[1]


def _shared(a: Tokens, b: Tokens, causal: bool) -> int:
    """Number of tokens at the beginning of a second text that need not be computed again after a first."""
    if not causal:
        return len(a) if a == b else 0
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def lay(rows: Sequence[Sequence[Tokens]], causal: bool) -> tuple[Pack, list[list[int]]]:
    """A pack without places, and for each text, row by row, where in the pack its tokens are.

    Args:
        rows: the texts of each row; neighbours that begin alike share their beginning in a causal model.
        causal: as for `pack`.
    """
    shares = [[_shared(a, b, causal) for a, b in pairwise([(), *row])] for row in rows]
    width = max(sum(map(len, row)) - sum(shared) for row, shared in zip(rows, shares, strict=True))
    ids, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1, 1)  # a token that sees nothing would become NaN
    nodes: list[list[int]] = []
    for r, (row, shares_here) in enumerate(zip(rows, shares, strict=True)):
        end, path = 0, []
        for text, shared in zip(row, shares_here, strict=True):
            begin, end = end, end + len(text) - shared
            path = path[:shared] + list(range(begin, end))
            ids[r, begin:end] = torch.tensor(text[shared:])
            positions[r, begin:end] = torch.arange(shared, len(text))
            sees = torch.ones(end - begin, len(text), dtype=torch.bool)
            mask[r, 0, begin:end, path] = sees.tril(shared) if causal else sees
            nodes.append([r * width + node for node in path])
    alone = len(rows) == 1 and width == max(map(len, rows[0]))
    return Pack(ids, positions, None if alone else mask, torch.tensor([])), nodes
