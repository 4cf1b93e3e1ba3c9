"""The Triton kernels that go over many tensors in one launch, which small models and small tensors need: a launch takes longer.

A sheet says where tensors lie; each program finds its tensor and its tile in it. What differs between tensors, keys and
coefficients, is one small table that is copied to the device before the launch. The functions are those of
`zolab.noise.kernels.cuda_update` and `cuda_probe`, to the bit.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from zolab.noise.kernels import threefry
from zolab.noise.kernels.cuda_launch import bits, launch
from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, direction, kernel, put_halves, put_sums, raw_halves, store_halves

COLUMNS = tl.constexpr(5)
ALIGNMENT = 16  # bytes, that a thread reads at once
KEPT = 8
_sheets: dict[tuple, "Sheet"] = {}


class Sheet:
    """Where tensors lie.

    Args:
        tensors: flat, of one type and device, each at an address that ALIGNMENT divides.
        others: two more of each size, such as copies of them; or nothing.
    """

    def __init__(self, tensors: Sequence[Tensor], *others: Sequence[Tensor]):
        sizes = np.array([tensor.numel() for tensor in tensors])
        tiles = -(-sizes // threefry.TILE)
        self.like, self.tensors, self.programs = tensors[0], len(tensors), int(tiles.sum())
        self.first = (np.cumsum(tiles) - tiles).tolist()
        addresses = [[tensor.data_ptr() for tensor in group] for group in (tensors, *(others or (tensors, tensors)))]
        rows = np.stack([*addresses, sizes, self.first], axis=1)
        self.spans = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.like.device)
        self.owners = torch.from_numpy(np.repeat(np.arange(len(tensors), dtype=np.int32), tiles)).to(self.like.device)

    def run(self, function, table: np.ndarray, *more) -> None:
        """Launch a kernel with a table of int32 rows, one for each tensor."""
        there = torch.from_numpy(np.ascontiguousarray(table)).to(self.like.device, non_blocking=True)
        launch(function, self.programs, self.like, self.spans, self.owners, there, *more)


def sheet_of(tensors: Sequence[Tensor], *others: Sequence[Tensor]) -> Sheet | None:
    """A sheet, kept for the next time; None if one launch cannot take the tensors."""
    groups = (tensors, *others)
    if not tensors or len({(tensor.dtype, tensor.device) for group in groups for tensor in group}) != 1:
        return None
    if not all(tensor.numel() and tensor.data_ptr() % ALIGNMENT == 0 for group in groups for tensor in group):
        return None
    key = (tensors[0].dtype, *((tensor.data_ptr(), tensor.numel()) for group in groups for tensor in group))
    if key not in _sheets:
        while len(_sheets) >= KEPT:
            del _sheets[next(iter(_sheets))]
        _sheets[key] = Sheet(tensors, *others)
    return _sheets[key]


@triton.jit
def element(spans, j, which, start, like):
    """A pointer to an element of a tensor, whose address is a multiple of 16 as `start` is."""
    address = tl.load(spans + COLUMNS * j + which)
    return tl.multiple_of(address.to(tl.pointer_type(like.dtype.element_ty)), 16) + start


@triton.jit
def place(spans, owners):
    """The tensor of a program, where its tile starts, how much is left, and the tile's number."""
    program = tl.program_id(0)
    j = tl.load(owners + program).to(tl.int64)
    tile = program - tl.load(spans + COLUMNS * j + 4)
    start = tile * TILE
    return j, start, tl.load(spans + COLUMNS * j + 3) - start, tile.to(tl.uint32)


@triton.jit
def number(row, column):
    return tl.load(row + column).to(tl.float32, bitcast=True)


@kernel
def fill_all_kernel(like, size, spans, owners, table, SIGNS: tl.constexpr):
    """`cuda.fill_kernel`; a row of the table is a key."""
    j, start, left, tile = place(spans, owners)
    i, row = tl.arange(0, PAIRS), table + 2 * j
    z0, z1 = direction(tl.load(row), tl.load(row + 1), None, SIGNS, start, i, left, tile)
    store_halves(element(spans, j, 0, start, like), i, left, z0, z1)


@kernel
def both_all_kernel(like, size, spans, owners, table, SIGNS: tl.constexpr):
    """`cuda_probe.both_kernel`; a row of the table is a key and the bits of the scale."""
    j, start, left, tile = place(spans, owners)
    i, row = tl.arange(0, PAIRS), table + 3 * j
    raw0, raw1 = raw_halves(element(spans, j, 0, start, like), i, left)
    scale = number(row, 2)
    z0, z1 = direction(tl.load(row), tl.load(row + 1), None, SIGNS, start, i, left, tile, raw0)
    w0, w1, moved0, moved1 = raw0.to(tl.float32), raw1.to(tl.float32), z0 * scale, z1 * scale
    store_halves(element(spans, j, 1, start, like), i, left, w0 + moved0, w1 + moved1)
    store_halves(element(spans, j, 2, start, like), i, left, w0 - moved0, w1 - moved1)


