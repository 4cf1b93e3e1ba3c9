"""The body's doubled call as a CUDA graph: one launch instead of the thousands that keep a GPU waiting.

A graph reads and writes fixed memory: inputs of one shape, weights and scratch that stay where they are, and a table with the
step's keys and scales. It is captured when a shape comes again, in eval mode and where no hook would be passed over, and
dropped when one of that changes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from zolab.probe.scratch import Scratch, ScratchPool

SEEN, KEPT = 3, 16  # calls of a shape before it is captured, and how many shapes are
WAITS = 2  # a call that takes no longer than this, in times of its launching, may keep the GPU waiting: hosts are not even


class Captured(NamedTuple):
    """A captured call.

    Args:
        graph: of its launches.
        inputs: tensors that it reads, None in the place of anything else.
        output: what it writes.
        order: the owners that were called.
        scratches: that it computes in.
        addresses: of everything else that it may read.
    """

    graph: Any
    inputs: list[Tensor | None]
    output: Any
    order: tuple[int, ...]
    scratches: list[Scratch]
    addresses: list[int]


class Graphs:
    """The captured calls of a body, whose trained weights stay where they are.

    Args:
        body: the module.
        scratches: in which its modules compute with moved weights.
    """

    def __init__(self, body: nn.Module, scratches: ScratchPool):
        self.scratches, self.modules = scratches, list(body.modules())
        self.places = [
            (holder, name)
            for module in self.modules
            for holder in (module._parameters, module._buffers)
            for name, tensor in holder.items()
            if tensor is not None
        ]
        self.seen: Counter[tuple] = Counter()
        self.left: set[tuple] = set()
        """Calls whose launches hide behind the GPU's work."""
        self.latest: tuple[float, Any, Any] | None = None
        """Of a call: seconds of launching, and what tells when the GPU began and was done."""
        self.captured: dict[tuple, Captured] = {}
        self.pool: Any = None
        self.refused: str | None = None
        """Why no call is captured any more."""

    def key(self, leaves: list[Any], structure: Any, family: tuple) -> tuple | None:
        """What tells calls that one graph may stand for; None if there is no graph of this one.

        Args:
            leaves, structure: of its arguments.
            family: of the direction.
        """
        if self.refused or torch.is_autocast_enabled("cuda"):
            return None
        if any(m.training or m._forward_hooks or m._forward_pre_hooks for m in self.modules):
            return None
        return (
            *family,
            str(structure),
            *((leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves),
        )

    def replay(self, key: tuple, leaves: list[Any]) -> tuple[Any, tuple[int, ...]] | None:
        """The output of a captured call and its order, or None if it has not been captured."""
        self.seen[key] += 1
        call = self.captured.get(key)
        if call is None or call.addresses != self._addresses() or not self.scratches.holds(call.scratches):
            self.captured.pop(key, None)
            return None
        for buffer, leaf in zip(call.inputs, leaves, strict=True):
            if buffer is not None:
                buffer.copy_(leaf)
        call.graph.replay()
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, call.output), call.order

    def is_due(self, key: tuple) -> bool:
        """Whether a call may be captured once it has been made, for which it must be `timed`."""
        return self.seen[key] >= SEEN and len(self.captured) < KEPT and key not in self.left

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a call that launches one by one."""
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        done.record()
        self.latest = seconds, begun, done

    def _waited(self) -> bool:
        """Whether the GPU waited for the launches of the latest call. Those of a large model hide behind its work."""
        assert self.latest is not None, "by timed"
        seconds, begun, done = self.latest
        done.synchronize()
        return begun.elapsed_time(done) < WAITS * 1e3 * seconds

    def capture(self, key: tuple, leaves: list[Any], order: tuple[int, ...], call: Callable[[list[Any]], Any]) -> None:
        """Capture a call that has just been made, if the GPU waited for its launches.

        Args:
            key: of the call.
            leaves: its arguments.
            order: the owners that it called.
            call: makes it.
        """
        if not self._waited():
            self.left.add(key)
            return
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        graph, addresses, lent = torch.cuda.CUDAGraph(), self._addresses(), []
        self.scratches.lent = lent
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                output = call(inputs)
        except Exception as error:  # it asks the device something, for example: then its launches stay single ones
            self.refused = f"{type(error).__name__}: {error}"
            self.captured.clear()
            torch.cuda.synchronize()
            return
        finally:
            self.scratches.lent = None
        buffers = [leaf if isinstance(leaf, Tensor) else None for leaf in inputs]
        self.captured[key] = Captured(graph, buffers, output, order, list({id(one): one for one in lent}.values()), addresses)

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for holder, name in self.places if (tensor := holder[name]) is not None]
