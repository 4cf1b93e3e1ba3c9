"""Methods that do store tensors as large as the weights: the baselines whose memory the others save."""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from zolab.noise import at_once, materialise, store_
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import check_slopes
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update

AFTER_DECAY = 1  # the words of a second rounding in the same step: with those of the first there would be a bias


class Slice(NamedTuple):
    """Part of a weight tensor while a step is taken.

    Args:
        weights: flat, in float32 or wider, to be changed in place.
        block, start: where it is.
        lr: learning rate there.
    """

    weights: Tensor
    block: int
    start: int
    lr: float


def wide_bytes(tensor: Tensor) -> int:
    """Bytes of a state with a number for each element of a tensor: float32, or the tensor's dtype where that is wider."""
    return tensor.numel() * max(tensor.element_size(), 4)


class StatefulOptimizer(ZeroOrderOptimizer):
    """A zeroth-order method that keeps float32 (or wider) state for every weight, and walks through it slice by slice.

    The state is not part of `state_dict`: like the weights it follows from the trajectory, and `load_state_dict` makes it
    again, at the price of one pass over the weights for each step.
    """

    slots: ClassVar[tuple[str, ...]]
    power: ClassVar[int] = 1
    """The highest power of a slope that the state holds."""

    @classmethod
    def stored_bytes(cls, tensor: Tensor, **settings) -> int:
        return len(cls.slots) * wide_bytes(tensor)

    def begin(self) -> None:
        super().begin()
        self.stored: dict[int, dict[str, Tensor]] = {}

    @abstractmethod
    def change(self, part: Slice, state: dict[str, Tensor], record: StepRecord) -> None:
        """Take a step on a slice of the weights and of each slot of the state, in place."""

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        check_slopes(record.step, record.projected_grads, self.power)
        return Update(blocks, [], [], record.decays(groups))

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        for tensor, block, group in zip(tensors or self.trained().tensors, blocks, groups, strict=True):
            state, size = self.state_of(block, tensor), at_once(tensor)
            for i, chunk in enumerate(tensor.detach().view(-1).split(size)):
                weights = chunk.to(torch.promote_types(chunk.dtype, torch.float32), copy=not tensors)
                part = Slice(weights, block, i * size, record.lrs[group])
                span = slice(part.start, part.start + chunk.numel())
                self.change(part, {slot: values[span] for slot, values in state.items()}, record)
                if tensors and weights is not chunk:
                    store_(chunk, weights, self.rounding_keys(record.step, (block,), AFTER_DECAY), part.start)

    def gradient(self, part: Slice, record: StepRecord) -> Tensor:
        """The two-point gradient p z on a slice, averaged over samples."""
        shares = [p / len(record.projected_grads) for p in record.projected_grads]
        total: Any = sum(self.normal(part, record.step, sample) * share for sample, share in enumerate(shares))
        return total

    def normal(self, part: Slice, step: int, sample: int = 0) -> Tensor:
        """A direction on a slice."""
        return materialise(self.direction(step, sample), part.block, part.weights, part.start)

    def state_of(self, block: int, tensor: Tensor) -> dict[str, Tensor]:
        """The flat state of a block, zero before the first step."""
        if block not in self.stored:
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            self.stored[block] = {slot: torch.zeros(tensor.numel(), dtype=dtype, device=tensor.device) for slot in self.slots}
        return self.stored[block]
