"""Reference twins: each method as its paper writes it, with every z stored. For reading and testing; not for large models."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zolab.noise import Direction, direction


@torch.no_grad()
def mezo_step(
    params: Sequence[Tensor],
    closure: Callable[[], Tensor],
    *,
    step: int,
    lr: float,
    eps: float,
    weight_decay: float = 0.0,
    seed: int = 0,
    samples: int = 1,
) -> float:
    """One step of MeZO (arXiv 2305.17333, Algorithm 1), changing `params` in place; returns the mean probed loss."""
    theta = [p.clone() for p in params]

    def loss_at(sign: int, z: list[Tensor]) -> float:
        for p, start, z_j in zip(params, theta, z, strict=True):
            p.copy_(start + sign * eps * z_j)
        return float(closure())

    gradient = [torch.zeros_like(p) for p in params]
    losses = []
    for sample in range(samples):
        name = Direction(seed, step, sample)
        z = [direction(name, j, p.shape, dtype=p.dtype, device=p.device) for j, p in enumerate(params)]
        loss_plus, loss_minus = loss_at(+1, z), loss_at(-1, z)
        losses += [loss_plus, loss_minus]
        projected_grad = (loss_plus - loss_minus) / (2 * eps)
        gradient = [g + projected_grad * z_j / samples for g, z_j in zip(gradient, z, strict=True)]
    for p, start, g in zip(params, theta, gradient, strict=True):
        p.copy_(start - lr * g - lr * weight_decay * start)
    return sum(losses) / len(losses)
