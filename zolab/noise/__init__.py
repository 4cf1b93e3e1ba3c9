"""Random directions, addressed instead of stored; the kernels behind them are in `zolab.noise.kernels`."""

from zolab.noise.directions import (
    NOT_GIVEN,
    SLICE,
    Chunk,
    Direction,
    GivenDirection,
    Source,
    Sources,
    add_,
    check,
    chunks,
    direction,
    dot,
    for_each,
    materialise,
    per_tensor,
    squared_length,
)

__all__ = [
    "NOT_GIVEN",
    "SLICE",
    "Chunk",
    "Direction",
    "GivenDirection",
    "Source",
    "Sources",
    "add_",
    "check",
    "chunks",
    "direction",
    "dot",
    "for_each",
    "materialise",
    "per_tensor",
    "squared_length",
]
