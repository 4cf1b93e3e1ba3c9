"""Reference twins: each method as its paper writes it, with every z stored. For reading and testing; not for large models.

Each function takes one step, changing `params` in place, and returns the mean probed loss. `memory` is a dictionary, empty
before the first step, in which a method keeps what it stores.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zolab.noise import Direction, direction

Params = Sequence[Tensor]
Closure = Callable[[], Tensor]


def draw(params: Params, seed: int, step: int, sample: int = 0) -> list[Tensor]:
    """z of a step, one tensor for each parameter."""
    name = Direction(seed, step, sample)
    return [direction(name, j, p.shape, dtype=p.dtype, device=p.device) for j, p in enumerate(params)]


def probe(params: Params, closure: Closure, z: list[Tensor], eps: float) -> tuple[float, float]:
    """The projected gradient along z, and the mean of the two losses."""
    theta = [p.clone() for p in params]

    def loss_at(sign: int) -> float:
        for p, start, z_j in zip(params, theta, z, strict=True):
            p.copy_(start + sign * eps * z_j)
        return float(closure())

    plus, minus = loss_at(+1), loss_at(-1)
    for p, start in zip(params, theta, strict=True):
        p.copy_(start)
    return (plus - minus) / (2 * eps), (plus + minus) / 2


def averaged(
    params: Params,
    closure: Closure,
    directions: Iterable[list[Tensor]],
    eps: float,
    samples: int,
    of: Callable[[float], float] = float,
) -> tuple[list[Tensor], float]:
    """The mean of p z over directions, or of another function of p times z; and the mean of the losses."""
    gradient, losses = [torch.zeros_like(p) for p in params], []
    for z in directions:
        p, loss = probe(params, closure, z, eps)
        losses.append(loss)
        gradient = [g + of(p) * z_j / samples for g, z_j in zip(gradient, z, strict=True)]
    return gradient, sum(losses) / samples


@torch.no_grad()
def mezo_step(
    params: Params,
    closure: Closure,
    *,
    step: int,
    lr: float,
    eps: float,
    weight_decay: float = 0.0,
    seed: int = 0,
    samples: int = 1,
) -> float:
    """MeZO (arXiv 2305.17333, Algorithm 1)."""
    directions = (draw(params, seed, step, sample) for sample in range(samples))
    gradient, loss = averaged(params, closure, directions, eps, samples)
    for theta, g in zip(params, gradient, strict=True):
        theta -= lr * g + lr * weight_decay * theta
    return loss


@torch.no_grad()
def momentum_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    momentum: float,
    seed: int = 0,
) -> float:
    """Heavy-ball momentum on p z."""
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    memory["m"] = [momentum * m + p * z_j for m, z_j in zip(memory.get("m", [0.0] * len(z)), z, strict=True)]
    for theta, m in zip(params, memory["m"], strict=True):
        theta -= lr * m
    return loss


@torch.no_grad()
def adam_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    betas,
    delta: float,
    seed: int = 0,
) -> float:
    """Adam, by torch itself, on the gradient p z."""
    if "adam" not in memory:
        memory["adam"] = torch.optim.Adam(params, lr=lr, betas=betas, eps=delta)
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    for theta, z_j in zip(params, z, strict=True):
        theta.grad = p * z_j
    memory["adam"].step()
    return loss


@torch.no_grad()
def adamezo_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    betas,
    horizon: int,
    scaling: str,
    gain: float,
    delta: float,
    seed: int = 0,
) -> float:
    """AdaMeZO (arXiv 2605.00650) with every gradient of the past stored."""
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    past = memory.setdefault("gradients", [])
    past.insert(0, [p * z_j for z_j in z])
    beta1, beta2 = betas
    for j, theta in enumerate(params):
        if scaling == "code" and (horizon == 1 or step <= horizon):
            theta -= lr * past[0][j]
            continue
        m: Any = sum(beta1**k * g[j] for k, g in enumerate(past[:horizon]))
        v: Any = sum(beta2**k * g[j] ** 2 for k, g in enumerate(past[:horizon]))
        if scaling == "paper":
            theta -= lr * (1 - beta1) * m / ((1 - beta2) * v + delta).sqrt()
        elif beta2 == 0:
            theta -= lr * gain * m
        else:
            theta -= lr * gain * m / (v.sqrt() + delta)
    return loss


@torch.no_grad()
def meazo_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    beta: float,
    delta: float,
    seed=0,
) -> float:
    """MEAZO (arXiv 2605.03869): one scalar second moment."""
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    memory["v"] = beta * memory.get("v", 0.0) + (1 - beta) * p**2
    root = (memory["v"] / (1 - beta ** (step + 1))) ** 0.5
    for theta, z_j in zip(params, z, strict=True):
        theta -= lr * p * z_j / (root + delta)
    return loss


@torch.no_grad()
def switch_step(
    params: Params, closure: Closure, *, step: int, lr: float, eps: float, length: float | None, seed: int = 0
) -> float:
    """MeZO with a step of a prescribed length (arXiv 2605.00650, the control)."""
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    change = [-lr * p * z_j for z_j in z]
    factor = 1.0 if length is None else length / sum(float(c.square().sum()) for c in change) ** 0.5
    for theta, c in zip(params, change, strict=True):
        theta += factor * c
    return loss


@torch.no_grad()
def adamu_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    mix,
    delta: float,
    seed: int = 0,
) -> float:
    """ZO-AdaMU (arXiv 2312.15184, Algorithm 1) with the mix (alpha, beta1, beta2) of this step."""
    alpha, beta1, beta2 = mix
    last = memory.get("m", [torch.zeros_like(p) for p in params])
    fresh = [alpha**0.5 * z for z in draw(params, seed, step, 0)]
    drift = [m + (1 - alpha) ** 0.5 * z for m, z in zip(last, draw(params, seed, step, 1), strict=True)]
    memory["m"] = [beta1 * a + (1 - beta1) * b for a, b in zip(fresh, drift, strict=True)]
    p, loss = probe(params, closure, memory["m"], eps)
    for theta, m, a, b in zip(params, memory["m"], fresh, drift, strict=True):
        theta -= lr * p * m / (beta2 * a**2 + (1 - beta2) * b**2 + delta).sqrt()
    return loss


@torch.no_grad()
def hizoo_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    alpha: float,
    estimator: str,
    bounds: tuple[float, float],
    seed: int = 0,
) -> float:
    """HiZOO (arXiv 2402.15173, Algorithm 1): memory["h"] is the diagonal of the inverse of its Sigma."""
    z, old = draw(params, seed, step), memory.get("h", [torch.ones_like(theta) for theta in params])
    centre = float(closure())
    p, loss = probe(params, closure, [z_j / h.sqrt() for z_j, h in zip(z, old, strict=True)], eps)
    curvature = 2 * (loss - centre) / eps**2
    if estimator == "published":
        estimates = [abs(curvature) / 2 * h * z_j**2 for z_j, h in zip(z, old, strict=True)]
    else:
        estimates = [curvature / 2 * h * (z_j**2 - 1) for z_j, h in zip(z, old, strict=True)]
    memory["h"] = [((1 - alpha) * h + alpha * e).clamp(*bounds) for h, e in zip(old, estimates, strict=True)]
    for theta, z_j, h in zip(params, z, memory["h"], strict=True):
        theta -= lr * p * z_j / h.sqrt()
    return loss


@torch.no_grad()
def sign_step(
    params: Params, closure: Closure, *, step: int, lr: float, eps: float, sign: str, samples: int = 1, seed: int = 0
) -> float:
    """ZO-signSGD: the sign of the slope (the code of arXiv 2402.11592), or of the estimated gradient."""
    directions = (draw(params, seed, step, sample) for sample in range(samples))
    of = float if sign == "estimate" else (lambda p: (p > 0) - (p < 0))
    gradient, loss = averaged(params, closure, directions, eps, samples, of)
    for theta, g in zip(params, gradient, strict=True):
        theta -= lr * (g.sign() if sign == "estimate" else g)
    return loss


@torch.no_grad()
def zo_finetuner_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    networks: Sequence[torch.nn.Module],
    seed: int = 0,
) -> float:
    """ZO Fine-tuner (arXiv 2510.00419, Algorithm 1) with a network and a block for each tensor."""
    losses, last = memory.get("losses", [0.0, 0.0]), memory.get("sigma", [1.0] * len(params))
    sigma = []
    for theta, network, before in zip(params, networks, last, strict=True):
        variance = theta.var() if theta.numel() > 1 else 0.0
        sigma.append(float(network(torch.tensor([theta.mean(), variance, *losses, before])).abs()))
    d = [theta.numel() for theta in params]
    f = (sum(d) / sum(n * s**2 for n, s in zip(d, sigma, strict=True))) ** 0.5
    u = [f * s * z for s, z in zip(sigma, draw(params, seed, step), strict=True)]
    p, loss = probe(params, closure, u, eps)
    for theta, u_j in zip(params, u, strict=True):
        theta -= lr * p * u_j
    memory["losses"], memory["sigma"] = [loss + p * eps, loss - p * eps], sigma
    return loss
