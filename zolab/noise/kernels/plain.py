"""The kernels again in plain torch: any device and float64 too, written for reading, a few times slower.

Words are int64 tensors below 2^32. `zolab.noise.kernels.cpu` states what each function does; the integers are the same to the
bit, the normals to a few units in the last place (there is no fused multiply-add here).
"""

import math

import numpy as np
import torch
from torch import Tensor

from zolab.noise.kernels.threefry import PAIRS, PARITY, ROTATIONS, ROUNDS, SIGN_CALLS, SIGN_COUNTER, TILE

CHUNK = 512 * TILE
THREADED = False
MASK = 0xFFFFFFFF


def view(chunk: Tensor) -> Tensor:
    """A flat tensor as the kernels take it."""
    return chunk.detach()


def threefry(k0: int, k1: int, counter: Tensor, second: int = 0) -> tuple[Tensor, Tensor]:
    """The two words of each counter (counter, second)."""
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = (counter + k0) & MASK, torch.full_like(counter, (k1 + second) & MASK)
    for r in range(ROUNDS):
        left = ROTATIONS[r % 8]
        x0 = (x0 + x1) & MASK
        x1 = (((x1 << left) & MASK) | (x1 >> (32 - left))) ^ x0
        if r % 4 == 3:
            i = r // 4 + 1
            x0 = (x0 + schedule[i % 3]) & MASK
            x1 = (x1 + schedule[(i + 1) % 3] + i) & MASK
    return x0, x1


def words(k0: int, k1: int, tile: int, device="cpu") -> Tensor:
    """The generator's raw words of one tile."""
    return torch.cat(threefry(int(k0), int(k1), torch.arange(tile * PAIRS, (tile + 1) * PAIRS, device=device)))


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def minus_two_log(word: Tensor) -> Tensor:
    u = (word >> 9).to(torch.float32) * 2.0**-23 + 2.0**-24
    bits = u.view(torch.int32)
    exponent = (bits - 0x3F3504F3) >> 23
    m = (bits - (exponent << 23)).view(torch.float32) - 1
    p = _polynomial(
        m,
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )
    tail = p * m * (m * m) - 0.5 * (m * m)
    return -2 * (exponent.to(torch.float32) * 0.6931471805599453 + (m + tail))


