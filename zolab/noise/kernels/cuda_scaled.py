"""The Triton kernel of a step along a direction with a factor for each weight: `zolab.noise.kernels.scaled`, to the bit."""

import triton
import triton.language as tl

from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, direction, kernel, put_halves, raw_halves, store_halves


@triton.jit
def grown(factor, z, keep, gain, shift, least, greatest):
    """A factor after a step."""
    ratio = tl.fma(gain, tl.fma(z, z, -shift), keep)
    found = tl.where(ratio > 0, tl.div_rn(factor, tl.sqrt_rn(ratio)), greatest)
    return tl.minimum(tl.maximum(found, least), greatest)


@kernel
def update_scaled_kernel(
    w,
    size,
    k0: tl.uint32,
    k1: tl.uint32,
    tile: tl.uint32,
    given,
    SIGNS: tl.constexpr,
    factors,
    coefficient: tl.float32,
    decay: tl.float32,
    keep: tl.float32,
    gain: tl.float32,
    shift: tl.float32,
    least: tl.float32,
    greatest: tl.float32,
    r0: tl.uint32,
    r1: tl.uint32,
    ROUND: tl.constexpr,
):
    """The factors after the step, and w = decay * w + coefficient * z * factor."""
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    left, tile = size - start, tile + tl.program_id(0)
    raw0, raw1 = raw_halves(w + start, i, left)
    z0, z1 = direction(k0, k1, given, SIGNS, start, i, left, tile, raw0)
    factor0, factor1 = raw_halves(factors + start, i, left)
    factor0 = grown(factor0, z0, keep, gain, shift, least, greatest)
    factor1 = grown(factor1, z1, keep, gain, shift, least, greatest)
    store_halves(factors + start, i, left, factor0, factor1)
    now0 = tl.fma(z0 * factor0, coefficient, raw0.to(tl.float32) * decay)
    now1 = tl.fma(z1 * factor1, coefficient, raw1.to(tl.float32) * decay)
    put_halves(w + start, i, left, now0, now1, r0, r1, tile, ROUND)
