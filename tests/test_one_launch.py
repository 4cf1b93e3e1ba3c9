"""The Triton kernels of both sides, of an embedding's rows and of many tensors at once, against the CPU kernels.

As in `test_step_kernels`, each way has a process of its own: `TRITON_INTERPRET=1 python tests/test_one_launch.py interpreter`.
"""

import json
import sys
from itertools import product

import numpy as np
import pytest
import torch
from test_kernels_cuda import DTYPES, SIGNS, guarded, needs_gpu, needs_triton, round_as_a_gpu_does, run
from test_step_kernels import different, weights

from zolab.noise import NOT_GIVEN, Direction, Source
from zolab.noise.kernels import cpu

pytestmark = needs_triton

SIZES = (1, 1024, 2049, 4500)
BLOCKS = tuple(range(len(SIZES)))
KEYS = np.stack([Direction(3, step).keys(BLOCKS) for step in range(3)], axis=1)  # of shape (tensors, directions, 2)
SCALES = [1e-3, -0.3, 1e-6, 0.01]
DECAYS = [1.0, 0.9, 0.99, 1.0]


def at(keys, signs):
    return Source(keys, NOT_GIVEN, signs)


def both_errors(cuda, device, signs, dtype) -> int:
    """One tensor after the other, and all at once."""
    wrong, w = 0, [weights(size, dtype) for size in SIZES]
    expected = [[torch.empty_like(part) for part in w] for _ in range(2)]
    for j, part in enumerate(w):
        cpu.both(*(cpu.view(side[j]) for side in expected), cpu.view(part), 7, at(KEYS[j, :1], signs), SCALES[j])
        plus, plus_untouched = guarded(part, device)
        minus, minus_untouched = guarded(part, device)
        cuda.both(plus, minus, part.to(device), 7, at(KEYS[j, :1], signs), SCALES[j])
        wrong += different(plus, expected[0][j]) + different(minus, expected[1][j])
        wrong += (not plus_untouched()) + (not minus_untouched())
        cpu.both(*(cpu.view(side[j]) for side in expected), cpu.view(part), 0, at(KEYS[j, :1], signs), SCALES[j])
    there = [part.to(device) for part in w]
    sides = [[torch.empty_like(part) for part in there] for _ in range(2)]
    done = cuda.both_all(*sides, there, KEYS[:, :1], SCALES, signs)
    return (
        wrong
        + (not done)
        + sum(different(a, b) for x, y in zip(sides, expected, strict=True) for a, b in zip(x, y, strict=True))
    )


def rows_errors(cuda, device, signs, dtype) -> int:
    wrong = 0
    for rows, width in ((7, 5), (3, 2048), (5, 1500), (4, 2049), (3, 4100)):
        w = weights(rows * width, dtype)
        moved = torch.empty_like(w)
        cpu.perturbed(cpu.view(moved), cpu.view(w), 0, at(KEYS[0, :1], signs), 0.3)
        ids = torch.tensor([2, 0, rows - 1, 2])
        out, untouched = guarded(w.view(rows, width)[ids].view(-1), device)
        cuda.add_rows(out, ids.to(device), width, at(KEYS[0, :1], signs), -0.3, True)
        wrong += different(out, moved.view(rows, width)[ids].reshape(-1)) + (not untouched())
    return wrong


def update_errors(cuda, device, signs, dtype) -> int:
    wrong = 0
    for count, rounding in ((1, None), (1, KEYS[:, 1]), (3, None), (3, KEYS[:, 2])):
        coefficients = np.linspace(0.1, -0.2, len(SIZES) * count, dtype=np.float32).reshape(len(SIZES), count)
        w, there = ([weights(size, dtype).clone() for size in SIZES] for _ in range(2))
        for j, part in enumerate(w):
            key = None if rounding is None else rounding[j]
            cpu.update(cpu.view(part), 0, at(np.ascontiguousarray(KEYS[j, :count]), signs), coefficients[j], DECAYS[j], key)
        there = [part.to(device) for part in there]
        done = cuda.update_all(there, KEYS[:, :count], coefficients, DECAYS, rounding, signs)
        wrong += (not done) + sum(map(different, there, w))
    return wrong


def moments_update_errors(cuda, device, signs, dtype) -> int:
    wrong, first = 0, np.linspace(0.1, -0.2, 12, dtype=np.float32).reshape(4, 3)
    for rounding in (None, KEYS[:, 1]):
        w, there = ([weights(size, dtype).clone() for size in SIZES] for _ in range(2))
        length = 0.0
        for j, part in enumerate(w):
            key = None if rounding is None else rounding[j]
            rest = first[j], np.abs(first[j]), DECAYS[j], 1e-3, 0.01, key
            length += cpu.update_by_moments(cpu.view(part), 0, at(np.ascontiguousarray(KEYS[j]), signs), *rest)
        there = [part.to(device) for part in there]
        settings = first, np.abs(first), DECAYS, 1e-3, 0.01, rounding, signs
        squares = cuda.update_all_by_moments(there, KEYS, *settings)
        wrong += sum(map(different, there, w)) + (abs(float(squares) - length) > 1e-5 * length)
    return wrong


def products_errors(cuda, device, signs, dtype) -> int:
    """A step along a direction of low rank, its values made where they are added, beside values made first."""
    wrong = 0
    for (rows, columns, rank), rounding in product(((7, 5, 2), (3, 2049, 1), (50, 90, 3), (5, 4096, 2)), (None, KEYS[0, 1])):
        generator = torch.Generator().manual_seed(rows)
        u, v = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        w, values = weights(rows * columns, dtype).clone(), torch.empty(rows * columns)
        there, untouched = guarded(w, device)
        cpu.product(values, u, v, 0)
        given = Source(np.zeros((0, 2), np.uint32), values.numpy()[None])
        cpu.update(cpu.view(w), 0, given, np.array([0.3], np.float32), 0.9, rounding)
        cuda.update_product(there, 0, u.to(device), v.to(device), 0.3, 0.9, rounding)
        wrong += different(there, w) + (not untouched())
    return wrong


