"""A perturbation that can be taken back to the last bit.

Zeroth-order methods move the weights to w + d, then to w - d, then back. Done with three roundings, as published code does
it, every step leaves a small random error in the weights: harmless in float32, a random walk in half precision.

Here each return is computed from the same rounding that made the departure: (w + d) - d gives w back exactly unless bits were
lost because w + d is coarser than w (small weights, and those that cross a power of two). Those few weights, 1-3 % at
eps = 1e-3, are written down in a journal before they are moved: position in the tile and value. No copy of the model is
kept, no step drifts, a failed step leaves no trace, and a run can be replayed without its forward passes.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from torch import Tensor

from zolab.noise import (
    Chunk,
    Direction,
    GivenDirection,
    Source,
    Sources,
    chunks,
    cut,
    fetched,
    for_each,
    per_tensor,
    small_ones,
    sums,
)


def columns(rows: Sequence[Sequence[float]], tensors: int) -> np.ndarray:
    """Coefficients as the kernels take them, one row a tensor. Raises FloatingPointError if one is beyond float32."""
    with np.errstate(over="ignore"):
        table = np.ascontiguousarray(np.array(rows, dtype=np.float32).T.reshape(tensors, -1))
    if not np.isfinite(table).all():
        raise FloatingPointError("the step has no finite size in float32; the weights are as before it. Lower lr.")
    return table


class Update:
    """What to add when the weights are back: w_j <- decay_j * w_j + sum_k coefficient_kj * z_j(direction_k).

    Args:
        blocks: block number of each tensor.
        directions: the directions to step along.
        coefficients: one row for each direction, one column for each tensor.
        decays: factor of each tensor.
    """

    rounding: np.ndarray | None = None
    """A generator key for each tensor, uint32 of shape (tensors, 2): half precision is then rounded at random, without bias."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        directions: Sequence[Direction | GivenDirection],
        coefficients: Sequence[Sequence[float]],
        decays: Sequence[float],
    ):
        self.directions = directions
        self.sources = Sources(directions, blocks)
        self.coefficients = columns(coefficients, len(blocks))
        self.decays = decays

    def of(self, piece: Chunk, source: Source | None = None) -> tuple[Source, np.ndarray, float]:
        """What kernels take for a chunk; `source` if it is at hand."""
        return source or self.sources.at(piece), self.coefficients[piece.tensor], self.decays[piece.tensor]

    def apply(self, piece: Chunk) -> None:
        piece.kernels.update(piece.data, piece.tile, *self.of(piece), self.key(piece))

    def apply_all(self, pieces: Sequence[Chunk]) -> bool:
        """Apply to whole tensors in one launch; False, and nothing is done, where that cannot be."""
        if self.sources.given or not self.directions:
            return False
        at = [piece.tensor for piece in pieces]
        rounding, decays = None if self.rounding is None else self.rounding[at], [self.decays[j] for j in at]
        settings = (self.sources.keys[at], self.coefficients[at], decays, rounding, self.sources.signs)
        return pieces[0].kernels.update_all([piece.data for piece in pieces], *settings)

    def key(self, piece: Chunk) -> np.ndarray | None:
        """What rounds the new weights of a chunk."""
        return None if self.rounding is None else self.rounding[piece.tensor]


class MomentsUpdate:
    """A step along moments that are made again from their directions, and never stored.

    w_j <- decay_j * w_j + m / (sqrt(v + inside) + outside), m = sum_k first_kj * z_j(k), v = sum_k second_kj * z_j(k)^2

    Args:
        blocks, directions, decays: as in `Update`.
        first, second: coefficients of the two sums, as in `Update`; `second` is not negative.
        inside, outside: what keeps the denominator from zero.
    """

    rounding: np.ndarray | None = None
    """As of `Update`."""

    def __init__(self, blocks, directions, first, second, decays, *, inside: float = 0.0, outside: float = 0.0):
        self.sources = Sources(directions, blocks)
        self.first, self.second = columns(first, len(blocks)), columns(second, len(blocks))
        self.decays, self.inside, self.outside = decays, inside, outside
        self.squares: list[float] = []

    def apply(self, piece: Chunk) -> None:
        j = piece.tensor
        settings = (self.first[j], self.second[j], self.decays[j], self.inside, self.outside)
        key = None if self.rounding is None else self.rounding[j]
        self.squares.append(piece.kernels.update_by_moments(piece.data, piece.tile, self.sources.at(piece), *settings, key))

    def apply_all(self, pieces: Sequence[Chunk]) -> bool:
        """As of `Update`."""
        if self.sources.given:
            return False
        at = [piece.tensor for piece in pieces]
        rounding, decays = None if self.rounding is None else self.rounding[at], [self.decays[j] for j in at]
        settings = (self.sources.keys[at], self.first[at], self.second[at], decays, self.inside, self.outside, rounding)
        square = pieces[0].kernels.update_all_by_moments([p.data for p in pieces], *settings, self.sources.signs)
        if square is not None:
            self.squares.append(square)
        return square is not None

    def length(self) -> float:
        """Euclidean length of the step, decay left out; known once it has been applied."""
        return math.fsum(fetched(self.squares)) ** 0.5


