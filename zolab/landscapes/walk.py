"""Walking on a landscape with any torch optimizer, one evaluation of f at a time."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from zolab.landscapes.functions import LANDSCAPES, Landscape, Point, Protocol
from zolab.noise import GivenDirection
from zolab.optim import AdaMeZO, MeZO, ZeroOrderOptimizer
from zolab.optim.changes import StandstillWarning


@dataclass(frozen=True)
class Descent:
    """Where an optimizer went.

    Args:
        positions: the start, then where each step led, (steps + 1, 2).
        losses: f at these positions, (steps + 1,).
        forwards: forward passes taken on the way to each, (steps + 1,).
        backwards: backward passes likewise, (steps + 1,); 0 for zeroth-order methods.
        stopped: why the walk ended before its last step, or None.
    """

    positions: np.ndarray
    losses: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    stopped: str | None = None

    @property
    def length(self) -> float:
        """Length of the path."""
        return float(np.linalg.norm(np.diff(self.positions, axis=0), axis=1).sum())


def check_steps(steps: int) -> None:
    """Raise ValueError unless a walk can have so many steps."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}.")


def run(
    optimizer: Callable[..., torch.optim.Optimizer],
    landscape: Landscape,
    steps: int,
    *,
    start: Point | None = None,
    directions: Sequence[Point] | None = None,
) -> Descent:
    """Walk on a landscape. The optimizer sees float32 parameters as in a model, one for each block.

    A zeroth-order method is charged the forward passes that it takes. A first-order method gets the exact gradient and is
    charged one forward and one backward pass for each; on a language model a backward pass costs about two forward passes.

    Args:
        optimizer: makes the optimizer from its parameters: `partial(MeZO, lr=1e-2, seed=0)`, `partial(Adam, lr=1e-2)`.
        landscape: where to walk.
        steps: how many, >= 1.
        start: where to begin, instead of `landscape.start`.
        directions: use these in turn, instead of fresh ones from the optimizer's seed; for zeroth-order methods.

    Returns:
        The walk. It ends where f is NaN or infinite, and then `stopped` says so.

    Raises:
        ValueError: an argument is out of range, or a first-order method cannot have the gradient of f.
    """
    check_steps(steps)
    position = np.array(landscape.start if start is None else start, dtype=np.float32)
    if position.shape != (2,) or not np.isfinite(position).all():
        raise ValueError(f"start must be two finite numbers, got {position.tolist()}.")
    params = [nn.Parameter(part) for part in torch.from_numpy(position).split(landscape.blocks)]
    walker = optimizer(params)
    zeroth_order = isinstance(walker, ZeroOrderOptimizer)
    if directions is not None:
        _fix_directions(walker, directions, landscape.blocks)
    evaluations = 0

    def value() -> float:
        x, y = position.tolist()
        loss = landscape(x, y)
        if not (math.isfinite(loss) and math.isfinite(x) and math.isfinite(y)):
            raise FloatingPointError(value_at(x, y, loss))
        return loss

    def forward() -> float:
        nonlocal evaluations
        evaluations += 1
        return value()

    closure = forward if zeroth_order else _with_backward(forward, landscape, position, params)
    positions, losses, forwards = np.empty((steps + 1, 2)), np.empty(steps + 1), np.zeros(steps + 1, dtype=int)
    positions[0], losses[0], stopped = position, landscape(*position.tolist()), None
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", StandstillWarning)  # a walk that has come to rest is seen to
        for step in range(1, steps + 1):
            try:
                walker.step(closure)
                losses[step] = value()
            except FloatingPointError as error:
                stopped = stopped_in(step, steps, error)
                positions, losses, forwards = positions[:step], losses[:step], forwards[:step]
                break
            positions[step], forwards[step] = position, evaluations
    return Descent(positions, losses, forwards, 0 * forwards if zeroth_order else forwards, stopped)


