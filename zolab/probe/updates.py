"""What a step adds to the weights, in one pass over them."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zolab.noise import (
    Chunk,
    Direction,
    GivenDirection,
    LowRankDirection,
    ScaledDirection,
    Source,
    Sources,
    chunks,
    cut,
    fetched,
    for_each,
    is_matrix,
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
        self.factors: Mapping[int, tuple[Tensor, Tensor]] = {}
        """U and V^T of matrices along which it steps, by the number of the tensor, where they are at hand."""
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

    def apply_products(self, pieces: Sequence[Chunk]) -> tuple[list[Chunk], "Update"]:
        """Step along a direction of low rank in whole matrices, whose values are never stored.

        Returns:
            The other chunks, and what to apply to them.
        """
        direction = self.directions[0] if len(self.directions) == 1 else None
        if not isinstance(direction, LowRankDirection):
            return list(pieces), self
        blocks, matrices, vectors, others = self.sources.blocks, [], [], []
        for piece in pieces:
            tensor, kernels = direction.tensors[blocks[piece.tensor]], piece.kernels
            fused = kernels.THREADED or len(piece.data) == tensor.numel() < 2**31
            fused = fused and hasattr(kernels, "update_product")
            (vectors if not is_matrix(tensor) else matrices if fused else others).append(piece)
        if any(piece.tensor not in self.factors for piece in matrices):
            numbers = sorted({piece.tensor for piece in matrices})
            factors = direction.factors([blocks[number] for number in numbers])
            self.factors = dict(zip(numbers, factors, strict=True))

        def work(i: int) -> None:
            piece = matrices[i]
            settings = float(self.coefficients[piece.tensor, 0]), self.decays[piece.tensor], self.key(piece)
            piece.kernels.update_product(piece.data, piece.tile, *self.factors[piece.tensor], *settings)

        for_each(matrices, work, sum(len(piece.data) for piece in matrices))
        if others or not direction.keyed:
            return vectors + others, self
        rest = copy(self)
        rest.directions, rest.sources = [direction.name], Sources([direction.name], blocks)
        return vectors, rest

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


class ScaledUpdate:
    """A step along z with a factor for each weight, w_j <- decay_j * w_j + coefficient_j * z_j f_j, that changes f first.

    f <- f / sqrt(keep + gain (z^2 - shift)), within [least, greatest]; the greatest where the root is of no positive number.

    Args:
        blocks, decays: as in `Update`.
        direction: z.
        factors: f of each block, flat, changed in place.
        coefficients: one for each tensor.
        growth: (keep, gain, shift, least, greatest).
    """

    rounding: np.ndarray | None = None
    """As of `Update`."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        direction: Direction | GivenDirection,
        factors: Mapping[int, Tensor],
        coefficients: Sequence[float],
        decays: Sequence[float],
        growth: tuple[float, float, float, float, float],
    ):
        self.direction, self.factors, self.sources = direction, factors, Sources([direction], blocks)
        self.coefficients, self.decays, self.growth = columns([coefficients], len(blocks))[:, 0], decays, growth

    def apply(self, piece: Chunk, moved: tuple[float, Any] | None = None) -> None:
        """Take the step; `moved` is the scale and the journal of weights that are moved along z f still."""
        j = piece.tensor
        key = None if self.rounding is None else self.rounding[j]
        source, factor = self.sources.at(piece), self.factors[self.sources.blocks[j]][piece.span]
        settings = float(self.coefficients[j]), self.decays[j], self.growth
        piece.kernels.update_scaled(piece.data, piece.tile, source, factor, *settings, key, moved)

    def apply_all(self, pieces: Sequence[Chunk]) -> bool:
        """As of `Update`: each tensor has factors of its own, so it takes a launch of its own."""
        return False

    def is_along(self, direction: Direction | GivenDirection) -> bool:
        """Whether weights that are moved along a direction are moved along z f."""
        return isinstance(direction, ScaledDirection) and direction.name == self.direction


AnyUpdate = Update | MomentsUpdate | ScaledUpdate


def apply(
    tensors: Sequence[Tensor],
    update: AnyUpdate | None,
    *,
    measure: bool = False,
    pieces: Sequence[Chunk] | None = None,
) -> np.ndarray | Tensor | None:
    """Apply an update to unperturbed tensors, with the same bits as `Perturbation.leave` gives.

    Args:
        tensors: changed in place.
        update: what to add.
        measure: sum the new weights and their squares in that pass too.
        pieces: the tensors' `chunks`, where they are at hand.

    Returns:
        With `measure`, what `zolab.probe.blocks.moments` would give now, to the bit; on a GPU a tensor, not waited for.
    """
    pieces = chunks(tensors) if pieces is None else pieces
    if update is None:
        return sums(pieces, len(tensors)) if measure else None
    parts = pieces
    if isinstance(update, Update):
        parts, update = update.apply_products(pieces)
    parts = cut(parts, update.sources.directions)
    few = set(small_ones(parts))
    small, large = [parts[i] for i in sorted(few)], [piece for i, piece in enumerate(parts) if i not in few]
    every = sum(len(piece.data) for piece in parts) == sum(len(piece.data) for piece in pieces)
    within = measure and every and within_cache(parts)
    moments: list[Any] = [None] * len(large)

    def work(i):
        update.apply(large[i])
        if within:
            moments[i] = large[i].kernels.moments(large[i].data, wait=False)

    def finish():  # last, since their table is made while a GPU is busy with the others
        if small and not update.apply_all(small):
            for piece in small:
                update.apply(piece)

    if measure and (fused := sums_with(update, large, pieces, finish)) is not None:
        return fused
    for_each(large, work, sum(t.numel() for t in tensors))
    finish()
    if within:
        return per_tensor(large, moments, len(tensors))
    return sums(pieces, len(tensors)) if measure else None


def sums_with(update: AnyUpdate, parts: Sequence[Chunk], pieces: Sequence[Chunk], finish: Callable[[], None]) -> Tensor | None:
    """Apply an update along one direction to whole tensors on a GPU, and have the sums over all new weights in that pass.

    Args:
        update: what to add.
        parts: what it is applied to one by one.
        pieces: all whole tensors, in order.
        finish: applies it to the others.

    Returns:
        The sums of all tensors, on the device; None, and nothing is done, where that cannot be.
    """
    if type(update) is not Update or len(update.directions) != 1 or not parts or not hasattr(parts[0].kernels, "sums_of"):
        return None
    kernels, mine = parts[0].kernels, [piece.tensor for piece in parts]
    others = [piece for piece in pieces if piece.tensor not in set(mine)]
    if sorted([*mine, *(piece.tensor for piece in others)]) != list(range(len(pieces))):
        return None  # a tensor in several pieces
    room, rest = (kernels.sums_of([piece.data for piece in some]) for some in (parts, others))
    if room is None or (others and rest is None):
        return None
    for i, piece in enumerate(parts):
        kernels.update(piece.data, piece.tile, *update.of(piece), update.key(piece), room.of(i))
    finish()
    done = rest.fill().total() if rest else None
    out = torch.empty((len(pieces), 2), dtype=torch.float64, device=parts[0].data.device)
    for numbers, values in ((mine, room.total()), ([piece.tensor for piece in others], done)):
        if values is not None:
            out[numbers] = values
    return out


def within_cache(pieces: Sequence[Chunk]) -> bool:
    """Whether to sum weights while they are in a processor's cache; a GPU sums them by itself, without being waited for."""
    return bool(pieces) and all(piece.kernels.THREADED for piece in pieces)
