"""What a method says about its steps: along which directions, how far, and what it remembers of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zolab.noise import FAMILIES, Direction, GivenDirection
from zolab.optim.arrival import Arrived
from zolab.optim.checks import ROUNDINGS, finite_number
from zolab.optim.probing import Closure, Measured, Probes
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.probe.updates import AnyUpdate, Update


def one_by_one(measure: Callable[[Any], tuple[float, ...]], items: Sequence[Any], values: int) -> list[tuple[float, ...]]:
    """What a function gives for each item: `values` numbers."""
    return [measure(item) for item in items]


class Method(ABC):
    """The part of a zeroth-order optimizer that differs between methods; `update` is the one that each must have."""

    trajectory: Trajectory
    steps: int
    sides: ClassVar[int] = 2
    """Sides of the weights that are probed along a direction: 2, or 1, beside the loss at the weights themselves."""
    uses_centre: ClassVar[bool] = False
    """Whether a step that probes both sides needs the loss at the weights themselves, too."""
    always_through: ClassVar[bool] = False
    """Whether looking through the modules is the faster way even for float32 weights on a CPU."""
    per_example: ClassVar[bool] = False
    """Whether a step's closure returns a vector, the loss of each example of the batch, instead of one number."""
    along: ClassVar[type] = Direction
    """The kind of direction that a step probes along."""
    differentiates: ClassVar[bool] = False
    """Whether a step carries the derivative along its direction beside each value, and moves no weight to probe."""
    spread: Callable[..., list[tuple[float, ...]]] = staticmethod(one_by_one)
    """What measures the losses of a step's directions; whoever has several processes lets each measure some of them."""
    sides_apart: bool = False
    """Whether it is asked for the two sides of a direction one by one, so that two processes may take one each."""
    full_batch: Closure | None = None
    """Returns the loss over all training data, for the methods that need it; whoever has the data sets it."""
    arrived: Arrived | None = None
    """What became of the last step, if that was measured: now and then, where half precision is rounded to nearest."""

    @classmethod
    def forwards(cls, steps: int = 1, *, samples: int = 1, full: int = 1, **settings) -> int:
        """Forward passes of a run's first steps.

        Args:
            steps: how many.
            samples: directions averaged in each.
            full: forward passes that one evaluation of `full_batch` takes.
            settings: the method's other ones.
        """
        return steps * (cls.sides * samples + (cls.uses_centre or cls.sides == 1))

    @classmethod
    def faster_through(cls, dtype: str, device: str) -> bool:
        """Whether a step takes less time looking through the modules than in place, as `benchmarks.methods` measures both.

        Args:
            dtype: of the weights, such as "float32".
            device: of the weights, as torch names it.
        """
        return cls.always_through or cls.per_example or dtype != "float32" or torch.device(device).type == "cuda"

    @classmethod
    def stored_bytes(cls, tensor: Tensor, **settings) -> int:
        """Bytes that the method keeps from step to step for a trained tensor, beside the tensor.

        Args:
            tensor: of which shape and dtype count.
            settings: the method's own ones.
        """
        return 0

    def check_record(self, record: StepRecord) -> None:
        """Raise ValueError if a recorded step lacks what it is taken again by; extended by methods that use its losses."""
        if not record.projected_grads:
            raise ValueError(f"step {record.step} was recorded without a slope.")

    def measure(self, probes: Probes, eps: float) -> Measured:
        """The losses of a step, and the slopes that follow from them; extended by methods that need others.

        Both sides:  p = (L(theta + eps sigma z) - L(theta - eps sigma z)) / (2 eps)
        One side:    p = (L(theta + eps sigma z) - L(theta)) / eps

        Args:
            probes: what moves the weights and evaluates the loss there.
            eps: the finite-difference radius.
        """
        directions = [self.probe(self.steps, sample) for sample in range(self.trajectory.samples)]
        if self.sides == 1:
            points = [None, *((direction, 1) for direction in directions)]
            centre, *losses = self._spread(partial(_at, probes), points, 1)
            return Measured([(loss - centre) / eps for loss in losses], [*losses, centre], centre)
        if self.sides_apart:
            points = [(direction, side) for direction in directions for side in (1, -1)]
            measured = self._spread(partial(_at, probes), [*([None] if self.uses_centre else []), *points], 1)
            centres, losses = measured[: -len(points)], measured[-len(points) :]
        else:
            centres = [probes.centre()] if self.uses_centre else []
            losses = self._spread(probes.both, directions, 2)
        pairs = list(zip(losses[::2], losses[1::2], strict=True))
        return Measured([(plus - minus) / (2 * eps) for plus, minus in pairs], losses + centres, sum(losses) / len(losses))

    def _spread(self, measure: Callable[[Any], tuple[float, ...]], items: Sequence[Any], values: int) -> list[float]:
        """The losses of all items in a row. Raises FloatingPointError if one is not finite, whoever measured it."""
        return [finite_number(loss, self.steps) for losses in self.spread(measure, items, values) for loss in losses]

    @property
    def rounding(self) -> str:
        """How weights of half precision take a step, "nearest" or "stochastic"; a part of the trajectory's settings."""
        return self.trajectory.settings.get("rounding", ROUNDINGS[0])  # as all runs did that are older than the setting

    @rounding.setter
    def rounding(self, value: str) -> None:
        self.trajectory.settings.pop("rounding", None)
        if value != ROUNDINGS[0]:
            self.trajectory.settings["rounding"] = value

    @property
    def directions(self) -> str:
        """The family of the directions, one of `zolab.noise.FAMILIES`; a part of the trajectory's settings.

        A method whose algebra holds for normal directions only leaves the setting out of its constructor.
        """
        return self.trajectory.settings.get("directions", FAMILIES[0])  # as of all runs that are older than the setting

    def fits(self) -> None:  # noqa: B027  (most methods are told nothing that must fit)
        """Raise ValueError unless what a method was told fits its parameters; extended by methods that are told more."""

    @abstractmethod
    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> AnyUpdate:
        """The change that a step makes, from its record alone, so that `replay` can make it again.

        Args:
            record: projected gradients and hyperparameters of the step.
            blocks: block number of each trainable tensor.
            groups: index of the parameter group of each trainable tensor.
        """

    def _rounded_update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> AnyUpdate:
        update = self.update(record, blocks, groups)
        update.rounding = self.rounding_keys(record.step, blocks)
        return update

    def direction(self, step: int, sample: int = 0) -> Direction | GivenDirection:
        """A random direction of a step. Replace this on an instance to prescribe directions, as toy problems do."""
        return Direction(self.trajectory.seed, step, sample, self.directions)

    def probe(self, step: int, sample: int = 0) -> Direction | GivenDirection:
        """What a step measures the two losses along: its direction, here."""
        return self.direction(step, sample)

    def propose(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> tuple[float, ...]:
        """What a step chooses about its scales before it probes, to be recorded with it; here, nothing."""
        return ()

    def scales(self, sigmas: tuple[float, ...], blocks: tuple[int, ...]) -> list[float]:
        """sigma_j of each tensor, a standard deviation: the probe is eps sigma_j z_j and the step lr p sigma_j z_j.

        Args:
            sigmas: what `propose` chose for this step.
            blocks: as in `update`.
        """
        return [1.0] * len(blocks)

    def against(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int], factor: float = 1.0) -> Update:
        """The step -lr * factor * p sigma z, averaged over samples: MeZO's with factor 1 and sigma 1."""
        samples = len(record.projected_grads)
        directions = [self.direction(record.step, sample) for sample in range(samples)]
        scales = self.scales(record.sigmas, blocks)
        lrs = [record.lrs[g] * factor for g in groups]
        steps = [[-lr * p / samples * scale for lr, scale in zip(lrs, scales, strict=True)] for p in record.projected_grads]
        return Update(blocks, directions, steps, record.decays(groups))

    def rounding_keys(self, step: int, blocks: tuple[int, ...], sample: int = 0) -> np.ndarray | None:
        """What rounds the weights of blocks in a step at random, uint32 of shape (blocks, 2); None to nearest."""
        return None if self.rounding == ROUNDINGS[0] else Direction(self.trajectory.seed, step, sample).keys(blocks)

    def leave(self, probes: Probes, update: AnyUpdate) -> None:
        """Take the step in the pass that ends the probe; extended by methods that read the weights in that pass."""
        probes.leave(update)

    def resumable(self, step: int) -> bool:
        """Whether the weights before a step, with the records up to it, are all that the method needs to go on there."""
        return True

    def depart(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> None:  # noqa: B027
        """Called before each step, of a run or of its replay, while the weights are as the step before left them."""

    def begin(self) -> None:
        """Set what a method remembers to what it is before the first step; extended by methods that remember more."""
        self.steps = 0

    def advance(self, record: StepRecord, tensors: list[Tensor] | None, blocks: tuple[int, ...], groups: list[int]) -> None:  # noqa: B027
        """Bring what a method remembers beyond its trajectory from before the step to after it; here, nothing.

        Args:
            record: the step.
            tensors: the trained tensors, or None if they contain the step already.
            blocks, groups: as in `update`.
        """


def _at(probes: Probes, point: tuple[Direction | GivenDirection, int] | None) -> tuple[float]:
    """The loss at w + eps sigma z for a direction and the side 1, at w - eps sigma z for -1, at the weights w for None."""
    if point is None:
        return (probes.centre(),)
    direction, side = point
    return (probes.plus(direction, scales=[side * scale for scale in probes.scales]),)
