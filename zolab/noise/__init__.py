"""Random directions, addressed instead of stored; the kernels behind them are in `zolab.noise.kernels`."""

from zolab.noise.addresses import FAMILIES, Direction, GivenDirection, ScaledDirection
from zolab.noise.directions import (
    NOT_GIVEN,
    SLICE,
    Chunk,
    Source,
    Sources,
    add_,
    check,
    chunks,
    cut,
    direction,
    dot,
    fetched,
    for_each,
    materialise,
    per_tensor,
    squared_length,
    store_,
)
from zolab.noise.group import GroupDirection
from zolab.noise.low_rank import LowRankDirection, is_matrix
from zolab.noise.made import MadeDirection
from zolab.noise.rows import ROWS, rows_of

__all__ = [
    "FAMILIES",
    "NOT_GIVEN",
    "ROWS",
    "SLICE",
    "Chunk",
    "Direction",
    "GivenDirection",
    "GroupDirection",
    "LowRankDirection",
    "MadeDirection",
    "ScaledDirection",
    "Source",
    "Sources",
    "add_",
    "check",
    "chunks",
    "cut",
    "direction",
    "dot",
    "fetched",
    "for_each",
    "is_matrix",
    "materialise",
    "per_tensor",
    "rows_of",
    "squared_length",
    "store_",
]
