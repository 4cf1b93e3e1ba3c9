"""DiZO: MeZO, whose walk is stretched tensor by tensor now and then, by scales found with forward passes (arXiv 2502.03304)."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from zolab.noise import Direction, GivenDirection, direction
from zolab.optim.anchor import AnchoredOptimizer
from zolab.optim.checks import check_fraction, check_range, whole
from zolab.optim.probing import Measured, Probes
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class DiZO(AnchoredOptimizer):
    """MeZO's steps, but every so many steps the way from the first weights is scaled, by a ratio r_j for each tensor.

        theta_j <- theta0_j + r_j (theta_j - theta0_j),  1 - tau <= r_j <= 1 + tau
        from r = 1, `iterations` times:  p = (L(r + radius c / n) - L(r - radius c / n)) / (2 radius),  r <- r - rate p c

    with n_j = |theta_j - theta0_j| and c_j standard normal, cut so that a probe leaves the bounds by nothing at r = 1. The
    ratios are scales that forward passes choose while a run goes on: the rival of those that ZO Fine-tuner learns beforehand.

    The formulas and numbers are those of the authors' code (github.com/Skilteee/DiZO, large_models/trainer.py and dizo.sh), as
    read; its ratio is gamma / n. It differs in three ways. It scales the weights of attention's keys and values alone, and here
    each trained tensor has a ratio. It scales after a MeZO step, on batches of their own, and here a scaling takes the place of
    a MeZO step, on that step's batch. And it moves the weights to and fro with rounding, as MeZO's code does.

    State: theta0, one tensor set as large as the weights; a scaling step holds theta - theta0 in float32 beside it. A scaling
    step costs 2 `iterations` forward passes. A run resumes by replaying from its beginning, whatever checkpoints there are.

    Args:
        params, lr, eps, weight_decay, seed, rounding, directions: as in `MeZO`.
        period: steps from one scaling to the next, >= 1.
        iterations: two-point estimates of a scaling, >= 1.
        radius: of these, > 0, in units of the weights: of the distance n_j.
        rate: their learning rate, >= 0.
        tau: how far ratios go from one, in [0, 1). With tau = 0 a scaling does nothing.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        period: int = 50,
        iterations: int = 10,
        radius: float = 0.1,
        rate: float = 2.0,
        tau: float = 0.2,
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        self.period, self.iterations = whole("period", period, 1), whole("iterations", iterations, 1)
        if not 0 < radius < np.inf:
            raise ValueError(f"radius must be > 0 and finite, got {radius}.")
        check_range("rate", rate, rate >= 0)
        check_fraction("tau", tau)
        self.radius, self.rate, self.tau = float(radius), float(rate), float(tau)
        numbers = {"radius": self.radius, "rate": self.rate, "tau": self.tau}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            rounding=rounding,
            directions=directions,
            settings={"period": self.period, "iterations": self.iterations, **numbers},
        )

    @classmethod
    def forwards(cls, steps: int = 1, *, period: int = 50, iterations: int = 10, **settings) -> int:
        scalings = max(steps - 1, 0) // period
        return 2 * (steps - scalings) + 2 * iterations * scalings

    def begin(self) -> None:
        super().begin()
        self.walked: GivenDirection | None = None
        """theta - theta0, while a scaling step is taken."""

    def anchor_of(self, step: int) -> int:
        return 0

    def depart(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> None:
        super().depart(tensors, blocks)
        if self.steps and self.steps % self.period == 0:
            values: list = [None] * (max(blocks) + 1)
            for block, tensor, start in zip(blocks, tensors, self.anchor, strict=True):
                wide = start.float() if start.element_size() < 4 else start
                values[block] = (tensor.detach().to(wide.dtype) - wide).view(-1)
            self.walked = GivenDirection(values)

    def measure(self, probes: Probes, eps: float) -> Measured:
        if self.walked is None:
            return super().measure(probes, eps)
        _, blocks, *_ = self.trained()
        lengths = np.array([float(self.walked.values[block].double().norm()) for block in blocks])
        ratios, losses, slopes = np.ones(len(blocks)), [], []
        for k in range(self.iterations):
            c = direction(Direction(self.trajectory.seed, self.steps, k), 0, len(blocks)).double().numpy()
            c = np.clip(c, -self.tau * lengths / self.radius, self.tau * lengths / self.radius)
            away = self.radius * np.divide(c, lengths, out=np.zeros_like(c), where=lengths > 0)
            sides = [probes.plus(self.walked, scales=(ratios + side * away - 1).tolist()) for side in (1, -1)]
            slopes.append((sides[0] - sides[1]) / (2 * self.radius))
            losses += sides
            ratios = np.clip(ratios - self.rate * slopes[-1] * c, 1 - self.tau, 1 + self.tau)
        return Measured(slopes, losses, sum(losses[:2]) / 2, tuple(ratios.tolist()))

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        if self.walked is None:
            return self.against(record, blocks, groups)
        return Update(blocks, [self.walked], [[ratio - 1 for ratio in record.sigmas]], record.decays(groups))

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        self.walked = None
