"""Directions whose values are computed where a kernel needs them, so that none is ever held whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from zolab.noise.directions import GivenDirection


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
