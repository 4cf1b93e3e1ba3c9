"""One tile of a direction, for the Numba kernels: Threefry words turned into normals by Box-Muller, or into signs.

Everything is written with explicit fused multiply-adds and no fast-math, so an element gets the same bits whether a vector
or a scalar instruction computes it. Every function takes numbers or tuples of them (`zolab.noise.kernels.llvm`).
"""

import math

import numpy as np
from numba import njit

from zolab.noise.kernels.llvm import (
    add,
    and_,
    as_bits,
    as_float,
    choose,
    fma,
    from_float,
    from_float_randomly,
    or_,
    plus,
    shl,
    shr,
    shr_signed,
    signed_to_float,
    sqrt,
    sub,
    times,
    to_float,
    xor,
)
from zolab.noise.kernels.threefry import PAIRS, PARITY, SIGN_CALLS, SIGN_COUNTER

f32, u32 = np.float32, np.uint32


@njit(inline="always")
def rotate(x, left):
    return or_(shl(x, u32(left)), shr(x, u32(32 - left)))


@njit(inline="always")
def rounds4(x0, x1, a, b, c, d):
    x0 = add(x0, x1)
    x1 = xor(rotate(x1, a), x0)
    x0 = add(x0, x1)
    x1 = xor(rotate(x1, b), x0)
    x0 = add(x0, x1)
    x1 = xor(rotate(x1, c), x0)
    x0 = add(x0, x1)
    x1 = xor(rotate(x1, d), x0)
    return x0, x1


@njit(inline="always")
def threefry(k0, k1, c0, c1):
    """`zolab.noise.kernels.threefry.threefry2x32`, 13 rounds, unrolled for one counter."""
    k2 = xor(xor(k0, k1), u32(PARITY))
    x0, x1 = rounds4(add(c0, k0), add(c1, k1), 13, 15, 26, 6)
    x0, x1 = rounds4(add(x0, k1), add(x1, add(k2, u32(1))), 17, 29, 16, 24)
    x0, x1 = rounds4(add(x0, k2), add(x1, add(k0, u32(2))), 13, 15, 26, 6)
    x0, x1 = add(x0, k0), add(x1, add(k1, u32(3)))
    x0 = add(x0, x1)
    return x0, xor(rotate(x1, 17), x0)


@njit(inline="always")
def minus_two_log(word):
    """-2 ln(u) with u = (top 23 bits + 1/2) / 2^23; the coefficients are Cephes' logf, summed pairwise."""
    u = fma(signed_to_float(shr(word, u32(9))), f32(2.0**-23), f32(2.0**-24))
    bits = as_bits(u)
    exponent = shr_signed(sub(bits, u32(0x3F3504F3)), u32(23))
    m = plus(as_float(sub(bits, shl(exponent, u32(23)))), f32(-1))
    square = times(m, m)
    a = fma(f32(-2.4999993993e-1), m, f32(3.3333331174e-1))
    b = fma(f32(-1.6668057665e-1), m, f32(2.0000714765e-1))
    c = fma(f32(-1.2420140846e-1), m, f32(1.4249322787e-1))
    d = fma(f32(-1.1514610310e-1), m, f32(1.1676998740e-1))
    upper = fma(fma(f32(7.0376836292e-2), square, d), square, c)
    p = fma(upper, times(square, square), fma(b, square, a))
    tail = fma(square, f32(-0.5), times(times(p, m), square))
    return times(f32(-2), fma(signed_to_float(exponent), f32(0.6931471805599453), plus(m, tail)))


