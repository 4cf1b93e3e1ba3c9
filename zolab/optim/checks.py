"""Settings that are out of range are refused, by name, before any weight moves."""

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

SMALLEST, LARGEST = 2.0**-149, (2 - 2.0**-23) * 2.0**127  # the positive numbers of float32, in which a probe is made
HALF_SPACING = 2.0**-25  # of float32 below 1: what is taken off 1 is lost up to here
LONGEST = 8.0  # no entry of a direction is larger
ROUNDINGS = ("nearest", "stochastic")


def check_range(name: str, value: float, holds: bool) -> None:
    """Raise ValueError unless it holds and the value is finite."""
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name} must be {'> 0' if name == 'eps' else '>= 0'} and finite, got {value}.")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1, as the decay rate of a moving average must be."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}.")


def check_betas(betas: Sequence[float]) -> tuple[float, float]:
    """The decay rates of both moments. Raises ValueError unless they are two numbers in [0, 1)."""
    if len(betas) != 2:
        raise ValueError(f"betas must be two decay rates, got {len(betas)}.")
    check_fraction("betas[0]", betas[0])
    check_fraction("betas[1]", betas[1])
    return float(betas[0]), float(betas[1])


def whole(name: str, value: Any, least: int = 0) -> int:
    """The whole number that a value is, NumPy's included. Raises ValueError if it is none, or less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return number


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise ValueError unless a value is one of the choices; the sentence leaves None out."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(filter(None, choices))}, got {value!r}.")


def check_closure(closure: Callable[[], Any] | None) -> Callable[[], Any]:
    """The closure of a step. Raises ValueError if there is none."""
    if not callable(closure):
        raise ValueError(
            "step() needs a closure that returns the loss, to measure it at two places: a loop that computes the loss by "
            "itself, as transformers.Trainer's does, cannot drive a zeroth-order optimizer."
        )
    return closure


def check_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError unless the settings of parameter groups are in range, and eps is one for all."""
    for group in groups:
        lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
        check_range("lr", lr, lr >= 0)
        check_range("weight_decay", weight_decay, weight_decay >= 0)
        check_range("eps", eps, eps > 0)
        if not SMALLEST <= eps <= LARGEST:
            raise ValueError(f"eps must be a positive number of float32, got {eps}: about 1e-3 is usual.")
        if eps != groups[0]["eps"]:
            raise ValueError("eps must be the same in every parameter group: the two losses share one radius.")


def warn_of_lost_decay(groups: Sequence[Mapping[str, Any]]) -> None:
    """Warn of weight decay that float32 cannot express: its factor is 1."""
    for group in groups:
        lr, weight_decay = group["lr"], group["weight_decay"]
        if 0 < lr * weight_decay <= HALF_SPACING and any(tensor.element_size() <= 4 for tensor in group["params"]):
            warnings.warn(
                f"weight_decay {weight_decay:g} at lr {lr:g} has no effect: 1 - {lr * weight_decay:.1g} is 1 in float32. Raise "
                "one of them, or set weight_decay to 0.",
                stacklevel=4,
            )


def check_slopes(step: int, slopes: Sequence[float], power: int) -> None:
    """Raise FloatingPointError unless powers of a step's slopes times a normal direction have a finite size in float32."""
    largest = max(map(abs, slopes), default=0.0)
    if largest > LARGEST ** (1 / power) / LONGEST:
        raise FloatingPointError(
            f"step {step}: the slope {largest:.1e} is too large for state in float32; the weights are as before the step. "
            "Lower lr."
        )


def plain(value: Any) -> Any:
    """A setting as JSON has it: numbers and arrays of NumPy become Python's, tuples lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def finite_number(loss: Any, step: int) -> float:
    """The loss that a closure returned.

    Raises:
        ValueError: it is not one number.
        FloatingPointError: it is NaN or infinite.
    """
    if isinstance(loss, (np.ndarray, np.generic)) and loss.size == 1:
        loss = loss.item()
    if not isinstance(loss, (int, float)):
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, (Tensor, np.ndarray)) else repr(loss)[:80]
        raise ValueError(f"step {step}: the closure returned {shape}; it must return the loss as one number.")
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"step {step}: the closure returned {loss}; the weights are as before the step. "
            "Lower lr or eps, or check the batch."
        )
    return float(loss)
