"""CPU kernels: directions generated, added, dotted and undone in one pass over each weight, compiled by Numba.

Numba carries its own compiler, so a fresh machine needs no C toolchain. Each kernel works on one flat, contiguous chunk and
releases the GIL, so that `zolab.noise` can hand the chunks to threads. bfloat16 and float16 chunks come as uint16 and int16.
"""

import threading

import numpy as np
import torch
from numba import njit

from zolab.kernels import moments
from zolab.kernels.llvm import (
    as_bits,
    differ,
    first_flag,
    fma,
    from_float,
    or_,
    to_float,
    wide_vectors,
    without_first,
)
from zolab.kernels.threefry import PAIRS, TILE
from zolab.kernels.tiles import fill_tile, scratch, threefry, total_of

f32, u32 = np.float32, np.uint32


@njit(nogil=True, cache=True)
def _words(out, k0, k1, tile):
    """The generator's raw words of one tile, for tests."""
    for i in range(PAIRS):
        out[i], out[i + PAIRS] = threefry(k0, k1, u32(tile * PAIRS + i), u32(0))


@njit(nogil=True, cache=True)
def _fill(out, k0, k1, tile):
    """out[i] = z[i] for a float32 chunk that starts at the given tile."""
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, out.size, TILE):
        part = out[start : start + TILE]
        fill_tile(z, k0, k1, tile + start // TILE, part.size)
        for i in range(part.size):
            part[i] = z[i]


@njit(nogil=True, cache=True)
def _add_scaled(w, k0, k1, tile, scale):
    """w += scale * z, each weight read and written once."""
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        fill_tile(z, k0, k1, tile + start // TILE, part.size)
        for i in range(part.size):
            part[i] = from_float(fma(scale, z[i], to_float(part[i])), part[i])


@njit(nogil=True, cache=True)
def _dot(w, k0, k1, tile):
    """Sum of w[i] * z[i]: float32 over the tiles of a chunk for each place in the tile, float64 over the places."""
    wide_vectors()
    z, sums = scratch(TILE), scratch(TILE)
    sums[:] = f32(0)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        fill_tile(z, k0, k1, tile + start // TILE, part.size)
        for i in range(part.size):
            sums[i] = fma(to_float(part[i]), z[i], sums[i])
    return total_of(sums)


@njit(inline="always")
def rounded(value, like):
    """A float32 as it reads back after being stored in the type of `like`."""
    return to_float(from_float(value, like))


@njit(inline="always")
def direction_tile(z, keys, given, k, tile, start, size):
    """One tile of direction k: from its key, or copied where the direction itself is given."""
    if given.size:
        for i in range(size):
            z[i] = given[k, start + i]
    else:
        fill_tile(z, keys[k, 0], keys[k, 1], tile, size)


@njit(nogil=True, cache=True)
def _perturb(w, tile, keys, given, scale, counts, where, kept):
    """w += scale * z, writing down every weight that -scale * z, or the same with both signs turned, would not bring back.

    Args:
        w: the chunk; float32, bfloat16 bits (uint16) or float16 bits (int16).
        tile, keys, given: the direction, as `zolab.noise.Source` has it.
        scale: eps times the block's scale.
        counts: receives the number of entries of each tile, uint16.
        where, kept: room for as many entries as the chunk has weights; receive positions in the tile and weights.

    Returns:
        The number of entries written.
    """
    wide_vectors()
    z = scratch(TILE)
    before = np.empty(TILE, w.dtype)
    flags = np.zeros(TILE, np.uint8)
    flags8 = flags.view(np.uint64)
    groups = np.empty(TILE // 8, np.int64)
    count = 0
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        size = part.size
        direction_tile(z, keys, given, 0, tile + start // TILE, start, size)
        for i in range(size):
            delta = scale * z[i]
            weight = to_float(part[i])
            plus = from_float(weight + delta, part[i])
            back_from_plus = rounded(to_float(plus) - delta, part[i])
            back_from_minus = rounded(rounded(weight - delta, part[i]) + delta, part[i])
            lost = differ(as_bits(back_from_plus), as_bits(weight))
            flags[i] = or_(lost, differ(as_bits(back_from_minus), as_bits(weight)))
            before[i] = part[i]
            part[i] = plus
        flags[size : size + 7] = 0
        first = count
        marked = 0
        for group in range((size + 7) // 8):  # without a branch, since which groups are marked cannot be predicted
            groups[marked] = group
            marked += flags8[group] != 0
        for m in range(marked):
            left = flags8[groups[m]]
            while left != 0:
                i = 8 * groups[m] + first_flag(left)
                where[count] = i
                kept[count] = before[i]
                count += 1
                left = without_first(left)
        counts[start // TILE] = count - first
    return count


@njit(inline="always")
def undo_tile(now, part, z, scale, count, where, kept, first):
    """now = the weights before `part` became w + scale * z, the journal's entries from `first` on included."""
    for i in range(part.size):
        now[i] = rounded(to_float(part[i]) - scale * z[i], part[i])
    for entry in range(first, first + count):
        now[where[entry]] = to_float(kept[entry])


@njit(nogil=True, cache=True)
def _flip(w, tile, keys, given, scale, counts, where, kept):
    """From w + scale * z to w - scale * z, through w itself."""
    wide_vectors()
    z, now = scratch(TILE), scratch(TILE)
    entry = 0
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        here = start // TILE
        direction_tile(z, keys, given, 0, tile + here, start, part.size)
        undo_tile(now, part, z, scale, counts[here], where, kept, entry)
        entry += counts[here]
        for i in range(part.size):
            part[i] = from_float(now[i] - scale * z[i], part[i])


@njit(inline="always")
def update_tile(now, z, made, keys, given, coefficients, decay, tile, start, size):
    """now = decay * now + sum_k coefficients[k] * z_k; z holds the tile of direction 0 already if `made` says so."""
    if decay != f32(1):
        for i in range(size):
            now[i] *= decay
    for k in range(coefficients.size):
        if k > 0 or not made:
            direction_tile(z, keys, given, k, tile, start, size)
        for i in range(size):
            now[i] = fma(coefficients[k], z[i], now[i])


@njit(nogil=True, cache=True)
def _restore(w, tile, probe_keys, probe_given, scale, counts, where, kept, same, keys, given, coefficients, decay):
    """From w + scale * z back to w, then w = decay * w + sum_k coefficients[k] * z_k in the same pass.

    `same` says that the first direction of the sum is the one that is taken back.
    """
    wide_vectors()
    z, now = scratch(TILE), scratch(TILE)
    entry = 0
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        here = start // TILE
        direction_tile(z, probe_keys, probe_given, 0, tile + here, start, part.size)
        undo_tile(now, part, z, scale, counts[here], where, kept, entry)
        entry += counts[here]
        update_tile(now, z, same, keys, given, coefficients, decay, tile + here, start, part.size)
        for i in range(part.size):
            part[i] = from_float(now[i], part[i])


@njit(nogil=True, cache=True)
def _update(w, tile, keys, given, coefficients, decay):
    """w = decay * w + sum_k coefficients[k] * z_k: the second half of `_restore`, to the bit."""
    wide_vectors()
    z, now = scratch(TILE), scratch(TILE)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        for i in range(part.size):
            now[i] = to_float(part[i])
        update_tile(now, z, False, keys, given, coefficients, decay, tile + start // TILE, start, part.size)
        for i in range(part.size):
            part[i] = from_float(now[i], part[i])


CHUNK = 512 * TILE
THREADED = True
_VIEWS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16, torch.float16: torch.int16}
_spare = threading.local()


def view(chunk: torch.Tensor) -> np.ndarray:
    """A flat tensor as the array that the kernels take."""
    return chunk.detach().view(_VIEWS[chunk.dtype]).numpy()


def words(k0: int, k1: int, tile: int) -> np.ndarray:
    """The generator's raw words of one tile."""
    out = np.empty(TILE, u32)
    _words(out, u32(k0), u32(k1), tile)
    return out


def fill(out, k0, k1, tile):
    """out = z, float32."""
    _fill(out, u32(k0), u32(k1), tile)


def add_scaled(w, k0, k1, tile, scale):
    """w += scale * z."""
    _add_scaled(w, u32(k0), u32(k1), tile, f32(scale))


def dot(w, k0, k1, tile) -> float:
    """Sum of w * z."""
    return _dot(w, u32(k0), u32(k1), tile)


def given(parts: list[torch.Tensor]) -> np.ndarray:
    """Directions that are values instead of keys, one row each."""
    rows = [part.detach().to(torch.float32).numpy() for part in parts]
    return rows[0][None] if len(rows) == 1 else np.stack(rows)


def perturb(w, tile, source, scale):
    """w += scale * z; returns the journal that `flip` and `restore` need."""
    spare = _spare.__dict__.setdefault(w.dtype, (np.empty(CHUNK, np.uint16), np.empty(CHUNK, w.dtype)))
    counts = np.empty(-(-w.size // TILE), np.uint16)
    n = _perturb(w, tile, *source, f32(scale), counts, *spare)
    return counts, *(array[:n].copy() for array in spare)


def flip(w, tile, source, scale, journal):
    """From w + scale * z to w - scale * z."""
    _flip(w, tile, *source, f32(scale), *journal)


def restore(w, tile, source, scale, journal, same, sources, coefficients, decay):
    """From w + scale * z to decay * w + sum_k coefficients[k] * z_k; `same`: z is the first of the z_k."""
    _restore(w, tile, *source, f32(scale), *journal, same, *sources, coefficients, f32(decay))


def update(w, tile, sources, coefficients, decay):
    """w = decay * w + sum_k coefficients[k] * z_k."""
    _update(w, tile, *sources, coefficients, f32(decay))


def update_by_moments(w, tile, sources, first, second, decay, inside, outside) -> float:
    """w = decay * w + m / (sqrt(v + inside) + outside); returns the squared length of what was added."""
    keys, values = sources
    if first.size % 2:  # a direction with weight zero makes the number even
        keys, first, second = np.vstack((keys, keys[-1:])), np.append(first, f32(0)), np.append(second, f32(0))
        values = np.vstack((values, values[-1:])) if values.size else values
    return moments.update_by_moments(w, tile, keys, values, first, second, f32(decay), f32(inside), f32(outside))
