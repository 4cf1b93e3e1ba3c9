"""CUDA kernels: directions generated, added and dotted in one pass over each weight, compiled by Triton.

They compute the function of `zolab.noise.kernels.cpu`: the same integers, and through the same fused multiply-adds the same
normals. The tests find equal bits where the interpreter emulates such a multiply-add; what they demand of any device is
four units in the last place.

Each kernel works on one flat, contiguous chunk that starts at a tile boundary, one program to a tile. Importing this
module takes Triton but no GPU; if TRITON_INTERPRET=1 was set by then, the kernels run on CPU tensors, slowly. Not for
float64 weights: these kernels compute in float32, `zolab.noise.kernels.plain` in float64.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from zolab.noise.kernels import plain, threefry
from zolab.noise.kernels.plain import view

TILE, PAIRS = tl.constexpr(threefry.TILE), tl.constexpr(threefry.PAIRS)
ROUNDS, ROTATIONS, PARITY = map(tl.constexpr, (threefry.ROUNDS, threefry.ROTATIONS, threefry.PARITY))
QUARTER_TURN = tl.constexpr(math.pi / 2 * 2.0**-32)

CHUNK = 2048 * threefry.TILE
THREADED = False

# Keys and tiles change with every call: no value of theirs may lead to a compilation of its own.
kernel = triton.jit(do_not_specialize=["k0", "k1", "tile"])


@triton.jit
def tile_words(k0, k1, tile):
    """`zolab.noise.kernels.threefry.threefry2x32` for the counters (pair, 0) of one tile."""
    k0, k1 = k0.to(tl.uint32), k1.to(tl.uint32)
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0 = tile.to(tl.uint32) * PAIRS + tl.arange(0, PAIRS).to(tl.uint32) + k0
    x1 = k1 + tl.zeros_like(x0)
    for r in tl.static_range(ROUNDS):
        x0 += x1
        x1 = ((x1 << ROTATIONS[r % 8]) | (x1 >> (32 - ROTATIONS[r % 8]))) ^ x0
        if r % 4 == 3:
            x0 += schedule[(r // 4 + 1) % 3]
            x1 += schedule[(r // 4 + 2) % 3] + (r // 4 + 1)
    return x0, x1


@triton.jit
def minus_two_log(word):
    """-2 ln(u) with u = (top 23 bits + 1/2) / 2^23; the coefficients are Cephes' logf, summed pairwise."""
    u = tl.fma((word >> 9).to(tl.float32), 2.0**-23, 2.0**-24)
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    square = m * m
    a = tl.fma(m, -2.4999993993e-1, 3.3333331174e-1)
    b = tl.fma(m, -1.6668057665e-1, 2.0000714765e-1)
    c = tl.fma(m, -1.2420140846e-1, 1.4249322787e-1)
    d = tl.fma(m, -1.1514610310e-1, 1.1676998740e-1)
    upper = tl.fma(tl.fma(square, 7.0376836292e-2, d), square, c)
    p = tl.fma(upper, square * square, tl.fma(b, square, a))
    tail = tl.fma(square, -0.5, p * m * square)
    return -2.0 * tl.fma(exponent.to(tl.float32), 0.6931471805599453, m + tail)


@triton.jit
def with_sign(x, sign):
    return (x.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def tile_normals(k0, k1, tile):
    """The halves of a tile by Box-Muller: word0 gives the radius, word1 an angle, spare bits of both the octant."""
    word0, word1 = tile_words(k0, k1, tile)
    radius = tl.sqrt_rn(minus_two_log(word0))
    x = (word1 << 2).to(tl.int32, bitcast=True).to(tl.float32) * QUARTER_TURN
    s = x * x
    p = tl.fma(s, tl.fma(s, -1.9515295891e-4, 8.3321608736e-3), -1.6666654611e-1)
    sine = tl.fma(x * s, p, x)
    p = tl.fma(s, tl.fma(s, 2.443315711809948e-5, -1.388731625493765e-3), 4.166664568298827e-2)
    cosine = tl.fma(s * s, p, tl.fma(s, -0.5, 1.0))
    swap = (word1 & 0x40000000) != 0
    first = with_sign(tl.where(swap, sine, cosine), word0 << 31)
    second = with_sign(tl.where(swap, cosine, sine), word1 & 0x80000000)
    return radius * first, radius * second


@kernel
def words_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32):
    i = tl.arange(0, PAIRS)
    x0, x1 = tile_words(k0, k1, tile)
    tl.store(out + i, x0.to(tl.int64), i < size)
    tl.store(out + PAIRS + i, x1.to(tl.int64), PAIRS + i < size)


@kernel
def fill_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, PAIRS)
    z0, z1 = tile_normals(k0, k1, tile + tl.program_id(0))
    tl.store(out + i, z0, i < size)
    tl.store(out + PAIRS + i, z1, PAIRS + i < size)


@kernel
def add_scaled_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, scale: tl.float32):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, PAIRS)
    w0 = tl.load(w + i, i < size).to(tl.float32)
    w1 = tl.load(w + PAIRS + i, PAIRS + i < size).to(tl.float32)
    z0, z1 = tile_normals(k0, k1, tile + tl.program_id(0))
    tl.store(w + i, tl.fma(z0, scale, w0).to(w.dtype.element_ty), i < size)
    tl.store(w + PAIRS + i, tl.fma(z1, scale, w1).to(w.dtype.element_ty), PAIRS + i < size)


@kernel
def dot_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, partial):
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, PAIRS)
    w0 = tl.load(w + i, i < size, other=0.0).to(tl.float32)
    w1 = tl.load(w + PAIRS + i, PAIRS + i < size, other=0.0).to(tl.float32)
    z0, z1 = tile_normals(k0, k1, tile + tl.program_id(0))
    tl.store(partial + tl.program_id(0), tl.sum(tl.fma(w0, z0, w1 * z1)))


def _launch(function, chunk: Tensor, k0: int, k1: int, tile: int, *more) -> None:
    with torch.cuda.device_of(chunk):
        grid = (triton.cdiv(chunk.numel(), threefry.TILE),)
        function[grid](chunk, chunk.numel(), int(k0), int(k1), int(tile), *more)


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
    "restore",
    "update",
    "update_by_moments",
    "view",
    "words",
]
