"""Random directions, addressed instead of stored: any slice of any direction, in any order, on any device.

A direction z, normal or of random signs, is named by (seed, step, sample); its part for parameter block j is made by a
counter-based generator from a key that depends on (seed, step, sample, j) only. Adding it to a weight tensor or taking a dot
product with it touches each weight once and never holds z. Nothing here reads or seeds torch's global generator.

    key(direction)   = threefry(seed,           (step, sample))
    key(block j)     = threefry(key(direction), (j, 0))
    z[i], z[i+1024]  = box_muller(threefry(key(block j), (pair number, 0)))      within each tile of 2048 elements; or
    z[64b + j]       = 1 - 2 * (bit b of word j of threefry(key(block j), (call number, 2))), 32 calls to a tile
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zolab.noise.addresses import Direction, GivenDirection, ScaledDirection
from zolab.noise.kernels import backend_for
from zolab.noise.kernels.threefry import TILE
from zolab.noise.pieces import SLICE, Chunk, check, chunks, for_each

NOT_GIVEN = np.empty((0, 0), dtype=np.float32)


class Source(NamedTuple):
    """Where a chunk's directions come from, as its kernels take them.

    Args:
        keys: generator keys, uint32 of shape (directions, 2), or (0, 2) if the directions are given.
        given: the directions' values on this chunk, one row each; or, beside keys, the factors of what is made from these;
            empty if there are neither.
        signs: whether the keys' directions are of the Rademacher family.
    """

    keys: np.ndarray
    given: Any
    signs: bool = False


class Sources:
    """Several directions over several tensors, handed out chunk by chunk.

    Args:
        directions: all addressed by keys of one family, all scaled, or all given.
        blocks: block number of each tensor.

    Raises:
        ValueError: the families differ.
    """

    def __init__(self, directions: Sequence[Direction | GivenDirection], blocks: tuple[int, ...]):
        self.directions, self.blocks = directions, blocks
        self.given = [direction for direction in directions if isinstance(direction, GivenDirection)]
        named = [direction.name if isinstance(direction, ScaledDirection) else direction for direction in directions]
        addressed = [name for name in named if isinstance(name, Direction)]
        self.keys = np.zeros((len(blocks), len(addressed), 2), np.uint32)
        for k, name in enumerate(addressed):
            self.keys[:, k] = name.keys(blocks)
        if len({(getattr(direction, "family", None), isinstance(direction, ScaledDirection)) for direction in directions}) > 1:
            raise ValueError("an update cannot sum directions of two families; make one update for each family.")
        self.signs = any(name.signs for name in addressed)

    def at(self, piece: Chunk) -> Source:
        if not self.given:
            return Source(self.keys[piece.tensor], NOT_GIVEN, self.signs)
        values = [direction.part(self.blocks[piece.tensor], piece.span) for direction in self.given]
        return Source(self.keys[piece.tensor], piece.kernels.given(values))


def direction(
    name: Direction,
    block: int,
    shape: Iterable[int] | int,
    *,
    offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Materialise z for one block, or a slice of it: for readers, tests and the methods that store state.

    Args:
        name: which direction.
        block: number of the parameter block.
        shape: shape of the result.
        offset: first element, counted in the flattened block.
        dtype, device: of the result; values are computed in float32.
    """
    (key,) = name.keys((block,))
    return from_key(key, (shape,) if isinstance(shape, int) else tuple(shape), offset, device, name.signs).to(dtype)