@njit(inline="always")
def two_normals(word0, word1):
    """Box-Muller: word0 gives the radius, word1 the angle in an eighth of a turn, spare bits the octant."""
    radius = sqrt(minus_two_log(word0))
    x = times(signed_to_float(shl(word1, u32(2))), f32(math.pi / 2 * 2.0**-32))
    s = times(x, x)
    p = fma(s, fma(s, f32(-1.9515295891e-4), f32(8.3321608736e-3)), f32(-1.6666654611e-1))
    sine = fma(times(x, s), p, x)
    p = fma(s, fma(s, f32(2.443315711809948e-5), f32(-1.388731625493765e-3)), f32(4.166664568298827e-2))
    cosine = fma(times(s, s), p, fma(s, f32(-0.5), f32(1)))
    swap = and_(word1, u32(0x40000000))
    first = as_float(xor(as_bits(choose(swap, sine, cosine)), shl(word0, u32(31))))
    second = as_float(xor(as_bits(choose(swap, cosine, sine)), and_(word1, u32(0x80000000))))
    return times(radius, first), times(radius, second)


@njit(inline="always")
def put_tile(part, now, key, words, tile):
    """Store a tile of float32 weights: rounded to nearest even, or at random by the words of a key that is not empty.

    The counters (n, 1) of the key give two words each, and those 16 bits for each of four weights: the halves of the first
    word for two neighbours, those of the second for the weights that are PAIRS further on.
    """
    if key.size:
        calls = PAIRS // 2
        for i in range(calls):
            a, b = threefry(key[0], key[1], add(u32(tile * calls), u32(i)), u32(1))
            words[2 * i], words[2 * i + 1] = and_(a, u32(0xFFFF)), shr(a, u32(16))
            words[2 * i + PAIRS], words[2 * i + PAIRS + 1] = and_(b, u32(0xFFFF)), shr(b, u32(16))
        for i in range(part.size):
            part[i] = from_float_randomly(now[i], words[i], part[i])
    else:
        for i in range(part.size):
            part[i] = from_float(now[i], part[i])


@njit(inline="always")
def scratch(size):
    """float32 working room that begins on a cache line: vectors that straddle two lines cost a third of the speed."""
    room = np.empty(size + 16, f32)
    first = (64 - room.ctypes.data % 64) % 64 // 4
    return room[first : first + size]


@njit(inline="always")
def total_of(sums):
    """The sum in float64."""
    total = 0.0
    for i in range(sums.size):
        total += sums[i]
    return total


@njit(inline="always")
def add_moments(sums, squares, part):
    """Add a tile's weights and their squares to what has been summed for each place in the tile."""
    for i in range(part.size):
        x = to_float(part[i])
        sums[i] += x
        squares[i] = fma(x, x, squares[i])


@njit(inline="always")
def fill_signs(z, k0, k1, tile):
    """One tile of a Rademacher direction: bit b of word j says whether element 64 b + j of the tile is -1."""
    words = np.empty(2 * SIGN_CALLS, np.uint32)
    for call in range(SIGN_CALLS):
        counter = add(u32(tile * SIGN_CALLS), u32(call))
        words[2 * call], words[2 * call + 1] = threefry(k0, k1, counter, u32(SIGN_COUNTER))
    for bit in range(32):
        for j in range(words.size):
            sign = and_(shl(words[j], u32(31 - bit)), u32(0x80000000))
            z[bit * words.size + j] = as_float(or_(sign, u32(0x3F800000)))  # the bits of 1.0


@njit(inline="always")
def fill_normals(z, k0, k1, tile, size):
    """One tile of a normal one: pair i of the tile gives element i and element i + PAIRS; two pairs at a time, as lanes."""
    half = PAIRS // 2
    first = u32(tile * PAIRS)
    for i in range(min(size, half)):
        counter = add(first, u32(i))
        word0, word1 = threefry(k0, k1, (counter, add(counter, u32(half))), u32(0))
        a, b = two_normals(word0, word1)
        z[i], z[i + half], z[i + PAIRS], z[i + PAIRS + half] = a[0], a[1], b[0], b[1]


@njit(inline="always")
def fill_tile(z, k0, k1, signs, tile, size):
    """One tile of a direction of either family; z has room for a whole tile, whatever its size."""
    if signs:
        fill_signs(z, k0, k1, tile)
    else:
        fill_normals(z, k0, k1, tile, size)
