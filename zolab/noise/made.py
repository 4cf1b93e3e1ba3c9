"""Directions whose values are computed where a kernel needs them, so that none is ever held whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from zolab.noise.addresses import Direction
from zolab.noise.directions import GivenDirection, from_key


@dataclass(frozen=True, eq=False)
class MadeDirection(GivenDirection):
    """A direction whose values are computed slice by slice, each time that a kernel asks for them.

    Args:
        make: takes the number of a block and a slice of its flat elements, and returns the direction's values there.
    """

    values: Sequence[Tensor] = field(default=(), init=False)
    make: Callable[[int, slice], Tensor]
    made: ClassVar[bool] = True

    def part(self, block: int, span: slice) -> Tensor:
        return self.make(block, span)


def on_parts(name: Direction, starts: Sequence[int], tensors: Sequence[Tensor]) -> MadeDirection:
    """What a direction is on a part of each tensor, wherever the part starts.

    A direction names its numbers by tensor and place. So processes that each hold a part of the weights make, together, the
    numbers that one process makes with all of them, and no two parts have the same ones, as they do where each process draws
    from a generator of the same seed. For whole tensors `name` itself is faster.

    Args:
        name: the direction of the whole tensors.
        starts: for each block, the place of its part's first weight in the whole flat tensor.
        tensors: the part of each block, which tells the device.
    """
    keys = name.keys(tuple(range(len(tensors))))

    def make(block: int, span: slice) -> Tensor:
        shape, start = (span.stop - span.start,), starts[block] + span.start
        return from_key(keys[block], shape, start, tensors[block].device, name.signs)

    return MadeDirection(make=make)
