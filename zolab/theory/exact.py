"""Everything about a small model's loss at one point, without approximation: gradients, the Hessian, its blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from zolab import noise
from zolab.noise import Direction
from zolab.probe.blocks import Blocks, split
from zolab.theory.bounds import BoundTerms
from zolab.theory.terms import StepTerms

LARGEST = 6000


class Objective(nn.Module):
    """A model's loss on fixed examples, as a function of its weights.

    Args:
        model: in eval mode.
        losses: takes the model and returns one loss for each example, shape (examples,).
        rule: how the weights are split into blocks, as in `zolab.probe.blocks.split`.
    """

    def __init__(self, model: nn.Module, losses: Callable[[nn.Module], Tensor], rule="tensor"):
        super().__init__()
        self.model, self.losses, self.blocks = model, losses, split(model, rule)

    def forward(self) -> Tensor:
        return self.losses(self.model)

    @property
    def weights(self) -> Tensor:
        """All trainable weights in one row, block after block as the tensors come."""
        parameters = dict(self.model.named_parameters())
        return torch.cat([parameters[name].detach().flatten() for name in self.blocks.tensors])

    def at(self, weights: Tensor) -> Tensor:
        """Mean loss with these weights, a tensor of shape (weights,); differentiable."""
        return self.each(weights).mean()

    def each(self, weights: Tensor) -> Tensor:
        """Loss of every example with these weights."""
        parameters = dict(self.model.named_parameters())
        parts = zip(self.blocks.tensors, weights.split(list(self.blocks.numels)), strict=True)
        return functional_call(
            self, {f"model.{name}": part.view_as(parameters[name]) for name, part in parts}, tie_weights=True
        )


@dataclass(frozen=True)
class Local:
    """A loss at one point.

    Args:
        blocks: of the weights.
        gradients: of each example, shape (examples, weights).
        hessian: of the mean loss, shape (weights, weights).
    """

    blocks: Blocks
    gradients: np.ndarray
    hessian: np.ndarray

    @cached_property
    def gradient(self) -> np.ndarray:
        return self.gradients.mean(0)

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """Indices of each block's weights."""
        owner = np.repeat(self.blocks.block_of, self.blocks.numels)
        return [np.flatnonzero(owner == j) for j in range(len(self.blocks))]

    @cached_property
    def squares(self) -> np.ndarray:
        """G_j, squared norm of the gradient in each block."""
        return np.array([np.square(self.gradient[part]).sum() for part in self.parts])

    @cached_property
    def variances(self) -> np.ndarray:
        """V_j, trace of the covariance of one example's gradient in each block."""
        spread = np.square(self.gradients - self.gradient).mean(0)
        return np.array([spread[part].sum() for part in self.parts])

    @cached_property
    def traces(self) -> np.ndarray:
        """t_j."""
        return np.array([self.hessian[part, part].sum() for part in self.parts])

    @cached_property
    def norms(self) -> np.ndarray:
        """l_j, largest absolute eigenvalue of each block of the Hessian."""
        return np.array([_norm(self.hessian[np.ix_(part, part)]) for part in self.parts])

    @cached_property
    def norm(self) -> float:
        """l of the whole Hessian."""
        return _norm(self.hessian)

    @property
    def ranks(self) -> np.ndarray:
        """r_j = t_j / l_j, effective rank."""
        return self.traces / np.where(self.norms > 0, self.norms, np.inf)

    @property
    def rank(self) -> float:
        return float(self.traces.sum() / self.norm) if self.norm else 0.0

    @cached_property
    def off_diagonal(self) -> float:
        """Frobenius norm of what lies outside the Hessian's diagonal blocks, over that of all."""
        whole = np.square(self.hessian).sum()
        inside = sum(np.square(self.hessian[np.ix_(part, part)]).sum() for part in self.parts)
        return float(np.sqrt(max(0.0, 1 - inside / whole))) if whole else 0.0

    def step_terms(self, batch: int | None = None, whole: bool = True) -> StepTerms:
        """What the exact expected change depends on.

        Args:
            batch: examples drawn, with replacement, into a minibatch; None takes all examples, without noise.
            whole: with the Hessian's off-diagonal blocks, as the algorithm meets them.
        """
        rows = [self.gradient[None]] if batch is None else [self.gradient[None], (self.gradients - self.gradient) / batch**0.5]
        curvatures = np.zeros((len(self.blocks),) * 2)
        for row in rows:
            for j, part in enumerate(self.parts):
                products = row[:, part] @ self.hessian[part] * row / len(row)
                curvatures[j] += [products[:, other].sum() for other in self.parts]
        extra = 0 if batch is None else self.variances / batch
        q = curvatures if whole else np.diag(curvatures)
        return StepTerms(np.array(self.blocks.sizes), self.squares, self.squares + extra, self.traces, q)

    def bound_terms(self, batch: int) -> BoundTerms:
        """What the published bounds depend on."""
        own = (np.array(self.blocks.sizes), self.squares, self.variances, self.norms, self.ranks)
        return BoundTerms(*own, self.norm, self.rank, batch)


