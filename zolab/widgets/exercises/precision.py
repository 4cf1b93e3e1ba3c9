"""Exercises of notebook 12."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from zolab.widgets.exercises.entry import Entry, need

SIZE = 0.05  # standard deviation of the weights


@cache
def _weights(count: int = 60_000) -> tuple[Tensor, Tensor]:
    """Normal weights in bfloat16, and a direction."""
    stream = torch.Generator().manual_seed(0)
    return (SIZE * torch.randn(count, generator=stream)).bfloat16(), torch.randn(count, generator=stream)


def _step(size: float) -> tuple[Tensor, Tensor]:
    """A step of this size, and what becomes of it in bfloat16, rounded to nearest."""
    weights, z = _weights()
    return size * z, (weights.float() + size * z).bfloat16().float() - weights.float()


def _share(sizes: list[float]) -> float:
    """Of all these steps, in squared length."""
    pairs = [_step(size) for size in sizes]
    return sum(float((arrived * step).sum()) for step, arrived in pairs) / sum(float((step * step).sum()) for step, _ in pairs)


def unit_of_slopes(unit: Callable[[float, float], float]) -> tuple[bool, str]:
    met, messages = True, []
    for loss, eps in ((0.3, 1e-3), (0.69, 1e-2), (5.0, 1e-3)):
        half = torch.tensor(loss, dtype=torch.float16)
        measured = float(torch.nextafter(half, torch.tensor(9.0, dtype=torch.float16)) - half) / (2 * eps)
        met &= abs(unit(loss, eps) / measured - 1) < 0.01
        messages.append(f"loss {loss:g}, eps {eps:g}: measured {measured:.3g}, you say {unit(loss, eps):.3g}")
    return met, "; ".join(messages)


def schedule_share(share: float) -> tuple[bool, str]:
    measured = _share([1e-4 * (1 - (k + 0.5) / 20) for k in range(20)])
    return abs(share - measured) < 0.02, f"you say {share:.1%}, twenty sizes from 1e-4 down to 0 say {measured:.1%}"


def moving_weights(ratio: float) -> tuple[bool, str]:
    _, arrived = _step(1e-5)
    size = _weights()[0].float().abs()
    measured = float(size[arrived != 0].median() / size.median())
    return abs(
        ratio / measured - 1
    ) < 0.2, f"you say {ratio:.3g}, {int((arrived != 0).sum()):,} moving weights say {measured:.3g}"


def arriving_size(size: float) -> tuple[bool, str]:
    need(isinstance(size, float) and size > 0, f"size must be a number > 0, got {size!r}.")
    low, high = _share([size / 1.1]), _share([1.1 * size])
    return low < 0.9 <= high, f"at {size / 1.1:.2e} {low:.1%} of a step arrives, at {1.1 * size:.2e} {high:.1%}"


PRECISION: dict[str, Sequence[Entry]] = {
    "12": (
        (
            *("A unit of slopes", 1, 10, "a function of loss and eps for the unit of slopes from float16 losses, within 1 %"),
            *("float16 has 11 significant bits: what is the spacing of a loss?", unit_of_slopes),
        ),
        (
            *("The end of a schedule", 2, 15, "the share that arrives of all steps of a linear schedule, within 2 points"),
            *("shares are of squared lengths: weight `arriving` at size s by s^2", schedule_share),
        ),
        (
            *(
                "Which weights move?",
                2,
                10,
                "the median size of weights that move at 1e-5, over the median of all, within 20 %",
            ),
            *("weight each weight by `moving`, or take a step", moving_weights),
        ),
        (
            *("How large must a step be?", 2, 10, "the size of which 90 % arrives in bfloat16, within 10 %"),
            *("the mean of `arriving` over weights rises with the size: halve an interval", arriving_size),
        ),
    ),
}
