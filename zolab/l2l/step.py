"""One step of learning to learn (arXiv 2510.00419, Algorithm 2), in the memory of plain SGD.

The published way copies the model, moves the copy to theta' = theta - lr_zo p u through a graph over all weights, and keeps
all their gradients. But u_j = sigma_j z_j is linear in sigma_j, so that

    dL(theta') / dsigma_j = -lr_zo p <grad_j L(theta'), z_j>

needs no graph and no copy: move theta itself, let a backward pass hand over one gradient after another, take its product with
the direction made again from its key, and move theta back, which is exact.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zolab import noise
from zolab.l2l.config import GRADIENTS, MEASURED
from zolab.l2l.parts import Parts
from zolab.models.gradients import consumed, length, squares
from zolab.models.shards import own_part
from zolab.noise import Direction, GivenDirection
from zolab.pertnn import PertNN, features
from zolab.pertnn.card import brief
from zolab.probe.blocks import mean_and_variance
from zolab.probe.in_place import Perturbation
from zolab.theory.terms import StepTerms

Closure = Callable[[], Tensor]


@dataclass
class History:
    """What PertNN is told of a task's last step: its losses, zero before the first, and raw sigma, one before the first."""

    losses: tuple[float, float] = (0.0, 0.0)
    raw: Sequence[float] = field(default=(1.0,))


@dataclass(frozen=True)
class Outcome:
    """What a step measured.

    Args:
        losses: loss_plus and loss_minus.
        projected_grad: p.
        meta_loss: L(theta'); of the expectations, the expected change of the loss; of "gain", its logarithm.
        loss: of the clean weights, before the SGD step.
        raw: sigma of each block before the budget.
        sigma: after it.
        slope: of the meta-loss in sigma, an entry a block.
    """

    losses: tuple[float, float]
    projected_grad: float
    meta_loss: float
    loss: float
    raw: np.ndarray
    sigma: np.ndarray
    slope: np.ndarray


