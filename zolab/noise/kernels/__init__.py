"""The kernels behind `zolab.noise`: Numba on CPUs, Triton on NVIDIA GPUs, plain torch everywhere else."""

from types import ModuleType

import torch

_COMPILED = (torch.float32, torch.bfloat16, torch.float16)


def backend_for(tensor: torch.Tensor) -> ModuleType:
    """The kernel module for a tensor's device and dtype."""
    if tensor.dtype in _COMPILED and tensor.device.type == "cpu":
        from zolab.noise.kernels import cpu

        return cpu
    if tensor.dtype in _COMPILED and tensor.device.type == "cuda":
        from zolab.noise.kernels import cuda

        return cuda
    from zolab.noise.kernels import plain

    return plain
