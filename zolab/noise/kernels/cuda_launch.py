"""Launches of Triton kernels, prepared once: what Triton does before each costs more than a small kernel itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_runners: dict[tuple, Callable] = {}
"""Compiled kernels with their grid, for each combination of what Triton compiles a kernel of its own for."""


def launch(function: Any, programs: int, chunk: Tensor, *more: Any) -> None:
    """Run a kernel over a chunk. Products and sums stay apart, as on the CPU, unless the kernel joins them itself.

    Args:
        function: a kernel of `zolab.noise.kernels.cuda_tiles.kernel`; takes a pointer, the size and `more`.
        programs: of the grid; none means that nothing is done.
        chunk: the tensor whose pointer and size are passed.
        more: tensors, numbers whose value Triton does not specialise, None, and flags that are compile-time constants.
    """
    if not programs:
        return
    size = chunk.numel()
    key = (function, programs, chunk.device, size, *map(_kind, (chunk, *more)))
    with torch.cuda.device_of(chunk):
        if run := _runners.get(key):
            run(chunk, size, *more)
            return
        compiled = function[(programs,)](chunk, size, *more, enable_fp_fusion=False)
        if compiled is not None:  # it is in the interpreter
            _runners[key] = compiled[(programs, 1, 1)]


def _kind(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument if argument is None or isinstance(argument, bool) else type(argument)
