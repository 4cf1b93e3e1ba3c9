"""Tensors cut into tile-aligned pieces, and work over them: on threads, or on a GPU in one launch."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zolab.noise.addresses import Direction, GivenDirection
from zolab.noise.kernels import backend_for
from zolab.noise.kernels.threefry import TILE

SLICE = 1 << 20  # elements whose values are made at once
MADE = 1 << 23  # the same on a GPU, where a piece is a whole tensor and each launch costs time
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SMALL = 1 << 22  # elements: a launch of its own for a larger tensor costs nothing, since the last one is still running
_INLINE = 1 << 20  # fewer elements take less time on one thread than waking others does
_pool: ThreadPoolExecutor | None = None


class Chunk(NamedTuple):
    """A tile-aligned piece of one tensor, in the form its kernels take."""

    tensor: int
    kernels: ModuleType
    data: Any
    tile: int

    @property
    def span(self) -> slice:
        """Its elements in the flat tensor."""
        return slice(self.tile * TILE, self.tile * TILE + len(self.data))


def check(tensor: Tensor, name: str = "tensor") -> None:
    """Raise ValueError unless directions can be added to the tensor in place."""
    if tensor.device.type == "meta":
        raise ValueError(
            f"{name} is on the meta device, where offloading leaves a weight whose numbers are elsewhere; give the weights "
            "where they are, zolab.models.offloaded_weights(model), keep the model in memory, or freeze this parameter."
        )
    if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        raise ValueError(
            f"{name} is {tensor.dtype} ({tensor.layout}) on {tensor.device}; zeroth-order steps need dense floating-point "
            "weights in memory: load the model in float32, bfloat16 or float16, or freeze this parameter."
        )
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous; give it its own memory first: p.data = p.data.contiguous().")


def chunks(tensors: Sequence[Tensor]) -> list[Chunk]:
    """Cut tensors into tile-aligned pieces small enough to share out among threads."""
    pieces = []
    for j, tensor in enumerate(tensors):
        kernels = backend_for(tensor)
        flat = tensor.detach().view(-1)
        data = kernels.view(flat)
        for start in range(0, flat.numel(), kernels.CHUNK):
            pieces.append(Chunk(j, kernels, data[start : start + kernels.CHUNK], start // TILE))
    return pieces


def at_once(tensor: Tensor) -> int:
    """How many elements of a tensor to make values for at once, a multiple of TILE."""
    return MADE if tensor.is_cuda else SLICE


def cut(pieces: Sequence[Chunk], directions: Sequence[Direction | GivenDirection]) -> list[Chunk]:
    """The pieces, shorter where values are made for each, which takes its room in float32."""
    if not any(isinstance(direction, GivenDirection) and direction.made for direction in directions):
        return list(pieces)
    starts = [(piece, start) for piece in pieces for start in range(0, len(piece.data), MADE)]
    return [
        Chunk(piece.tensor, piece.kernels, piece.data[start : start + MADE], piece.tile + start // TILE)
        for piece, start in starts
    ]


def small_ones(pieces: Sequence[Chunk]) -> list[int]:
    """The numbers of the pieces, whole tensors all, that one launch had better take together; none if that saves nothing."""
    small = [i for i, p in enumerate(pieces) if hasattr(p.kernels, "update_all") and not p.tile and len(p.data) <= SMALL]
    return small if len(small) > 1 else []


def sums(pieces: Sequence[Chunk], tensors: int) -> np.ndarray:
    """Sum and sum of squares of each tensor, float64 of shape (tensors, 2), each weight read once."""
    if [piece.tensor for piece in pieces] == list(range(tensors)) and all(hasattr(p.kernels, "moments_all") for p in pieces):
        together = pieces[0].kernels.moments_all([piece.data for piece in pieces])
        if together is not None:
            return together.cpu().numpy()
    parts: list[Any] = [None] * len(pieces)

    def work(i: int) -> None:
        parts[i] = pieces[i].kernels.moments(pieces[i].data, wait=False)

    for_each(pieces, work, sum(len(piece.data) for piece in pieces))
    return per_tensor(pieces, parts, tensors)


def per_tensor(pieces: Sequence[Chunk], parts: np.ndarray | Sequence[Any], tensors: int) -> np.ndarray:
    """Sums over each tensor's pieces, in their order: from shape (pieces, n) to (tensors, n).

    Args:
        pieces: of all tensors.
        parts: n numbers for each piece; rows may be tensors on a GPU, which is waited for once.
        tensors: how many there are.
    """
    rows = np.asarray(fetched(parts))
    out = np.zeros((tensors, *rows.shape[1:]))
    np.add.at(out, [piece.tensor for piece in pieces], rows)
    return out


def fetched(parts: np.ndarray | Sequence[Any]) -> np.ndarray | list[Any]:
    """Numbers that kernels left on their devices, as the host has them: one wait a device, not one a number."""
    if isinstance(parts, np.ndarray):
        return parts
    values, waiting = list(parts), {}
    for i, part in enumerate(values):
        if isinstance(part, Tensor):
            waiting.setdefault(part.device, []).append(i)
    for places in waiting.values():
        for i, row in zip(places, torch.stack([values[i] for i in places]).tolist(), strict=True):
            values[i] = row
    return values


def for_each(pieces: Sequence[Chunk], work: Callable[[int], None], numel: int) -> None:
    """Call work(i) for each piece, on as many threads as torch uses where the kernels and `numel` elements are worth it."""
    threads = torch.get_num_threads()
    if numel <= _INLINE or threads == 1 or not all(piece.kernels.THREADED for piece in pieces):
        for i in range(len(pieces)):
            work(i)
        return
    order = iter(range(len(pieces)))

    def drain():
        for i in order:
            work(i)

    others = [_threads(threads - 1).submit(drain) for _ in range(threads - 1)]
    try:
        drain()
    finally:
        wait(others)  # whatever is raised, nothing is at work any more
    for future in others:
        future.result()


def _threads(count: int) -> ThreadPoolExecutor:
    global _pool
    if _pool is None or _pool._max_workers != count:
        _pool = ThreadPoolExecutor(count, thread_name_prefix="zolab-noise")
    return _pool


def _forget_threads():
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_threads)
