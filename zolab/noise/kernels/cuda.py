"""CUDA kernels: each change of the weights is one pass over them, compiled by Triton.

They compute the function of `zolab.noise.kernels.cpu`: the same integers, and through the same fused multiply-adds the same
normals and the same weights. The tests find equal bits where the interpreter emulates such a multiply-add; what they demand of
any device is four units in the last place.

A chunk is one flat, contiguous tensor. Importing this module takes Triton but no GPU; if TRITON_INTERPRET=1 was set by then,
the kernels run on CPU tensors, slowly. Not for float64 weights: these kernels compute in float32,
`zolab.noise.kernels.plain` in float64.
"""

from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from zolab.noise.kernels import cuda_probe, cuda_scaled, cuda_tiles, cuda_update, threefry
from zolab.noise.kernels.cuda_all import both_all, filler, moments_all, sums_of, update_all, update_all_by_moments
from zolab.noise.kernels.cuda_journal import JOURNAL, Journal
from zolab.noise.kernels.cuda_launch import launch, launch_tiles, rounding_of, row_of, table, tiles_of
from zolab.noise.kernels.cuda_products import makes_output, output, product, update_product
from zolab.noise.kernels.cuda_tiles import PAIRS, TILE, direction, kernel, pairs_of, store_halves, threefry_words
from zolab.noise.kernels.plain import view

CHUNK = 1 << 40  # one launch a tensor
THREADED = False


@kernel
def words_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32):
    i = tl.arange(0, PAIRS)
    x0, x1 = threefry_words(k0, k1, pairs_of(tile))
    tl.store(out + i, x0.to(tl.int64), i < size)
    tl.store(out + PAIRS + i, x1.to(tl.int64), PAIRS + i < size)


