"""MeZO-Adam: Adam on two-point gradients, with both moments stored (arXiv 2305.17333, appendix B)."""

from collections.abc import Iterable

from torch import Tensor

from zolab.optim.checks import check_betas, check_range
from zolab.optim.stateful import Slice, StatefulOptimizer
from zolab.optim.trajectory import StepRecord


class MeZOAdam(StatefulOptimizer):
    """AdamW's step with p z for the gradient.

    State: two tensors as large as the weights, in float32, or float64 for such weights. Not where that does not fit: see
    `AdaMeZO` and `MEAZO`. With one Rademacher direction a step, v is the same in every coordinate.

    Args:
        params, eps, weight_decay, seed, samples, rounding, directions: as in `MeZO`.
        lr: learning rate; a step has about lr / 4 in every coordinate, whatever the slopes are, and lr in the first one.
        betas: decay rates of the first and second moment, in [0, 1).
        delta: what keeps the denominator from zero (Adam's own eps).

    Raises:
        ValueError: an argument is out of range.
    """

    slots = ("m", "v")
    power = 2

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        delta: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        check_range("delta", delta, delta >= 0)
        self.betas, self.delta = check_betas(betas), float(delta)
        own = {"betas": list(self.betas), "delta": self.delta}
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
        (beta1, beta2), time = self.betas, record.step + 1
        gradient = self.gradient(part, record)
        m = state["m"].lerp_(gradient, 1 - beta1)
        v = state["v"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (v / (1 - beta2**time)).sqrt_().add_(self.delta)
        part.weights.addcdiv_(m, denominator, value=-part.lr / (1 - beta1**time))
