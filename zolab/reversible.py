"""A perturbation that can be taken back to the last bit.

Zeroth-order methods move the weights to w + d, then to w - d, then back. Done with three roundings, as published code does
it, every step leaves a small random error in the weights: harmless in float32, a random walk in half precision.

Here each return is computed from the same rounding that made the departure: (w + d) - d gives w back exactly unless bits were
lost because w + d is coarser than w (small weights, and those that cross a power of two). Those few weights, 1-3 % at
eps = 1e-3, are written down in a journal before they are moved: position in the tile and value. No copy of the model is
kept, no step drifts, a failed step leaves no trace, and a run can be replayed without its forward passes.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from zolab.noise import Direction, chunks, for_each

NO_KEYS = np.empty((0, 2), dtype=np.uint32)
NO_COEFFICIENTS = np.empty(0, dtype=np.float32)


class Update:
    """What to add when the weights are back: w_j <- decay_j * w_j + sum_k coefficient_kj * z_j(direction_k).

    Args:
        blocks: block number of each tensor.
        directions: the directions to step along.
        coefficients: one row for each direction, one column for each tensor.
        decays: factor of each tensor.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        directions: Sequence[Direction],
        coefficients: Sequence[Sequence[float]],
        decays: Sequence[float],
    ):
        keys = [direction.keys(blocks) for direction in directions]
        self.keys = np.ascontiguousarray(np.stack(keys, axis=1)) if keys else NO_KEYS
        self.coefficients = np.ascontiguousarray(np.array(coefficients, dtype=np.float32).T)
        self.decays = decays

    def of(self, tensor: int) -> tuple[np.ndarray, np.ndarray, float]:
        return self.keys[tensor], self.coefficients[tensor], self.decays[tensor]


def apply(tensors: Sequence[Tensor], update: Update) -> None:
    """Apply an update to unperturbed tensors, with the same bits as `Perturbation.leave` gives."""
    pieces = chunks(tensors)

    def work(i):
        piece = pieces[i]
        piece.kernels.update(piece.data, piece.tile, *update.of(piece.tensor))

    for_each(pieces, work, sum(t.numel() for t in tensors))


class Perturbation:
    """Tensors that can be moved to w + scale_j z_j, to w - scale_j z_j, and back to exactly w.

    Each chunk knows its own state, so `leave` also repairs a move that was broken off half-way.

    Args:
        tensors: contiguous floating-point tensors, changed in place.
        blocks: the block number of each tensor.
        direction: the direction z.
        scales: one factor for each tensor, eps times sigma_j.
    """

    def __init__(self, tensors: Sequence[Tensor], blocks: tuple[int, ...], direction: Direction, scales: Sequence[float]):
        self.keys = direction.keys(blocks)
        self.scales = scales
        self.numel = sum(t.numel() for t in tensors)
        self.pieces = chunks(tensors)
        self.signs = [0] * len(self.pieces)
        self.journals = [None] * len(self.pieces)

    def plus(self) -> None:
        """Move from w to w + scale z."""

        def work(i):
            piece, key, scale = self._at(i)
            self.journals[i] = piece.kernels.perturb(piece.data, *key, piece.tile, scale)
            self.signs[i] = 1

        for_each(self.pieces, work, self.numel)

    def minus(self) -> None:
        """Move from w + scale z to w - scale z."""

        def work(i):
            piece, key, scale = self._at(i)
            piece.kernels.flip(piece.data, *key, piece.tile, scale, self.journals[i])
            self.signs[i] = -1

        for_each(self.pieces, work, self.numel)

    def leave(self, update: Update | None = None) -> None:
        """Move back to w from wherever the tensors are, and apply the update in the same pass."""

        def work(i):
            piece, key, scale = self._at(i)
            change = update.of(piece.tensor) if update else (NO_KEYS, NO_COEFFICIENTS, 1.0)
            if self.signs[i]:
                signed = self.signs[i] * scale
                piece.kernels.restore(piece.data, *key, piece.tile, signed, self.journals[i], *change)
                self.signs[i], self.journals[i] = 0, None
            elif update:
                piece.kernels.update(piece.data, piece.tile, *change)

        for_each(self.pieces, work, self.numel)

    @property
    def journal_bytes(self) -> int:
        """Memory that the journal takes while the tensors are moved."""
        return sum(part.nbytes for journal in self.journals if journal for part in journal)

    def _at(self, i: int):
        piece = self.pieces[i]
        return piece, self.keys[piece.tensor], self.scales[piece.tensor]
