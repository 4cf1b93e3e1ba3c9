"""The Triton kernels of directions of low rank: the function of `zolab.noise.kernels.products`, to the bit."""

import triton
import triton.language as tl

from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, put_halves, raw_halves


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


@triton.jit(do_not_specialize=["width", "rank", "tile", "r0", "r1"])
def update_product_kernel(
    w,
    size,
    u,
    v,
    width: tl.int32,
    rank: tl.int32,
    tile: tl.uint32,
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
    put_halves(w + start, i, left, now0, now1, r0, r1, tile + tl.program_id(0), ROUND)
