"""CUDA kernels: directions generated, added and dotted in one pass over each weight, compiled by Triton.

They compute the function of `zolab.noise.kernels.cpu`: the same integers, and through the same fused multiply-adds the same
normals. The tests find equal bits where the interpreter emulates such a multiply-add; what they demand of any device is
four units in the last place.

Each kernel works on one flat, contiguous chunk that starts at a tile boundary, one program to a tile. Importing this
module takes Triton but no GPU; if TRITON_INTERPRET=1 was set by then, the kernels run on CPU tensors, slowly. Not for
float64 weights: these kernels compute in float32, `zolab.noise.kernels.plain` in float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from zolab.noise.kernels import plain, threefry
from zolab.noise.kernels.cuda_tiles import (
    PAIRS,
    TILE,
    direction,
    halves,
    kernel,
    normals,
    pairs_of,
    store_halves,
    threefry_words,
)
from zolab.noise.kernels.plain import view

CHUNK = 2048 * threefry.TILE
THREADED = False


@kernel
def words_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32):
    i = tl.arange(0, PAIRS)
    x0, x1 = threefry_words(k0, k1, pairs_of(tile))
    tl.store(out + i, x0.to(tl.int64), i < size)
    tl.store(out + PAIRS + i, x1.to(tl.int64), PAIRS + i < size)


@kernel
def fill_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    z0, z1 = normals(k0, k1, pairs_of(tile + tl.program_id(0)))
    store_halves(out + start, i, size - start, z0, z1)


@kernel
def add_scaled_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, scale: tl.float32):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    w0, w1 = halves(w + start, i, size - start)
    z0, z1 = normals(k0, k1, pairs_of(tile + tl.program_id(0)))
    store_halves(w + start, i, size - start, tl.fma(z0, scale, w0), tl.fma(z1, scale, w1))


@kernel
def dot_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, partial):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    w0, w1 = halves(w + start, i, size - start)
    z0, z1 = normals(k0, k1, pairs_of(tile + tl.program_id(0)))
    tl.store(partial + tl.program_id(0), tl.sum(tl.fma(w0, z0, w1 * z1)))


@kernel
def perturbed_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, w, given, scale: tl.float32):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    w0, w1 = halves(w + start, i, size - start)
    z0, z1 = direction(k0, k1, given, start, i, size - start, tile + tl.program_id(0))
    store_halves(out + start, i, size - start, w0 + z0 * scale, w1 + z1 * scale)


def _launch(function, chunk: Tensor, k0: int, k1: int, tile: int, *more) -> None:
    with torch.cuda.device_of(chunk):
        grid = (triton.cdiv(chunk.numel(), threefry.TILE),)
        function[grid](chunk, chunk.numel(), int(k0), int(k1), int(tile), *more, enable_fp_fusion=False)


def words(k0: int, k1: int, tile: int, device: str = "cuda") -> Tensor:
    """The generator's raw words of one tile, as int64, for tests."""
    out = torch.empty(threefry.TILE, dtype=torch.int64, device=device)
    _launch(words_kernel, out, k0, k1, tile)
    return out


def fill(out: Tensor, k0: int, k1: int, tile: int) -> None:
    """out = z, float32."""
    _launch(fill_kernel, out, k0, k1, tile)


def add_scaled(w: Tensor, k0: int, k1: int, tile: int, scale: float) -> None:
    """w += scale * z in float32, rounded to nearest even into w's type, each weight read and written once."""
    _launch(add_scaled_kernel, w, k0, k1, tile, float(scale))


def dot(w: Tensor, k0: int, k1: int, tile: int) -> float:
    """Sum of w * z, float32 within a tile and float64 across tiles; waits for the device."""
    partial = torch.empty(triton.cdiv(w.numel(), threefry.TILE), dtype=torch.float32, device=w.device)
    _launch(dot_kernel, w, k0, k1, tile, partial)
    return partial.sum(dtype=torch.float64).item()


def perturbed(out: Tensor, w: Tensor, tile: int, source, scale: float) -> None:
    """out = w + scale * z, with the bits that `perturb` and `flip` give; w stays as it is."""
    keys, given = source
    _launch(perturbed_kernel, out, *keys[0], tile, w, given[0] if len(given) else None, float(scale))


# What moves weights and takes them back is written once, in plain torch, and generates its directions here.
_kernels = plain.Kernels(fill)
perturb, flip, restore, given = _kernels.perturb, _kernels.flip, _kernels.restore, _kernels.given
update, update_by_moments, moments = _kernels.update, _kernels.update_by_moments, _kernels.moments

__all__ = [
    "CHUNK",
    "THREADED",
    "add_scaled",
    "dot",
    "fill",
    "flip",
    "given",
    "moments",
    "perturb",
    "perturbed",
    "restore",
    "update",
    "update_by_moments",
    "view",
    "words",
]
