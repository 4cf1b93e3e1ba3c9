"""Directions of low rank: in each matrix U V^T, whose factors are addressed and whose values are made where a kernel asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zolab.noise.addresses import Direction, GivenDirection
from zolab.noise.directions import Filling, from_key
from zolab.noise.kernels import backend_for

V_SAMPLE = 2**32 - 1  # of the names of V, which are those of no U: no step draws so many samples


@dataclass(frozen=True)
class LowRankDirection(GivenDirection):
    """U V^T in each matrix, normals in all other tensors: the direction of LOZO (arXiv 2410.07698, section 3).

    All entries of U (m x rank) and V (n x rank) are normal, so that an entry of U V^T has the variance `rank`. U is fresh in
    each sample of each step, V stays for `interval` steps and is the same for all samples. Both follow from their addresses,
    so that nothing is stored and V is known at any step: it is named by the step in which it was drawn.

    A tensor of three or more dimensions is the matrix of its first dimension by all others. The authors' code takes the first
    two alone, and fails at such a tensor.

    Args:
        name: seed, step and sample, for U and for the normals of other tensors.
        rank: columns of U and V, at least 1.
        interval: nu, the steps for which V stays, at least 1.
        tensors: the tensor of each block, which tells shape and device.
    """

    values: Sequence[Tensor] = field(default=(), init=False, repr=False)
    name: Direction
    rank: int
    interval: int
    tensors: Sequence[Tensor] = field(compare=False, repr=False)
    made: ClassVar[bool] = True
    keyed: ClassVar[bool] = True
    """Whether tensors that are no matrices are moved as `name` alone would move them."""

    def part(self, block: int, span: slice) -> Tensor:
        tensor = self.tensors[block]
        if not is_matrix(tensor):
            return self.left(block, span)
        v = self.right(block)
        rows = slice(span.start // v.shape[1], -(-span.stop // v.shape[1]))
        out = torch.empty(span.stop - span.start, dtype=torch.float32, device=tensor.device)
        backend_for(out).product(out, self.left(block, rows), v, span.start - rows.start * v.shape[1])
        return out

    def left(self, block: int, rows: slice) -> Tensor:
        """Rows of U, float32 of shape (rows, rank); of a tensor that is no matrix, some of its normals, flat."""
        tensor, count = self.tensors[block], rows.stop - rows.start
        key = self.name.keys(tuple(range(len(self.tensors))))[block]
        if not is_matrix(tensor):
            return from_key(key, (count,), rows.start, tensor.device)
        return from_key(key, (count, self.rank), rows.start * self.rank, tensor.device)

    def right(self, block: int, device: torch.device | str | None = None) -> Tensor:
        """V^T of a matrix, float32 of shape (rank, n), by default on the matrix's device."""
        tensor = self.tensors[block]
        key = self.drawn.keys(tuple(range(len(self.tensors))))[block]
        return from_key(key, (self.rank, tensor.numel() // len(tensor)), 0, device or tensor.device)

    def factors(self, blocks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """U and V^T of whole matrices, as `left` and `right` give them, made together."""
        tensors = [self.tensors[block] for block in blocks]
        left = [torch.empty(len(w), self.rank, dtype=torch.float32, device=w.device) for w in tensors]
        right = [torch.empty(self.rank, w.numel() // len(w), dtype=torch.float32, device=w.device) for w in tensors]
        Filling([tensor.view(-1) for tensor in (*left, *right)])(self.factor_keys(blocks))
        return list(zip(left, right, strict=True))

    def factor_keys(self, blocks: Sequence[int]) -> np.ndarray:
        """Generator keys of U in each of the blocks, then of V, uint32 of shape (2 len(blocks), 2)."""
        every, at = tuple(range(len(self.tensors))), list(blocks)
        return np.concatenate([name.keys(every)[at] for name in (self.name, self.drawn)])

    @property
    def drawn(self) -> Direction:
        """The name of V."""
        return replace(self.name, step=self.name.step - self.name.step % self.interval, sample=V_SAMPLE)


def is_matrix(tensor: Tensor) -> bool:
    """Whether a direction of low rank has factors in a tensor, which then is one of len(tensor) rows."""
    return tensor.ndim > 1 and tensor.numel() > 0
