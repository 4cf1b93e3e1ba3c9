"""CPU kernels for weights that stay where they are: both sides of a probe from one direction, and some tiles of one side."""

import numpy as np

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import from_float, to_float, wide_vectors
from zolab.noise.kernels.probe import direction_tile
from zolab.noise.kernels.threefry import TILE
from zolab.noise.kernels.tiles import scratch


@kernel
def _both(plus, minus, w, tile, keys, given, signs, scale):
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, w.size, TILE):
        part, above, below = w[start : start + TILE], plus[start : start + TILE], minus[start : start + TILE]
        direction_tile(z, keys, given, signs, 0, tile + start // TILE, start, part.size)
        for i in range(part.size):
            above[i] = from_float(to_float(part[i]) + scale * z[i], part[i])
        for i in range(part.size):
            below[i] = from_float(to_float(part[i]) - scale * z[i], part[i])


@kernel
def _some(out, w, tiles, keys, given, signs, scale):
    wide_vectors()
    z = scratch(TILE)
    for tile in tiles:
        start = tile * TILE
        part, there = w[start : start + TILE], out[start : start + TILE]
        direction_tile(z, keys, given, signs, 0, tile, start, part.size)
        for i in range(part.size):
            there[i] = from_float(to_float(part[i]) + scale * z[i], part[i])


def both(plus, minus, w, tile, source, scale):
    """plus = w + scale * z and minus = w - scale * z, with the bits of `cpu.perturbed`; w stays as it is."""
    _both(plus, minus, w, tile, *source, np.float32(scale))


def some(out, w, tiles, source, scale):
    """out = w + scale * z in some tiles of a whole tensor, int64 numbers within it; the others stay as they are."""
    _some(out, w, tiles, *source, np.float32(scale))
