"""One tile of a direction, for the Triton kernels: the function of `zolab.noise.kernels.tiles`, to the bit.

Products and sums that are not written as `tl.fma` are rounded one by one, as on the CPU: kernels that have such a sum of a
product are launched with `enable_fp_fusion=False`.
"""

import math

import triton
import triton.language as tl

from zolab.noise.kernels import threefry

TILE, PAIRS = tl.constexpr(threefry.TILE), tl.constexpr(threefry.PAIRS)
SIGN_CALLS, SIGN_COUNTER = tl.constexpr(threefry.SIGN_CALLS), tl.constexpr(threefry.SIGN_COUNTER)
SIGN_WORDS = tl.constexpr(2 * threefry.SIGN_CALLS)
ROUNDS, ROTATIONS, PARITY = map(tl.constexpr, (threefry.ROUNDS, threefry.ROTATIONS, threefry.PARITY))
SCALED = tl.constexpr(2)  # the family, in place of False for normals and True for signs, of normals with factors
QUARTER_TURN = tl.constexpr(math.pi / 2 * 2.0**-32)

# Keys and tiles change with every call: no value of theirs may lead to a compilation of its own.
kernel = triton.jit(do_not_specialize=["k0", "k1", "tile", "count", "r0", "r1", "width", "spans", "place"])


