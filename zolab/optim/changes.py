"""Notice what others do to the weights between steps, and steps that do nothing to them.

A few elements of each tensor stand for all: their bits are compared, besides torch's own counter of changes, which
`p.data` gets around. On a GPU, where that would mean to wait, they are read once in a while.
"""

import os
import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from zolab.noise import chunks
from zolab.optim.arrival import Arrived, Tiles
from zolab.optim.parameters import Trainable
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.probe.updates import AnyUpdate

SAMPLES, EACH = 256, 4  # elements that are looked at: of all tensors together, but of each tensor at least
PATIENCE = 10  # steps in a row that may do nothing
MEASURED = 10  # steps between two measurements of what arrives
ELSEWHERE = 64  # the same, and between two looks, on another device than the CPU
LEAST = 0.5  # share of a step that should arrive
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class StandstillWarning(UserWarning):
    """Steps have no effect, and the warning says why."""


class Changes:
    """The trained tensors as they were left.

    Args:
        trained: the tensors.

    Raises:
        ValueError: two of them overlap in part, or one lies in memory that cannot be written to.
    """

    def __init__(self, trained: Trainable):
        check_apart(trained)
        check_writable(trained)
        self.tensors, self.names = trained.tensors, trained.names
        self.homes = [tensor.detach() for tensor in trained.tensors]
        self.addresses = [tensor.data_ptr() for tensor in trained.tensors]
        self.devices = [tensor.device for tensor in trained.tensors]
        self.at_hand = all(device.type == "cpu" for device in self.devices)
        self.places = [_sampled(home, max(EACH, SAMPLES // len(self.homes))) for home in self.homes]
        sizes = [place.numel() for place in self.places]
        self.pieces = chunks(self.homes)
        self.owners = np.repeat(np.arange(len(sizes)), sizes)
        self.tiles = Tiles(self.homes)
        self.arrays = [place.numpy() for place in self.places] if self.at_hand else []
        self.versions: list[int] | None = None
        self.bits: np.ndarray | None = None

    def fit(self, trained: Trainable) -> "Changes":
        """These, or new ones if the tensors or their memory are others; those know nothing yet but what these saw.

        Raises:
            ValueError: as the constructor does, or a tensor is on another device than before.
        """
        same = len(trained.tensors) == len(self.tensors) and all(map(lambda a, b: a is b, trained.tensors, self.tensors))
        if same and self.addresses == [tensor.data_ptr() for tensor in self.tensors]:
            return self
        new = Changes(trained)
        if same and self.versions is not None:
            for name, before, now in zip(self.names, self.devices, new.devices, strict=True):
                if before != now:
                    raise ValueError(f"{name} was moved from {before} to {now} between two steps; begin a new optimizer there.")
            new.bits, new.versions = self.bits, [tensor._version for tensor in new.tensors]
        return new

    def note(self) -> None:
        """Remember the weights as a step left them."""
        self.versions = [tensor._version for tensor in self.tensors]
        self.bits = self._look() if self.at_hand else self.bits

    def forget(self) -> None:
        """The weights may become others now."""
        self.versions = self.bits = None

    def by_others(self) -> str | None:
        """The name of a tensor whose weights are no longer those that were noted, if there is one."""
        if self.versions is None:
            return None
        for name, tensor, version in zip(self.names, self.tensors, self.versions, strict=True):
            if tensor._version != version:
                return name
        if self.bits is None or not self.at_hand:
            return None
        other = np.flatnonzero(self._look() != self.bits)
        return self.names[self.owners[other[0]]] if len(other) else None

    def bring_home(self) -> str | None:
        """Give tensors back the memory that something took from them; returns the name of one."""
        if [tensor.data_ptr() for tensor in self.tensors] == self.addresses:
            return None
        moved = [j for j, tensor in enumerate(self.tensors) if tensor.data_ptr() != self.addresses[j]]
        for j in moved:
            self.tensors[j].data = self.homes[j]
        return self.names[moved[0]]

    def _look(self) -> np.ndarray:
        if self.at_hand:
            return np.concatenate(self.arrays)
        return torch.cat([place.to("cpu", torch.int64) for place in self.places]).numpy()


def looked_after(changes: Changes | None, trained: Trainable, trajectory: Trajectory, step: int) -> Changes:
    """The tensors as the last step left them; if they are no longer so, that is said, and noted in the trajectory.

    Args:
        changes: as they were noted, if they were.
        trained: what is trained now.
        trajectory: of the steps so far.
        step: the number of the next one.
    """
    changes = Changes(trained) if changes is None else changes.fit(trained)
    if name := changes.by_others():
        if trajectory.overwritten is None:
            trajectory.overwritten = step
        changes.forget()
        warnings.warn(
            f"{name} was changed by something else since the last step: training goes on from there, but the trajectory no "
            "longer gives these weights, so that it cannot be saved or replayed.",
            stacklevel=6,
        )
    return changes


class Standstill:
    """Count the steps in a row that change nothing or little, and say so once."""

    def __init__(self):
        self.flat = self.still = self.short = 0
        self.warned = False
        self.kept: list[Tensor] | None = None
        self.arrived: Arrived | None = None

    def before(self, changes: Changes, step: int, nearest: bool) -> None:
        """Remember a sample of the weights if what becomes of the step is to be measured.

        Args:
            changes: the weights.
            step: its number.
            nearest: whether half-precision weights are rounded to nearest; at random, nothing is lost on average.
        """
        due = nearest and changes.tiles.places and step % (MEASURED if changes.at_hand else ELSEWHERE) == 0
        self.kept = changes.tiles.copied() if due else None

    def after(self, changes: Changes, record: StepRecord, factors: Sequence[float], update: AnyUpdate) -> str | None:
        """Note the weights after a step; a sentence if it is time to say that nothing happens.

        Args:
            changes: the weights, as they were noted after the step before.
            record: the step.
            factors: of each tensor, zero where a step is not meant to move it.
            update: what the step meant to do to the weights.
        """
        self.arrived = None if self.kept is None else changes.tiles.arrived(self.kept, update)
        self.kept, before, due = None, changes.bits, changes.at_hand or record.step % ELSEWHERE == 0
        changes.note()
        if due and not changes.at_hand:
            changes.bits = changes._look()
        if self.warned:
            return None
        walks = any(record.projected_grads)
        self.flat = 0 if walks else self.flat + 1
        if self.flat == PATIENCE:
            return self._tell(
                f"the slope was zero in {PATIENCE} steps in a row, so that nothing is learned: see that the loss depends on "
                "the weights, compute it in float32, on more examples if it is a metric, or raise eps."
            )
        meant = np.array(factors)[changes.owners] != 0
        if not (due and walks and meant.any() and before is not None and changes.bits is not None):
            return None
        return self._moved(changes, bool(((before != changes.bits) & meant).any()), int(meant.sum()))

    def _moved(self, changes: Changes, moved: bool, meant: int) -> str | None:
        self.still = 0 if moved else self.still + (1 if changes.at_hand else ELSEWHERE)
        if self.still >= PATIENCE:
            return self._tell(
                f"{self.still} steps in a row moved none of {meant:,} sampled weights, since each is smaller than the "
                "spacing of their numbers: raise lr, or train in float32."
            )
        if self.arrived is None:
            return None
        self.short = self.short + 1 if self.arrived.share < LEAST else 0
        if self.short < 2:  # a single step may be a small one
            return None
        return self._tell(
            f"{100 * max(self.arrived.share, 0):.0f} % of the last step arrived in the half-precision weights, and "
            f"{100 * self.arrived.moved:.0f} % of them moved, since rounding to nearest takes small steps back: use "
            "rounding='stochastic', raise lr, or train in float32."
        )

    def _tell(self, sentence: str) -> str:
        self.warned = True
        return sentence


def _sampled(tensor: Tensor, count: int) -> Tensor:
    """The bits of so many elements, spread over a tensor, as they will be at any time."""
    flat = tensor.view(-1)
    step = max(flat.numel() // count, 1)
    return flat.view(INTEGERS[flat.element_size()])[step // 2 :: step][:count]


def check_apart(trained: Trainable) -> None:
    """Raise ValueError if tensors overlap, which steps would move twice; those that are one memory count as one before."""
    spans = []
    for name, tensor in zip(trained.names, trained.tensors, strict=True):
        if tensor.numel():
            spans.append((str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, name))
    for (device, _, end, one), (place, start, _, other) in pairwise(sorted(spans)):
        if device == place and start < end:
            raise ValueError(
                f"{one} and {other} share a part of their memory, which a step would move twice; give one of them memory "
                "of its own: p.data = p.data.clone()."
            )


def check_writable(trained: Trainable) -> None:
    """Raise ValueError if a tensor lies in a file that is mapped for reading: to write there ends the process.

    So the kernel is asked to write a tensor's first byte over itself; it refuses where it may not.
    """
    for name, tensor in zip(trained.names, trained.tensors, strict=True):
        if tensor.device.type != "cpu" or not tensor.numel() or tensor.untyped_storage().resizable():
            continue  # memory that torch made
        first = tensor.detach().view(-1)[:1].view(torch.uint8)[:1].numpy()
        source, sink = os.pipe()
        try:
            os.write(sink, first.tobytes())
            os.readv(source, [first.data])
        except OSError as error:
            own = "give it memory of its own: p.data = p.data.clone()"
            raise ValueError(f"{name} lies in memory that is only for reading; {own}.") from error
        finally:
            os.close(source)
            os.close(sink)
