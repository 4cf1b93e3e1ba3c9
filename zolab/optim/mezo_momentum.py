"""MeZO with momentum: heavy-ball SGD on two-point gradients (the "zo_sgd_momen" of arXiv 2402.11592)."""

from collections.abc import Iterable

from torch import Tensor

from zolab.optim.checks import check_fraction
from zolab.optim.stateful import Slice, StatefulOptimizer
from zolab.optim.trajectory import StepRecord


class MeZOMomentum(StatefulOptimizer):
    """m <- momentum m + p z,  theta <- theta - lr m  (torch's convention: no factor 1 - momentum).

    State: one tensor as large as the weights. Not where that does not fit: `AdaMeZO` with betas (momentum, 0), scaling "code"
    and gain 1 makes a truncated m without storing it, after its first steps, which are MeZO's.

    Args:
        params, lr, eps, weight_decay, seed, samples, rounding, directions: as in `MeZO`.
        momentum: decay rate of m, in [0, 1).

    Raises:
        ValueError: an argument is out of range.
    """

    slots = ("m",)

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        check_fraction("momentum", momentum)
        self.momentum = float(momentum)
        own = {"momentum": self.momentum}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
            settings=own,
        )

    def change(self, part: Slice, state: dict[str, Tensor], record: StepRecord) -> None:
        m = state["m"].mul_(self.momentum).add_(self.gradient(part, record))
        part.weights.sub_(m, alpha=part.lr)