def localise(objective: Objective, rows: int = 128) -> Local:
    """Gradients of all examples and the Hessian of their mean loss, in float64.

    Args:
        objective: at most 6,000 weights; put the model in float64 for exact numbers.
        rows: rows of the Hessian computed at once.

    Raises:
        ValueError: too many weights for a dense Hessian.
    """
    weights = objective.weights.requires_grad_()
    if len(weights) > LARGEST:
        raise ValueError(f"{len(weights)} weights are too many for a dense Hessian; use at most {LARGEST}, or measure traces.")
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        losses = objective.each(weights)
        gradients = _rows(losses, weights, rows)
        (gradient,) = torch.autograd.grad(losses.mean(), weights, create_graph=True)
        linear = not gradient.requires_grad
        hessian = np.zeros((len(weights),) * 2) if linear else _rows(gradient, weights, rows)
    return Local(objective.blocks, gradients, (hessian + hessian.T) / 2)


def sampled_change(
    objective: Objective, sigma: Sequence[float], lrs: Sequence[float], samples: int, seed: int = 0, eps: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """Expected change of the loss in one step by Monte Carlo, on the real loss: mean and standard error, shape (lrs,).

    Args:
        objective: its loss is probed and judged on all its examples.
        sigma: scale of each block.
        lrs: learning rates.
        samples: directions, at least 2.
        seed: of the directions.
        eps: finite-difference radius.

    Raises:
        ValueError: there are too few directions for a standard error.
    """
    _check_samples(samples)
    theta = objective.weights
    scale = torch.from_numpy(np.repeat(objective.blocks.spread(sigma), objective.blocks.numels)).to(theta)
    losses, start_loss, changes = vmap(objective.at, chunk_size=64), float(objective.at(theta)), []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for start in range(0, samples, 64):
            names = [Direction(seed, step) for step in range(start, min(start + 64, samples))]
            u = scale * torch.stack([noise.direction(name, 0, theta.shape, dtype=theta.dtype) for name in names])
            slopes = (losses(theta + eps * u) - losses(theta - eps * u)) / (2 * eps)
            changes.append(torch.stack([losses(theta - float(lr) * slopes[:, None] * u) - start_loss for lr in lrs], 1))
    table = torch.cat(changes).double().numpy()
    return table.mean(0), table.std(0, ddof=1) / np.sqrt(samples)


def sequential_change(
    objective: Objective, sigma: Sequence[float], lr: float, samples: int, seed: int = 0, eps: float = 1e-3
) -> tuple[float, float]:
    """As `sampled_change`, for the step that Theorem 3's proof is about: blocks are probed and moved one after the other.

    Such a step takes 2 forward passes for each block.

    Returns:
        Mean and standard error.

    Raises:
        ValueError: there are too few directions for a standard error.
    """
    _check_samples(samples)
    theta, blocks = objective.weights, objective.blocks
    scale = torch.from_numpy(np.repeat(blocks.spread(sigma), blocks.numels)).to(theta)
    owner = torch.from_numpy(np.repeat(blocks.block_of, blocks.numels))
    losses, start_loss, changes = vmap(objective.at, chunk_size=64), float(objective.at(theta)), []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for start in range(0, samples, 64):
            names = [Direction(seed, step) for step in range(start, min(start + 64, samples))]
            z = scale * torch.stack([noise.direction(name, 0, theta.shape, dtype=theta.dtype) for name in names])
            moved = theta.repeat(len(names), 1)
            for j in range(len(blocks)):
                u = z * (owner == j)
                slopes = (losses(moved + eps * u) - losses(moved - eps * u)) / (2 * eps)
                moved -= lr * slopes[:, None] * u
            changes.append(losses(moved) - start_loss)
    table = torch.cat(changes).double().numpy()
    return float(table.mean()), float(table.std(ddof=1) / np.sqrt(samples))


def _check_samples(samples: int) -> None:
    if samples < 2:
        raise ValueError(f"a standard error needs at least 2 directions, got {samples}.")


def _rows(outputs: Tensor, weights: Tensor, rows: int) -> np.ndarray:
    """The Jacobian of outputs, some rows at a time."""
    out = []
    for part in torch.eye(len(outputs), dtype=outputs.dtype).split(rows):
        (slopes,) = torch.autograd.grad(outputs, weights, part, is_grads_batched=True, retain_graph=True)
        out.append(slopes.double().numpy())
    return np.concatenate(out)


def _norm(matrix: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvalsh(matrix)).max())
