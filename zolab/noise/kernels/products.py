"""The CPU kernels of directions of low rank: their values from two small factors, and a step along them."""

import numpy as np
from numba import njit

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import fma, times, to_float, wide_vectors
from zolab.noise.kernels.threefry import TILE
from zolab.noise.kernels.tiles import put_tile, scratch

f32, u32 = np.float32, np.uint32


@njit(inline="always")
def elements(out, u, v, first):
    """out = elements of u @ v, read row by row from number `first` on; each is summed in the same order wherever out begins."""
    columns, start = v.shape[1], 0
    while start < out.size:
        row, before = divmod(first + start, columns)
        size = min(columns - before, out.size - start)
        part = out[start : start + size]
        for k in range(v.shape[0]):
            scale, column = u[row, k], v[k, before : before + size]
            if k == 0:
                for i in range(size):
                    part[i] = times(scale, column[i])
            else:
                for i in range(size):
                    part[i] = fma(scale, column[i], part[i])
        start += size


@kernel
def product(out, u, v, skip):
    """out = some elements of u @ v read row by row.

    Args:
        out: flat float32.
        u: the rows that are touched, float32 of shape (rows, rank).
        v: float32 of shape (rank, columns).
        skip: elements of the first row that come before the slice.
    """
    wide_vectors()
    elements(out, u, v, skip)


@kernel
def update_product(w, tile, u, v, coefficient, decay, rounding):
    """w = decay * w + coefficient * u @ v in a chunk of a matrix, with the bits of `probe.update`; u has all rows."""
    wide_vectors()
    z, now, words = scratch(TILE), scratch(TILE), np.empty(TILE, u32)
    for start in range(0, w.size, TILE):
        part, here = w[start : start + TILE], tile + start // TILE
        elements(z[: part.size], u, v, here * TILE)
        for i in range(part.size):
            now[i] = to_float(part[i])
        if decay != f32(1):
            for i in range(part.size):
                now[i] *= decay
        for i in range(part.size):
            now[i] = fma(coefficient, z[i], now[i])
        put_tile(part, now, rounding, words, here)
