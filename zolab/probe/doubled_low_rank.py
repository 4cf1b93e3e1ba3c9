"""`ThroughLowRank` with the body on both sides at once, on a GPU: the stored weights multiply a doubled batch, once.

    first half:  x W^T + s (x V) U^T          second half:  x W^T - s (x V) U^T

A linear layer's kernel writes what moves the output, and the product with W is added to it. Factors lie in memory that stays,
so that the body's call can be a graph. Losses are those of `ThroughLowRank` within the same bound.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zolab.noise import Filling, LowRankDirection, is_matrix
from zolab.probe.doubled import DoubledThrough
from zolab.probe.halves import RowsMixedError
from zolab.probe.low_rank import LeavesMatrices, weight_left
from zolab.probe.owners import Owner, Part

APART = 16  # rows and columns begin at multiples of so many elements


class Factors:
    """U^T and V^T of some matrices, in the type of the weights.

    Args:
        weights: the matrices, of one type and device.
        rank: of the direction.
    """

    def __init__(self, weights: Sequence[Part], rank: int):
        like = weights[0].weight
        sizes = [(len(part.weight), part.weight.numel() // len(part.weight)) for part in weights]
        rows, columns = ([_padded(size[k]) for size in sizes] for k in range(2))
        self.numbers = [part.number for part in weights]
        drawn = [torch.zeros(sum(lengths) * rank, device=like.device) for lengths in (rows, columns)]
        self.drawn_left, self.drawn_right = drawn
        self.left = torch.zeros(rank, sum(rows), dtype=like.dtype, device=like.device)
        self.right = torch.zeros(sum(columns) * rank, dtype=like.dtype, device=like.device)
        self.rows = [flat[: m * rank] for flat, (m, _) in zip(drawn[0].split([r * rank for r in rows]), sizes, strict=True)]
        cut = [c * rank for c in columns]
        self.columns = [flat[: n * rank] for flat, (_, n) in zip(drawn[1].split(cut), sizes, strict=True)]
        lefts = [part[:, :m] for part, (m, _) in zip(self.left.split(rows, 1), sizes, strict=True)]
        rights = [part[: n * rank].view(rank, n) for part, (_, n) in zip(self.right.split(cut), sizes, strict=True)]
        self.of = dict(zip(self.numbers, zip(lefts, rights, strict=True), strict=True))
        """(U^T, V^T) of each matrix, by the number of its tensor."""
        exact = ((u.view(m, rank), v.view(rank, n)) for u, v, (m, n) in zip(self.rows, self.columns, sizes, strict=True))
        self.exact = dict(zip(self.numbers, exact, strict=True))
        """(U, V^T) in float32, likewise."""
        self.fill = Filling([*self.rows, *self.columns])

    def draw(self, direction: LowRankDirection, blocks: tuple[int, ...]) -> None:
        """Those of a direction."""
        self.fill(direction.factor_keys([blocks[j] for j in self.numbers]))
        self.left.copy_(self.drawn_left.view(-1, len(self.left)).t())
        self.right.copy_(self.drawn_right)


def _padded(length: int) -> int:
    return -(-length // APART) * APART


class DoubledLowRank(LeavesMatrices, DoubledThrough):
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j, z of low rank; it is used as `Perturbation` is.

    Args:
        viewed, blocks, direction, scales: as of `Through`.
        apart: `matrices_apart` of the model's owners.
    """

    def __init__(self, viewed, blocks: tuple[int, ...], direction: LowRankDirection, scales, apart: dict[int, Part]):
        super().__init__(viewed, blocks, direction.name, scales)  # which moves what is no matrix
        self.low_rank, self.blocks, self.apart = direction, blocks, apart
        self.family = *self.family, direction.rank

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self._leave_apart()
        self.factors = self.viewed.factors_of(tuple(self.apart.values()), self.low_rank, self.blocks)
        self.exact = self.factors.exact
        super().plus()

    def _attach(self, owner: Owner) -> None:
        if owner.number in self.apart:
            self._replace(owner.module, partial(self._forward, owner, owner.module.forward))
        else:
            super()._attach(owner)

    def _forward(self, owner: Owner, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        weight = self.apart.get(owner.number)
        if weight is None:
            return super()._forward(owner, forward, *args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if not self.rows:
            return super()._forward(owner, partial(self._moved, owner, weight, forward, x))
        if not x.dim() or len(x) != self.rows:
            raise RowsMixedError(str(tuple(x.shape)))
        if owner.parts:
            return self._add(weight, owner.module, x, super()._forward(owner, forward, *args, **kwargs))
        self._called(owner)
        return self._moved(owner, weight, forward, x)

    def _moved(self, owner: Owner, weight: Part, forward: Callable, x: Tensor) -> Tensor:
        """The output of a module whose weight stays where it is."""
        module, kernels = owner.module, weight.pieces[0].kernels
        flat = x.reshape(-1, x.shape[-1]) if isinstance(module, nn.Linear) else None
        if flat is None or module.bias is not None or not _fits(weight, flat, kernels, self.low_rank.rank):
            return self._add(weight, module, x, forward(x))
        u, v = self.factors.of[weight.number]
        out = kernels.output(flat, u, v, self._scale(weight), self._above(len(flat)))
        return torch.addmm(out, flat, module.weight.t(), out=out).view(*x.shape[:-1], -1)

    def _add(self, weight: Part, module: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        """Add what moves the output of any module to it."""
        u, v = self.factors.of[weight.number]
        left, right = (functional.embedding(x, u.t()), v) if isinstance(module, nn.Embedding) else (functional.linear(x, v), u)
        left, scale = left.reshape(-1, len(v)), self._scale(weight)
        left = left * (scale[2:3].view(torch.float32) if isinstance(scale, Tensor) else scale)
        above = self._above(len(left))
        left = torch.cat([left[:above], -left[above:]])
        out.view(-1, out.shape[-1]).addmm_(left.to(out.dtype), right.to(out.dtype))  # autocast may have chosen another
        return out

    def _scale(self, weight: Part) -> float | Tensor:
        return self.table[weight.number] if self.table else self.scales[weight.number]

    def _above(self, tokens: int) -> int:
        """How many tokens of a call are on the side of w + scale z: the first ones."""
        return tokens // 2 if self.rows else tokens if self.side > 0 else 0


def matrices_apart(owners: Sequence[Owner]) -> dict[int, Part] | None:
    """The matrix of each owner, which adds its part of the direction to its output; None if one has a matrix that it cannot."""
    by_owner = {owner.number: part for owner in owners if (part := weight_left(owner))}
    matrices = [(owner.number, part) for owner in owners for part in owner.parts.values() if is_matrix(part.weight)]
    return by_owner if all(by_owner.get(number) is part for number, part in matrices) else None


def _fits(weight: Part, flat: Tensor, kernels: Any, rank: int) -> bool:
    """Whether a kernel makes what moves an output."""
    plain = (
        flat.dtype == weight.weight.dtype and not torch.is_grad_enabled() and not torch.is_autocast_enabled(flat.device.type)
    )
    return plain and hasattr(kernels, "output") and kernels.makes_output(flat, len(weight.weight), rank)
