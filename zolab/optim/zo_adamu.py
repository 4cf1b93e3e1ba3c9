"""ZO-AdaMU: the perturbation itself carries the momentum (arXiv 2312.15184, Algorithm 1)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from zolab.noise import GivenDirection
from zolab.optim.checks import check_range, plain
from zolab.optim.stateful import Slice, StatefulOptimizer
from zolab.optim.trajectory import StepRecord

PHI = (1.0, 0.1, 1.5)
"""How fast the horizon shrinks, of alpha, beta1 and beta2."""


class Mix(NamedTuple):
    """alpha splits the variance between fresh noise and momentum; beta1 mixes them; beta2 mixes their squares."""

    alpha: float
    beta1: float
    beta2: float


def annealed(step: int, mix: Mix, phases: tuple[int, int, int]) -> Mix:
    """The coefficients of a step (Algorithm 1 and section 3.3; the horizon of the cosine shrinks as it is walked).

    Args:
        step: its number, from 0.
        mix: the last coefficients.
        phases: the steps T1, T2 and T3, as `check_phases` allows them.
    """
    warm, settled, _ = phases
    if step < warm:
        return Mix(1.0, 1.0, 1.0)
    if step >= settled:
        return mix
    elapsed = step - warm
    return Mix(*((1 + math.cos(math.pi * elapsed / _horizon(phases, elapsed, phi))) / 2 for phi in PHI))


def check_phases(phases: Sequence[int]) -> None:
    """Raise ValueError unless phases are three steps in ascending order between which the cosine's horizon stays positive."""
    if len(phases) != 3 or not 0 <= phases[0] <= phases[1] <= phases[2]:
        raise ValueError(f"phases must be three steps (T1, T2, T3) in ascending order, got {phases}.")
    warm, settled, _ = phases
    if warm < settled and _horizon(phases, settled - 1 - warm, max(PHI)) <= 0:
        raise ValueError(f"phases {tuple(phases)}: the cosine's horizon shrinks to nothing before T2; choose T3 below 3 T2.")


def _horizon(phases: Sequence[int], elapsed: int, phi: float) -> float:
    warm, settled, last = phases
    shrink = (last - settled) / (settled - warm)
    return last - phi * shrink * elapsed


class ZOAdaMU(StatefulOptimizer):
    """Probe along a simulated momentum m instead of along fresh noise, and divide the step by a simulated second moment.

        fresh ~ N(0, alpha),   drift ~ N(m_(t-1), 1 - alpha),   m_t = beta1 fresh + (1 - beta1) drift
        v_t = beta2 fresh^2 + (1 - beta2) drift^2,   theta <- theta - lr p m_t / sqrt(v_t + delta)

    p is measured along m_t. The mix is annealed: all ones before step T1 (then m / sqrt(v) is the sign of the noise), a
    shortening half-cosine until T2, constants after it. This is the paper's Algorithm 1; its published code does not run.
    State: m, one tensor as large as the weights; v is made again. Not where memory is short. With Rademacher directions the
    noise is of random signs, with the same mean and variance.

    Args:
        params, lr, eps, weight_decay, seed, rounding, directions: as in `MeZO`.
        mix: (alpha, beta1, beta2) after T2, each in [0, 1]; the paper's are (0.5, 0.9, 0.01).
        phases: (T1, T2, T3) in steps, T1 <= T2 <= T3 < about 3 T2; the paper's for 20,000 steps. T1 = T2 leaves the cosine out.
        delta: what keeps the denominator from zero.

    Raises:
        ValueError: an argument is out of range.
    """

    slots = ("m",)
    along = GivenDirection

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        mix: tuple[float, float, float] = (0.5, 0.9, 0.01),
        phases: tuple[int, int, int] = (1024, 16_000, 20_000),
        delta: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        if len(mix) != 3 or not all(0 <= value <= 1 for value in mix) or (mix[1] == 1 and mix[2] < 1):
            raise ValueError(f"mix must be (alpha, beta1, beta2) in [0, 1], with beta1 < 1 unless beta2 is 1; got {mix}.")
        check_phases(phases)
        check_range("delta", delta, delta >= 0)
        self.mix, self.delta = Mix(*map(float, mix)), float(delta)
        self.phases = tuple(plain(phases))
        settings = {"mix": list(self.mix), "phases": list(self.phases), "delta": self.delta}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            rounding=rounding,
            directions=directions,
            settings=settings,
        )

    def mix_at(self, step: int) -> Mix:
        """The annealed coefficients."""
        return annealed(step, self.mix, self.phases)

    def probe(self, step: int, sample: int = 0) -> GivenDirection:
        tensors, blocks, *_ = self.trained()
        values: list[Any] = [None] * (max(blocks) + 1)
        for tensor, block in zip(tensors, blocks, strict=True):
            values[block] = self.state_of(block, tensor)["m"]
        return GivenDirection(values)

    def state_of(self, block: int, tensor: Tensor) -> dict[str, Tensor]:
        new = block not in self.stored
        state = super().state_of(block, tensor)
        if new:
            self._move_on(Slice(state["m"], block, 0, 0.0), state["m"], 0)
        return state

    def change(self, part: Slice, state: dict[str, Tensor], record: StepRecord) -> None:
        m = state["m"]
        alpha, beta1, beta2 = self.mix_at(record.step)
        fresh = self.normal(part, record.step, 0) * alpha**0.5
        v = beta2 * fresh.square()
        if beta1 < 1:
            v += (1 - beta2) * ((m - beta1 * fresh) / (1 - beta1)).square()
        part.weights.addcdiv_(m, v.add_(self.delta).sqrt_(), value=-part.lr * record.projected_grads[0])
        self._move_on(part, m, record.step + 1)

    def _move_on(self, part: Slice, m: Tensor, step: int) -> None:
        """m_(step-1) becomes m_step."""
        alpha, beta1, _ = self.mix_at(step)
        m *= 1 - beta1
        m += beta1 * alpha**0.5 * self.normal(part, step, 0)
        if beta1 < 1 and alpha < 1:
            m += (1 - beta1) * (1 - alpha) ** 0.5 * self.normal(part, step, 1)
