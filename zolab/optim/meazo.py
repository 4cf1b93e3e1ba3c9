"""MEAZO: Adam's adaptivity as one scalar, in the memory of MeZO (arXiv 2605.03869)."""

from collections.abc import Iterable

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import check_fraction, check_range
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class MEAZO(ZeroOrderOptimizer):
    """Divide MeZO's step by a running root mean square of the projected gradients.

        v_t = beta v_(t-1) + (1 - beta) p_t^2,   theta <- theta - lr p z / (sqrt(v_t / (1 - beta^t)) + delta)

    In high dimension p z has the same expected square in every coordinate, so one scalar stands for Adam's whole second
    moment. With several samples, p_t^2 is their mean. Not for problems with few dimensions, where coordinates differ.

    Args:
        params, eps, weight_decay, seed, samples, rounding, directions: as in `MeZO`.
        lr: learning rate; a step has about lr in every coordinate, whatever the slopes are.
        beta: decay rate of v, in [0, 1). The paper's value is not known to us; 0.9 to 0.99 is usual.
        delta: what keeps the denominator from zero.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        beta: float = 0.99,
        delta: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        check_fraction("beta", beta)
        check_range("delta", delta, delta >= 0)
        self.beta, self.delta = float(beta), float(delta)
        settings = {"beta": self.beta, "delta": self.delta}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
            settings=settings,
        )

    def begin(self) -> None:
        super().begin()
        self.v = 0.0

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        corrected = self._second_moment(record) / (1 - self.beta ** (record.step + 1))
        scale = corrected**0.5 + self.delta
        return self.against(record, blocks, groups, 1 / scale if scale else 1.0)

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        self.v = self._second_moment(record)

    def _second_moment(self, record: StepRecord) -> float:
        square = sum(p * p for p in record.projected_grads) / len(record.projected_grads)
        return self.beta * self.v + (1 - self.beta) * square