def from_key(
    key: np.ndarray, shape: tuple[int, ...], offset: int = 0, device: torch.device | str = "cpu", signs: bool = False
) -> Tensor:
    """The same in float32 from a key, for those who have the `keys` of many blocks at hand."""
    lead = offset % TILE
    out = torch.empty(lead + math.prod(shape), dtype=torch.float32, device=device)
    if math.prod(shape):
        kernels = backend_for(out)
        kernels.fill(kernels.view(out), *key, offset // TILE, signs)
    return (out[lead:] if lead else out).view(shape)


class Filling:
    """Flat float32 tensors that are filled again and again with the normals of a key each; on a GPU in one launch.

    Args:
        tensors: to be changed in place.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        full = [i for i, tensor in enumerate(tensors) if len(tensor)]
        self.ways: list[tuple[list[int], Callable[[np.ndarray], None]]] = []
        """Numbers of tensors, and what fills them."""
        for device in {tensors[i].device for i in full}:
            on_device = [i for i in full if tensors[i].device == device]
            kernels = backend_for(tensors[on_device[0]])
            together = kernels.filler([tensors[i] for i in on_device]) if hasattr(kernels, "filler") else None
            self.ways.append((on_device, together or partial(_fill, kernels, [kernels.view(tensors[i]) for i in on_device])))

    def __call__(self, keys: np.ndarray) -> None:
        """Fill them; keys are uint32 of shape (tensors, 2)."""
        for on_device, way in self.ways:
            way(keys[on_device])


def _fill(kernels: ModuleType, parts: Sequence[Any], keys: np.ndarray) -> None:
    for part, key in zip(parts, keys, strict=True):
        kernels.fill(part, *key, 0)


def materialise(name: Direction | GivenDirection, block: int, like: Tensor, offset: int = 0) -> Tensor:
    """A slice of z in the shape, device and precision (float32 or wider) of the weights there."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(name, GivenDirection):
        values = name.part(block, slice(offset, offset + like.numel())).to(dtype).view(like.shape)
        return values * materialise(name.name, block, like, offset) if isinstance(name, ScaledDirection) else values
    return direction(name, block, like.shape, offset=offset, dtype=dtype, device=like.device)


def squared_length(tensors: Sequence[Tensor], name: Direction | GivenDirection, blocks: tuple[int, ...]) -> list[float]:
    """Sum of z^2 over each tensor."""
    totals = []
    for tensor, block in zip(tensors, blocks, strict=True):
        parts = enumerate(tensor.detach().view(-1).split(SLICE))
        totals.append(sum(float(materialise(name, block, part, i * SLICE).double().square().sum()) for i, part in parts))
    return totals


def add_(tensor: Tensor, name: Direction, block: int, scale: float) -> Tensor:
    """tensor += scale * z in place, in one fused pass on all cores. Returns the tensor."""
    check(tensor)
    ((k0, k1),) = name.keys((block,))
    pieces = chunks([tensor])

    def work(i):
        pieces[i].kernels.add_scaled(pieces[i].data, k0, k1, pieces[i].tile, scale, name.signs)

    for_each(pieces, work, tensor.numel())
    return tensor


def store_(tensor: Tensor, values: Tensor, rounding: np.ndarray | None, offset: int = 0) -> Tensor:
    """tensor = values, rounded to nearest even, or half precision at random, without bias. Returns the tensor.

    Args:
        tensor: flat.
        values: likewise, in float32 or wider.
        rounding: None, or a generator key, uint32 of shape (1, 2).
        offset: of the tensor in its block, a multiple of TILE.
    """
    if rounding is None or tensor.element_size() > 2:
        return tensor.copy_(values)
    kernels = backend_for(tensor)
    source = Source(np.zeros((0, 2), np.uint32), kernels.given([values]))
    kernels.update(kernels.view(tensor.zero_()), offset // TILE, source, np.ones(1, np.float32), 1.0, rounding[0])
    return tensor


def dot(tensor: Tensor, name: Direction | GivenDirection, block: int) -> float:
    """Sum of tensor * z, without materialising z; of a given direction, a slice of it at a time."""
    check(tensor)
    if isinstance(name, GivenDirection):
        slices = enumerate(tensor.detach().view(-1).split(SLICE))
        return sum(float((part * materialise(name, block, part, i * SLICE)).sum(dtype=torch.float64)) for i, part in slices)
    ((k0, k1),) = name.keys((block,))
    pieces = chunks([tensor])
    parts = [0.0] * len(pieces)

    def work(i):
        parts[i] = pieces[i].kernels.dot(pieces[i].data, k0, k1, pieces[i].tile, name.signs)

    for_each(pieces, work, tensor.numel())
    return float(sum(parts))
