"""Launches of Triton kernels, prepared once: what Triton does before each costs more than a small kernel itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zolab.noise.kernels import threefry

NEAREST = (0, 0, False)
_runners: dict[tuple, Callable] = {}
"""Compiled kernels with their grid, for each combination of what Triton compiles a kernel of its own for."""


def launch(function: Any, programs: int, chunk: Tensor, *more: Any, **options: int) -> None:
    """Run a kernel over a chunk. Products and sums stay apart, as on the CPU, unless the kernel joins them itself.

    Args:
        function: a kernel of `zolab.noise.kernels.cuda_tiles.kernel`; takes a pointer, the size and `more`.
        programs: of the grid; none means that nothing is done.
        chunk: the tensor whose pointer and size are passed.
        more: tensors, numbers whose value Triton does not specialise, None, and flags that are compile-time constants.
        options: what the kernel is compiled with, such as its number of warps; the same whenever it is launched.
    """
    if not programs:
        return
    size = chunk.numel()
    key = (function, programs, chunk.device, size, *map(_kind, (chunk, *more)))
    with torch.cuda.device_of(chunk):
        if run := _runners.get(key):
            run(chunk, size, *more)
            return
        compiled = function[(programs,)](chunk, size, *more, enable_fp_fusion=False, **options)
        if compiled is not None:  # it is in the interpreter
            _runners[key] = compiled[(programs, 1, 1)]


def _kind(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument if argument is None or isinstance(argument, bool) else type(argument)


def tiles_of(chunk: Tensor) -> int:
    return -(-chunk.numel() // threefry.TILE)


def launch_tiles(function: Any, chunk: Tensor, *more) -> None:
    """Run a kernel over a chunk, one program to a tile."""
    launch(function, tiles_of(chunk), chunk, *more)


def rounding_of(w: Tensor, key: Any) -> tuple[int, int, bool]:
    """What kernels take for a rounding key, or for none."""
    return NEAREST if key is None or w.element_size() > 2 else (int(key[0]), int(key[1]), True)


def bits(*columns: np.ndarray) -> np.ndarray:
    """Columns of keys and of float32 numbers as int32."""
    return np.concatenate([np.ascontiguousarray(c).reshape(len(c), -1).view(np.int32) for c in columns], axis=1)


def table(keys: np.ndarray, scales: Any) -> Tensor:
    """Rows of a key and a scale, int32 of shape (tensors, 3) on the host; on a device they stand for `scale` in `both`.

    Args:
        keys: of one direction, uint32 of shape (tensors, 1, 2).
        scales: one for each tensor.
    """
    return torch.from_numpy(bits(keys, np.array(scales, np.float32)))


def row_of(like: Tensor, keys: np.ndarray, scale: float | Tensor) -> Tensor:
    """A row of a table on the device, with the first of the keys."""
    if isinstance(scale, Tensor):
        return scale
    keys = keys[:1] if len(keys) else np.zeros((1, 2), np.uint32)  # none where the values are given
    return table(keys[None], [scale])[0].to(like.device, non_blocking=True)