def two_normals(word0: Tensor, word1: Tensor) -> tuple[Tensor, Tensor]:
    radius = minus_two_log(word0).sqrt()
    angle = (word1 << 2) & MASK
    angle = angle - ((angle >> 31) << 32)
    x = angle.to(torch.float32) * (math.pi / 2 * 2.0**-32)
    s = x * x
    sine = x + x * s * _polynomial(s, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    cosine = s * s * _polynomial(s, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2) + (1 - 0.5 * s)
    swap = (word1 & 0x40000000) != 0
    first = torch.where(swap, sine, cosine) * (1 - 2 * (word0 & 1))
    second = torch.where(swap, cosine, sine) * (1 - 2 * (word1 >> 31))
    return radius * first, radius * second


def counters(out: Tensor, tile: int) -> Tensor:
    """The numbers of the pairs of a chunk."""
    return torch.arange(tile * PAIRS, (tile - (-out.numel() // TILE)) * PAIRS, device=out.device)


def in_order(first: Tensor, second: Tensor, size: int) -> Tensor:
    """Pairs as the elements of their tiles: the first of each pair in the first half, the second in the second."""
    return torch.stack((first.view(-1, PAIRS), second.view(-1, PAIRS)), dim=1).view(-1)[:size]


def random_signs(out: Tensor, k0: int, k1: int, tile: int) -> Tensor:
    """A Rademacher direction on a chunk, as `zolab.noise.kernels.tiles.fill_signs` has it."""
    calls = torch.arange(tile * SIGN_CALLS, (tile - (-out.numel() // TILE)) * SIGN_CALLS, device=out.device)
    words = torch.stack(threefry(k0, k1, calls, SIGN_COUNTER), dim=1).view(-1, 1, 2 * SIGN_CALLS)
    bits = (words >> torch.arange(32, device=out.device).view(32, 1)) & 1
    return (1 - 2 * bits).view(-1)[: out.numel()]


def fill(out: Tensor, k0, k1, tile, signs=False):
    """out = z, float32."""
    if signs:
        out.copy_(random_signs(out, int(k0), int(k1), tile))
    else:
        out.copy_(in_order(*two_normals(*threefry(int(k0), int(k1), counters(out, tile))), out.numel()))


def product(out: Tensor, u: Tensor, v: Tensor, skip: int) -> None:
    """`zolab.noise.kernels.products.product`: no product of matrices, which may sum in another order for another slice."""
    rows = u[:, :1] * v[:1]
    for k in range(1, len(v)):
        rows.addcmul_(u[:, k : k + 1], v[k : k + 1])
    out.copy_(rows.view(-1)[skip : skip + out.numel()])


def rounding_words(w: Tensor, tile: int, k0: int, k1: int) -> Tensor:
    """16 random bits for each weight, as `zolab.noise.kernels.tiles.put_tile` takes them."""
    calls = counters(w, tile)[: -(-w.numel() // TILE) * (PAIRS // 2)] - tile * (PAIRS // 2)
    first, second = (torch.stack((word & 0xFFFF, word >> 16), dim=1).view(-1) for word in threefry(k0, k1, calls, 1))
    return in_order(first, second, w.numel())


def at_random(x: Tensor, words: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 in a type of half precision, up or down by random words: `zolab.noise.kernels.llvm.from_float_randomly`."""
    dropped = 0xFFFF if dtype == torch.bfloat16 else 0x1FFF
    bits = x.view(torch.int32)
    carried = torch.where(x.isfinite(), bits + (words & dropped).to(torch.int32), bits) & ~dropped
    result = carried.view(torch.float32)
    if dtype == torch.float16:
        steps = x.abs() * 2.0**24
        up = (words.to(torch.float32) + 0.5) * 2.0**-16 < steps - steps.floor()
        small = ((steps.floor() + up) * 2.0**-24).copysign(x)
        result = torch.where(x.abs() < 2.0**-14, small, result)
    return result.to(dtype)


def _factor(decay: float, like: Tensor) -> float:
    """Weight decay's factor in float32, as compiled kernels have it; float64 weights have it whole."""
    return decay if like.dtype == torch.float64 else float(np.float32(decay))


class Kernels:
    """The in-place kernels over any `fill`: the CUDA backend reuses them with its own generator."""

    def __init__(self, fill):
        self.fill = fill

    def _scaled(self, w: Tensor, tile, source, k: int, scale: float) -> Tensor:
        """scale * z_k in the precision that the kernels compute in: float32, or float64 for float64 weights."""
        keys, values, signs = source
        if not len(keys):
            return values[k].to(_compute(w)) * scale
        z = torch.empty(w.numel(), dtype=torch.float32, device=w.device)
        self.fill(z, *keys[k], tile, signs)
        z = z.to(_compute(w))
        return (z * values[k] if len(values) else z) * scale

    def add_scaled(self, w: Tensor, k0, k1, tile, scale, signs=False):
        w.copy_(w.to(_compute(w)) + self._scaled(w, tile, (((k0, k1),), (), signs), 0, scale))

    def dot(self, w: Tensor, k0, k1, tile, signs=False) -> float:
        return float((w.to(_compute(w)) * self._scaled(w, tile, (((k0, k1),), (), signs), 0, 1.0)).sum(dtype=torch.float64))

    def moments(self, w: Tensor, wait: bool = True) -> tuple[float, float]:
        x = w.to(torch.float64)
        return float(x.sum()), float(x.square().sum())

    def given(self, parts: list[Tensor]) -> list[Tensor]:
        return parts

    def perturbed(self, out: Tensor, w: Tensor, tile, source, scale):
        out.copy_(_moved(w, self._scaled(w, tile, source, 0, scale)))

    def both(self, plus: Tensor, minus: Tensor, w: Tensor, tile, source, scale):
        self.perturbed(plus, w, tile, source, scale)
        self.perturbed(minus, w, tile, source, -scale)

    def perturb(self, w: Tensor, tile, source, scale):
        delta = self._scaled(w, tile, source, 0, scale)
        plus, minus = _moved(w, delta), _moved(w, -delta)
        lost = (_moved(plus, -delta) != w) | (_moved(minus, delta) != w) | ((w == 0) & torch.signbit(w))
        where = lost.nonzero().squeeze(1)
        kept = w[where]
        w.copy_(plus)
        return where, kept

    def _undo(self, w: Tensor, delta: Tensor, journal) -> None:
        where, kept = journal
        w.copy_(_moved(w, -delta))
        w[where] = kept

    def flip(self, w: Tensor, tile, source, scale, journal):
        delta = self._scaled(w, tile, source, 0, scale)
        self._undo(w, delta, journal)
        w.copy_(_moved(w, -delta))

    def restore(self, w: Tensor, tile, source, scale, journal, same, sources, coefficients, decay, sums, rounding=None):
        self._undo(w, self._scaled(w, tile, source, 0, scale), journal)
        self.update(w, tile, sources, coefficients, decay, rounding)
        if sums.size:
            sums[:] = self.moments(w)

    def update(self, w: Tensor, tile, sources, coefficients, decay, rounding=None):
        if decay == 1 and not len(coefficients):
            return
        now = w.to(_compute(w), copy=True)
        now *= _factor(decay, now)
        for k, coefficient in enumerate(coefficients):
            now += self._scaled(w, tile, sources, k, float(coefficient))
        self._put(w, now, tile, rounding)

    def _put(self, w: Tensor, now: Tensor, tile, rounding):
        """w = now, rounded to nearest even, or at random by a key if w is of half precision."""
        if rounding is None or w.element_size() > 2:
            w.copy_(now)
        else:
            w.copy_(at_random(now, rounding_words(w, tile, *map(int, rounding)), w.dtype))

    def update_scaled(self, w: Tensor, tile, source, factor, coefficient, decay, growth, rounding=None, moved=None):
        """`zolab.noise.kernels.scaled.update_scaled`."""
        z, (keep, gain, shift, least, greatest) = self._scaled(w, tile, source, 0, 1.0), growth
        if moved is not None:
            self._undo(w, z * factor * moved[0], moved[1])
        ratio = (z * z - shift) * gain + keep
        factor.copy_(torch.where(ratio > 0, factor / ratio.sqrt(), greatest).clamp(least, greatest))
        self._put(w, w.to(z.dtype) * _factor(decay, z) + z * factor * coefficient, tile, rounding)

    def update_by_moments(self, w: Tensor, tile, sources, first, second, decay, inside, outside, rounding=None) -> float:
        m = torch.zeros(w.numel(), dtype=_compute(w), device=w.device)
        v = torch.zeros_like(m)
        for k, (a, b) in enumerate(zip(first, second, strict=True)):
            z = self._scaled(w, tile, sources, k, 1.0)
            m.add_(z, alpha=float(a))
            v.addcmul_(z, z, value=float(b))
        m /= (v + inside).sqrt() + outside
        self._put(w, w.to(m.dtype) * _factor(decay, m) + m, tile, rounding)
        return float(m.square().sum(dtype=torch.float64))


def _compute(w: Tensor) -> torch.dtype:
    return torch.float64 if w.dtype == torch.float64 else torch.float32


def _moved(w: Tensor, delta: Tensor) -> Tensor:
    """w + delta as it is stored in w's type."""
    return (w.to(delta.dtype) + delta).to(w.dtype)


_kernels = Kernels(fill)
add_scaled, dot, given, moments = _kernels.add_scaled, _kernels.dot, _kernels.given, _kernels.moments
both, perturbed, perturb = _kernels.both, _kernels.perturbed, _kernels.perturb
flip, restore = _kernels.flip, _kernels.restore
update, update_scaled, update_by_moments = _kernels.update, _kernels.update_scaled, _kernels.update_by_moments