def fill_errors(cuda, device, signs, dtype) -> int:
    """Normals of several keys in one launch; float32 whatever the weights are."""
    guards = [guarded(torch.zeros(size), device) for size in SIZES]
    wrong, fill = 0, cuda.filler([there for there, _ in guards])
    fill(KEYS[:, 0])
    for j, (there, untouched) in enumerate(guards):
        z = torch.empty(SIZES[j])
        cpu.fill(cpu.view(z), *KEYS[j, 0], 0, False)
        wrong += different(there, z) + (not untouched())
    return wrong


def output_error(cuda, device, dtype) -> float:
    """What moves a linear layer's output, of its length, in roundings of its type; a side for each part of the tokens."""
    worst, generator, unit = 0.0, torch.Generator().manual_seed(0), float(torch.finfo(dtype).eps) / 2
    for tokens, inputs, outputs, rank, above in ((33, 48, 16, 2, 16), (64, 272, 144, 1, 64), (5, 128, 256, 16, 0)):
        x, u, v = (
            torch.randn(shape, generator=generator).to(dtype) for shape in ((tokens, inputs), (rank, outputs), (rank, inputs))
        )
        assert cuda.makes_output(x, outputs, rank)
        apart = torch.full((rank, outputs + 32), torch.nan, dtype=dtype)
        apart[:, 16:-16] = u
        output = cuda.output(x.to(device), apart.to(device)[:, 16:-16], v.to(device), 0.25, above).cpu().double()
        side = torch.full((tokens, 1), -0.25)
        side[:above] = 0.25
        exact = side * (x.double() @ v.double().T @ u.double())
        worst = max(worst, float((output - exact).norm() / exact.norm() / unit))
    return worst


def sums_error(cuda, device, dtype) -> float:
    w = [weights(size, dtype) for size in (*SIZES, 20_000)]
    sums = cuda.moments_all([part.to(device) for part in w]).cpu()
    exact = torch.stack([torch.stack([part.double().sum(), part.double().square().sum()]) for part in w])
    scale = torch.stack([torch.stack([part.double().abs().sum(), part.double().square().sum()]) for part in w])
    return float(((sums - exact).abs() / scale.clamp(min=1e-30)).max())


def fused_sums_error(cuda, device, dtype) -> float:
    """Sums had while weights are stepped, beside those of the new weights."""
    sizes, worst = (2049, 20_000), 0.0
    for rounding in (None, KEYS[:2, 2]):
        w = [weights(size, dtype).clone().to(device) for size in sizes]
        room = cuda.sums_of(w)
        for j, part in enumerate(w):
            key = None if rounding is None else rounding[j]
            cuda.update(part, 0, at(KEYS[j, :1], False), np.array([0.1], np.float32), 0.9, key, room.of(j))
        worst = max(worst, float((room.total() - cuda.moments_all(w)).abs().max()))
    return worst


def refused(cuda, device) -> int:
    """Tensors of two types, at an odd address, or empty, are left to launches of their own, untouched."""
    a, b = torch.ones(32, device=device), torch.ones(33, device=device)
    groups = [a, b.bfloat16()], [a, b[1:]], [a, b[:0]]
    one = np.ones((2, 1), np.float32)
    return sum(cuda.update_all(group, KEYS[:2, :1], one, [1.0, 1.0], None, False) for group in groups) + int((a != 1).sum())


def measure(cuda, device: str) -> dict:
    kinds = {
        "both": both_errors,
        "rows": rows_errors,
        "update": update_errors,
        "moments update": moments_update_errors,
        "products": products_errors,
        "normals": fill_errors,
    }
    errors = {
        kind: {name: sum(of(cuda, device, signs, dtype) for signs in SIGNS.values()) for name, dtype in DTYPES.items()}
        for kind, of in kinds.items()
    }
    sums = max(sums_error(cuda, device, dtype) for dtype in DTYPES.values())
    outputs = {name: output_error(cuda, device, dtype) for name, dtype in DTYPES.items()}
    fused = {name: fused_sums_error(cuda, device, dtype) for name, dtype in DTYPES.items()}
    return {**errors, "fused sums": fused, "sums": sums, "refused": refused(cuda, device), "outputs": outputs}


def main(way: str) -> None:
    from zolab.noise.kernels import cuda

    if way == "interpreter":
        round_as_a_gpu_does()
    print(json.dumps(measure(cuda, "cpu" if way == "interpreter" else "cuda")))


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=needs_gpu)])
def measured(request, tmp_path_factory) -> dict:
    return run(request.param, tmp_path_factory.mktemp("triton"), __file__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["both", "rows", "update", "moments update", "products", "normals"])
def test_kernels_have_the_cpu_kernels_bits(measured, kind, dtype):
    assert measured[kind][dtype] == 0


def test_sums_over_weights(measured):
    assert measured["sums"] < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_a_step_are_those_of_the_new_weights_to_the_bit(measured, dtype):
    assert measured["fused sums"][dtype] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_moves_an_output_along_a_direction_of_low_rank(measured, dtype):
    """x V and the result are rounded to the type; sums in float32 are off by some roundings of their own."""
    assert 0 < measured["outputs"][dtype] < (8 if dtype == "float32" else 3)


def test_what_one_launch_cannot_take_is_left_alone(measured):
    assert measured["refused"] == 0


if __name__ == "__main__":
    main(sys.argv[1])
