"""The Triton kernels of directions of low rank: `zolab.noise.kernels.products` to the bit, and what moves a layer's output."""

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from zolab.noise.kernels import threefry
from zolab.noise.kernels.cuda_launch import launch, launch_tiles, rounding_of, row_of
from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, put_halves, raw_halves

READ, WRITTEN = tl.constexpr(16), tl.constexpr(64)  # tokens of a program that reads inputs, and of one that writes outputs
INPUTS, OUTPUTS = tl.constexpr(128), tl.constexpr(128)  # how many of them at once
RANK = tl.constexpr(16)  # the least that a matrix unit multiplies by, and the most that these kernels take
UNIT = tl.constexpr(16)  # columns come in such groups, so that threads read many at once


@triton.jit
def element(u, v, at, there, width, rank):
    """Elements of u @ v, numbered row by row."""
    row, column = at // width, at % width
    total = tl.load(u + row * rank, there, other=0.0) * tl.load(v + column, there, other=0.0)
    for k in range(1, rank):
        scale, value = tl.load(u + row * rank + k, there, other=0.0), tl.load(v + k * width + column, there, other=0.0)
        total = tl.fma(scale, value, total)
    return total


@triton.jit(do_not_specialize=["width", "rank", "skip"])
def product_kernel(out, size, u, v, width: tl.int32, rank: tl.int32, skip: tl.int32):
    """out = elements of u @ v row by row, from `skip` on; width columns in v, one program to a tile."""
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = i < size
    tl.store(out + i, element(u, v, i + skip, there, width, rank), there)


@triton.jit(do_not_specialize=["width", "rank", "r0", "r1"])
def update_product_kernel(
    w,
    size,
    u,
    v,
    width: tl.int32,
    rank: tl.int32,
    coefficient: tl.float32,
    decay: tl.float32,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
):
    """w = decay * w + coefficient * u @ v; values of u @ v are made where they are added, and stored nowhere."""
    start = tl.program_id(0) * TILE
    i = tl.arange(0, PAIRS)
    left = size - start
    raw0, raw1 = raw_halves(w + start, i, left)
    z0 = element(u, v, start + i, i < left, width, rank)
    z1 = element(u, v, start + PAIRS + i, i + PAIRS < left, width, rank)
    now0 = tl.fma(z0, coefficient, raw0.to(tl.float32) * decay)
    now1 = tl.fma(z1, coefficient, raw1.to(tl.float32) * decay)
    put_halves(w + start, i, left, now0, now1, r0, r1, tl.program_id(0), ROUND)


@triton.jit(do_not_specialize=["tiles", "rank", "r0", "r1"])
def update_rows_kernel(
    w,
    size,
    u,
    v,
    tiles: tl.int32,
    rank: tl.int32,
    coefficient: tl.float32,
    decay: tl.float32,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
):
    """`update_product_kernel` where a row is so many whole tiles, so that a tile has one factor of U for each column of it."""
    row, across = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(w + start, i, size - start)
    z0, z1 = tl.full((PAIRS,), -0.0, tl.float32), tl.full((PAIRS,), -0.0, tl.float32)  # as a product alone
    for k in range(rank):
        scale, column = tl.load(u + row * rank + k), v + (k * tiles + across) * TILE + i
        z0, z1 = tl.fma(scale, tl.load(column), z0), tl.fma(scale, tl.load(column + PAIRS), z1)
    now0, now1 = tl.fma(z0, coefficient, raw0.to(tl.float32) * decay), tl.fma(z1, coefficient, raw1.to(tl.float32) * decay)
    put_halves(w + start, i, size - start, now0, now1, r0, r1, tl.program_id(0), ROUND)


@triton.jit(do_not_specialize=["tokens", "inputs", "rank"])
def project_kernel(out, size, x, v, tokens: tl.int32, inputs: tl.int32, rank: tl.int32):
    """out = x V, of RANK columns, those beyond the rank being zero; one program to some tokens. Inputs are counted in UNITs."""
    width = inputs * UNIT
    token, k = tl.program_id(0) * READ + tl.arange(0, READ), tl.arange(0, RANK)
    source, there, used = x + token.to(tl.int64)[:, None] * width, (token < tokens)[:, None], k < rank
    total = tl.zeros((READ, RANK), tl.float32)
    for start in range(0, width, INPUTS):
        i = start + tl.arange(0, INPUTS)
        part = tl.load(source + i[None, :], there & (i < width)[None, :], other=0.0)
        column = tl.load(v + k[None, :] * width + i[:, None], used[None, :] & (i < width)[:, None], other=0.0)
        total = tl.dot(part, column, total, input_precision="ieee")
    tl.store(out + token[:, None] * RANK + k[None, :], total.to(out.dtype.element_ty), there)


