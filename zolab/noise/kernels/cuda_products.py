"""The Triton kernel of directions of low rank: the function of `zolab.noise.kernels.products`, to the bit."""

import triton
import triton.language as tl

from zolab.noise.kernels.cuda_tiles import TILE


@triton.jit(do_not_specialize=["width", "rank", "skip"])
def product_kernel(out, size, u, v, width: tl.int32, rank: tl.int32, skip: tl.int32):
    """out = elements of u @ v row by row, from `skip` on; width columns in v, one program to a tile."""
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = i < size
    at = i + skip
    row, column = at // width, at % width
    total = tl.load(u + row * rank, there, other=0.0) * tl.load(v + column, there, other=0.0)
    for k in range(1, rank):
        scale, value = tl.load(u + row * rank + k, there, other=0.0), tl.load(v + k * width + column, there, other=0.0)
        total = tl.fma(scale, value, total)
    tl.store(out + i, total, there)
