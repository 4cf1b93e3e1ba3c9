"""Solutions of notebook 12: `python notebooks/solutions/12_half_precision.py` prints what the checks say to them."""

import math

import torch

from zolab.theory.precision import arriving, moving, spacing
from zolab.widgets import check

WEIGHTS = 0.05 * torch.randn(10_000, generator=torch.Generator().manual_seed(1))
SPACES = spacing(WEIGHTS, torch.bfloat16)


def unit():
    return (lambda loss, eps: 2.0 ** (math.floor(math.log2(loss)) - 10) / (2 * eps),)


def schedule():
    sizes = [1e-4 * (1 - (k + 0.5) / 20) for k in range(20)]
    shares = [float(arriving(size, SPACES).mean()) for size in sizes]
    return (sum(share * size**2 for share, size in zip(shares, sizes, strict=True)) / sum(size**2 for size in sizes),)


def movers():
    order = WEIGHTS.abs().argsort()
    moved = moving(1e-5, SPACES[order]).cumsum(0)
    middle = order[int(torch.searchsorted(moved, moved[-1] / 2))]  # as many move below it as above
    return (float(WEIGHTS[middle].abs() / WEIGHTS.abs().median()),)


def size():
    low, high = 1e-7, 1e-1
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if arriving(middle, SPACES).mean() < 0.9 else (low, middle)
    return (high,)


SOLUTIONS = {1: unit, 2: schedule, 3: movers, 4: size}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("12", number, *solution()))
