"""What a computation allocates, told from shapes: it runs on tensors without memory, and what they would take is added up.

Such tensors are torch's fake ones, which follow every operation as those of a CPU do, backward passes and optimizers included.
What a kernel takes for itself while it runs, a few megabytes, is not seen.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_NUMBER = torch.ops.aten._local_scalar_dense.default


class Allocations(TorchDispatchMode):
    """Bytes that tensors take, kind by kind, at each moment of what is computed inside the block.

    To be entered inside the `FakeTensorMode` of the tensors. An operation that asks for a number is told 1, so that a loss is
    finite, and what would be done at other values is not seen.

    Args:
        kinds: names of what tensors are for. What is made belongs to the kind that `of` says, at first to the first one.
        existing: tensors that are not to be counted.
        sort: takes a new tensor and the kind that `of` says, and returns the kind that it counts as; that kind by default.
    """

    def __init__(self, kinds: tuple[str, ...], existing: Iterable[Tensor], sort: Callable[[Tensor, str], str] | None = None):
        super().__init__()
        self.kinds, self.kind, self.sort = kinds, kinds[0], sort
        self.live = dict.fromkeys(kinds, 0)
        self.moments: set[tuple[int, ...]] = set()
        """What was alive after each allocation, in the order of `kinds`."""
        self.known: dict[int, str | None] = {tensor.untyped_storage()._cdata: None for tensor in existing}
        """The kind of each storage that is alive, None of those that are not counted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _NUMBER:
            return 1.0 if args[0].is_floating_point() else 1
        output = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, output)
        return output

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """What is made inside the block is of this kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def count(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor that is there as one of this kind from now on."""
        self._note(tensor)
        storage = tensor.untyped_storage()
        if (before := self.known[storage._cdata]) is not None:
            self.live[before] -= storage.nbytes()
            self.live[kind] += storage.nbytes()
            self.known[storage._cdata] = kind

    def peaks(self) -> np.ndarray:
        """The moments that may be the peak when kinds grow by different factors, int64 of shape (moments, kinds)."""
        maximal: list[np.ndarray] = []
        for row in np.array(sorted(self.moments, key=sum, reverse=True) or [(0,) * len(self.kinds)], np.int64):
            if not any((other >= row).all() for other in maximal):
                maximal.append(row)
        return np.array(maximal)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        kind = self.sort(tensor, self.kind) if self.sort else self.kind
        self.known[storage._cdata] = kind
        self.live[kind] += storage.nbytes()
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.moments.add(tuple(self.live.values()))

    def _freed(self, place: int, size: int) -> None:
        if (kind := self.known.pop(place)) is not None:
            self.live[kind] -= size
