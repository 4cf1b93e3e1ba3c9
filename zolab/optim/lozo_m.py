"""LOZO-M: LOZO with momentum that is as small as a factor (arXiv 2410.07698, section 4.3 and Algorithm 2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from zolab.noise import LowRankDirection, is_matrix
from zolab.optim.checks import check_fraction, check_slopes
from zolab.optim.lozo import LOZO
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


@dataclass(frozen=True)
class Momentum(LowRankDirection):
    """N V^T in each matrix, a stored N in all other tensors.

    Args:
        held: N of each block.
    """

    held: dict[int, Tensor] = field(compare=False, repr=False)
    keyed: ClassVar[bool] = False

    def left(self, block: int, rows: slice) -> Tensor:
        return self.held[block][rows]

    def factors(self, blocks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        return [(self.held[block], v) for block, (_, v) in zip(blocks, super().factors(blocks), strict=True)]


class LOZOM(LOZO):
    """N <- momentum N + (1 - momentum) p U,  theta <- theta - lr N V^T / rank, with N as small as U.

    The first step sets N = p U. When V is drawn anew, N <- N (V_old^T V_new) / n comes before, so that N V_new^T is what
    N V_old^T leaves in the new subspace. Tensors that are no matrices have the plain momentum N <- momentum N +
    (1 - momentum) p z. The authors' code leaves the division by rank out, as with LOZO, and with interval = 1 it forgets N in
    each step.

    State: N in float32, m x rank numbers for a matrix and all of any other tensor. N is not part of `state_dict`:
    `load_state_dict` makes it again from the trajectory, without a pass over the weights. Not with a short interval: of N
    (V_old^T V_new) / n little more than sqrt(rank / n) N is left, since two random subspaces are almost orthogonal.

    Args:
        params, lr, eps, rank, interval, published_scaling, weight_decay, seed, samples, rounding: as in `LOZO`.
        momentum: decay rate of N, in [0, 1).

    Raises:
        ValueError: as `LOZO` does.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        momentum: float = 0.9,
        rank: int = 2,
        interval: int = 50,
        published_scaling: bool = False,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
    ):
        check_fraction("momentum", momentum)
        self.momentum = float(momentum)
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            rank=rank,
            interval=interval,
            published_scaling=published_scaling,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
        )
        self.trajectory.settings["momentum"] = self.momentum

    @classmethod
    def stored_bytes(cls, tensor: Tensor, *, rank: int = 2, **settings) -> int:
        return 4 * (len(tensor) * rank if is_matrix(tensor) else tensor.numel())

    def begin(self) -> None:
        super().begin()
        self.held: dict[int, Tensor] = {}
        """N of each block; empty before the first step."""
        self.next: dict[int, Tensor] = {}
        """What `held` becomes when the step that is being taken is done."""

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        check_slopes(record.step, record.projected_grads, 1)
        self.next, now = self._after(record), LOZO.direction(self, record.step)
        along = Momentum(now.name, now.rank, now.interval, now.tensors, self.next)
        return Update(blocks, [along], [self.coefficients(record, groups, 1.0)], record.decays(groups))

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        self.held, self.next = self.next if tensors else self._after(record), {}

    def _after(self, record: StepRecord) -> dict[int, Tensor]:
        """N of each block after a step."""
        tensors, blocks, *_ = self.trained()
        slopes = [p / len(record.projected_grads) for p in record.projected_grads]
        directions = [self.direction(record.step, sample) for sample in range(len(slopes))]
        refreshed, after = record.step % self.interval == 0, {}
        for tensor, block in zip(tensors, blocks, strict=True):
            matrix = is_matrix(tensor)
            rows = slice(0, len(tensor) if matrix else tensor.numel())
            parts = [z.left(block, rows) if matrix else z.part(block, rows) for z in directions]
            gradient: Any = sum(p * part for p, part in zip(slopes, parts, strict=True))
            if self.held:
                before = self._carried_over(record.step, block) if matrix and refreshed else self.held[block]
                gradient = self.momentum * before + (1 - self.momentum) * gradient
            after[block] = gradient
        return after

    def _carried_over(self, step: int, block: int) -> Tensor:
        """N (V_old^T V_new) / n; the small product is summed on the CPU, in one order: a replay has the same bits."""
        new, old = (LOZO.direction(self, then).right(block, "cpu").double().numpy() for then in (step, step - 1))
        shares = [(row * new).sum(1) / new.shape[1] for row in old]
        n = self.held[block]
        total: Any = sum(n[:, i : i + 1] * torch.from_numpy(share).to(n) for i, share in enumerate(shares))
        return total
