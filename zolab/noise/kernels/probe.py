"""The CPU kernels of a probe: move weights along a direction, to its other side, and back to the bit with an update."""

import numpy as np
from numba import njit

from zolab.noise.kernels.compiled import kernel
from zolab.noise.kernels.llvm import (
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
from zolab.noise.kernels.threefry import TILE
from zolab.noise.kernels.tiles import add_moments, fill_tile, put_tile, scratch, total_of

f32, u32 = np.float32, np.uint32


@njit(inline="always")
def rounded(value, like):
    """A float32 as it reads back after being stored in the type of `like`."""
    return to_float(from_float(value, like))


@njit(inline="always")
def direction_tile(z, keys, given, signs, k, tile, start, size):
    """One tile of direction k: from its key, with what is given as factors, or given itself where there are no keys."""
    if keys.shape[0] == 0:
        values = given[k, start : start + size]
        for i in range(size):
            z[i] = values[i]
    else:
        fill_tile(z, keys[k, 0], keys[k, 1], signs, tile, size)
        if given.size:
            factors = given[k, start : start + size]
            for i in range(size):
                z[i] *= factors[i]


@kernel
def perturb(w, tile, keys, given, signs, scale, counts, where, kept):
    """w += scale * z, writing down every weight that -scale * z, or the same with both signs turned, would not bring back.

    Args:
        w: the chunk; float32, bfloat16 bits (uint16) or float16 bits (int16).
        tile, keys, given, signs: the direction, as `zolab.noise.Source` has it.
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
        direction_tile(z, keys, given, signs, 0, tile + start // TILE, start, size)
        for i in range(size):
            delta = scale * z[i]
            weight = to_float(part[i])
            plus = from_float(weight + delta, part[i])
            back_from_plus = rounded(to_float(plus) - delta, part[i])
            back_from_minus = rounded(rounded(weight - delta, part[i]) + delta, part[i])
            lost = differ(as_bits(back_from_plus), as_bits(weight))
            lost = or_(lost, u32(weight != weight))  # the bits of a NaN do not survive conversions
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


@kernel
def perturbed(out, w, tile, keys, given, signs, scale):
    """out = w + scale * z, with the bits that `perturb` gives; out is a chunk like w."""
    wide_vectors()
    z = scratch(TILE)
    for start in range(0, w.size, TILE):
        part, there = w[start : start + TILE], out[start : start + TILE]
        direction_tile(z, keys, given, signs, 0, tile + start // TILE, start, part.size)
        for i in range(part.size):
            there[i] = from_float(to_float(part[i]) + scale * z[i], part[i])


@njit(inline="always")
def undo_tile(now, part, z, scale, count, where, kept, first):
    """now = the weights before `part` became w + scale * z, the journal's entries from `first` on included."""
    for i in range(part.size):
        now[i] = rounded(to_float(part[i]) - scale * z[i], part[i])
    for entry in range(first, first + count):
        now[where[entry]] = to_float(kept[entry])


@kernel
def flip(w, tile, keys, given, signs, scale, counts, where, kept):
    """From w + scale * z to w - scale * z, through w itself."""
    wide_vectors()
    z, now = scratch(TILE), scratch(TILE)
    entry = 0
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        here = start // TILE
        direction_tile(z, keys, given, signs, 0, tile + here, start, part.size)
        undo_tile(now, part, z, scale, counts[here], where, kept, entry)
        entry += counts[here]
        for i in range(part.size):
            part[i] = from_float(now[i] - scale * z[i], part[i])


@njit(inline="always")
def update_tile(now, z, made, keys, given, signs, coefficients, decay, tile, start, size):
    """now = decay * now + sum_k coefficients[k] * z_k; z holds the tile of direction 0 already if `made` says so."""
    if decay != f32(1):
        for i in range(size):
            now[i] *= decay
    for k in range(coefficients.size):
        if k > 0 or not made:
            direction_tile(z, keys, given, signs, k, tile, start, size)
        for i in range(size):
            now[i] = fma(coefficients[k], z[i], now[i])


@kernel
def restore(
    w,
    tile,
    back_keys,
    back_given,
    back_signs,
    scale,
    counts,
    where,
    kept,
    same,
    keys,
    given,
    signs,
    coefficients,
    decay,
    rounding,
    out,
):
    """From w + scale * z back to w, then w = decay * w + sum_k coefficients[k] * z_k in the same pass.

    `same` says that the first direction of the sum is the one that is taken back. `out` receives the sum and the sum of
    squares of the new weights, unless it is empty. A key in `rounding` has them rounded at random, see `put_tile`.
    """
    wide_vectors()
    z, now, sums, squares = scratch(TILE), scratch(TILE), scratch(TILE), scratch(TILE)
    words = np.empty(TILE, np.uint32)
    sums[:] = f32(0)
    squares[:] = f32(0)
    entry = 0
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        here = start // TILE
        direction_tile(z, back_keys, back_given, back_signs, 0, tile + here, start, part.size)
        undo_tile(now, part, z, scale, counts[here], where, kept, entry)
        first = entry
        entry += counts[here]
        update_tile(now, z, same, keys, given, signs, coefficients, decay, tile + here, start, part.size)
        put_tile(part, now, rounding, words, tile + here)
        if coefficients.size == 0 and decay == f32(1):
            for e in range(first, entry):
                part[where[e]] = kept[e]
        if out.size:
            add_moments(sums, squares, part)
    if out.size:
        out[0], out[1] = total_of(sums), total_of(squares)


@kernel
def update(w, tile, keys, given, signs, coefficients, decay, rounding):
    """w = decay * w + sum_k coefficients[k] * z_k: the second half of `restore`, to the bit."""
    wide_vectors()
    z, now, words = scratch(TILE), scratch(TILE), np.empty(TILE, np.uint32)
    for start in range(0, w.size, TILE):
        part = w[start : start + TILE]
        for i in range(part.size):
            now[i] = to_float(part[i])
        update_tile(now, z, False, keys, given, signs, coefficients, decay, tile + start // TILE, start, part.size)
        put_tile(part, now, rounding, words, tile + start // TILE)
