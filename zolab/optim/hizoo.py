"""HiZOO: a diagonal curvature, measured by a third forward pass, shapes probe and step (arXiv 2402.15173, Algorithm 1)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from zolab.noise import Direction, GivenDirection, MadeDirection, ScaledDirection
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import LARGEST, check_fraction
from zolab.optim.stateful import wide_bytes
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import ScaledUpdate, apply

ESTIMATORS = ("published", "unbiased")


class HiZOO(ZeroOrderOptimizer):
    """Probe along u = z / sqrt(h_t) and step against p z / sqrt(h_(t+1)), where h follows the curvature of the loss.

        c = (L(theta + eps u) + L(theta - eps u) - 2 L(theta)) / eps^2,  which is u^T C u with C the Hessian of the loss
        h_(t+1) = (1 - alpha) h_t + alpha e,  within the bounds, from h_0 = 1;  1 / h is the diagonal of the paper's Sigma
        "published":  e = |c| / 2 h z^2, as the authors' code has it
        "unbiased":   e = c / 2 h (z^2 - 1), whose expectation is the diagonal of C

    Where C is positive, the mean of the published e is too large by h / 2 times the trace of Sigma^(1/2) C Sigma^(1/2): with d
    weights and a diagonal C, h tends to (1 + d / 2) diag C, and as h grows, the steps shrink. The code takes a fourth forward
    pass to report a loss; it is left out. With alpha = 0 a step is MeZO's, and the third forward pass is wasted.

    Directions are normal: along random signs z^2 is one everywhere, which tells no weight from another.

    State: 1 / sqrt(h), one tensor as large as the weights, in float32, or float64 for such weights; a change of h by less than
    2e-7 h is lost. It is not part of `state_dict`: `load_state_dict` makes it again from the trajectory, at the price of one
    pass over the weights for each step. Not for models in which many weights share the curvature: c is a sum over all of
    them, and what it tells of a single one is mostly noise.

    Args:
        params, eps, weight_decay, seed, rounding: as in `MeZO`; eps stays as it is, since the curvature depends on it.
        lr: learning rate; a weight with the curvature h has the learning rate lr / h.
        alpha: share of the new estimate in h, in [0, 1).
        estimator: "published" or "unbiased".
        bounds: least and greatest h, 1e-30 <= least <= 1 <= greatest <= 1e30. The paper assumes such bounds; these are ours.

    Raises:
        ValueError: an argument is out of range.
    """

    uses_centre = True
    along = ScaledDirection

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        alpha: float = 1e-8,
        estimator: str = "published",
        bounds: tuple[float, float] = (1e-6, 1e6),
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
    ):
        check_fraction("alpha", alpha)
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")
        if len(bounds) != 2 or not 1e-30 <= bounds[0] <= 1 <= bounds[1] <= 1e30:  # so that 1 / sqrt(h) is a float32, too
            raise ValueError(f"bounds must be (least, greatest), 1e-30 <= least <= 1 <= greatest <= 1e30; got {bounds}.")
        self.alpha, self.estimator, self.bounds = float(alpha), estimator, (float(bounds[0]), float(bounds[1]))
        settings = {"alpha": self.alpha, "estimator": estimator, "bounds": list(self.bounds)}
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, seed=seed, rounding=rounding, settings=settings)

    @classmethod
    def stored_bytes(cls, tensor: Tensor, **settings) -> int:
        return wide_bytes(tensor)

    def begin(self) -> None:
        super().begin()
        self.factors: dict[int, Tensor] = {}
        """1 / sqrt(h) of each block, flat; empty before the first step."""

    @property
    def curvature(self) -> dict[int, Tensor]:
        """h of each block, flat, made for the caller; empty before the first step."""
        return {block: factor.square().reciprocal_() for block, factor in self.factors.items()}

    def check_record(self, record: StepRecord) -> None:
        super().check_record(record)
        if len(record.losses) != 3:
            raise ValueError(f"step {record.step} was recorded without the loss at the weights, which HiZOO needs.")

    def propose(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> tuple[float, ...]:
        eps, first = float(self.param_groups[0]["eps"]), self.trajectory.eps
        if eps != first:
            raise ValueError(f"HiZOO's eps must stay {first}, since its curvature depends on it; got {eps}.")
        return ()

    def probe(self, step: int, sample: int = 0) -> GivenDirection:
        """u = z / sqrt(h); its values are made only if somebody prescribes z instead of drawing it."""
        self._fill_factors()
        z = self.direction(step)
        if isinstance(z, Direction):
            return ScaledDirection(self.factors, z)
        return MadeDirection(lambda block, span: z.part(block, span) * self.factors[block][span])

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> ScaledUpdate:
        """h_(t+1) = h_t (1 - alpha + gain z^2), or with z^2 - 1 in place of z^2; gain is alpha c / 2."""
        self._fill_factors()
        steps = [-record.lrs[g] * record.projected_grads[0] for g in groups]
        least, greatest = (bound**-0.5 for bound in reversed(self.bounds))
        growth = (1 - self.alpha, self._gain(record), float(self.estimator == "unbiased"), least, greatest)
        return ScaledUpdate(blocks, self.direction(record.step), self.factors, steps, record.decays(groups), growth)

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        if tensors is None:  # otherwise the step has done it
            for tensor, block, group in zip(self.trained().tensors, blocks, groups, strict=True):
                apply([torch.zeros_like(tensor)], self.update(record, (block,), [group]))

    def _gain(self, record: StepRecord) -> float:
        """alpha c / 2."""
        plus, minus, centre = record.losses
        gain = self.alpha * (plus + minus - 2 * centre) / (2 * self.trajectory.eps**2)
        if not abs(gain) <= LARGEST:
            raise FloatingPointError(
                "the curvature has no finite size in float32; the weights are as before the step. Raise eps."
            )
        return abs(gain) if self.estimator == "published" else gain

    def _fill_factors(self) -> None:
        tensors, blocks, *_ = self.trained()
        for tensor, block in zip(tensors, blocks, strict=True):
            if block not in self.factors:
                dtype = torch.promote_types(tensor.dtype, torch.float32)
                self.factors[block] = torch.ones(tensor.numel(), dtype=dtype, device=tensor.device)