@kernel
def update_all_kernel(like, size, spans, owners, table, count, SIGNS: tl.constexpr, ROUND: tl.constexpr, ONE: tl.constexpr):
    """`cuda_update.update_many_kernel`; a row is the decay, the key of rounding, and then a key and a coefficient each."""
    j, start, left, tile = place(spans, owners)
    i, row = tl.arange(0, PAIRS), table + j * (3 * count + 3)
    w, decay = element(spans, j, 0, start, like), number(row, 0)
    raw0, raw1 = raw_halves(w, i, left)
    now0, now1 = raw0.to(tl.float32) * decay, raw1.to(tl.float32) * decay
    if ONE:
        z0, z1 = direction(tl.load(row + 3), tl.load(row + 4), None, SIGNS, start, i, left, tile, raw0)
        now0, now1 = tl.fma(z0, number(row, 5), now0), tl.fma(z1, number(row, 5), now1)
    else:
        for k in range(count):
            at = row + 3 * k + 3
            z0, z1 = direction(tl.load(at), tl.load(at + 1), None, SIGNS, start, i, left, tile, raw0)
            coefficient = number(at, 2)
            now0, now1 = tl.fma(z0, coefficient, now0), tl.fma(z1, coefficient, now1)
    put_halves(w, i, left, now0, now1, tl.load(row + 1).to(tl.uint32), tl.load(row + 2).to(tl.uint32), tile, ROUND)


@kernel
def update_all_by_moments_kernel(
    like,
    size,
    spans,
    owners,
    table,
    count,
    inside: tl.float32,
    outside: tl.float32,
    partial,
    SIGNS: tl.constexpr,
    ROUND: tl.constexpr,
):
    """`cuda_update.update_by_moments_kernel`; a row is as in `update_all_kernel`, with two coefficients to a key."""
    j, start, left, tile = place(spans, owners)
    i, row = tl.arange(0, PAIRS), table + j * (4 * count + 3)
    w, decay = element(spans, j, 0, start, like), number(row, 0)
    raw0, raw1 = raw_halves(w, i, left)
    m0 = tl.zeros((PAIRS,), tl.float32)
    m1, v0, v1 = m0, m0, m0
    for k in range(count):
        at = row + 4 * k + 3
        first, second = number(at, 2), number(at, 3)
        z0, z1 = direction(tl.load(at), tl.load(at + 1), None, SIGNS, start, i, left, tile, raw0)
        m0, m1 = tl.fma(z0, first, m0), tl.fma(z1, first, m1)
        v0, v1 = tl.fma(z0 * second, z0, v0), tl.fma(z1 * second, z1, v1)
    added0 = tl.div_rn(m0, tl.sqrt_rn(v0 + inside) + outside)
    added1 = tl.div_rn(m1, tl.sqrt_rn(v1 + inside) + outside)
    now0, now1 = tl.fma(raw0.to(tl.float32), decay, added0), tl.fma(raw1.to(tl.float32), decay, added1)
    put_halves(w, i, left, now0, now1, tl.load(row + 1).to(tl.uint32), tl.load(row + 2).to(tl.uint32), tile, ROUND)
    square0, square1 = tl.where(i < left, added0 * added0, 0.0), tl.where(i + PAIRS < left, added1 * added1, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(square0 + square1))


@kernel
def moments_all_kernel(like, size, spans, owners, sums, squares):
    """Sum and sum of squares of each tile."""
    j, start, left, _ = place(spans, owners)
    i = tl.arange(0, PAIRS)
    raw0, raw1 = raw_halves(element(spans, j, 0, start, like), i, left)
    put_sums(sums, squares, tl.program_id(0), i, left, raw0, raw1)


@kernel
def add_up_kernel(out, size, partial, spans):
    """The sum of each tensor's tiles, in their order."""
    j = tl.program_id(0).to(tl.int64)
    first, tiles = tl.load(spans + COLUMNS * j + 4), (tl.load(spans + COLUMNS * j + 3) + TILE - 1) // TILE
    i = tl.arange(0, PAIRS)
    total = tl.zeros((PAIRS,), tl.float64)
    for start in range(0, tiles, PAIRS):
        total += tl.load(partial + first + start + i, start + i < tiles, other=0.0).to(tl.float64)
    tl.store(out + j, tl.sum(total))


