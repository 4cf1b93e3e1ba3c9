"""A perturbation that can be taken back to the last bit.

Zeroth-order methods move the weights to w + d, then to w - d, then back. Done with three roundings, as published code does
it, every step leaves a small random error in the weights: harmless in float32, a random walk in half precision.

Here each return is computed from the same rounding that made the departure: (w + d) - d gives w back exactly unless bits were
lost because w + d is coarser than w (small weights, and those that cross a power of two). Those few weights, 1-3 % at
eps = 1e-3, are written down in a journal before they are moved: position in the tile and value. No copy of the model is
kept, no step drifts, a failed step leaves no trace, and a run can be replayed without its forward passes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from torch import Tensor

from zolab.noise import (
    Chunk,
    Direction,
    GivenDirection,
    Sources,
    chunks,
    cut,
    for_each,
    per_tensor,
    sums,
)
from zolab.probe.updates import AnyUpdate, ScaledUpdate, Update, within_cache


class Perturbation:
    """Tensors that can be moved to w + scale_j z_j, to w - scale_j z_j, and back to exactly w.

    Each chunk knows its own state, so `leave` also repairs a move that was broken off half-way.

    Args:
        tensors: contiguous floating-point tensors, changed in place.
        blocks: the block number of each tensor.
        direction: the direction z.
        scales: one factor for each tensor, eps times sigma_j.
        pieces: the tensors' `chunks`, where they are at hand.

    Raises:
        ValueError: a given direction is not as long as a tensor.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        blocks: tuple[int, ...],
        direction: Direction | GivenDirection,
        scales: Sequence[float],
        pieces: list[Chunk] | None = None,
    ):
        if isinstance(direction, GivenDirection):
            direction.check_sizes(blocks, tensors)
        self.direction, self.scales = direction, scales
        self.sources = Sources([direction], blocks)
        self.blocks, self.tensors = blocks, len(tensors)
        self.numel = sum(t.numel() for t in tensors)
        self.whole = chunks(tensors) if pieces is None else pieces
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

    def leave(self, update: AnyUpdate | None = None, *, measure: bool = False) -> np.ndarray | None:
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
        after = update if joined is not update else None
        fused = after if isinstance(after, ScaledUpdate) and after.is_along(self.direction) else None
        within = measure and not after and within_cache(self.pieces)
        parts: list[Any] = [None] * len(self.pieces)

        def work(i):
            piece, source, scale = self._at(i)
            moved = self.signs[i]
            if moved and fused:
                fused.apply(piece, (moved * scale, self.journals[i]))
                self.signs[i], self.journals[i] = 0, None
            elif moved:
                signed, moments = moved * scale, np.zeros(2 if within else 0)
                back = (source, signed, self.journals[i], same)
                of = joined.of(piece, source if alone else None)
                piece.kernels.restore(piece.data, piece.tile, *back, *of, moments, joined.key(piece))
                self.signs[i], self.journals[i] = 0, None
                parts[i] = moments if within else None
            elif joined is update:
                joined.apply(piece)
            if after and not (moved and fused):
                after.apply(piece)
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
