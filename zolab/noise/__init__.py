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
from zolab.noise.low_rank import LowRankDirection, is_matrix
from zolab.noise.made import MadeDirection

__all__ = [
    "FAMILIES",
    "NOT_GIVEN",
    "SLICE",
    "Chunk",
    "Direction",
    "GivenDirection",
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
    "squared_length",
    "store_",
]