@triton.jit
def threefry_words(k0, k1, pair, SECOND: tl.constexpr = 0):
    """`zolab.noise.kernels.threefry.threefry2x32` for the counters (pair, SECOND).

    Sums are products with 1 where that adds no instruction: an H100 has another unit for those, and the one that shifts, adds
    and compares is what the kernels wait for.
    """
    k0, k1 = k0.to(tl.uint32), k1.to(tl.uint32)
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    one = tl.num_programs(1).to(tl.uint32)  # but the compiler does not know, and a product with it stays one
    x0 = pair + k0
    x1 = k1 + SECOND + tl.zeros_like(x0)
    for r in tl.static_range(ROUNDS):
        x0 = x0 + x1 if r % 4 == 0 else x1 * one + x0
        x1 = ((x1 << ROTATIONS[r % 8]) | (x1 >> (32 - ROTATIONS[r % 8]))) ^ x0
        if r % 4 == 3:
            x0 += schedule[(r // 4 + 1) % 3]
            x1 = x1 * one + (schedule[(r // 4 + 2) % 3] + (r // 4 + 1))
    return x0, x1


@triton.jit
def minus_two_log(word):
    """-2 ln(u) as `tiles.minus_two_log` has it, to the bit: a factor -2 stands in the coefficients, and rounds nothing."""
    u = ((word >> 9) + 0x3F800000).to(tl.float32, bitcast=True) - (1.0 - 2.0**-24)
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) & -0x800000  # times 2^23
    m = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    square = m * m
    a = tl.fma(m, -2 * -2.4999993993e-1, -2 * 3.3333331174e-1)
    b = tl.fma(m, -2 * -1.6668057665e-1, -2 * 2.0000714765e-1)
    c = tl.fma(m, -2 * -1.2420140846e-1, -2 * 1.4249322787e-1)
    d = tl.fma(m, -2 * -1.1514610310e-1, -2 * 1.1676998740e-1)
    upper = tl.fma(tl.fma(square, -2 * 7.0376836292e-2, d), square, c)
    p = tl.fma(upper, square * square, tl.fma(b, square, a))
    tail = square + p * m * square
    return tl.fma(exponent.to(tl.float32), -2 * 0.6931471805599453 * 2.0**-23, tl.fma(m, -2.0, tail))


@triton.jit
def root(x):
    """The square root of a number far from the ends of float32, to nearest: `tl.sqrt_rn` without its branch."""
    guess = tl.rsqrt(x)
    near = x * guess
    return tl.fma(tl.fma(-near, near, x), 0.5 * guess, near)


@triton.jit
def with_sign(x, sign):
    return (x.to(tl.uint32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def nothing(like):
    """Zeros that threads hold as they hold `like`: with what follows from them, no thread asks another for its part."""
    bits = like.to(tl.uint32 if like.dtype.primitive_bitwidth == 32 else tl.uint16, bitcast=True)
    return ((bits & 1) >> 1).to(tl.uint32)


@triton.jit
def pairs_of(tile, like=None):
    """The numbers of a tile's pairs: element i of the tile and element i + PAIRS."""
    pair = tile.to(tl.uint32) * PAIRS + tl.arange(0, PAIRS).to(tl.uint32)
    return pair if like is None else pair + nothing(like)


@triton.jit
def two_normals(word0, word1):
    """Box-Muller: word0 gives the radius, word1 an angle, spare bits of both the octant."""
    radius = root(minus_two_log(word0))
    x = (word1 << 2).to(tl.int32, bitcast=True).to(tl.float32) * QUARTER_TURN
    s = x * x
    p = tl.fma(s, tl.fma(s, -1.9515295891e-4, 8.3321608736e-3), -1.6666654611e-1)
    sine = tl.fma(x * s, p, x)
    p = tl.fma(s, tl.fma(s, 2.443315711809948e-5, -1.388731625493765e-3), 4.166664568298827e-2)
    cosine = tl.fma(s * s, p, tl.fma(s, -0.5, 1.0))
    swap = (word1 & 0x40000000) != 0
    first = with_sign(tl.where(swap, sine, cosine), word0 << 31)
    second = with_sign(tl.where(swap, cosine, sine), word1 & 0x80000000)
    return radius * first, radius * second


@triton.jit
def normals(k0, k1, pair):
    word0, word1 = threefry_words(k0, k1, pair)
    return two_normals(word0, word1)


@triton.jit
def sign_of(word, bit):
    return tl.where(((word >> bit) & 1) != 0, -1.0, 1.0)


@triton.jit
def random_signs(k0, k1, tile):
    """A tile of a Rademacher direction in its halves, as `zolab.noise.kernels.tiles.fill_signs` has it."""
    calls = tile.to(tl.uint32) * SIGN_CALLS + tl.arange(0, SIGN_CALLS).to(tl.uint32)
    word0, word1 = threefry_words(k0, k1, calls, SIGN_COUNTER)
    words = tl.interleave(word0, word1)[None, :]
    bit = tl.arange(0, PAIRS // SIGN_WORDS).to(tl.uint32)[:, None]
    first, second = sign_of(words, bit), sign_of(words, bit + PAIRS // SIGN_WORDS)
    return tl.reshape(first, (PAIRS,)), tl.reshape(second, (PAIRS,))


@triton.jit
def sign_at(k0, k1, tile, at):
    """The elements `at` of a tile of `random_signs`."""
    call = tile.to(tl.uint32) * SIGN_CALLS + (at % SIGN_WORDS // 2).to(tl.uint32)
    word0, word1 = threefry_words(k0, k1, call, SIGN_COUNTER)
    word = tl.where(at % 2 == 0, word0, word1)
    return sign_of(word, (at // SIGN_WORDS).to(tl.uint32))


@triton.jit
def raw_halves(source, i, left):
    """The two halves of a tile as they are stored, `left` elements of it; `source` points at its first."""
    return tl.load(source + i, i < left, other=0.0), tl.load(source + PAIRS + i, i + PAIRS < left, other=0.0)


@triton.jit
def halves(source, i, left):
    first, second = raw_halves(source, i, left)
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def store_halves(target, i, left, first, second):
    """Store float32 values, rounded to nearest even in the type of the target."""
    tl.store(target + i, first.to(target.dtype.element_ty), i < left)
    tl.store(target + PAIRS + i, second.to(target.dtype.element_ty), i + PAIRS < left)


@triton.jit
def as_stored(x, like):
    """A float32 as it reads back after being stored where `like` points."""
    return x.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def at_random(x, word, like):
    """x in `like`'s type, above or below it by a random word of 16 bits: `llvm.from_float_randomly`."""
    bits = x.to(tl.uint32, bitcast=True)
    if like.dtype.element_ty == tl.bfloat16:
        bits = tl.where(x == x, bits + word, bits)  # an infinity stays what it is
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        finite = (bits & 0x7F800000) != 0x7F800000
        result = (tl.where(finite, bits + (word & 0x1FFF), bits) & 0xFFFFE000).to(tl.float32, bitcast=True)
        steps = tl.abs(x) * 16777216.0
        whole = steps.to(tl.int32).to(tl.float32)
        up = (word.to(tl.int32).to(tl.float32) + 0.5) * (1.0 / 65536.0) < steps - whole
        small = with_sign((whole + up.to(tl.float32)) * (1.0 / 16777216.0), bits & 0x80000000)
        return tl.where((bits & 0x7FFFFFFF) < 0x38800000, small, result)


@triton.jit
def put_halves(target, i, left, first, second, r0, r1, tile, ROUND: tl.constexpr):
    """As `store_halves`; with ROUND at random by the key (r0, r1), see `tiles.put_tile`. Returns what is stored."""
    if ROUND:
        CALLS: tl.constexpr = PAIRS // 2
        held, _ = tl.split(tl.reshape(first, (CALLS, 2)))
        call = tile.to(tl.uint32) * CALLS + tl.arange(0, CALLS).to(tl.uint32) + nothing(held)
        word0, word1 = threefry_words(r0, r1, call, 1)
        first = at_random(first, tl.interleave(word0 & 0xFFFF, word0 >> 16), target)
        second = at_random(second, tl.interleave(word1 & 0xFFFF, word1 >> 16), target)
    first, second = first.to(target.dtype.element_ty), second.to(target.dtype.element_ty)
    store_halves(target, i, left, first, second)
    return first, second


@triton.jit
def put_sums(sums, squares, program, i, left, first, second):
    """The sum and the sum of squares of a tile, given as it is stored."""
    x = tl.where(i < left, first.to(tl.float32), 0.0)
    y = tl.where(i + PAIRS < left, second.to(tl.float32), 0.0)
    tl.store(sums + program, tl.sum(x + y))
    tl.store(squares + program, tl.sum(x * x + y * y))


@triton.jit
def direction(k0, k1, given, SIGNS: tl.constexpr, start, i, left, tile, like=None):
    """A tile of a direction: from its key, as normals or SIGNS, or the values `given`, which if SCALED are its factors."""
    if given is not None and SIGNS == SCALED:
        z0, z1 = normals(k0, k1, pairs_of(tile, like))
        factor0, factor1 = halves(given + start, i, left)
        return z0 * factor0, z1 * factor1
    elif given is not None:
        return halves(given + start, i, left)
    elif SIGNS:
        return random_signs(k0, k1, tile)
    else:
        return normals(k0, k1, pairs_of(tile, like))
