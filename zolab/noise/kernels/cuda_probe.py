"""The Triton kernels of a probe: weights moved into scratch, or in place with a journal and back; one program to a tile.

A tile's journal is where its entries begin, how many they are, and for each a position in the tile and a weight. Entries are
gathered by a running sum within the tile and one atomic addition, so their tiles lie in any order; the weights do not tell.
"""

import triton
import triton.language as tl

from zolab.noise.kernels.cuda_tiles import (
    PAIRS,
    SCALED,
    TILE,
    as_stored,
    direction,
    kernel,
    normals,
    raw_halves,
    sign_at,
    store_halves,
)

GROUP = tl.constexpr(128)  # entries that are put back together


@kernel
def perturbed_kernel(
    out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, w, given, SIGNS: tl.constexpr, scale: tl.float32
):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(w + start, i, size - start)
    z0, z1 = direction(k0, k1, given, SIGNS, start, i, size - start, tile + tl.program_id(0), raw0)
    plus0, plus1 = raw0.to(tl.float32) + z0 * scale, raw1.to(tl.float32) + z1 * scale
    store_halves(out + start, i, size - start, plus0, plus1)


@kernel
def both_kernel(plus, size, row, tile: tl.uint32, minus, w, given, SIGNS: tl.constexpr):
    """A row of a table is a key and the bits of a scale."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, scale = size - start, tl.load(row + 2).to(tl.float32, bitcast=True)
    raw0, raw1 = raw_halves(w + start, i, left)
    z0, z1 = direction(tl.load(row), tl.load(row + 1), given, SIGNS, start, i, left, tile + tl.program_id(0), raw0)
    w0, w1, moved0, moved1 = raw0.to(tl.float32), raw1.to(tl.float32), z0 * scale, z1 * scale
    store_halves(plus + start, i, left, w0 + moved0, w1 + moved1)
    store_halves(minus + start, i, left, w0 - moved0, w1 - moved1)


@kernel
def add_rows_kernel(out, size, row, rows, width, spans, SIGNS: tl.constexpr, MINUS: tl.constexpr):
    """One program to a tile of a row; a row may begin and end anywhere in a tile."""
    number, span = tl.program_id(0) // spans, tl.program_id(0) % spans
    first = tl.load(rows + number).to(tl.int64) * width
    tile = first // TILE + span
    scale = tl.load(row + 2).to(tl.float32, bitcast=True)
    if MINUS:
        scale = -scale
    none = tl.arange(0, PAIRS)
    z0, z1 = direction(tl.load(row), tl.load(row + 1), None, SIGNS, 0, none, TILE, tile.to(tl.uint32))
    i = tile * TILE + tl.arange(0, PAIRS) - first
    start = number.to(tl.int64) * width
    there0, there1 = (i >= 0) & (i < width), (i + PAIRS >= 0) & (i + PAIRS < width)
    now0 = tl.load(out + start + i, there0, other=0.0).to(tl.float32) + z0 * scale
    now1 = tl.load(out + start + i + PAIRS, there1, other=0.0).to(tl.float32) + z1 * scale
    tl.store(out + start + i, now0.to(out.dtype.element_ty), there0)
    tl.store(out + start + i + PAIRS, now1.to(out.dtype.element_ty), there1)


@triton.jit
def is_lost(weight, delta, like):
    """Whether -delta after +delta, or the same with both signs turned, does not bring the weight back to the bit."""
    bits = weight.to(tl.int32, bitcast=True)
    from_plus = as_stored(as_stored(weight + delta, like) - delta, like).to(tl.int32, bitcast=True)
    from_minus = as_stored(as_stored(weight - delta, like) + delta, like).to(tl.int32, bitcast=True)
    return (from_plus != bits) | (from_minus != bits) | (weight != weight)  # or it is a NaN, whose bits conversions change


@kernel
def perturb_kernel(
    w,
    size,
    k0: tl.uint32,
    k1: tl.uint32,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    scale: tl.float32,
    total,
    firsts,
    counts,
    where,
    kept,
):
    """w += scale * z, with a journal."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left = size - start
    w += start
    raw0, raw1 = raw_halves(w, i, left)
    w0, w1 = raw0.to(tl.float32), raw1.to(tl.float32)
    z0, z1 = direction(k0, k1, given, SIGNS, start, i, left, tile + tl.program_id(0), raw0)
    delta0, delta1 = z0 * scale, z1 * scale
    lost0, lost1 = is_lost(w0, delta0, w) & (i < left), is_lost(w1, delta1, w) & (i + PAIRS < left)
    running0, running1 = tl.cumsum(lost0.to(tl.int32), 0), tl.cumsum(lost1.to(tl.int32), 0)
    count0, count1 = tl.sum(lost0.to(tl.int32)), tl.sum(lost1.to(tl.int32))
    first = tl.atomic_add(total, count0 + count1)
    tl.store(firsts + tl.program_id(0), first)
    tl.store(counts + tl.program_id(0), count0 + count1)
    at0, at1 = first + running0 - 1, first + count0 + running1 - 1
    tl.store(where + at0, i.to(tl.int16), lost0)
    tl.store(where + at1, (i + PAIRS).to(tl.int16), lost1)
    tl.store(kept + at0, raw0, lost0)
    tl.store(kept + at1, raw1, lost1)
    store_halves(w, i, left, w0 + delta0, w1 + delta1)


@triton.jit
def direction_at(k0, k1, given, SIGNS: tl.constexpr, start, at, there, tile):
    """Some elements of what `direction` makes."""
    if given is not None and SIGNS != SCALED:
        return tl.load(given + start + at, there, other=0.0)
    elif given is None and SIGNS:
        return sign_at(k0, k1, tile, at)
    else:
        a, b = normals(k0, k1, tile.to(tl.uint32) * PAIRS + (at % PAIRS).to(tl.uint32))
        z = tl.where(at < PAIRS, a, b)
        return z * tl.load(given + start + at, there, other=0.0) if given is not None else z


@kernel
def undo_kernel(
    w,
    size,
    k0: tl.uint32,
    k1: tl.uint32,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    scale: tl.float32,
    firsts,
    counts,
    where,
    kept,
    ONWARDS: tl.constexpr,
):
    """From w + scale * z back to w, or ONWARDS to w - scale * z; then those in the journal again, from what it kept."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, tile = size - start, tile + tl.program_id(0)
    w += start
    raw0, raw1 = raw_halves(w, i, left)
    z0, z1 = direction(k0, k1, given, SIGNS, start, i, left, tile, raw0)
    w0, w1 = as_stored(raw0.to(tl.float32) - z0 * scale, w), as_stored(raw1.to(tl.float32) - z1 * scale, w)
    if ONWARDS:
        w0, w1 = w0 - z0 * scale, w1 - z1 * scale
    store_halves(w, i, left, w0, w1)
    tl.debug_barrier()  # other threads of the program have stored what is corrected here
    first, count = tl.load(firsts + tl.program_id(0)), tl.load(counts + tl.program_id(0))
    for done in range(0, count, GROUP):
        entry = done + tl.arange(0, GROUP)
        at = tl.load(where + first + entry, entry < count, other=0).to(tl.int32)
        weight = tl.load(kept + first + entry, entry < count, other=0.0)
        if ONWARDS:
            z = direction_at(k0, k1, given, SIGNS, start, at, entry < count, tile)
            weight = (weight.to(tl.float32) - z * scale).to(weight.dtype)
        tl.store(w + at, weight, entry < count)
