"""A linear layer too large for scratch memory of its size runs a band of its rows after the other.

The output head of a language model is as large as ten of its other layers together, and a probe would need that much memory
only for it. A band of moved rows gives a band of outputs. Only on a GPU: there memory is short, and launches are cheap.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zolab.noise import Chunk, Sources
from zolab.noise.kernels.threefry import TILE
from zolab.probe.owners import Owner, is_read_alone
from zolab.probe.scratch import ScratchPool

BAND = 1 << 28  # bytes of moved rows at once


def is_large(owner: Owner) -> bool:
    """Whether a module is a linear layer that `banded` may compute; asked before any hook of ours is there.

    A hook of somebody else might read the weight, unless it says `reads_only_inputs`.
    """
    module = owner.module
    if type(module) is not nn.Linear or module.bias is not None or owner.starts[-1] <= BAND:
        return False
    if not is_read_alone(module):
        return False
    (part,) = owner.parts.values()
    return len(part.places) == len(part.pieces) == 1 and part.weight.shape == module.weight.shape


def runs_in_bands(owner: Owner, args: tuple[Any, ...]) -> bool:
    """Whether a call of such a module has inputs that `banded` takes."""
    if len(args) != 1 or torch.is_grad_enabled() or torch.is_autocast_enabled(owner.device.type):
        return False
    return args[0].dtype == owner.module.weight.dtype


def banded(owner: Owner, x: Tensor, sources: Sources, scale: float, pool: ScratchPool) -> Tensor:
    """x (w + scale z)^T, band by band.

    Args:
        owner: of the linear layer.
        x: of shape (..., inputs).
        sources: of the direction.
        scale: of the direction.
        pool: where scratch comes from.
    """
    (part,) = owner.parts.values()
    (piece,) = part.pieces
    outputs, inputs = part.weight.shape
    step = TILE // math.gcd(TILE, inputs)  # so many rows fill whole tiles
    rows = max(step, BAND // (inputs * part.weight.element_size()) // step * step)
    scratch = pool.take(rows * inputs * part.weight.element_size(), owner.device)
    moved = scratch.memory[: rows * inputs * part.weight.element_size()].view(part.weight.dtype)
    flat, out = x.reshape(-1, inputs), x.new_empty(*x.shape[:-1], outputs)
    flat_out = out.view(-1, outputs)
    for first in range(0, outputs, rows):
        band = slice(first * inputs, min(first + rows, outputs) * inputs)
        chunk = Chunk(piece.tensor, piece.kernels, piece.data[band], band.start // TILE)
        target = moved[: len(chunk.data)]
        piece.kernels.perturbed(target, chunk.data, chunk.tile, sources.at(chunk), scale)
        torch.mm(flat, target.view(-1, inputs).t(), out=flat_out[:, first : first + rows])
    pool.free.append(scratch)
    return out
