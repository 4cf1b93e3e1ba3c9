"""A direction for each example of a batch, around one that they share: its values with other signs, addressed like all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from zolab.noise.addresses import Direction, GivenDirection
from zolab.noise.directions import NOT_GIVEN, Source, from_key
from zolab.noise.kernels import backend_for
from zolab.noise.low_rank import V_SAMPLE, LowRankDirection, is_matrix

SIGNS = V_SAMPLE - 1  # of the names of signs, from here down, which are those of no direction


@dataclass(frozen=True)
class GroupDirection(GivenDirection):
    """z_i = U o (r_i s_i^T) in each matrix, for the examples i of a batch; all other tensors have one z for all examples.

    r_i and s_i are signs, as many as a matrix has rows and columns. They follow from their addresses, as U does, and are the
    same in a batch of any size. Those of example 0 are ones: so z_0 is U, and the signs of two examples still are independent.

    As one direction this is sum_i weights_i z_i, which in a matrix is U o (R^T diag(weights) S), a row of R and S an example
    (Flipout, arXiv 1803.04386); its values are made where a kernel asks for them.

    Args:
        base: of U and of the z of other tensors; normal, in matrices of low rank if it is so.
        tensors: the tensor of each block, which tells shape and device.
        weights: of the examples, by default of the first one alone.
    """

    values: Sequence[Tensor] = field(default=(), init=False, repr=False)
    base: Direction | LowRankDirection
    tensors: Sequence[Tensor] = field(compare=False, repr=False)
    weights: tuple[float, ...] = (1.0,)
    made: ClassVar[bool] = True

    def part(self, block: int, span: slice) -> Tensor:
        shared = self.shared(block, span)
        if not is_matrix(self.tensors[block]):
            return shared.mul_(sum(self.weights))
        r, s = self.signs(block, len(self.weights))
        rows = slice(span.start // s.shape[1], -(-span.stop // s.shape[1]))
        weighted = r[:, rows] * torch.tensor(self.weights, device=r.device)[:, None]
        signed = torch.empty_like(shared)
        backend_for(signed).product(signed, weighted.T.contiguous(), s, span.start - rows.start * s.shape[1])
        return signed.mul_(shared)

    def shared(self, block: int, span: slice) -> Tensor:
        """Some elements of U, or of z in a tensor that is no matrix; float32, flat."""
        if isinstance(self.base, LowRankDirection):
            return self.base.part(block, span)
        return from_key(self._key(self.base, block), (span.stop - span.start,), span.start, self.tensors[block].device)

    def shared_rows(self, block: int, rows: Tensor) -> Tensor:
        """Some rows of U, by their numbers, where it is not of low rank; float32 of shape (rows, columns)."""
        assert isinstance(self.base, Direction), "low rank has factors for them"
        tensor, key = self.tensors[block], self._key(self.base, block)
        out = torch.zeros(len(rows), tensor.numel() // len(tensor), device=tensor.device)
        kernels = backend_for(out)
        if hasattr(kernels, "add_rows"):
            kernels.add_rows(out.view(-1), rows, out.shape[1], Source(key[None], NOT_GIVEN), 1.0)
        else:
            for row, target in zip(rows.tolist(), out, strict=True):
                target.copy_(self.shared(block, slice(row * len(target), (row + 1) * len(target))))
        return out

    def signs(self, block: int, examples: int) -> tuple[Tensor, Tensor]:
        """r and s of the first examples in a matrix, float32 of shapes (examples, rows) and (examples, columns)."""
        tensor, name = self.tensors[block], self.base if isinstance(self.base, Direction) else self.base.name
        rows, columns = len(tensor), tensor.numel() // len(tensor)
        key = self._key(Direction(name.seed, name.step, SIGNS - name.sample), block)
        both = from_key(key, (examples, rows + columns), 0, tensor.device, signs=True)
        both[0] = 1
        return both[:, :rows], both[:, rows:].contiguous()

    def _key(self, name: Direction, block: int):
        return name.keys(tuple(range(len(self.tensors))))[block]
