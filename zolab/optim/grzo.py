"""GRZO: a direction for each example of the batch, in the two forward passes of MeZO (arXiv 2606.02857)."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from statistics import pstdev
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from zolab.noise import Direction, GroupDirection, LowRankDirection, is_matrix
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import whole
from zolab.optim.lozo import check_rank
from zolab.optim.parameters import named
from zolab.optim.probing import Measured, Probes
from zolab.optim.trajectory import StepRecord
from zolab.probe.group import ThroughGroup, matrix_of
from zolab.probe.updates import Update


class GRZO(ZeroOrderOptimizer):
    """Probe each example i of the batch along a direction z_i of its own, and step along all of them.

        p_i = (L_i(theta + eps z_i) - L_i(theta - eps z_i)) / (2 eps),  s = the standard deviation of p_1 ... p_B (over B)
        theta <- theta - lr / (B s) sum_i p_i z_i                                      ("group-relative normalization")

    In each weight matrix z_i = U o (r_i s_i^T), with one normal U for the batch, or one of low rank as LOZO has it (the paper's
    LO-GRZO), and signs r_i, s_i. So one pass evaluates every example at its own weights (`zolab.probe.group`), and any two z_i
    are uncorrelated. Tensors that are no matrices have one z for all examples; in the authors' code norms have signs of their
    own. Without `group_relative`, s is 1 and the step is unbiased; the paper's learning rate is 2 eps times ours with it.

    What it gains, with n weights and examples' gradients g_i, of mean g: a step's squared length is on average, s being 1,

        [(n + 2) sum_i |g_i|^2 + 3 sum_{i != j} g_i . g_j] / B^2,  and MeZO's on the same batch (n + 2) |g|^2

    so that it has B |g|^2 / mean |g_i|^2 times less variance than MeZO: B times where all examples have one gradient, as the
    paper assumes, and no less where their gradients are orthogonal, since MeZO's falls with the batch then, too.

    The closure returns a vector, the loss of each example, and the first dimension of all that modules are given counts the
    examples; where it does not, say so with `zolab.noise.rows_of`. Weights in place are the same for all examples, so that it
    always looks through the model:

        >>> optimizer = GRZO(model.named_parameters(), lr=5e-5).look_through(model)
        >>> optimizer.step(lambda: functional.cross_entropy(model(x), y, reduction="none"))

    As read (github.com/LiyanTan111/GRZO-public, `optimizers/flipout.py`), the code has s over B - 1, adds 1e-8 to it, and gives
    the candidates of a question signs of their own; here a question is one example. Where all p_i are equal, s is 0 and so is
    the step, but for weight decay.

    State: none. A full U is multiplied like a second weight, so that a forward pass takes about twice the arithmetic; one of
    low rank is nearly free. Refused: weight matrices of other modules than linear layers (or GPT-2's Conv1D) and embeddings.

    Args:
        params, eps, weight_decay, seed, samples, rounding: as in `MeZO`; each sample has its own U, signs and s.
        lr: learning rate; a step moves a weight by about lr / sqrt(B). The authors' 1e-7 at eps 1e-3 is 5e-5 here.
        rank, interval: of U, as in `LOZO`, and so is the division by rank; None for a full U.
        group_relative: divide by s; then a batch needs two examples.

    Raises:
        ValueError: an argument is out of range, or `rank` is more than a matrix has rows or columns, which is named.
    """

    per_example: ClassVar[bool] = True
    along = GroupDirection

    def __init__(
        self,
        params: Iterable,
        lr: float = 5e-5,
        eps: float = 1e-3,
        rank: int | None = None,
        interval: int = 50,
        group_relative: bool = True,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
    ):
        if not isinstance(group_relative, bool):
            raise ValueError(f"group_relative must be True or False, got {group_relative!r}.")
        self.rank, self.interval = None if rank is None else whole("rank", rank, 1), whole("interval", interval, 1)
        self.group_relative = group_relative
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            settings={"rank": self.rank, "interval": self.interval, "group_relative": group_relative},
        )

    def fits(self) -> None:
        check_rank(self.trained(), self.rank or 1)

    def look_through(self, model: nn.Module | None, spare: int | None = None) -> Self:
        """As for all methods, and this one needs it. Raises ValueError, too, if a matrix cannot differ between examples."""
        super().look_through(model, spare)
        if viewed := self.viewed:
            for owner in viewed.owners:
                matrix_of(viewed, owner)
        return self

    def direction(self, step: int, sample: int = 0) -> GroupDirection:
        name, tensors = Direction(self.trajectory.seed, step, sample), [tensor for _, _, tensor in named(self.param_groups)]
        base = name if self.rank is None else LowRankDirection(name, self.rank, self.interval, tensors)
        return GroupDirection(base, tensors)

    def measure(self, probes: Probes, eps: float) -> Measured:
        """The losses of each example on both sides of its direction.

        Raises:
            ValueError: the closure does not tell the examples apart, or the model is not looked through.
        """
        if self.viewed is None:
            raise ValueError(
                "GRZO moves the weights for each example of the batch by something else, which weights in place cannot be: "
                "call look_through(model) before the first step."
            )
        losses: list[float] = []
        for sample in range(self.trajectory.samples):
            sides: list[list[float]] = []
            probes.both(self.direction(self.steps, sample), partial(self._each, probes, sides))
            losses += [loss for pair in zip(*sides, strict=True) for loss in pair]
        slopes = [(plus - minus) / (2 * eps) for plus, minus in zip(losses[::2], losses[1::2], strict=True)]
        return Measured(slopes, losses, sum(losses) / len(losses))

    def _each(self, probes: Probes, sides: list[list[float]]) -> float:
        """The mean loss; those of the examples are put into the list."""
        losses: Any = probes.closure()
        if not isinstance(losses, Tensor | np.ndarray) or losses.ndim != 1 or not len(losses):
            shape = f"a tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor | np.ndarray) else repr(losses)[:80]
            raise ValueError(
                f"step {self.steps}: GRZO needs the loss of each example, and the closure returned {shape}; return a vector "
                "with one loss for each, as torch's losses do with reduction='none'."
            )
        count = len(losses)
        if self.group_relative and count < 2:
            raise ValueError(
                "GRZO divides by how much the slopes of a batch differ, and there is one example: use at least 2 of them, or "
                "group_relative=False."
            )
        if sides and count != len(sides[0]):
            other = len(sides[0])
            raise ValueError(f"step {self.steps}: the closure returned {other} losses, then {count}; keep to one batch.")
        through = probes.moved
        assert isinstance(through, ThroughGroup), "as ModelView.probe has it"
        if other := through.counts - {count}:
            raise ValueError(
                f"step {self.steps}: modules were given {min(other)} rows where the closure returned {count} losses; the first "
                "dimension must be the examples, or say whose each row is with zolab.noise.rows_of."
            )
        sides.append(torch.as_tensor(losses).tolist())
        return sum(sides[-1]) / count

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        samples, divisor = self.trajectory.samples, self.rank or 1
        count, directions, rows = len(record.projected_grads) // samples, [], []
        for sample in range(samples):
            slopes = record.projected_grads[sample * count : (sample + 1) * count]
            spread, largest = pstdev(slopes) if self.group_relative else 1.0, max(map(abs, slopes))
            size = largest / (spread * count * samples) if spread else 0.0
            weights = tuple(p / largest if size else 0.0 for p in slopes)  # at most 1: what is too large shows in the rows
            directions.append(replace(self.direction(record.step, sample), weights=weights))
            divided = (size / (divisor if is_matrix(tensor) else 1) for tensor in self.trained().tensors)
            rows.append([-record.lrs[g] * step for g, step in zip(groups, divided, strict=True)])
        return Update(blocks, directions, rows, record.decays(groups))
