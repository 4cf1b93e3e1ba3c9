"""AdaMeZO: Adam's moments, made again from their directions instead of stored (arXiv 2605.00650)."""

from collections.abc import Iterable

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import check_betas, check_range, whole
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import MomentsUpdate, Update

SCALINGS = ("paper", "code")


class AdaMeZO(ZeroOrderOptimizer):
    """Step along truncated Adam moments of the two-point gradients g_k = p_k z_k.

    Only the scalars p_k are kept. Each step makes the last `horizon` directions again and sums both moments in one pass over
    the weights (Algorithm 3), so nothing of the size of a parameter is stored, not even for a moment. Two scalings exist:

        M = sum_k b1^k g_(t-k),  S = sum_k b2^k g_(t-k)^2
        "paper":  theta <- theta - lr (1-b1) M / sqrt((1-b2) S + delta)
        "code":   theta <- theta - lr gain M / (sqrt(S) + delta)

    with k = 0 ... horizon-1, or as far back as there are steps, and no bias correction. In the authors' code, and so in
    "code", steps 0 ... horizon are MeZO's, as are all if horizon is 1, and b2 = 0 divides by one. The paper asks for warm-up
    steps too, without saying how many; "paper" has none.

    Not for work where time matters more than memory: each step generates `horizon` directions. And in high dimension all
    coordinates share one second moment, as they do along Rademacher directions in any; MEAZO then does the same for the price
    of a scalar.

    Args:
        params, eps, weight_decay, seed, rounding, directions: as in `ZeroOrderOptimizer`.
        lr: learning rate. A step has about lr / 2 ("paper") or, past the warm-up, gain lr / 2 ("code") in every coordinate,
            whatever the slopes are. A learning rate of "code" must suit MeZO as well.
        betas: decay rates of the first and second moment, in [0, 1).
        horizon: how many steps a moment remembers, >= 1.
        scaling: "paper" or "code".
        gain: factor of "code"; the authors' code has 100, their toy problems 1.
        delta: what keeps the denominator from zero; by default 1e-8 ("paper") or 1e-5 ("code").

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        betas: tuple[float, float] = (0.7, 0.9),
        horizon: int = 10,
        scaling: str = "paper",
        gain: float = 100.0,
        delta: float | None = None,
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}.")
        if delta is None:
            delta = 1e-8 if scaling == "paper" else 1e-5
        check_range("delta", delta, delta >= 0)
        check_range("gain", gain, gain >= 0)
        self.betas, self.horizon, self.scaling = check_betas(betas), whole("horizon", horizon, 1), scaling
        self.gain, self.delta = float(gain), float(delta)
        numbers = {"betas": list(self.betas), "horizon": self.horizon, "gain": self.gain, "delta": self.delta}
        settings = {**numbers, "scaling": scaling}
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

    def begin(self) -> None:
        super().begin()
        self.moments: MomentsUpdate | None = None
        self.walked: list[float | MomentsUpdate | None] = []
        """Length of each step, None where it was MeZO's or is not known; of the last one what tells it."""

    @property
    def lengths(self) -> list[float | None]:
        """Length of each step, None where it was MeZO's or is not known: what `MeZOSwitch` follows."""
        return [step.length() if isinstance(step, MomentsUpdate) else step for step in self.walked]

    def settle(self) -> None:
        """Have the length of the last step as a number; a GPU is done with it once the next losses are known."""
        for step in self.walked[-1:]:
            self.walked[-1] = step.length() if isinstance(step, MomentsUpdate) else step

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update | MomentsUpdate:
        self.settle()
        self.moments, paper = None, self.scaling == "paper"
        if not paper and (self.horizon == 1 or record.step <= self.horizon):
            return self.against(record, blocks, groups)
        past = [record, *reversed(self.trajectory.records[-self.horizon + 1 :])][: self.horizon]
        directions = [self.direction(then.step) for then in past]
        slopes = [then.projected_grads[0] for then in past]
        beta1, beta2 = self.betas
        gain, mass = (1 - beta1, 1 - beta2) if paper else (self.gain, 1.0)
        first = [[-record.lrs[g] * gain * beta1**k * p for g in groups] for k, p in enumerate(slopes)]
        if not paper and beta2 == 0:
            return Update(blocks, directions, first, record.decays(groups))
        second = [[mass * beta2**k * p * p] * len(groups) for k, p in enumerate(slopes)]
        delta = {"inside": self.delta} if paper else {"outside": self.delta}
        self.moments = MomentsUpdate(blocks, directions, first, second, record.decays(groups), **delta)
        return self.moments

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        self.settle()
        self.walked.append(self.moments if tensors else None)
        self.moments = None