@kernel
def fill_kernel(out, size, k0: tl.uint32, k1: tl.uint32, tile: tl.uint32, SIGNS: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * TILE
    i = tl.arange(0, PAIRS)
    z0, z1 = direction(k0, k1, None, SIGNS, start, i, size - start, tile + tl.program_id(0))
    store_halves(out + start, i, size - start, z0, z1)


@kernel
def radii_kernel(squares, size, radii, count):
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    square = cuda_tiles.minus_two_log((i * count).to(tl.uint32) << 9)
    tl.store(squares + i, square)
    tl.store(radii + i, cuda_tiles.root(square))


def _single(source) -> tuple[int, int, Tensor | None, bool]:
    """The first direction of a source: its key, and what `_family` says of it."""
    values, signs = _family(source)
    k0, k1 = source.keys[0] if len(source.keys) else (0, 0)
    return int(k0), int(k1), None if values is None else values[0], signs


def _family(source) -> tuple[Tensor | None, bool | int]:
    """Given values or factors, if there are any, and what `zolab.noise.kernels.cuda_tiles.direction` takes for SIGNS."""
    keys, given, signs = source
    return (given, cuda_tiles.SCALED.value if len(keys) else signs) if len(given) else (None, signs)


def _table(w: Tensor, keys: np.ndarray, *coefficients: np.ndarray) -> Tensor:
    """Rows of a key and coefficients, as bits, on the device of the weights."""
    keys = keys if len(keys) else np.zeros((len(coefficients[0]), 2), np.uint32)  # they are given, and have none
    columns = [keys.view(np.int32), *(np.asarray(c, np.float32).view(np.int32)[:, None] for c in coefficients)]
    return torch.from_numpy(np.concatenate(columns, axis=1)).to(w.device, non_blocking=True)


def words(k0: int, k1: int, tile: int, device: str = "cuda") -> Tensor:
    """The generator's raw words of one tile, as int64, for tests."""
    out = torch.empty(threefry.TILE, dtype=torch.int64, device=device)
    launch_tiles(words_kernel, out, int(k0), int(k1), int(tile))
    return out


def radii(device: str = "cuda", every: int = 1) -> tuple[Tensor, Tensor]:
    """Squared radii of pairs of normals, for every so many values of a word's first 23 bits, and their roots, for tests."""
    squares, roots = (torch.empty((1 << 23) // every, device=device) for _ in range(2))
    launch_tiles(radii_kernel, squares, roots, every)
    return squares, roots


def fill(out: Tensor, k0: int, k1: int, tile: int, signs: bool = False) -> None:
    """out = z, float32."""
    launch_tiles(fill_kernel, out, int(k0), int(k1), int(tile), signs)


def add_scaled(w: Tensor, k0: int, k1: int, tile: int, scale: float, signs: bool = False) -> None:
    """w += scale * z in float32, rounded to nearest even into w's type, each weight read and written once."""
    launch_tiles(cuda_update.add_scaled_kernel, w, int(k0), int(k1), int(tile), float(scale), signs)


def dot(w: Tensor, k0: int, k1: int, tile: int, signs: bool = False) -> float:
    """Sum of w * z, float32 within a tile and float64 across tiles; waits for the device."""
    partial = torch.empty(tiles_of(w), dtype=torch.float32, device=w.device)
    launch_tiles(cuda_update.dot_kernel, w, int(k0), int(k1), int(tile), partial, signs)
    return partial.sum(dtype=torch.float64).item()


def moments(w: Tensor, wait: bool = True) -> Any:
    """Sum and sum of squares of the weights, float32 within a tile and float64 across tiles.

    Without `wait` they stay on the device, as `zolab.noise.per_tensor` takes them.
    """
    partial = torch.empty((2, tiles_of(w)), dtype=torch.float32, device=w.device)
    launch_tiles(cuda_update.moments_kernel, w, *partial)
    sums = partial.sum(1, dtype=torch.float64)
    return sums.tolist() if wait else sums


def given(parts: list[Tensor]) -> Tensor:
    """Directions that are values instead of keys, one row each."""
    rows = [part.detach().to(torch.float32) for part in parts]
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def perturbed(out: Tensor, w: Tensor, tile: int, source, scale: float) -> None:
    """out = w + scale * z, with the bits that `perturb` and `flip` give; w stays as it is."""
    k0, k1, values, signs = _single(source)
    launch_tiles(cuda_probe.perturbed_kernel, out, k0, k1, int(tile), w, values, signs, float(scale))


def both(plus: Tensor, minus: Tensor, w: Tensor, tile: int, source, scale: float | Tensor) -> None:
    """plus = w + scale * z and minus = w - scale * z, with the bits of `perturbed`; w stays as it is.

    A scale may be a row of a `table` on the device, whose key then counts, too.
    """
    _, _, values, signs = _single(source)
    launch_tiles(cuda_probe.both_kernel, plus, row_of(w, source.keys, scale), int(tile), minus, w, values, signs)


def add_rows(out: Tensor, rows: Tensor, width: int, source, scale: float | Tensor, minus: bool = False) -> None:
    """out = out + scale * z in some rows of a whole matrix, with the bits of `perturbed` where `out` holds its rows.

    Args:
        out: flat, the rows one after the other; changed in place.
        rows: their numbers, whole and flat.
        width: of a row, in elements.
        source: of one direction made from its key.
        scale: of the direction, as in `both`.
        minus: take it away instead.
    """
    spans = (width - 2) // threefry.TILE + 2  # a row lies in as many tiles at most
    more = row_of(out, source.keys, scale), rows, int(width), spans, source.signs, bool(minus)
    launch(cuda_probe.add_rows_kernel, len(rows) * spans, out, *more)


def _parts(w: Tensor, tile: int, source):
    """A chunk in the parts that are moved in place by a launch each: weights, key, tile, values and family."""
    k0, k1, values, signs = _single(source)
    for start in range(0, w.numel(), JOURNAL):
        here = slice(start, start + JOURNAL)
        yield w[here], k0, k1, int(tile) + start // threefry.TILE, None if values is None else values[here], signs


def perturb(w: Tensor, tile: int, source, scale: float) -> list[Journal]:
    """w += scale * z; returns the journal that `flip` and `restore` need."""
    journals: list[Journal] = []
    try:
        for part, *at in _parts(w, tile, source):
            journal = Journal(part)
            launch_tiles(cuda_probe.perturb_kernel, part, *at, float(scale), journal.total, *journal.parts)
            journals.append(journal)
            journal.written()
    except BaseException:  # no memory, perhaps: the chunk has moved as a whole or not at all
        _undo(w, tile, source, scale, journals, False)
        raise
    return journals


def _undo(w: Tensor, tile: int, source, scale: float, journals: list[Journal], onwards: bool) -> None:
    for (part, *at), journal in zip(_parts(w, tile, source), journals, strict=False):
        launch_tiles(cuda_probe.undo_kernel, part, *at, float(scale), *journal.parts, onwards)


def flip(w: Tensor, tile: int, source, scale: float, journals: list[Journal]) -> None:
    """From w + scale * z to w - scale * z."""
    _undo(w, tile, source, scale, journals, True)


def restore(w, tile, source, scale, journals, same, sources, coefficients, decay, sums, rounding=None) -> None:
    """From w + scale * z back to w, then `update`; `sums` receives the `moments` of the result unless it is empty.

    `same` saves nothing here: the way back is a pass of its own, and so is the update if there is one.
    """
    _undo(w, tile, source, scale, journals, False)
    update(w, tile, sources, coefficients, decay, rounding)
    if len(sums):
        sums[:] = moments(w)


def update(w: Tensor, tile: int, sources, coefficients, decay: float, rounding=None, sums=(None, None, 0)) -> None:
    """w = decay * w + sum_k coefficients[k] * z_k; `rounding` as in `zolab.noise.kernels.cpu.update`.

    Along one direction, the sums over the new weights can be had in the same pass: `sums` is what `Sums.of` gives.
    """
    count = len(coefficients)
    if count == 1:
        settings = float(coefficients[0]), float(decay), *rounding_of(w, rounding), *sums
        k0, k1, values, signs = _single(sources)
        launch_tiles(cuda_update.update_kernel, w, k0, k1, int(tile), values, signs, *settings)
    elif count or decay != 1:
        table, made = _table(w, sources.keys, coefficients), _family(sources)
        launch_tiles(cuda_update.update_many_kernel, w, table, count, int(tile), *made, float(decay), *rounding_of(w, rounding))


def update_scaled(w, tile, source, factor, coefficient, decay, growth, rounding=None, moved=None) -> None:
    """`zolab.noise.kernels.scaled.update_scaled`; the way back of what is moved is a pass of its own."""
    if moved is not None:
        _undo(w, tile, source._replace(given=factor[None]), *moved, False)
    k0, k1, *made = _single(source)
    settings = map(float, (coefficient, decay, *growth))
    launch_tiles(cuda_scaled.update_scaled_kernel, w, k0, k1, int(tile), *made, factor, *settings, *rounding_of(w, rounding))


def update_by_moments(w, tile, sources, first, second, decay, inside, outside, rounding=None) -> Tensor:
    """w = decay * w + m / (sqrt(v + inside) + outside); returns the squared length of what was added, on the device."""
    made = _family(sources)
    partial = torch.empty(tiles_of(w), dtype=torch.float32, device=w.device)
    settings = float(decay), float(inside), float(outside), partial, *rounding_of(w, rounding)
    table = _table(w, sources.keys, first, second)
    launch_tiles(cuda_update.update_by_moments_kernel, w, table, len(first), int(tile), *made, *settings)
    return partial.sum(dtype=torch.float64)


__all__ = [
    "CHUNK",
    "THREADED",
    "add_rows",
    "add_scaled",
    "both",
    "both_all",
    "dot",
    "fill",
    "filler",
    "flip",
    "given",
    "makes_output",
    "moments",
    "moments_all",
    "output",
    "perturb",
    "perturbed",
    "product",
    "restore",
    "sums_of",
    "table",
    "update",
    "update_all",
    "update_all_by_moments",
    "update_by_moments",
    "update_product",
    "update_scaled",
    "view",
    "words",
]
