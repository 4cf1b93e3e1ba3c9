"""Forward gradient: the exact slope along a direction, by forward-mode differentiation (arXiv 2202.08587, 2402.11592)."""

from collections.abc import Iterable
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from zolab.noise import Direction, GivenDirection, materialise
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.probing import Measured, Probes
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class ForwardGradient(ZeroOrderOptimizer):
    """Step against p z, where p is the derivative of the loss along z itself and not a difference of two losses.

        p = z . grad L(theta),  theta <- theta - lr p z        ("Forward-Grad" of the benchmark, arXiv 2402.11592)

    One pass carries every intermediate value together with its derivative along z (`torch.autograd.forward_ad`), so that there
    is no eps and no error of a finite difference; the noise of a single direction stays. This is a first-order method without a
    backward pass, not a zeroth-order one: it stands beside MeZO for what the finite difference costs.

    It takes a loss that is a tensor and a model all of whose operations have a forward-mode derivative. Attention is computed
    by its definition while the closure runs, since torch's fused kernels have none. Weights are where they are all the time.

    State: none. While the closure runs, z is held in the weights' dtype (1 x the weights), and each value beside its
    derivative. A pass does about twice the arithmetic of a forward pass and is counted as two; in torch it takes longer: with
    `tiny-reviews` on a CPU a step takes about as long as two of MeZO's. Not for closures that return a number, such as an
    accuracy.

    Args:
        params, lr, weight_decay, seed, samples, rounding, directions: as in `MeZO`.
        eps: not used; here so that methods can be exchanged.

    Raises:
        ValueError: an argument is out of range.
    """

    differentiates = True

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
        )

    def measure(self, probes: Probes, eps: float) -> Measured:
        """The losses at the weights and their derivatives.

        Raises:
            ValueError: the loss has no derivative, or an operation on the way to it has none.
        """
        losses, slopes = [], []
        for sample in range(self.trajectory.samples):
            duals: list[Any] = []
            with self._tangents(probes.tensors, self.direction(self.steps, sample)):
                losses.append(probes.evaluate(partial(_apart, probes.closure, duals), nullcontext())())
            if duals[-1] is None:
                raise ValueError(
                    f"step {self.steps}: the loss has no forward-mode derivative; the closure must return a tensor that is "
                    "computed from the weights, without .item(), .detach() or NumPy on the way."
                )
            slopes.append(float(duals[-1]))
        return Measured(slopes, losses, sum(losses) / len(losses))

    @contextmanager
    def _tangents(self, tensors: list[Tensor], direction: Direction | GivenDirection):
        """Inside the block the weights carry z as their derivative."""
        _, blocks, *_ = self.trained()
        with (
            forward_ad.dual_level(),
            torch.autograd._unsafe_preserve_version_counter(tuple(tensors)),  # their values do not change
            sdpa_kernel(SDPBackend.MATH),
        ):
            for tensor, block in zip(tensors, blocks, strict=True):
                z = materialise(direction, block, tensor.detach()).to(tensor.dtype)
                tensor.copy_(forward_ad.make_dual(tensor.detach(), z))
            try:
                yield
            except NotImplementedError as error:
                reason = str(error).split("\n")[0].split(". ")[0]
                raise ValueError(
                    f"step {self.steps}: an operation of the model has no forward-mode derivative ({reason}); take a "
                    "zeroth-order method."
                ) from error

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        return self.against(record, blocks, groups)


def _apart(closure: Any, duals: list[Any]) -> Any:
    """The loss of a closure; its derivative is put into the list."""
    loss = closure()
    duals.append(None)
    if isinstance(loss, Tensor):
        loss, duals[-1] = forward_ad.unpack_dual(loss)
    return loss
