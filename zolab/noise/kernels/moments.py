"""The CPU kernel of AdaMeZO: both moments of a tile made again from their directions, and the step taken, in one pass."""

import numpy as np
from numba import njit

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import add, fma, over, sqrt, times, to_float, wide_vectors
from zolab.noise.kernels.probe import direction_tile
from zolab.noise.kernels.threefry import PAIRS, TILE
from zolab.noise.kernels.tiles import put_tile, scratch, threefry, total_of, two_normals

f32, u32 = np.float32, np.uint32


@njit(inline="always")
def normal_moments(m, v, keys, first, second, tile, size):
    """m += sum_k first[k] * z_k and v += sum_k second[k] * z_k^2 over one tile; normal directions two by two, as lanes."""
    pair = u32(tile * PAIRS)
    for k in range(0, first.size, 2):
        k0, k1 = (keys[k, 0], keys[k + 1, 0]), (keys[k, 1], keys[k + 1, 1])
        a0, a1 = first[k], first[k + 1]
        b = (second[k], second[k + 1])
        for i in range(min(size, PAIRS)):
            word0, word1 = threefry(k0, k1, add(pair, u32(i)), u32(0))
            x, y = two_normals(word0, word1)
            bx, by = times(b, x), times(b, y)
            # Every load before any store: the halves of a tile lie 4 KiB apart, where a store holds up the loads after it.
            mx, my, vx, vy = m[i], m[i + PAIRS], v[i], v[i + PAIRS]
            m[i], m[i + PAIRS] = fma(a1, x[1], fma(a0, x[0], mx)), fma(a1, y[1], fma(a0, y[0], my))
            v[i], v[i + PAIRS] = fma(bx[1], x[1], fma(bx[0], x[0], vx)), fma(by[1], y[1], fma(by[0], y[0], vy))


@kernel
def update_by_moments(w, tile, keys, given, signs, first, second, decay, inside, outside, rounding):
    """w = decay * w + m / (sqrt(v + inside) + outside), where m = sum_k first[k] * z_k and v = sum_k second[k] * z_k^2.

    The number of directions is even; `rounding` is as in `put_tile`. Returns the squared length of what was added.
    """
    wide_vectors()
    room = scratch(2 * TILE + 256)
    m, v, squares = room[:TILE], room[TILE + 256 :], scratch(TILE)
    z, words = scratch(TILE), np.empty(TILE, np.uint32)
    squares[:] = f32(0)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        room[:] = f32(0)
        if given.size or signs:
            for k in range(first.size):
                direction_tile(z, keys, given, signs, k, tile + start // TILE, start, part.size)
                for i in range(part.size):
                    m[i] = fma(first[k], z[i], m[i])
                    v[i] = fma(second[k] * z[i], z[i], v[i])
        else:
            normal_moments(m, v, keys, first, second, tile + start // TILE, part.size)
        for i in range(part.size):
            added = over(m[i], sqrt(v[i] + inside) + outside)
            squares[i] = fma(added, added, squares[i])
            m[i] = fma(decay, to_float(part[i]), added)
        put_tile(part, m, rounding, words, tile + start // TILE)
    return total_of(squares)