class MetaStep:
    """Algorithm 2's step on one minibatch: PertNN learns from the loss after a zeroth-order step; the model takes one of SGD.

    Args:
        tensors: the model's trainable tensors, in the order of the PertNN's blocks; or their `Parts`, if ranks share them.
        pertnn: it is trained.
        outer: optimizer of the PertNN.
        lr: learning rate of the model's SGD; may be set anew before each step.
        momentum: of the model's SGD; not 0 takes memory of the weights' size.
        lr_zo: learning rate of the zeroth-order step in the meta-loss.
        eps: finite-difference radius.
        gradient: which of `GRADIENTS`.
        through_budget: differentiate the budget's factor f too; published code takes it as a constant.
        clip: largest norm of the model's gradient, or None.
        exact: p is the clean gradient's <grad L, u>, and the losses L +- eps p: two forward passes less.
        fused: the model's step is taken inside the backward pass, tensor by tensor, so that its gradients never exist
            together; without clipping, which needs them all.
        seed: of the directions.

    Raises:
        ValueError: the settings do not go together, or the PertNN is for other tensors.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor] | Parts,
        pertnn: PertNN,
        outer: torch.optim.Optimizer,
        *,
        lr: float,
        momentum: float = 0.0,
        lr_zo: float,
        eps: float = 1e-3,
        gradient: str = "sample",
        through_budget: bool = False,
        clip: float | None = None,
        exact: bool = False,
        fused: bool = False,
        seed: int = 0,
    ):
        if gradient not in GRADIENTS:
            raise ValueError(f"unknown gradient {gradient!r}; choose {', '.join(GRADIENTS)}.")
        if fused and clip is not None:
            raise ValueError("the fused step cannot clip: the norm is known only when every gradient is; set clip to None.")
        if fused and exact:
            raise ValueError("the fused step forgets the gradients that an exact p is made of; set exact or fused to False.")
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}.")
        self.parts = tensors if isinstance(tensors, Parts) else Parts(tensors)
        sizes, theirs = [p.numel() for p in self.parts.params], list(pertnn.blocks.numels)
        if sizes != theirs:
            raise ValueError(f"the PertNN is for tensors of {brief(theirs)} weights, in this order, and got {brief(sizes)}.")
        self.tensors, self.pertnn, self.outer = self.parts.tensors, pertnn, outer
        self.lr, self.momentum = lr, momentum
        self.velocity: list[Tensor | None] = [None] * len(self.tensors)
        self.lr_zo, self.eps, self.gradient, self.through_budget = lr_zo, eps, gradient, through_budget
        self.clip, self.exact, self.fused, self.seed = clip, exact, fused, seed
        self.numbers = tuple(range(len(self.tensors)))
        self.steps = 0

    def __call__(self, closure: Closure, history: History, terms: StepTerms | None = None) -> Outcome:
        """Take a step.

        Args:
            closure: the minibatch's loss as a tensor, with its graph where gradients are enabled.
            history: of the batch's task; brought up to date.
            terms: measured at the present weights, for the gradients of `MEASURED`.

        Raises:
            ValueError: terms are missing or superfluous.
            FloatingPointError: a loss, sigma or gradient is not finite. Weights and PertNN are as before the step; if `fused`,
                PertNN alone is where it was a gradient at the weights, since each has moved its tensor by then. The velocity is
                as before where no such gradient had been put into it.
        """
        if (self.gradient in MEASURED) != (terms is not None):
            raise ValueError(f"terms go with gradient {' or '.join(MEASURED)}, and only with it: give both or neither.")
        direction = self.parts.direction(Direction(self.seed, self.steps))
        mean, variance = mean_and_variance(self.pertnn.blocks.totals(self.parts.moments().T).T, self.pertnn.blocks.sizes)
        raw = self.pertnn(features(mean, variance, history.losses, history.raw).to(self.pertnn.b2.device))
        factor = self.pertnn.normaliser(raw)
        sigma = raw * (factor if self.through_budget else factor.detach())
        scales = self.pertnn.spread(sigma).tolist()
        if not np.isfinite(scales).all() or not any(scales):
            raise FloatingPointError(f"step {self.steps}: PertNN's sigma are not finite, or all zero; lower meta_lr.")
        known = sigma.detach().double().cpu().numpy()
        if terms is not None:
            meta_loss, slope = self._measured(terms, known)
        try:
            if self.exact:
                loss, dots, lengths_squared = self._clean(closure, direction)
                p = float(np.dot(scales, dots))
                losses = (loss + self.eps * p, loss - self.eps * p)  # as far as a step of eps is straight
            else:
                losses = self._probe(closure, direction, scales)
                p = (losses[0] - losses[1]) / (2 * self.eps)
            if self.gradient in ("sample", "complete"):
                meta_loss, ahead = self._ahead(closure, direction, [-self.lr_zo * p * scale for scale in scales])
            if not self.exact:
                loss, dots, lengths_squared = self._clean(closure, direction)
            if self.gradient == "expected":
                g = self.pertnn.blocks.totals(lengths_squared)
                meta_loss, slope = float(-self.lr_zo * (known**2 @ g)), -2 * self.lr_zo * known * g
            elif terms is None:
                along = float(np.dot(scales, ahead)) if self.gradient == "complete" else 0.0
                slope = self.pertnn.blocks.totals(-self.lr_zo * (p * ahead + (along * dots if along else 0.0)))
            if not np.isfinite([meta_loss, *slope]).all():
                raise FloatingPointError(
                    f"step {self.steps}: the meta-loss or its slope is not finite; lower lr or lr_zo, or measure more examples."
                )
            if not self.fused:
                for j in self.numbers:
                    self._descend(j)
        finally:
            self.parts.forget_gradients()
        self.outer.zero_grad()
        (sigma * torch.from_numpy(slope).to(sigma)).sum().backward()
        self.outer.step()
        history.losses, history.raw = losses, raw.tolist()
        self.steps += 1
        return Outcome(losses, p, meta_loss, loss, raw.detach().cpu().numpy(), sigma.detach().cpu().numpy(), slope)

    @torch.no_grad()
    def _probe(self, closure: Closure, direction: Direction | GivenDirection, scales: Sequence[float]) -> tuple[float, float]:
        probe = Perturbation(self.tensors, self.numbers, direction, [self.eps * scale for scale in scales])
        try:
            probe.plus()
            plus = float(closure())
            probe.minus()
            minus = float(closure())
        finally:
            probe.leave()
        if not np.isfinite([plus, minus]).all():
            raise FloatingPointError(f"step {self.steps}: the probed losses are {plus} and {minus}; lower lr or eps.")
        return plus, minus

    def _ahead(
        self, closure: Closure, direction: Direction | GivenDirection, scales: Sequence[float]
    ) -> tuple[float, np.ndarray]:
        """The loss at theta', and <grad_j L(theta'), z_j> of each tensor."""
        products = np.zeros(len(self.tensors))

        def meet(j: int, gradient: Tensor) -> None:
            products[j] += noise.dot(own_part(gradient).contiguous(), direction, j)  # of ranks in one piece for each pack

        move = Perturbation(self.tensors, self.numbers, direction, scales)
        try:
            with torch.no_grad():
                move.plus()
            with consumed(self.parts.params, meet):
                loss = closure()
                loss.backward()
        finally:
            with torch.no_grad():
                move.leave()
        products = self.parts.total(products)
        if not np.isfinite(loss.item()) or not np.isfinite(products).all():
            raise FloatingPointError(
                f"step {self.steps}: the loss after the zeroth-order step is {loss.item()}; lower lr or lr_zo."
            )
        return loss.item(), products

    def _clean(self, closure: Closure, direction: Direction | GivenDirection) -> tuple[float, np.ndarray, np.ndarray]:
        """The clean loss and its backward pass; <grad_j L, z_j> and |grad_j L|^2 of each tensor, where they are needed. The
        gradients become the model's velocity, so that they take no room of their own in another backward pass; if fused, each
        moves its tensor at once.
        """
        dots, lengths_squared = np.zeros((2, len(self.tensors)))
        lengths: list[Tensor | float] = [0.0] * len(self.tensors)

        def measure(j: int, gradient: Tensor) -> None:
            lengths[j] = length(gradient)
            if self.exact or self.gradient == "complete":
                dots[j] = noise.dot(gradient.contiguous(), direction, j)
            if self.gradient == "expected":
                lengths_squared[j] = squares([gradient])[0]

        def step(j: int, gradient: Tensor) -> None:
            measure(j, gradient)
            self._gather(j, gradient)
            self._descend(j)

        with ExitStack() as stack:
            if self.fused:
                stack.enter_context(consumed(self.parts.params, step))
            loss = closure()
            if not np.isfinite(loss.item()):
                raise FloatingPointError(f"step {self.steps}: the loss is {loss.item()}; lower the model's learning rate.")
            loss.backward()
        if not self.fused:
            for j in self.numbers:
                measure(j, self.parts.gradient(j))
        dots, lengths_squared, known = self.parts.total(np.stack([dots, lengths_squared, noise.fetched(lengths)]))
        if not np.isfinite(known).all():
            name = self.pertnn.blocks.tensors[int(np.flatnonzero(~np.isfinite(known))[0])]
            raise FloatingPointError(
                f"step {self.steps}: the gradient of {name} is not finite; lower the model's learning rate."
            )
        if not self.fused:
            if self.clip is not None:
                self.parts.clip(self.clip)
            for j in self.numbers:
                self._gather(j, self.parts.gradient(j))
                self.parts.params[j].grad = None
        return loss.item(), dots, lengths_squared

    @torch.no_grad()
    def _gather(self, j: int, gradient: Tensor) -> None:
        """The first half of SGD's step: a gradient joins the velocity."""
        before = self.velocity[j]
        self.velocity[j] = gradient if before is None else before.mul_(self.momentum).add_(gradient)

    @torch.no_grad()
    def _descend(self, j: int) -> None:
        """The second half: a tensor moves along its velocity."""
        velocity = self.velocity[j]
        assert velocity is not None  # `_gather` came first
        self.tensors[j].add_(velocity, alpha=-self.lr)
        if not self.momentum:
            self.velocity[j] = None

    def _measured(self, terms: StepTerms, sigma: np.ndarray) -> tuple[float, np.ndarray]:
        """The expected change of the loss at lr_zo, or the log of the gain, and its slope in sigma."""
        gain, noise, noise_slope = float(terms.gain(sigma)), float(terms.noise(sigma)), terms.noise_slope(sigma)
        if self.gradient == "curved":
            change = float(terms.change(sigma, self.lr_zo))
            return change, 2 * sigma * (self.lr_zo**2 / 2 * noise_slope - self.lr_zo * terms.squares)
        if not (gain > 0 and noise > 0):
            raise FloatingPointError(f"step {self.steps}: no gradient or no curvature is left; lower lr or period.")
        ratio = float(terms.best_change(np.ones_like(sigma)) / terms.best_change(sigma))
        return float(np.log(ratio)), 2 * sigma * (noise_slope / noise - 2 * terms.squares / gain)
