"""The Triton kernels of a step against the CPU kernels: in Triton's interpreter everywhere, natively where there is a GPU.

As in `test_kernels_cuda`, each way has a process of its own, which measures and prints JSON:
`TRITON_INTERPRET=1 python tests/test_step_kernels.py interpreter` shows the numbers that the tests judge.
"""

import json
import sys

import pytest
import torch
from test_kernels_cuda import DTYPES, guarded, needs_gpu, needs_triton, round_as_a_gpu_does, run

from zolab.noise import NOT_GIVEN, Direction, Source
from zolab.noise.kernels import cpu

pytestmark = needs_triton

SIZES = (1, 5, 1024, 2049, 6000)
KEYS = Direction(3, 5).keys((0, 1, 2))


def weights(size, dtype):
    """Ordinary weights, and those that lose bits: zeros of both signs, tiny ones, large ones."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.05
    w[1::7] = 0.0
    w[2::7] = -0.0
    w[3::7] *= 1e-6
    w[4::7] *= 1e4
    return w.to(dtype)


def bits(tensor):
    return tensor.cpu().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def different(a, b) -> int:
    return int((bits(a) != bits(b)).sum())


def source(cuda, keys, values=None):
    return Source(keys, NOT_GIVEN if values is None else cuda.given(values))


def by_type(measure, *arguments) -> dict:
    """What a measurement says, summed over sizes, for each type of weights."""
    return {name: sum(measure(*arguments, size, dtype) for size in SIZES) for name, dtype in DTYPES.items()}


def perturbed_errors(cuda, device, size, dtype) -> int:
    w = weights(size, dtype)
    chunk, untouched = guarded(torch.full_like(w, 5), device)
    wrong = 0
    for scale in (1e-3, -0.3):
        there = torch.empty_like(w)
        cpu.perturbed(cpu.view(there), cpu.view(w), 7, Source(KEYS[:1], NOT_GIVEN), scale)
        cuda.perturbed(chunk, w.to(device), 7, source(cuda, KEYS[:1]), scale)
        wrong += different(chunk, there)
        values = torch.randn(size)
        cpu.perturbed(cpu.view(there), cpu.view(w), 7, Source(KEYS[:1], values.numpy()[None]), scale)
        cuda.perturbed(chunk, w.to(device), 7, source(cuda, KEYS[:1], [values.to(device)]), scale)
        wrong += different(chunk, there)
    return wrong + (not untouched())


def measure(cuda, device: str) -> dict:
    return {"perturbed": by_type(perturbed_errors, cuda, device)}


def main(way: str) -> None:
    from zolab.noise.kernels import cuda

    if way == "interpreter":
        round_as_a_gpu_does()
    print(json.dumps(measure(cuda, "cpu" if way == "interpreter" else "cuda")))


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=needs_gpu)])
def measured(request, tmp_path_factory) -> dict:
    return run(request.param, tmp_path_factory.mktemp("triton"), __file__)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_moved_into_scratch_have_the_cpu_kernels_bits(measured, dtype):
    assert measured["perturbed"][dtype] == 0


if __name__ == "__main__":
    main(sys.argv[1])