@triton.jit(do_not_specialize=["blocks", "tokens", "above", "outputs", "stride", "rank"])
def spread_kernel(
    out,
    size,
    projected,
    u,
    row,
    blocks: tl.int32,
    tokens: tl.int32,
    above: tl.int32,
    outputs: tl.int32,
    stride: tl.int32,
    rank: tl.int32,
):
    """out = s (x V) U^T, s the scale for the first tokens, `above` in number, and its negative for the others.

    One program to some tokens and some outputs, which lie in so many `blocks`; outputs and stride are counted in UNITs. A row
    of the table is a key and the bits of the scale.
    """
    height, k = outputs * UNIT, tl.arange(0, RANK)
    token = tl.program_id(0) // blocks * WRITTEN + tl.arange(0, WRITTEN)
    o = tl.program_id(0) % blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    there, inside = (token < tokens)[:, None], (o < height)[None, :]
    scale = tl.load(row + 2).to(tl.float32, bitcast=True)
    signed = tl.where(token < above, scale, -scale)[:, None]
    part = tl.load(projected + token[:, None] * RANK + k[None, :], there, other=0.0)
    column = tl.load(u + k[:, None] * (stride * UNIT) + o[None, :], (k < rank)[:, None] & inside, other=0.0)
    moved = tl.dot(part, column, input_precision="ieee") * signed
    tl.store(out + token.to(tl.int64)[:, None] * height + o[None, :], moved.to(out.dtype.element_ty), there & inside)


def product(out: Tensor, u: Tensor, v: Tensor, skip: int) -> None:
    """out = elements of u @ v row by row, from `skip` in the first row on; at most 2^30 of them, all in float32."""
    launch_tiles(product_kernel, out, u, v, v.shape[1], v.shape[0], int(skip))


def update_product(w: Tensor, tile: int, u: Tensor, v: Tensor, coefficient: float, decay: float, rounding=None) -> None:
    """w = decay * w + coefficient * u @ v in a whole flat matrix of at most 2^31 elements, with the bits of `update`.

    Args:
        w: changed in place.
        tile: 0, the first of the matrix.
        u: float32 of shape (rows, rank).
        v: float32 of shape (rank, columns).
        coefficient, decay: factors.
        rounding: as in `update`.
    """
    rank, columns = v.shape
    settings = float(coefficient), float(decay), *rounding_of(w, rounding)
    if columns % threefry.TILE:
        launch_tiles(update_product_kernel, w, u, v, columns, rank, *settings)
        return
    launch_tiles(update_rows_kernel, w, u, v, columns // threefry.TILE, rank, *settings)


def makes_output(x: Tensor, outputs: int, rank: int) -> bool:
    """Whether `output` takes such tensors."""
    unit = UNIT.value
    return x.is_contiguous() and x.shape[-1] % unit == outputs % unit == 0 and rank <= RANK.value


def output(x: Tensor, u: Tensor, v: Tensor, scale: Tensor | float, above: int) -> Tensor:
    """What moves the output of a linear layer along a direction of low rank, s (x V) U^T.

    Products are summed in float32; x V is rounded to the type of x in between, and so is the result.

    Args:
        x: of shape (tokens, inputs); `makes_output` takes it.
        u: U^T of shape (rank, outputs), in the type of x; its rows may lie apart, by a multiple of 16 elements.
        v: V^T of shape (rank, inputs), likewise, contiguous.
        scale: as in `both`.
        above: for so many tokens, the first ones, s is the scale, and for the others its negative.

    Returns:
        A tensor of shape (tokens, outputs).
    """
    (tokens, inputs), (rank, outputs), unit = x.shape, u.shape, UNIT.value
    out, projected = x.new_empty(tokens, outputs), x.new_empty(tokens, RANK.value)
    programs = -(-tokens // READ.value)
    launch(project_kernel, programs, projected, x, v, tokens, inputs // unit, rank, num_warps=1, num_stages=5)
    blocks = -(-outputs // OUTPUTS.value)
    settings = blocks, tokens, int(above), outputs // unit, u.stride(0) // unit, rank
    row = row_of(x, np.empty((0, 2), np.uint32), scale)
    programs = blocks * -(-tokens // WRITTEN.value)
    launch(spread_kernel, programs, out, projected, u, row, *settings)
    return out
