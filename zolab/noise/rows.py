"""Which example of a batch each row of a forward pass belongs to, for whoever treats the examples of one pass differently."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

ROWS: ContextVar[Tensor | None] = ContextVar("rows", default=None)
"""The example of each row, int64 of shape (rows,) on the CPU; None where row i is example i of the batch."""


@contextmanager
def rows_of(examples: Tensor) -> Iterator[None]:
    """Say to which example each row of what modules are given belongs, a row being an index of the first dimension.

    For closures that evaluate a batch in parts, or lay several texts of one example into a pass:

        with rows_of(torch.arange(8, 16)):
            losses = loss_of_each(model(**second_half))

    Args:
        examples: the number of each row's example in the batch, int64 of shape (rows,).
    """
    before = ROWS.set(examples.cpu())
    try:
        yield
    finally:
        ROWS.reset(before)
