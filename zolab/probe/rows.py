"""An embedding reads a few rows of its weight: only they need to be moved.

On a CPU they are moved in scratch. On a GPU, where asking which they are would mean to wait, what moves them is added to the
embedding's output, which has their bits: nothing is moved and no scratch is needed.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.noise import Chunk, Sources
from zolab.noise.kernels.threefry import TILE
from zolab.probe.owners import Owner
from zolab.probe.scratch import Slot


def tiles_read(owner: Owner, args: tuple[Any, ...]) -> np.ndarray | None:
    """The tiles of its weight that a call of a module will read, or None if that may be any.

    Args:
        owner: of the module.
        args: what the module is called with, in positions.
    """
    module = owner.module
    if type(module) is not nn.Embedding or module.max_norm is not None or "forward" in vars(module):
        return None
    if len(module._forward_pre_hooks) > 1:  # one may be ours: another one might change the rows asked for
        return None
    (part,), rows, width = owner.parts.values(), args[0] if args else None, module.embedding_dim
    if not isinstance(rows, Tensor) or rows.device.type != "cpu" or len(part.places) != 1 or not part.pieces:
        return None
    if module.weight.shape != part.weight.shape or not module.weight.is_contiguous():  # tied as a transposed matrix
        return None
    if not part.pieces[0].kernels.THREADED or rows.dtype not in (torch.int32, torch.int64):
        return None
    first = rows.detach().reshape(-1).numpy().astype(np.int64) * width
    span = np.arange((width - 2) // TILE + 2) * TILE  # a row lies in as many tiles at most
    tiles = np.minimum(first[:, None] + span, first[:, None] + width - 1) // TILE
    tiles = np.unique(tiles)
    inside = tiles[(tiles >= 0) & (tiles * TILE < part.weight.numel())]  # the module itself refuses other rows
    return inside if 2 * len(inside) * TILE < part.weight.numel() else None


def adds_rows(owner: Owner, args: tuple[Any, ...], sources: Sources) -> bool:
    """Whether a call of a module is one of an embedding to whose output `add_rows` may add.

    Args:
        owner: of the module, whose hooks are those of the probe alone.
        args: what the module is called with, in positions.
        sources: of the direction.
    """
    module = owner.module
    if type(module) is not nn.Embedding or module.max_norm is not None or sources.given or len(args) != 1:
        return False
    if not owner.parts or len(module._forward_pre_hooks) > 1 or len(module._forward_hooks) > 1:
        return False
    (part,), rows = owner.parts.values(), args[0]
    if not part.pieces or len(part.places) != 1 or not hasattr(part.pieces[0].kernels, "add_rows"):
        return False
    whole = len(part.pieces) == 1 and module.weight.shape == part.weight.shape and module.weight.is_contiguous()
    return whole and isinstance(rows, Tensor) and rows.dtype in (torch.int32, torch.int64)


def add_rows(owner: Owner, ids: Tensor, out: Tensor, sources: Sources, scale: float | Tensor, minus: bool = False) -> None:
    """Add what moves the rows of an embedding to its output.

    Args:
        owner: of the embedding.
        ids: the rows that it was asked for.
        out: its output of shape (*ids.shape, width), contiguous; changed in place.
        sources: of the direction.
        scale: of the direction, or its row of a table on the device.
        minus: take it away instead.
    """
    (part,) = owner.parts.values()
    (piece,) = part.pieces
    piece.kernels.add_rows(out.view(-1), ids.reshape(-1), out.shape[-1], sources.at(piece), scale, minus)


def move_tiles(slot: Slot, tiles: np.ndarray, sources: Sources, scale: float) -> None:
    """Some tiles of a part, moved into its slot."""
    from zolab.noise.kernels.sides import some  # with its compiler, only when it is used

    kernels = slot.part.pieces[0].kernels
    w, out = kernels.view(slot.part.weight.view(-1)), kernels.view(slot.views[0].view(-1))
    if not any(direction.made for direction in sources.given):
        some(out, w, tiles, sources.at(Chunk(slot.part.number, kernels, w, 0)), scale)
        return
    for tile in tiles.tolist():  # one by one, since values for the whole tensor would take its memory
        span = slice(tile * TILE, (tile + 1) * TILE)
        piece = Chunk(slot.part.number, kernels, w[span], tile)
        kernels.perturbed(out[span], piece.data, tile, sources.at(piece), scale)
