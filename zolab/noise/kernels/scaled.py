"""The CPU kernel of a step along a direction with a factor for each weight, in the pass that changes the factors."""

import numpy as np
from numba import njit

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import choose, fma, over, sqrt, to_float, wide_vectors
from zolab.noise.kernels.probe import direction_tile, undo_tile
from zolab.noise.kernels.threefry import TILE
from zolab.noise.kernels.tiles import put_tile, scratch

f32, u32 = np.float32, np.uint32
_NOTHING = np.empty(0, np.uint16)


@njit(inline="always")
def grown(factor, z, growth):
    """A factor after a step; `growth` is (keep, gain, shift, least, greatest)."""
    keep, gain, shift, least, greatest = growth
    ratio = fma(gain, fma(z, z, -shift), keep)
    found = choose(u32(ratio > f32(0)), over(factor, sqrt(ratio)), greatest)
    return min(max(found, least), greatest)


@kernel
def _update(w, tile, keys, given, signs, factors, coefficient, decay, growth, rounding, scale, counts, where, kept):
    wide_vectors()
    z, now, along, words = scratch(TILE), scratch(TILE), scratch(TILE), np.empty(TILE, np.uint32)
    entry = 0
    for start in range(0, w.size, TILE):
        part, factor = w[start : start + TILE], factors[start : start + TILE]
        here = start // TILE
        direction_tile(z, keys, given, signs, 0, tile + here, start, part.size)
        if counts.size:
            for i in range(part.size):
                along[i] = z[i] * factor[i]
            undo_tile(now, part, along, scale, counts[here], where, kept, entry)
            entry += counts[here]
        else:
            for i in range(part.size):
                now[i] = to_float(part[i])
        for i in range(part.size):
            factor[i] = grown(factor[i], z[i], growth)
            now[i] = fma(coefficient, z[i] * factor[i], now[i] * decay)
        put_tile(part, now, rounding, words, tile + here)


def update_scaled(w, tile, source, factor, coefficient, decay, growth, rounding, moved=None):
    """w = decay * w + coefficient * z * f, with a factor f for each weight that is changed first.

    f becomes f / sqrt(keep + gain (z^2 - shift)), within [least, greatest]; the greatest where the root is of no positive
    number. All factors are positive.

    Args:
        w, tile, source: as of the other kernels; the source is of z alone.
        factor: f, flat, changed in place.
        coefficient, decay: numbers.
        growth: (keep, gain, shift, least, greatest).
        rounding: a key, or empty, as `cpu.update` has it.
        moved: the scale along z f by which w is moved, with its journal, if it is to be taken back first.
    """
    numbers = tuple(map(f32, growth))
    scale, journal = moved or (0.0, (_NOTHING, _NOTHING, w[:0]))
    _update(w, tile, *source, factor.numpy(), f32(coefficient), f32(decay), numbers, rounding, f32(scale), *journal)
