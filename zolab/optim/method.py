"""What a method says about its steps: along which directions, how far, and what it remembers of them."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from torch import Tensor

from zolab.noise import FAMILIES, Direction, GivenDirection
from zolab.optim.checks import ROUNDINGS
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.probe.in_place import MomentsUpdate, Perturbation, Update
from zolab.probe.through import ModuleProbe


class Method(ABC):
    """The part of a zeroth-order optimizer that differs between methods; `update` is the one that each must have."""

    trajectory: Trajectory
    steps: int
    uses_centre: ClassVar[bool] = False
    """Whether a step also needs the loss at the weights themselves, between the two that it probes."""

    @classmethod
    def forwards(cls, samples: int = 1) -> int:
        """Forward passes of a step that averages so many directions."""
        return 2 * samples + cls.uses_centre

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
    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update | MomentsUpdate:
        """The change that a step makes, from its record alone, so that `replay` can make it again.

        Args:
            record: projected gradients and hyperparameters of the step.
            blocks: block number of each trainable tensor.
            groups: index of the parameter group of each trainable tensor.
        """

    def _rounded_update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update | MomentsUpdate:
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

    def leave(self, perturbation: Perturbation | ModuleProbe, update: Update | MomentsUpdate) -> None:
        """Take the step in the pass that ends the probe; extended by methods that read the weights in that pass."""
        perturbation.leave(update)

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
