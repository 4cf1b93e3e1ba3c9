"""Single machine instructions for the Numba kernels: 32-bit integers that stay 32-bit, bit casts, fused multiply-add.

Sixteen-bit floats are carried as integers, since NumPy knows no bfloat16: uint16 holds bfloat16 bits and int16 holds
float16 bits, and `to_float`/`from_float` translate according to that type, so that one kernel source serves all three.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I16, I32, I64, HALF, FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.HalfType(), ir.FloatType()


def _primitive(result, arguments, emit):
    """One LLVM instruction as a Numba function with fixed types: Numba itself would widen 32-bit integers to 64.

    An argument may be a tuple of independent lanes; the instruction is then repeated for each lane. Written side by side,
    lanes keep a processor busy while one of them waits for its own last result.
    """

    def typed(*given):
        lanes = [kind.count for kind in given if isinstance(kind, types.UniTuple)]
        if not lanes:
            return result(*arguments), lambda ctx, builder, signature, values: emit(builder, *values)
        kinds = [kind if isinstance(kind, types.UniTuple) else wanted for kind, wanted in zip(given, arguments, strict=True)]

        def lanewise(ctx, builder, signature, values):
            def of(lane):
                pairs = zip(values, kinds, strict=True)
                return [builder.extract_value(v, lane) if isinstance(kind, types.UniTuple) else v for v, kind in pairs]

            results = [emit(builder, *of(lane)) for lane in range(lanes[0])]
            return ctx.make_tuple(builder, signature.return_type, results)

        return types.UniTuple(result, lanes[0])(*kinds), lanewise

    by_arity = {
        1: lambda context, a: typed(a),
        2: lambda context, a, b: typed(a, b),
        3: lambda context, a, b, c: typed(a, b, c),
    }
    return intrinsic(by_arity[len(arguments)])


_uu, _f, _u = (types.uint32, types.uint32), (types.float32,), (types.uint32,)
_ff = _f * 2
add = _primitive(types.uint32, _uu, lambda b, x, y: b.add(x, y))
sub = _primitive(types.uint32, _uu, lambda b, x, y: b.sub(x, y))
xor = _primitive(types.uint32, _uu, lambda b, x, y: b.xor(x, y))
or_ = _primitive(types.uint32, _uu, lambda b, x, y: b.or_(x, y))
and_ = _primitive(types.uint32, _uu, lambda b, x, y: b.and_(x, y))
shl = _primitive(types.uint32, _uu, lambda b, x, y: b.shl(x, y))
shr = _primitive(types.uint32, _uu, lambda b, x, y: b.lshr(x, y))
shr_signed = _primitive(types.uint32, _uu, lambda b, x, y: b.ashr(x, y))
differ = _primitive(types.uint32, _uu, lambda b, x, y: b.zext(b.icmp_unsigned("!=", x, y), I32))
signed_to_float = _primitive(types.float32, _u, lambda b, x: b.sitofp(x, FLOAT))
as_float = _primitive(types.float32, _u, lambda b, x: b.bitcast(x, FLOAT))
as_bits = _primitive(types.uint32, _f, lambda b, x: b.bitcast(x, I32))
plus = _primitive(types.float32, _ff, lambda b, x, y: b.fadd(x, y))
times = _primitive(types.float32, _ff, lambda b, x, y: b.fmul(x, y))
over = _primitive(types.float32, _ff, lambda b, x, y: b.fdiv(x, y))
fma = _primitive(types.float32, _f * 3, lambda b, x, y, z: b.fma(x, y, z))
sqrt = _primitive(types.float32, _f, lambda b, x: b.call(b.module.declare_intrinsic("llvm.sqrt", [FLOAT]), [x]))
choose = _primitive(types.float32, _u + _ff, lambda b, q, x, y: b.select(b.icmp_unsigned("!=", q, ir.Constant(I32, 0)), x, y))

_u8 = (types.uint64,)
# Eight byte-wide flags in one word: the position of the first that is set, and the word without it.
first_flag = _primitive(types.int64, _u8, lambda b, x: b.lshr(b.cttz(x, ir.Constant(ir.IntType(1), 1)), ir.Constant(I64, 3)))
without_first = _primitive(types.uint64, _u8, lambda b, x: b.and_(x, b.sub(x, ir.Constant(I64, 1))))


@intrinsic
def wide_vectors(context):
    """Ask LLVM for 512-bit vectors in the calling kernel, where the machine has them: a fifth to a third faster here."""

    def emit(ctx, builder, signature, values):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return ctx.get_dummy_value()

    return types.void(), emit


@intrinsic
def to_float(context, x):
    """A stored weight as float32: float32 itself, bfloat16 bits in uint16, float16 bits in int16."""

    def emit(ctx, builder, signature, values):
        (bits,) = values
        if x == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(bits, I32), ir.Constant(I32, 16)), FLOAT)
        if x == types.int16:
            return builder.fpext(builder.bitcast(bits, HALF), FLOAT)
        return bits

    return types.float32(x), emit


@intrinsic
def from_float(context, value, like):
    """float32 rounded to nearest-even into the storage type of `like`."""

    def emit(ctx, builder, signature, values):
        number = values[0]
        if like == types.uint16:
            bits = builder.bitcast(number, I32)
            odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
            rounded = builder.add(bits, builder.add(odd, ir.Constant(I32, 0x7FFF)))
            return builder.trunc(builder.lshr(rounded, ir.Constant(I32, 16)), I16)
        if like == types.int16:
            return builder.bitcast(builder.fptrunc(number, HALF), I16)
        return number

    return like(types.float32, like), emit


@intrinsic
def from_float_randomly(context, value, word, like):
    """float32 to the storage type of `like`, up or down at random so that the mean is the value.

    The word is a random number below 2^16. bfloat16 drops 16 bits, float16 13 and uses as many; where float16 is subnormal
    it drops more, and chances are rounded to 1/65536. NaN and infinity stay what they are; float32 keeps its value.
    """

    def emit(ctx, builder, signature, values):
        number, word = values[:2]

        def const(bits):
            return ir.Constant(I32, bits)

        def added(dropped):
            finite = builder.icmp_unsigned("!=", builder.and_(bits, const(0x7F800000)), const(0x7F800000))
            carried = builder.add(bits, builder.and_(word, const(dropped)))
            return builder.and_(builder.select(finite, carried, bits), const(0xFFFFFFFF ^ dropped))

        if like == types.uint16:
            bits = builder.bitcast(number, I32)
            return builder.trunc(builder.lshr(added(0xFFFF), const(16)), I16)
        if like == types.int16:
            bits = builder.bitcast(number, I32)
            size = builder.and_(bits, const(0x7FFFFFFF))
            steps = builder.fmul(builder.bitcast(size, FLOAT), ir.Constant(FLOAT, 2.0**24))
            whole = builder.sitofp(builder.fptosi(steps, I32), FLOAT)
            between = builder.fadd(builder.sitofp(word, FLOAT), ir.Constant(FLOAT, 0.5))
            random = builder.fmul(between, ir.Constant(FLOAT, 2.0**-16))
            up = builder.uitofp(builder.fcmp_ordered("<", random, builder.fsub(steps, whole)), FLOAT)
            small = builder.bitcast(builder.fmul(builder.fadd(whole, up), ir.Constant(FLOAT, 2.0**-24)), I32)
            signed = builder.or_(small, builder.and_(bits, const(0x80000000)))
            subnormal = builder.icmp_unsigned("<", size, const(0x38800000))
            result = builder.bitcast(builder.select(subnormal, signed, added(0x1FFF)), FLOAT)
            return builder.bitcast(builder.fptrunc(result, HALF), I16)
        return number

    return like(types.float32, types.uint32, like), emit
