"""What a number format does to a step: which weights move, and how much of the step arrives.

A weight w of a format with t significant bits lies on a grid of spacing u = 2^(floor(log2 |w|) - t + 1). A step adds s z to
it, with z normal and s the learning rate times the projected gradient, and the sum is rounded to the grid again.

    moves      P(|s z| > u / 2)                                           rounded to nearest
               E min(1, |s z| / u)                                        rounded at random, without bias
    arrives    E[s z u round(s z / u)] / s^2 = 2 u / s sum_k phi((k - 1/2) u / s), k = 1, 2, ...    to nearest; 1 at random
    noise      u^2 E[f (1 - f)], f the fractional part of |s z| / u: u^2 (1/6 - sum_k exp(-2 (pi k s / u)^2) / (pi k)^2),
               for small steps sqrt(2 / pi) s u                                                               at random

with phi the normal density. The grid is taken to be even: weights next to a power of two have another one on their other side.
"""

import math

import torch
from torch import Tensor

SMALL = 0.3  # spacings: up to here no step is longer than one
EVEN = 1.5  # steps of so many spacings: from here on the sum is 1 to 1e-19


def spacing(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of weights to the next larger number of a format, float64 of their shape; of zero, the smallest there is.

    Args:
        weights: of any format; they are rounded to `dtype` first.
        dtype: such as torch.bfloat16.
    """
    limits, size = torch.finfo(dtype), weights.to(dtype).double().abs()
    mantissa, exponent = torch.frexp(size.clamp(min=limits.smallest_normal))
    return torch.ldexp(torch.ones_like(mantissa), exponent - 1) * limits.eps


def moving(step: Tensor | float, spaces: Tensor, rounding: str = "nearest") -> Tensor:
    """The probability that a weight moves, by the formulas above.

    Args:
        step: s, > 0, in units of the weights.
        spaces: u of each weight, as `spacing` gives it.
        rounding: "nearest" or "stochastic".
    """
    ratio = spaces / step
    if rounding == "nearest":
        return torch.special.erfc(ratio / math.sqrt(8))
    inside = math.sqrt(2 / math.pi) * (1 - torch.exp(-(ratio**2) / 2)) / ratio
    return inside + torch.special.erfc(ratio / math.sqrt(2))


def arriving(step: Tensor | float, spaces: Tensor) -> Tensor:
    """The share of a step that arrives in each weight if it is rounded to nearest, by the formula above; at random it is 1.

    Args:
        step, spaces: as in `moving`.
    """
    ratio = spaces / step
    halves = torch.arange(12, dtype=torch.float64) + 0.5
    terms = torch.exp(-((halves * ratio.unsqueeze(-1)) ** 2) / 2) / math.sqrt(2 * math.pi)
    return torch.where(ratio < 1 / EVEN, 1.0, 2 * ratio * terms.sum(-1))


def rounding_noise(step: Tensor | float, spaces: Tensor) -> Tensor:
    """The variance that rounding at random adds to each weight in a step, by the formula above, in squared units of a weight.

    Args:
        step, spaces: as in `moving`.
    """
    ratio = step / spaces.double()
    waves = (torch.exp(-2 * (math.pi * k * ratio) ** 2) / (math.pi * k) ** 2 for k in range(1, 5))
    inside = math.sqrt(2 / math.pi) * ratio - ratio**2  # hardly any |s z| is above u
    return spaces.double() ** 2 * torch.where(ratio < SMALL, inside, 1 / 6 - sum(waves))