def value_at(x: float, y: float, loss: float) -> str:
    """What f is at a point, in words."""
    return f"f({x:.4g}, {y:.4g}) is {loss}"


def stopped_in(step: int, steps: int, reason: object) -> str:
    """Why a walk ended before its last step."""
    return f"stopped in step {step} of {steps}: {reason}; lower the learning rate or begin elsewhere."


def _with_backward(
    forward: Callable[[], float], landscape: Landscape, position: np.ndarray, params: Sequence[nn.Parameter]
) -> Callable[[], float]:
    """A closure that leaves the exact gradient where first-order optimizers look for it."""
    _check_gradient(landscape, *position.tolist())
    gradient = np.zeros(2, np.float32)
    for param, part in zip(params, torch.from_numpy(gradient).split(landscape.blocks), strict=True):
        param.grad = part

    def forward_and_backward() -> float:
        loss = forward()
        gradient[:] = landscape.gradient(*position.tolist())
        return loss

    return forward_and_backward


def _check_gradient(landscape: Landscape, x: float, y: float, h: float = 1e-6) -> None:
    """Catch a function that drops the imaginary part on its way, as the built-in abs does."""
    value = landscape(x, y)
    for slope, right, left in zip(
        landscape.gradient(x, y),
        (landscape(x + h, y) - value, landscape(x, y + h) - value),
        (value - landscape(x - h, y), value - landscape(x, y - h)),
        strict=True,
    ):
        low, high = sorted((left / h, right / h))
        slack = 1e-2 * (1 + abs(low) + abs(high))
        if slope < low - slack or slope > high + slack:
            raise ValueError(
                f"{landscape.title}: its slope at ({x:g}, {y:g}) comes out as {slope:g}, but steps of {h} measure "
                f"{low:g} to {high:g}; write f in plain arithmetic, and |u| as magnitude(u)."
            )


def _fix_directions(optimizer: torch.optim.Optimizer, directions: Sequence[Point], blocks: tuple[int, ...]) -> None:
    """Make a zeroth-order optimizer use the given directions in turn."""
    if not isinstance(optimizer, ZeroOrderOptimizer):
        raise ValueError(f"{type(optimizer).__name__} sees the exact gradient and takes no directions; leave them out.")
    values = torch.tensor(directions, dtype=torch.float32)
    if values.ndim != 2 or values.shape[1] != 2 or not len(values) or not values.isfinite().all():
        raise ValueError(f"directions must be pairs of finite numbers, got {directions}.")
    given = [GivenDirection(z.split(blocks)) for z in values]
    samples = optimizer.trajectory.samples
    optimizer.direction = lambda step, sample=0: given[(step * samples + sample) % len(given)]


def optimizers_of(protocol: Protocol) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """The published optimizers by class name, ready for `run`. Their AdaMeZO is the code's, without its factor of 100."""
    adamezo = partial(AdaMeZO, betas=protocol.betas, horizon=protocol.horizon, scaling="code", gain=1.0, delta=1e-8)
    return {
        "Adam": partial(torch.optim.Adam, lr=protocol.lr_adam),
        "MeZO": partial(MeZO, lr=protocol.lr, eps=protocol.eps),
        "AdaMeZO": partial(adamezo, lr=protocol.lr, eps=protocol.eps),
    }


def run_protocol(landscape: Landscape) -> dict[str, Descent]:
    """The published walks on a landscape: Adam with exact gradients, MeZO and AdaMeZO with two directions in turn.

    Raises:
        ValueError: the landscape has no protocol.
    """
    protocol = landscape.protocol
    if protocol is None:
        published = ", ".join(other.title for other in LANDSCAPES.values() if other.protocol)
        raise ValueError(f"{landscape.title} is not among the published walks; those are {published}.")
    return {
        name: run(optimizer, landscape, protocol.steps, directions=None if name == "Adam" else protocol.directions)
        for name, optimizer in optimizers_of(protocol).items()
    }
