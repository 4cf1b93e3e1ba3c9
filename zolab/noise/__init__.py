"""Random directions, addressed instead of stored; the kernels behind them are in `zolab.noise.kernels`."""

from zolab.noise.addresses import FAMILIES, Direction, GivenDirection, ScaledDirection
from zolab.noise.directions import (
    NOT_GIVEN,
    Filling,
    Source,
    Sources,
    add_,
    direction,
    dot,
    materialise,
    squared_length,
    store_,
)
from zolab.noise.group import GroupDirection
from zolab.noise.low_rank import LowRankDirection, is_matrix
from zolab.noise.made import MadeDirection, on_parts
from zolab.noise.pieces import Chunk, at_once, check, chunks, cut, fetched, for_each, per_tensor, small_ones, sums
from zolab.noise.rows import ROWS, rows_of

__all__ = [
    "FAMILIES",
    "NOT_GIVEN",
    "ROWS",
    "Chunk",
    "Direction",
    "Filling",
    "GivenDirection",
    "GroupDirection",
    "LowRankDirection",
    "MadeDirection",
    "ScaledDirection",
    "Source",
    "Sources",
    "add_",
    "at_once",
    "check",
    "chunks",
    "cut",
    "direction",
    "dot",
    "fetched",
    "for_each",
    "is_matrix",
    "materialise",
    "on_parts",
    "per_tensor",
    "rows_of",
    "small_ones",
    "squared_length",
    "store_",
    "sums",
]