def filler(tensors: Sequence[Tensor]) -> Callable[[np.ndarray], None] | None:
    """What fills flat float32 tensors with the normals of a key each, uint32 of shape (tensors, 2), as `cuda.fill` would.

    None if one launch cannot take the tensors.
    """
    sheet = sheet_of(tensors)
    return (lambda keys: sheet.run(fill_all_kernel, bits(keys), False)) if sheet else None


def both_all(plus: Sequence[Tensor], minus: Sequence[Tensor], tensors: Sequence[Tensor], keys, scales, signs) -> bool:
    """`cuda.both` for many whole tensors; False, and nothing is done, if one launch cannot take them.

    Args:
        plus, minus, tensors: flat.
        keys: uint32 of shape (tensors, 1, 2).
        scales: one for each tensor.
        signs: whether the direction is of the Rademacher family.
    """
    sheet = sheet_of(tensors, plus, minus)
    if sheet:
        sheet.run(both_all_kernel, bits(keys, np.array(scales, np.float32)), signs)
    return sheet is not None


def _rows(tensors, keys, coefficients, decays, rounding) -> tuple[np.ndarray, bool]:
    rounds = rounding is not None and tensors[0].element_size() <= 2
    words = rounding if rounds else np.zeros((len(tensors), 2), np.uint32)
    steps = np.concatenate(
        [np.ascontiguousarray(keys).view(np.int32), *(c[:, :, None].view(np.int32) for c in coefficients)], 2
    )
    return bits(np.array(decays, np.float32), words, steps), rounds


def update_all(tensors: Sequence[Tensor], keys, coefficients: np.ndarray, decays, rounding, signs) -> bool:
    """`cuda.update` for many whole tensors; result as of `both_all`.

    Args:
        tensors: flat; changed in place.
        keys: of n directions, uint32 of shape (tensors, n, 2).
        coefficients: of shape (tensors, n).
        decays: one for each tensor.
        rounding: keys of shape (tensors, 2), or None.
        signs: whether the directions are of the Rademacher family.
    """
    sheet = sheet_of(tensors)
    if sheet:
        table, rounds = _rows(tensors, keys, [coefficients], decays, rounding)
        count = keys.shape[1]
        sheet.run(update_all_kernel, table, count, signs, rounds, count == 1)
    return sheet is not None


def update_all_by_moments(tensors, keys, first, second, decays, inside, outside, rounding, signs) -> Tensor | None:
    """`cuda.update_by_moments` for many whole tensors, arguments as of `update_all`; None as its False."""
    sheet = sheet_of(tensors)
    if sheet is None:
        return None
    table, rounds = _rows(tensors, keys, [first, second], decays, rounding)
    partial = torch.empty(sheet.programs, dtype=torch.float32, device=sheet.like.device)
    settings = keys.shape[1], float(inside), float(outside), partial, signs, rounds
    sheet.run(update_all_by_moments_kernel, table, *settings)
    return partial.sum(dtype=torch.float64)


class Sums:
    """Sum and sum of squares of some tensors, tile by tile, for kernels that have their weights at hand.

    Args:
        sheet: of the tensors.
    """

    def __init__(self, sheet: Sheet):
        self.sheet = sheet
        self.parts = torch.empty((2, sheet.programs), dtype=torch.float32, device=sheet.like.device)

    def of(self, i: int) -> tuple[Tensor, Tensor, int]:
        """Where a kernel puts those of a tensor: sums, squares, and the place of its first tile in both."""
        return self.parts[0], self.parts[1], self.sheet.first[i]

    def fill(self) -> "Sums":
        """Sum over all tensors as they are, in a pass of its own."""
        launch(moments_all_kernel, self.sheet.programs, self.sheet.like, self.sheet.spans, self.sheet.owners, *self.parts)
        return self

    def total(self) -> Tensor:
        """Float64 of shape (tensors, 2), on the device."""
        out = torch.empty((2, self.sheet.tensors), dtype=torch.float64, device=self.sheet.like.device)
        for row, there in zip(self.parts, out, strict=True):
            launch(add_up_kernel, self.sheet.tensors, there, row, self.sheet.spans)
        return out.T


def sums_of(tensors: Sequence[Tensor]) -> Sums | None:
    """Room for the sums of whole tensors; None if one launch cannot take them."""
    sheet = sheet_of(tensors)
    return Sums(sheet) if sheet else None


def moments_all(tensors: Sequence[Tensor]) -> Tensor | None:
    """Sum and sum of squares of each tensor, float64 of shape (tensors, 2) on the device; None if one launch cannot do it."""
    sums = sums_of(tensors)
    return sums.fill().total() if sums else None
