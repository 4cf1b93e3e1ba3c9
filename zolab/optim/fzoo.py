"""FZOO: many one-sided probes a step, divided by the spread of their losses (arXiv 2506.09034)."""

from collections.abc import Iterable
from statistics import pstdev

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import whole
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update

SAMPLES = 8


class FZOO(ZeroOrderOptimizer):
    """Step against one-sided slopes along n random sign vectors u_i, in units of how much their losses differ.

        l_i = L(theta + eps u_i),  l_0 = L(theta),  s = the standard deviation of l_1 ... l_n  (over n, not n - 1)
        theta <- theta - lr / (n s) sum_i (l_i - l_0) u_i

    s is about eps times the length of the gradient, so that a step has about the same length however steep the loss is, as
    that of normalised SGD; multiplying the loss by a constant changes nothing. Where all n losses are equal they tell no
    direction from another, and the step is zero, but for weight decay.

    This is the authors' code (github.com/DKmiyan/FZOO, trainer.py), as read. The paper's own text was not at hand; by a
    transcription of it the slopes are divided by eps and s is over n - 1: the same steps at sqrt((n - 1) / n) / eps times the
    paper's learning rate. The code evaluates the probes one after the other, as is done here; the paper also runs them as one
    batch, and has a variant that takes half of the losses from the step before. Both are left out, as from the code's loop.

    State: none; a step costs n + 1 forward passes. Not where the loss is coarse, as in half precision: a difference of losses
    is taken on one side only, and has an error of eps times the curvature.

    Args:
        params, eps, weight_decay, seed, rounding, directions: as in `MeZO`; directions are "rademacher" by default.
        lr: learning rate; a step moves a weight by about lr / sqrt(n) (the code's README: 5e-5 with eps 1e-4).
        samples: n, >= 2, since the standard deviation of one loss is none.

    Raises:
        ValueError: an argument is out of range.
    """

    sides = 1

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-5,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = SAMPLES,
        rounding: str | None = None,
        directions: str = "rademacher",
    ):
        if whole("samples", samples, 1) < 2:
            raise ValueError(f"FZOO needs at least 2 samples, since one loss has no standard deviation; {SAMPLES} is usual.")
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
            settings={"directions": directions},  # even the one that others leave out, since it is not the default here
        )

    @classmethod
    def forwards(cls, steps: int = 1, *, samples: int = SAMPLES, **settings) -> int:
        return super().forwards(steps, samples=samples, **settings)

    def check_record(self, record: StepRecord) -> None:
        super().check_record(record)
        if len(record.losses) != len(record.projected_grads) + 1:
            raise ValueError(f"step {record.step} was recorded without its losses, which FZOO needs.")

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        *losses, centre = record.losses
        spread = pstdev(losses)
        slopes = tuple((loss - centre) / spread if spread else 0.0 for loss in losses)
        return self.against(record._replace(projected_grads=slopes), blocks, groups)
