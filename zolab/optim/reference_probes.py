"""Reference twins of the methods that probe otherwise than on both sides of the weights; see `zolab.optim.reference`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zolab.noise import Direction, direction
from zolab.noise.group import SIGNS
from zolab.optim.reference import Closure, Params, draw, mezo_step, probe
from zolab.optim.reference_low_rank import draw_factors, whole


@torch.no_grad()
def fzoo_step(
    params: Params, closure: Closure, *, step: int, lr: float, eps: float, samples: int, weight_decay: float = 0.0, seed=0
) -> float:
    """FZOO (arXiv 2506.09034, as its code has it); `Direction` must be of random signs for its own directions."""
    theta, centre = [p.clone() for p in params], float(closure())
    directions, losses = [draw(params, seed, step, sample) for sample in range(samples)], []
    for u in directions:
        for p, start, u_j in zip(params, theta, u, strict=True):
            p.copy_(start + eps * u_j)
        losses.append(float(closure()))
    s = float(torch.tensor(losses, dtype=torch.float64).std(unbiased=False))
    for j, (p, start) in enumerate(zip(params, theta, strict=True)):
        gradient: Any = sum((loss - centre) * u[j] for loss, u in zip(losses, directions, strict=True))
        p.copy_(start - lr * gradient / (samples * s) - lr * weight_decay * start)
    return centre


@torch.no_grad()
def grzo_step(
    params: Params,
    losses: Closure,
    *,
    step: int,
    lr: float,
    eps: float,
    rank: int | None = None,
    interval: int = 50,
    group_relative: bool = True,
    samples: int = 1,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> float:
    """GRZO (arXiv 2606.02857), one example after the other: the whole batch is evaluated on both sides of each z_i."""
    gradient, means, count = [torch.zeros_like(p) for p in params], [], len(losses())
    for sample in range(samples):
        u = (
            whole(params, draw_factors(params, seed, step, sample, rank, interval))
            if rank
            else draw(params, seed, step, sample)
        )
        name, directions, slopes = Direction(seed, step, SIGNS - sample, "rademacher"), [], []
        for i in range(count):
            z = []
            for j, (p, u_j) in enumerate(zip(params, u, strict=True)):
                m, n = (len(p), p[0].numel()) if p.ndim > 1 else (0, 0)
                r, s = direction(name, j, (count, m + n), dtype=p.dtype)[i].split([m, n])
                z.append(u_j if p.ndim < 2 or i == 0 else u_j * torch.outer(r, s).view(p.shape))
            slope, mean = probe(params, lambda i=i: losses()[i], z, eps)
            directions.append(z)
            slopes.append(slope)
            means.append(mean)
        spread = float(torch.tensor(slopes, dtype=torch.float64).std(unbiased=False)) if group_relative else 1.0
        for slope, z in zip(slopes, directions, strict=True):
            gradient = [g + slope * z_j / (spread * count * samples) for g, z_j in zip(gradient, z, strict=True)]
    for p, g in zip(params, gradient, strict=True):
        p -= lr * (g / (rank if rank and p.ndim > 1 else 1) + weight_decay * p)
    return sum(means) / len(means)


@torch.no_grad()
def svrg_step(
    params: Params,
    closure: Closure,
    full_batch: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    q: int,
    full_lr: float = 1.0,
    seed: int = 0,
) -> float:
    """MeZO-SVRG (arXiv 2404.08080) with a real anchor, and the same z in both terms on the batch."""
    z = draw(params, seed, step)
    if step % q == 0:
        p, loss = probe(params, full_batch, z, eps)
        memory["anchor"], memory["g"] = [theta.clone() for theta in params], [p * z_j for z_j in z]
        change = [full_lr * g for g in memory["g"]]
    else:
        p, loss = probe(params, closure, z, eps)
        theta = [weights.clone() for weights in params]
        for weights, anchor in zip(params, memory["anchor"], strict=True):
            weights.copy_(anchor)
        at_anchor, _ = probe(params, closure, z, eps)
        for weights, own in zip(params, theta, strict=True):
            weights.copy_(own)
        change = [p * z_j - at_anchor * z_j + g for z_j, g in zip(z, memory["g"], strict=True)]
    for weights, g in zip(params, change, strict=True):
        weights -= lr * g
    return loss


@torch.no_grad()
def dizo_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    period: int,
    iterations: int,
    radius: float,
    rate: float,
    tau: float,
    seed: int = 0,
) -> float:
    """DiZO (arXiv 2502.03304, as its code has it) with a scaling in place of every period-th MeZO step."""
    start = memory.setdefault("start", [theta.clone() for theta in params])
    if step == 0 or step % period:
        return mezo_step(params, closure, step=step, lr=lr, eps=eps, seed=seed)
    walked = [theta - theta0 for theta, theta0 in zip(params, start, strict=True)]
    lengths, gammas, means = [float(d.norm()) for d in walked], [float(d.norm()) for d in walked], []

    def put(moved: list[float]) -> None:
        for theta, theta0, d, gamma, n in zip(params, start, walked, moved, lengths, strict=True):
            theta.copy_(theta0 + gamma / n * d)

    for k in range(iterations):
        drawn = direction(Direction(seed, step, k), 0, len(params)).tolist()
        c = [min(max(z, -tau * n / radius), tau * n / radius) for z, n in zip(drawn, lengths, strict=True)]
        sides = []
        for side in (1, -1):
            put([gamma + side * radius * z for gamma, z in zip(gammas, c, strict=True)])
            sides.append(float(closure()))
        p = (sides[0] - sides[1]) / (2 * radius)
        moved = [gamma - rate * n * p * z for gamma, n, z in zip(gammas, lengths, c, strict=True)]
        gammas = [min(max(g, (1 - tau) * n), (1 + tau) * n) for g, n in zip(moved, lengths, strict=True)]
        means.append(sum(sides) / 2)
    put(gammas)
    return means[0]


@torch.no_grad()
def forward_step(params: Params, gradient: Sequence[Tensor], *, step: int, lr: float, seed: int = 0) -> None:
    """Forward gradient (arXiv 2202.08587), from the gradient that it never computes itself."""
    z = draw(params, seed, step)
    p: Any = sum((g.double() * z_j).sum() for g, z_j in zip(gradient, z, strict=True))
    for theta, z_j in zip(params, z, strict=True):
        theta -= lr * float(p) * z_j


@torch.no_grad()
def helene_step(
    params: Params,
    closure: Closure,
    memory: dict[str, Any],
    *,
    step: int,
    lr: float,
    eps: float,
    betas,
    share: float,
    k: int,
    gamma: float,
    floor: float,
    delta: float,
    seed: int = 0,
) -> float:
    """HELENE (arXiv 2411.10696) with the weight of this step's estimate."""
    z = draw(params, seed, step)
    p, loss = probe(params, closure, z, eps)
    zeros, (beta1, beta2) = [torch.zeros_like(theta) for theta in params], betas
    memory["m"] = [beta1 * m + share * p * z_j for m, z_j in zip(memory.get("m", zeros), z, strict=True)]
    memory["h"] = memory.get("h", zeros)
    if step % k == 0:
        memory["h"] = [beta2 * h + (1 - beta2) * (p * z_j) ** 2 for h, z_j in zip(memory["h"], z, strict=True)]
    for theta, m, h in zip(params, memory["m"], memory["h"], strict=True):
        theta -= lr * m / (gamma * h.clamp(min=floor) + delta)
    return loss
