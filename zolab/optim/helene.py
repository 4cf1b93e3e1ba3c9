"""HELENE: annealed momentum over a clipped diagonal of squared gradient estimates (arXiv 2411.10696)."""

import math
from collections.abc import Iterable

from torch import Tensor

from zolab.optim.checks import check_betas, check_range, whole
from zolab.optim.stateful import Slice, StatefulOptimizer
from zolab.optim.trajectory import StepRecord


class HELENE(StatefulOptimizer):
    """Divide an annealed momentum by a running square of the estimates p z, but by no less than a floor.

        a_t = b1 + (1 - b1) exp(-t / annealing),  m <- b1 m + a_t p z
        every k steps:  h <- b2 h + (1 - b2) (p z)^2,  from h = 0
        theta <- theta - lr m / (gamma max(h, floor) + delta)

    No code is public. The formulas are a transcription's, as the paper's text was not at hand, and these are ours: every
    default; the sum over a batch of single examples' squared gradients, which two losses of a batch do not tell, is the square
    of the batch's own estimate, and its factor, the batch size, is a part of gamma; the floor, which the paper sets for each
    layer, is one for all; t counts from 0. Directions are normal: along random signs h is one number.

    In high dimension (p z)^2 has the same expectation in every coordinate, so that h tells weights apart by little but noise.
    State: m and h, two tensors as large as the weights, in float32. Where the floor is above every h and nothing is annealed,
    this is `MeZOMomentum` at lr / (gamma floor + delta).

    Args:
        params, eps, weight_decay, seed, samples, rounding: as in `MeZO`.
        lr: learning rate.
        betas: decay rates of m and h, in [0, 1).
        annealing: steps in which the weight of new estimates falls towards b1, > 0; None leaves it at one.
        k: steps from one change of h to the next, >= 1.
        gamma, floor, delta: of the denominator, >= 0, not all zero in effect: gamma floor + delta > 0.

    Raises:
        ValueError: an argument is out of range.
    """

    slots = ("m", "h")
    power = 2

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        annealing: float | None = 1000.0,
        k: int = 10,
        gamma: float = 1.0,
        floor: float = 1.0,
        delta: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
    ):
        self.betas, self.k = check_betas(betas), whole("k", k, 1)
        for name, value in (("gamma", gamma), ("floor", floor), ("delta", delta)):
            check_range(name, value, value >= 0)
        if not gamma * floor + delta > 0:
            raise ValueError("gamma floor + delta must be > 0, since steps are divided by it.")
        if annealing is not None and not 0 < annealing < math.inf:
            raise ValueError(f"annealing must be a number of steps > 0, or None; got {annealing}.")
        self.annealing = None if annealing is None else float(annealing)
        self.gamma, self.floor, self.delta = float(gamma), float(floor), float(delta)
        numbers = {"gamma": self.gamma, "floor": self.floor, "delta": self.delta}
        settings = {"betas": list(self.betas), "annealing": self.annealing, "k": self.k, **numbers}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            settings=settings,
        )

    def share(self, step: int) -> float:
        """a_t, the weight of a step's estimate in m."""
        beta1 = self.betas[0]
        return 1.0 if self.annealing is None else beta1 + (1 - beta1) * math.exp(-step / self.annealing)

    def change(self, part: Slice, state: dict[str, Tensor], record: StepRecord) -> None:
        beta1, beta2 = self.betas
        gradient = self.gradient(part, record)
        m, h = state["m"].mul_(beta1).add_(gradient, alpha=self.share(record.step)), state["h"]
        if record.step % self.k == 0:
            h.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        part.weights.addcdiv_(m, h.clamp(min=self.floor).mul_(self.gamma).add_(self.delta), value=-part.lr)
