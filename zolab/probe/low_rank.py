"""The probe through modules for directions of low rank: a linear layer or an embedding adds what its weight would be moved by.

    x (W + s U V^T)^T = x W^T + s (x V) U^T,     (W + s U V^T)[i] = W[i] + s U[i] V^T

So their weights need no scratch memory and no pass. All other tensors are moved as `Through` moves them, and so is a weight
whose module is not exactly torch's own, has hooks of somebody else that may read it, or limits its rows' norms.

Directions are those of the probe in place; the losses differ by rounding. With u half the spacing of the weights' type at one,
and S the sum |x| (|W| + |s| |U| |V|^T)^T + |b| with n inputs, an output is off by at most (n + r + 6) u S. One of moved weights
is off by as much, and by (r + 1) 2^-24 S more in float64, since a direction's values are float32.
"""

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from zolab.noise import GivenDirection, LowRankDirection, is_matrix
from zolab.probe.owners import Owner, Part, is_read_alone
from zolab.probe.through import Through
from zolab.probe.updates import AnyUpdate, Update


class LeavesMatrices(Through):
    """What probes have in common whose modules leave a weight where it is, and add to their output what would move it."""

    apart: dict[int, Part]
    """That weight of each owner."""
    exact: dict[int, tuple[Tensor, Tensor]]
    """U and V^T of those weights, by the number of the tensor, in float32."""
    low_rank: Any
    """The direction, a `LowRankDirection`; None if it is of another kind."""

    def _leave_apart(self) -> None:
        """Move what is left of each owner."""
        owners = self.viewed.owners
        self.owners = [self.viewed.without(o, self.apart[o.number]) if o.number in self.apart else o for o in owners]

    def _move(self, owner: Owner, args: Any) -> None:
        if self.watch and (weight := self.apart.get(owner.number)):
            self.watch.allowed = {self.viewed.names[weight.number]}
        if owner.parts:
            super()._move(owner, args)

    def _exit(self, owner: Owner, module: nn.Module, args: Any, output: Any = None) -> None:
        super()._exit(owner, module, args, output)
        if self.watch:
            self.watch.allowed = set()

    def leave(self, update: AnyUpdate | None = None, *, measure: bool = False) -> np.ndarray | Tensor | None:
        """As of `ModuleProbe`; a step along the direction that was probed takes its factors."""
        if isinstance(update, Update) and update.directions == [self.low_rank]:
            update.factors = self.exact
        return super().leave(update, measure=measure)


class ThroughLowRank(LeavesMatrices):
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j, z of low rank; it is used as `Perturbation` is."""

    def __init__(self, viewed, blocks: tuple[int, ...], direction: GivenDirection, scales):
        super().__init__(viewed, blocks, direction, scales)
        self.low_rank, self.blocks = direction if isinstance(direction, LowRankDirection) else None, blocks
        self.apart, self.exact = {}, {}
        self.factors: dict[int, tuple[Tensor, Tensor]] = {}
        """Those of the weights' type, for both sides; made before a module runs, or they would lie among its activations."""

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self.apart = {owner.number: weight for owner in self.viewed.owners if (weight := self._apart(owner))}
        self._leave_apart()
        if self.low_rank:
            weights = list(self.apart.values())
            factors = self.low_rank.factors([self.blocks[weight.number] for weight in weights])
            for weight, pair in zip(weights, factors, strict=True):
                u, v = (factor.to(weight.weight.dtype) for factor in pair)
                self.exact[weight.number], self.factors[weight.number] = pair, (u, v)
        super().plus()
        for owner in self.owners:
            if weight := self.apart.get(owner.number):
                add = partial(self._add, weight)
                self.handles.append(owner.module.register_forward_hook(add, prepend=True, with_kwargs=True))

    def _apart(self, owner: Owner) -> Part | None:
        return weight_left(owner)

    def _add(self, weight: Part, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        x, (u, v) = args[0] if args else kwargs["input"], self.factors[weight.number]
        if isinstance(module, nn.Embedding):
            left, right = functional.embedding(x, u), v
        else:
            left, right = functional.linear(x, v), u.T
        left, right = (part.to(output.dtype) for part in (left.reshape(-1, len(v)), right))  # autocast may have chosen another
        output.view(-1, output.shape[-1]).addmm_(left, right, alpha=self.side * self.scales[weight.number])


def weight_left(owner: Owner) -> Part | None:
    """The weight of an owner that may stay where it is. A hook of somebody else might read it, and must find it moved."""
    return weight_apart(owner) if is_read_alone(owner.module) else None


def weight_apart(owner: Owner, known: bool = False) -> Part | None:
    """The trained weight of a module that can add what moves it to its output; asked before any hook of ours is there.

    Args:
        owner: the module.
        known: whether it can, though it is not one of torch's own.
    """
    module = owner.module
    plain = type(module) is nn.Linear or (type(module) is nn.Embedding and module.max_norm is None)
    if not (plain or known) or "forward" in vars(module):
        return None
    for part in owner.parts.values():
        same = all(own.shape == part.weight.shape and own.is_contiguous() for _, _, own in part.places)
        if same and is_matrix(part.weight) and [name for _, name, _ in part.places] == ["weight"]:
            return part
    return None
