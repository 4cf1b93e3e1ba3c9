"""The Triton kernels that change weights for good, and those that sum over them; one program to a tile."""

import triton.language as tl

from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, direction, kernel, put_halves, put_sums, raw_halves, store_halves


@kernel
def add_scaled_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, scale: tl.float32, SIGNS: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(w + start, i, size - start)
    z0, z1 = direction(k0, k1, None, SIGNS, start, i, size - start, tile + tl.program_id(0), raw0)
    now0, now1 = tl.fma(z0, scale, raw0.to(tl.float32)), tl.fma(z1, scale, raw1.to(tl.float32))
    store_halves(w + start, i, size - start, now0, now1)


@kernel
def update_kernel(
    w,
    size,
    k0: tl.uint32,
    k1: tl.uint32,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    coefficient: tl.float32,
    decay: tl.float32,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
    sums,
    squares,
    place,
):
    """w = decay * w + coefficient * z; where `sums` are wanted, those of the new weights, from `place` on."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, tile = size - start, tile + tl.program_id(0)
    raw0, raw1 = raw_halves(w + start, i, left)
    z0, z1 = direction(k0, k1, given, SIGNS, start, i, left, tile, raw0)
    now0 = tl.fma(z0, coefficient, raw0.to(tl.float32) * decay)
    now1 = tl.fma(z1, coefficient, raw1.to(tl.float32) * decay)
    now0, now1 = put_halves(w + start, i, left, now0, now1, r0, r1, tile, ROUND)
    if sums is not None:
        put_sums(sums, squares, place + tl.program_id(0), i, left, now0, now1)


@kernel
def update_many_kernel(
    w,
    size,
    table,
    count,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    decay: tl.float32,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
):
    """w = decay * w + sum_k coefficients[k] * z_k; a row of the table is a key's two words and a coefficient's bits."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, tile = size - start, tile + tl.program_id(0)
    raw0, raw1 = raw_halves(w + start, i, left)
    now0, now1 = raw0.to(tl.float32) * decay, raw1.to(tl.float32) * decay
    for k in range(count):
        k0, k1 = tl.load(table + 3 * k), tl.load(table + 3 * k + 1)
        coefficient = tl.load(table + 3 * k + 2).to(tl.float32, bitcast=True)
        z0, z1 = direction(k0, k1, given, SIGNS, k * size + start, i, left, tile, raw0)
        now0, now1 = tl.fma(z0, coefficient, now0), tl.fma(z1, coefficient, now1)
    put_halves(w + start, i, left, now0, now1, r0, r1, tile, ROUND)


@kernel
def update_by_moments_kernel(
    w,
    size,
    table,
    count,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    decay: tl.float32,
    inside: tl.float32,
    outside: tl.float32,
    partial,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
):
    """w = decay * w + m / (sqrt(v + inside) + outside); a row of the table is a key, and the bits of both coefficients."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, tile = size - start, tile + tl.program_id(0)
    raw0, raw1 = raw_halves(w + start, i, left)
    m0 = tl.zeros((PAIRS,), tl.float32)
    m1, v0, v1 = m0, m0, m0
    for k in range(count):
        k0, k1 = tl.load(table + 4 * k), tl.load(table + 4 * k + 1)
        first = tl.load(table + 4 * k + 2).to(tl.float32, bitcast=True)
        second = tl.load(table + 4 * k + 3).to(tl.float32, bitcast=True)
        z0, z1 = direction(k0, k1, given, SIGNS, k * size + start, i, left, tile, raw0)
        m0, m1 = tl.fma(z0, first, m0), tl.fma(z1, first, m1)
        v0, v1 = tl.fma(z0 * second, z0, v0), tl.fma(z1 * second, z1, v1)
    added0 = tl.div_rn(m0, tl.sqrt_rn(v0 + inside) + outside)
    added1 = tl.div_rn(m1, tl.sqrt_rn(v1 + inside) + outside)
    now0, now1 = tl.fma(raw0.to(tl.float32), decay, added0), tl.fma(raw1.to(tl.float32), decay, added1)
    put_halves(w + start, i, left, now0, now1, r0, r1, tile, ROUND)
    square0, square1 = tl.where(i < left, added0 * added0, 0.0), tl.where(i + PAIRS < left, added1 * added1, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(square0 + square1))


@kernel
def dot_kernel(w, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, partial, SIGNS: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(w + start, i, size - start)
    z0, z1 = direction(k0, k1, None, SIGNS, start, i, size - start, tile + tl.program_id(0), raw0)
    tl.store(partial + tl.program_id(0), tl.sum(tl.fma(raw0.to(tl.float32), z0, raw1.to(tl.float32) * z1)))


@kernel
def moments_kernel(w, size, sums, squares):
    """Sum and sum of squares of each tile of the weights."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(w + start, i, size - start)
    put_sums(sums, squares, tl.program_id(0), i, size - start, raw0, raw1)
