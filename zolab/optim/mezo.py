"""MeZO: zeroth-order SGD in the memory of inference (Malladi et al., arXiv 2305.17333)."""

import math
from collections.abc import Iterable, Sequence

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class MeZO(ZeroOrderOptimizer):
    """Step against the two-point estimate of the gradient, theta <- theta - lr p z (Algorithm 1).

    p = (L(theta + eps z) - L(theta - eps z)) / (2 eps) with z ~ N(0, I) or of random signs; several samples are averaged
    (n-SPSA, Definition 1). State: none; a step costs two forward passes a sample. Not for problems where gradients are
    affordable: first-order methods need far fewer steps.

    With `sigma`, block j is probed along sigma_j z_j and steps along it, so that its learning rate is lr sigma_j^2: the
    direction of ZO Fine-tuner (arXiv 2510.00419) with scales that stay as they are.

    Args:
        params, lr, eps, weight_decay, seed, samples, rounding, directions: as in `ZeroOrderOptimizer`.
        sigma: standard deviation of each parameter's directions, in the order of the parameters, frozen ones included; all
            one by default.

    Raises:
        ValueError: an argument is out of range, or `sigma` has another length than the parameters.

    Example:
        >>> optimizer = MeZO(model.named_parameters(), lr=1e-5, eps=1e-3)
        >>> loss = optimizer.step(lambda: loss_of(model, batch))
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        sigma: Sequence[float] | None = None,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        self.sigma = None if sigma is None else tuple(map(float, sigma))
        settings = {} if self.sigma is None else {"sigma": list(self.sigma)}
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

    @classmethod
    def try_settings(cls, *, sigma: Sequence[float] | None = None, **settings) -> None:
        super().try_settings(sigma=None if sigma is None else list(sigma)[:1], **settings)  # how many there must be shows later

    def fits(self) -> None:
        if self.sigma is not None:
            count = sum(len(group["params"]) for group in self.param_groups)
            if len(self.sigma) != count or not all(0 <= s < math.inf for s in self.sigma):
                wrong = [s for s in self.sigma if not 0 <= s < math.inf]
                got = f"{wrong[0]} among them" if wrong else f"{len(self.sigma)} numbers"
                raise ValueError(f"sigma must be {count} finite numbers of at least 0, one for each parameter; got {got}.")

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        return self.against(record, blocks, groups)

    def scales(self, sigmas: tuple[float, ...], blocks: tuple[int, ...]) -> list[float]:
        return super().scales(sigmas, blocks) if self.sigma is None else [self.sigma[block] for block in blocks]
