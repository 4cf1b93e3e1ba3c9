"""Methods that keep a copy of the weights as they were before an earlier step: their anchor."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.changes import INTEGERS
from zolab.optim.probing import Probes


class AnchoredOptimizer(ZeroOrderOptimizer):
    """A zeroth-order method with an anchor: one tensor set as large as the weights, in their dtype.

    The anchor does not follow from the trajectory alone. So it is a part of `state_dict`, and `resumable` says before which
    steps it is not needed.
    """

    @classmethod
    def stored_bytes(cls, tensor: Tensor, **settings) -> int:
        return tensor.nbytes

    def begin(self) -> None:
        super().begin()
        self.anchor: list[Tensor] = []
        """A copy of each trained tensor; empty before the first step."""
        self.anchored: int | None = None
        """The step before which it was made."""

    @abstractmethod
    def anchor_of(self, step: int) -> int:
        """The step before which the anchor was made that a step needs: itself, if it makes one."""

    def resumable(self, step: int) -> bool:
        return self.anchor_of(step) == step

    def depart(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> None:
        anchor = self.anchor_of(self.steps)
        if anchor == self.steps:
            self.anchored = None  # until all is copied
            self.anchor = self.anchor or [tensor.detach().clone() for tensor in tensors]
            for copy, tensor in zip(self.anchor, tensors, strict=True):
                copy.copy_(tensor)
            self.anchored = self.steps
        elif anchor != self.anchored:
            raise ValueError(
                f"step {self.steps} needs the weights as they were before step {anchor}, which skipped steps do not tell; load "
                "the optimizer's whole state, or replay the steps."
            )

    @contextmanager
    def at_anchor(self, probes: Probes) -> Iterator[None]:
        """Inside the block the weights are those of the anchor; the two are exchanged to the bit, in no further memory."""
        self._swap(probes.tensors)
        try:
            yield
        finally:
            probes.back()
            self._swap(probes.tensors)

    def _swap(self, tensors: list[Tensor]) -> None:
        for tensor, copy in zip(tensors, self.anchor, strict=True):
            one, other = _bits(tensor.data), _bits(copy)  # .data: torch is not to count what is taken back as a change
            one ^= other
            other ^= one
            one ^= other

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "anchor": {"step": self.anchored, "tensors": self.anchor}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict.get("anchor", {})  # another method's state has none, which is said there
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "anchor"})
        tensors = self.trained().tensors if saved["tensors"] else []
        self.anchor = [copy.to(tensor.device, copy=True) for copy, tensor in zip(saved["tensors"], tensors, strict=True)]
        self.anchored = saved["step"]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(INTEGERS[tensor.element_size()])
