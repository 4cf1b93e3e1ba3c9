"""Reference twins of the methods of low rank, as `zolab.optim.reference` has the others': every direction is stored."""

from typing import Any

import torch

from zolab.noise import Direction, direction
from zolab.noise.low_rank import V_SAMPLE
from zolab.optim.reference import Closure, Params, averaged, probe

Factors = list[tuple[torch.Tensor, torch.Tensor | None]]


def draw_factors(params: Params, seed: int, step: int, sample: int, rank: int, interval: int) -> Factors:
    """U and V of each matrix, z and None of each other tensor."""
    u, v = Direction(seed, step, sample), Direction(seed, step // interval * interval, V_SAMPLE)
    factors: Factors = []
    for j, p in enumerate(params):
        if p.ndim < 2:
            factors.append((direction(u, j, p.shape, dtype=p.dtype), None))
        else:
            columns = direction(v, j, (rank, p[0].numel()), dtype=p.dtype).T
            factors.append((direction(u, j, (len(p), rank), dtype=p.dtype), columns))
    return factors


def whole(params: Params, factors: Factors) -> list[torch.Tensor]:
    """U V^T of each matrix, z of each other tensor."""
    return [u if v is None else (u @ v.T).view(p.shape) for p, (u, v) in zip(params, factors, strict=True)]


def divisor(theta: torch.Tensor, rank: int, published_scaling: bool) -> int:
    return 1 if published_scaling or theta.ndim < 2 else rank


@torch.no_grad()
def lozo_step(
    params: Params,
    closure: Closure,
    *,
    step: int,
    lr: float,
    eps: float,
    rank: int,
    interval: int,
    published_scaling: bool = False,
    samples: int = 1,
    seed: int = 0,
) -> float:
    """LOZO (arXiv 2410.07698, Algorithm 1)."""
    drawn = (draw_factors(params, seed, step, sample, rank, interval) for sample in range(samples))
    gradient, loss = averaged(params, closure, (whole(params, factors) for factors in drawn), eps, samples)
    for theta, g in zip(params, gradient, strict=True):
        theta -= lr * g / divisor(theta, rank, published_scaling)
    return loss


@torch.no_grad()
def lozo_m_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    momentum: float,
    rank: int,
    interval: int,
    published_scaling: bool = False,
    seed: int = 0,
) -> float:
    """LOZO-M (arXiv 2410.07698, Algorithm 2)."""
    factors = draw_factors(params, seed, step, 0, rank, interval)
    p, loss = probe(params, closure, whole(params, factors), eps)
    held = memory.get("n", [p * u for u, _ in factors])
    for j, (u, v) in enumerate(factors):
        if step > 0:
            if step % interval == 0 and v is not None:
                held[j] = held[j] @ memory["v"][j].T @ v / len(v)
            held[j] = momentum * held[j] + (1 - momentum) * p * u
    memory["n"], memory["v"] = held, [v for _, v in factors]
    moved = whole(params, [(n, v) for n, (_, v) in zip(held, factors, strict=True)])
    for theta, step_j in zip(params, moved, strict=True):
        theta -= lr * step_j / divisor(theta, rank, published_scaling)
    return loss
