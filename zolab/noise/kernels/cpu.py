"""CPU kernels: directions generated, added, dotted and undone in one pass over each weight, compiled by Numba.

Numba carries its own compiler, so a fresh machine needs no C toolchain. Each kernel works on one flat, contiguous chunk and
releases the GIL, so that `zolab.noise` can hand the chunks to threads. bfloat16 and float16 chunks come as uint16 and int16.
"""

import threading

import numpy as np
import torch

from zolab.noise.kernels import probe, products, scaled
from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import fma, from_float, to_float, wide_vectors
from zolab.noise.kernels.moments import update_by_moments as _update_by_moments
from zolab.noise.kernels.threefry import PAIRS, TILE
from zolab.noise.kernels.tiles import add_moments, fill_tile, scratch, threefry, total_of

f32, u32 = np.float32, np.uint32


@kernel
def _words(out, k0, k1, tile):
    """The generator's raw words of one tile, for tests."""
    for i in range(PAIRS):
        out[i], out[i + PAIRS] = threefry(k0, k1, u32(tile * PAIRS + i), u32(0))


@kernel
def _fill(out, k0, k1, tile, signs):
    """out[i] = z[i] for a float32 chunk that starts at the given tile."""
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, out.size, TILE):
        part = out[start : start + TILE]
        fill_tile(z, k0, k1, signs, tile + start // TILE, part.size)
        for i in range(part.size):
            part[i] = z[i]


@kernel
def _add_scaled(w, k0, k1, tile, scale, signs):
    """w += scale * z, each weight read and written once."""
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        fill_tile(z, k0, k1, signs, tile + start // TILE, part.size)
        for i in range(part.size):
            part[i] = from_float(fma(scale, z[i], to_float(part[i])), part[i])


@kernel
def _dot(w, k0, k1, tile, signs):
    """Sum of w[i] * z[i]: float32 over the tiles of a chunk for each place in the tile, float64 over the places."""
    wide_vectors()
    z, sums = scratch(TILE), scratch(TILE)
    sums[:] = f32(0)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        fill_tile(z, k0, k1, signs, tile + start // TILE, part.size)
        for i in range(part.size):
            sums[i] = fma(to_float(part[i]), z[i], sums[i])
    return total_of(sums)


@kernel
def _moments(w, out):
    """Sum and sum of squares of a chunk: float32 over the tiles for each place in the tile, float64 over the places."""
    wide_vectors()
    sums, squares = scratch(TILE), scratch(TILE)
    sums[:] = f32(0)
    squares[:] = f32(0)
    for start in range(0, w.size, TILE):
        add_moments(sums, squares, w[start : start + TILE])
    out[0], out[1] = total_of(sums), total_of(squares)


CHUNK = 512 * TILE
THREADED = True
_VIEWS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16, torch.float16: torch.int16}
_NEAREST = np.empty(0, u32)
_spare = threading.local()


def view(chunk: torch.Tensor) -> np.ndarray:
    """A flat tensor as the array that the kernels take."""
    return chunk.detach().view(_VIEWS[chunk.dtype]).numpy()


def words(k0: int, k1: int, tile: int) -> np.ndarray:
    """The generator's raw words of one tile."""
    out = np.empty(TILE, u32)
    _words(out, u32(k0), u32(k1), tile)
    return out


def fill(out, k0, k1, tile, signs=False):
    """out = z, float32."""
    _fill(out, u32(k0), u32(k1), tile, signs)


def add_scaled(w, k0, k1, tile, scale, signs=False):
    """w += scale * z."""
    _add_scaled(w, u32(k0), u32(k1), tile, f32(scale), signs)


def dot(w, k0, k1, tile, signs=False) -> float:
    """Sum of w * z."""
    return _dot(w, u32(k0), u32(k1), tile, signs)


def moments(w, wait=True) -> np.ndarray:
    """Sum and sum of squares of the weights; a GPU's kernels leave them on the device without `wait`."""
    out = np.empty(2)
    _moments(w, out)
    return out


def given(parts: list[torch.Tensor]) -> np.ndarray:
    """Directions that are values instead of keys, one row each."""
    rows = [part.detach().to(torch.float32).numpy() for part in parts]
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def product(out, u, v, skip):
    """out = elements of u @ v row by row, from `skip` in the first row on; all flat or two-dimensional float32 tensors."""
    products.product(out.numpy(), u.numpy(), v.numpy(), skip)


def perturbed(out, w, tile, source, scale):
    """out = w + scale * z, with the bits that `perturb` and `flip` give; w stays as it is."""
    probe.perturbed(out, w, tile, *source, f32(scale))


def both(plus, minus, w, tile, source, scale):
    """plus = w + scale * z and minus = w - scale * z, with the bits of `perturbed`; w stays as it is."""
    from zolab.noise.kernels.sides import both  # with its compiler, only when it is used

    both(plus, minus, w, tile, source, scale)


def perturb(w, tile, source, scale):
    """w += scale * z; returns the journal that `flip` and `restore` need."""
    spare = _spare.__dict__.get(w.dtype)
    if spare is None:
        spare = _spare.__dict__[w.dtype] = np.empty(CHUNK, np.uint16), np.empty(CHUNK, w.dtype)
    counts = np.empty(-(-w.size // TILE), np.uint16)
    n = probe.perturb(w, tile, *source, f32(scale), counts, *spare)
    return counts, *(array[:n].copy() for array in spare)


def flip(w, tile, source, scale, journal):
    """From w + scale * z to w - scale * z."""
    probe.flip(w, tile, *source, f32(scale), *journal)


def restore(w, tile, source, scale, journal, same, sources, coefficients, decay, sums, rounding=None):
    """From w + scale * z to decay * w + sum_k coefficients[k] * z_k; `same`: z is the first of the z_k.

    `sums` receives the `moments` of the result, to the bit, unless it is empty. `rounding` is as in `update`.
    """
    key = _rounding_key(w, rounding)
    probe.restore(w, tile, *source, f32(scale), *journal, same, *sources, coefficients, f32(decay), key, sums)


def update(w, tile, sources, coefficients, decay, rounding=None):
    """w = decay * w + sum_k coefficients[k] * z_k.

    `rounding` is None, to nearest even, or a generator key, uint32 of shape (2,): then half-precision weights are rounded up
    or down at random, without bias, by the words of counters (n, 1), where directions have (n, 0).
    """
    probe.update(w, tile, *sources, coefficients, f32(decay), _rounding_key(w, rounding))


def update_product(w, tile, u, v, coefficient, decay, rounding=None):
    """w = decay * w + coefficient * u @ v, with the bits of `update`; u and v are the factors of the whole matrix, float32."""
    products.update_product(w, tile, u.numpy(), v.numpy(), f32(coefficient), f32(decay), _rounding_key(w, rounding))


def update_scaled(w, tile, source, factor, coefficient, decay, growth, rounding=None, moved=None):
    """`zolab.noise.kernels.scaled.update_scaled`."""
    scaled.update_scaled(w, tile, source, factor, coefficient, decay, growth, _rounding_key(w, rounding), moved)


def _rounding_key(w, rounding):
    return _NEAREST if rounding is None or w.dtype == f32 else rounding


def update_by_moments(w, tile, sources, first, second, decay, inside, outside, rounding=None) -> float:
    """w = decay * w + m / (sqrt(v + inside) + outside); returns the squared length of what was added."""
    keys, values, signs = sources
    if first.size % 2:  # a direction with weight zero makes the number even
        keys, first, second = np.vstack((keys, keys[-1:])), np.append(first, f32(0)), np.append(second, f32(0))
        values = np.vstack((values, values[-1:])) if values.size else values
    sizes = f32(decay), f32(inside), f32(outside)
    return _update_by_moments(w, tile, keys, values, signs, first, second, *sizes, _rounding_key(w, rounding))
