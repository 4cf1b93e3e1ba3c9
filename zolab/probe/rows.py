"""An embedding reads a few rows of its weight: only they need to be moved."""

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
    if len(module._forward_pre_hooks) != 1:  # ours: another one might change the rows asked for
        return None
    (part,), rows, width = owner.parts.values(), args[0] if args else None, module.embedding_dim
    if not isinstance(rows, Tensor) or rows.device.type != "cpu" or len(part.places) != 1 or not part.pieces:
        return None
    if not part.pieces[0].kernels.THREADED or rows.dtype not in (torch.int32, torch.int64):
        return None
    first = rows.detach().reshape(-1).numpy().astype(np.int64) * width
    span = np.arange((width - 2) // TILE + 2) * TILE  # a row lies in as many tiles at most
    tiles = np.minimum(first[:, None] + span, first[:, None] + width - 1) // TILE
    tiles = np.unique(tiles)
    there = tiles[(tiles >= 0) & (tiles * TILE < part.weight.numel())]  # the module itself refuses other rows
    return there if 2 * len(there) * TILE < part.weight.numel() else None


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