def apply(
    tensors: Sequence[Tensor],
    update: Update | MomentsUpdate | None,
    *,
    measure: bool = False,
    pieces: Sequence[Chunk] | None = None,
) -> np.ndarray | None:
    """Apply an update to unperturbed tensors, with the same bits as `Perturbation.leave` gives.

    Args:
        tensors: changed in place.
        update: what to add.
        measure: sum the new weights and their squares in that pass too.
        pieces: the tensors' `chunks`, where they are at hand.

    Returns:
        With `measure`, what `zolab.probe.blocks.moments` would give now, to the bit.
    """
    pieces = chunks(tensors) if pieces is None else pieces
    if update is None:
        return sums(pieces, len(tensors)) if measure else None
    parts = cut(pieces, update.sources.directions)
    small = set(small_ones(parts))
    if small and update.apply_all([parts[i] for i in sorted(small)]):
        parts = [piece for i, piece in enumerate(parts) if i not in small]
    within = measure and _within(parts)
    found: list[Any] = [None] * len(parts)

    def work(i):
        update.apply(parts[i])
        if within:
            found[i] = parts[i].kernels.moments(parts[i].data, wait=False)

    for_each(parts, work, sum(t.numel() for t in tensors))
    if within:
        return per_tensor(parts, found, len(tensors))
    return sums(pieces, len(tensors)) if measure else None


def _within(pieces: Sequence[Chunk]) -> bool:
    """Whether to sum weights while they are in a processor's cache; a GPU sums them by itself, without being waited for."""
    return bool(pieces) and all(piece.kernels.THREADED for piece in pieces)


class Perturbation:
    """Tensors that can be moved to w + scale_j z_j, to w - scale_j z_j, and back to exactly w.

    Each chunk knows its own state, so `leave` also repairs a move that was broken off half-way.

    Args:
        tensors: contiguous floating-point tensors, changed in place.
        blocks: the block number of each tensor.
        direction: the direction z.
        scales: one factor for each tensor, eps times sigma_j.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        blocks: tuple[int, ...],
        direction: Direction | GivenDirection,
        scales: Sequence[float],
    ):
        self.direction, self.scales = direction, scales
        self.sources = Sources([direction], blocks)
        self.blocks, self.tensors = blocks, len(tensors)
        self.numel = sum(t.numel() for t in tensors)
        self.whole = chunks(tensors)
        self.pieces = cut(self.whole, [direction])
        self.signs = [0] * len(self.pieces)
        self.journals = [None] * len(self.pieces)

    def plus(self) -> None:
        """Move from w to w + scale z."""

        def work(i):
            piece, source, scale = self._at(i)
            self.journals[i] = piece.kernels.perturb(piece.data, piece.tile, source, scale)
            self.signs[i] = 1

        for_each(self.pieces, work, self.numel)

    def minus(self) -> None:
        """Move from w + scale z to w - scale z."""

        def work(i):
            piece, source, scale = self._at(i)
            piece.kernels.flip(piece.data, piece.tile, source, scale, self.journals[i])
            self.signs[i] = -1

        for_each(self.pieces, work, self.numel)

    def evaluated(self) -> AbstractContextManager:
        """Around each call of a closure: there is nothing to do, since whatever it reads is moved."""
        return nullcontext()

    def leave(self, update: Update | MomentsUpdate | None = None, *, measure: bool = False) -> np.ndarray | None:
        """Move back to w from wherever the tensors are, and apply the update in the same pass.

        Args:
            update: what to add.
            measure: sum the new weights and their squares in that pass too.

        Returns:
            With `measure`, what `zolab.probe.blocks.moments` would give now, to the bit.
        """
        joined = update if isinstance(update, Update) else Update(self.blocks, [], [], [1.0] * len(self.blocks))
        same = len(joined.directions) > 0 and joined.directions[0] == self.direction
        alone = same and len(joined.directions) == 1

        after = update is not None and joined is not update
        within = measure and not after and _within(self.pieces)
        parts: list[Any] = [None] * len(self.pieces)

        def work(i):
            piece, source, scale = self._at(i)
            moved = self.signs[i]
            if moved:
                signed, moments = moved * scale, np.zeros(2 if within else 0)
                back = (source, signed, self.journals[i], same)
                of = joined.of(piece, source if alone else None)
                piece.kernels.restore(piece.data, piece.tile, *back, *of, moments, joined.key(piece))
                self.signs[i], self.journals[i] = 0, None
                parts[i] = moments if within else None
            elif joined is update:
                joined.apply(piece)
            if after:
                update.apply(piece)
            if within and parts[i] is None:
                parts[i] = piece.kernels.moments(piece.data, wait=False)

        for_each(self.pieces, work, self.numel)
        if within:
            return per_tensor(self.pieces, parts, self.tensors)
        return sums(self.whole, self.tensors) if measure else None

    @property
    def journal_bytes(self) -> int:
        """Memory that the journal takes while the tensors are moved."""
        return sum(part.nbytes for journal in self.journals if journal for part in journal)

    def _at(self, i: int):
        piece = self.pieces[i]
        return piece, self.sources.at(piece), self.scales[piece.tensor]
