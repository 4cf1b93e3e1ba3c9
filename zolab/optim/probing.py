"""How a step measures the loss: at the weights, on one side of them and on the other, along one direction after another."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from zolab.noise import Direction, GivenDirection
from zolab.optim.changes import Changes
from zolab.optim.checks import finite_number
from zolab.probe.in_place import Perturbation
from zolab.probe.interrupts import DeferInterrupts
from zolab.probe.through import ModuleProbe
from zolab.probe.updates import AnyUpdate, apply

Closure = Callable[[], Tensor | float]


class Measured(NamedTuple):
    """What a step measured.

    Args:
        projected_grads: as `StepRecord` has them.
        losses: likewise.
        loss: the loss at the weights before the step, or what stands for it: a step returns it.
        sigmas: likewise, if the method chose them by these losses.
    """

    projected_grads: list[float]
    losses: list[float]
    loss: float
    sigmas: tuple[float, ...] | None = None


class Probes:
    """The losses of a step. If anything is raised inside the block, the weights are where they were.

    Args:
        tensors: the trained ones.
        scales: eps sigma_j of each, as long as a probe is told no others.
        closure: the step's own, as long as a probe is told no other.
        perturb: makes a perturbation from a direction, scales, and whether both sides of it will be looked at.
        evaluate: takes a closure and what has to be around its call, and returns what waits for the loss.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        scales: list[float],
        closure: Closure,
        perturb: Callable[[Direction | GivenDirection, list[float], bool], Perturbation | ModuleProbe],
        evaluate: Callable[[Closure, AbstractContextManager], Callable[[], float]],
    ):
        self.tensors, self.scales, self.closure, self.perturb, self.evaluate = tensors, scales, closure, perturb, evaluate
        self.moved: Perturbation | ModuleProbe | None = None
        """What the weights are moved by now."""

    def __enter__(self) -> "Probes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is not None:
            self.back()

    def centre(self, closure: Closure | None = None) -> float:
        """The loss at the weights themselves."""
        self.back()
        return self.evaluate(closure or self.closure, nullcontext())()

    def plus(
        self, direction: Direction | GivenDirection, closure: Closure | None = None, scales: list[float] | None = None
    ) -> float:
        """The loss on one side, at w + eps sigma z, where the weights stay until they are moved on."""
        return self._plus(direction, closure, self.scales if scales is None else scales, False)()

    def both(self, direction: Direction | GivenDirection, closure: Closure | None = None) -> tuple[float, float]:
        """The losses on both sides, at w + eps sigma z and w - eps sigma z, where the weights stay.

        A GPU is given the work of both before either is waited for.
        """
        plus = self._plus(direction, closure, self.scales, True)
        assert self.moved is not None, "by _plus"
        self.moved.minus()
        minus = self.evaluate(closure or self.closure, self.moved.evaluated())
        return plus(), minus()

    def _plus(
        self, direction: Direction | GivenDirection, closure: Closure | None, scales: list[float], both: bool
    ) -> Callable[[], float]:
        self.back()
        self.moved = moved = self.perturb(direction, scales, both)
        moved.plus()
        return self.evaluate(closure or self.closure, moved.evaluated())

    def back(self) -> None:
        """Move the weights back to w."""
        if self.moved is not None:
            self.moved.leave()
            self.moved = None

    def leave(self, update: AnyUpdate, *, measure: bool = False) -> np.ndarray | Tensor | None:
        """Move back and apply the update in the same pass; `measure` and the result are those of `Perturbation.leave`."""
        if self.moved is None:
            return apply(self.tensors, update, measure=measure)
        return self.moved.leave(update, measure=measure)


def evaluated(
    interrupts: DeferInterrupts, changes: Changes, step: int, closure: Closure, around: AbstractContextManager
) -> Callable[[], float]:
    """Evaluate a closure; what comes back waits for the loss, which a GPU may be busy with, and gives it as a number.

    Args:
        interrupts: let through while the closure runs and while a GPU is waited for.
        changes: of the trained tensors.
        step: its number, for messages.
        closure: returns the loss.
        around: its call.

    Raises:
        ValueError: it returned something other than one number, or gave weights other memory.
        FloatingPointError: it returned NaN or infinity; of a tensor, raised by what comes back.
    """
    with around:
        try:
            interrupts.allow()
            loss = closure()
            loss = loss.detach().clone() if isinstance(loss, Tensor) else loss  # or the next call may overwrite it
        finally:
            interrupts.hold()
            moved = changes.bring_home()
    if moved:
        raise ValueError(
            f"step {step}: the closure gave {moved} other memory, as offloading does; let weights stay where they "
            "are; they are as before the step."
        )
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return partial(_number, interrupts, step, loss)
    number = finite_number(loss, step)
    return lambda: number


def _number(interrupts: DeferInterrupts, step: int, loss: Tensor) -> float:
    try:
        interrupts.allow()
        number = loss.item()
    finally:
        interrupts.hold()
    return finite_number(number, step)
