"""MeZO: zeroth-order SGD in the memory of inference (Malladi et al., arXiv 2305.17333)."""

from collections.abc import Iterable

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.trajectory import StepRecord
from zolab.reversible import Update


class MeZO(ZeroOrderOptimizer):
    """Step against the two-point estimate of the gradient, theta <- theta - lr p z (Algorithm 1).

    p = (L(theta + eps z) - L(theta - eps z)) / (2 eps) with z ~ N(0, I); several samples are averaged (n-SPSA,
    Definition 1). State: none; a step costs two forward passes a sample. Not for problems where gradients are affordable:
    first-order methods need far fewer steps. Arguments and errors: `ZeroOrderOptimizer`.

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
    ):
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, seed=seed, samples=samples)

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        return self.against(record, blocks, groups)
