"""The Triton kernels of a step against the CPU kernels: in Triton's interpreter everywhere, natively where there is a GPU.

As in `test_kernels_cuda`, each way has a process of its own, which measures and prints JSON:
`TRITON_INTERPRET=1 python tests/test_step_kernels.py interpreter` shows the numbers that the tests judge.
"""

import importlib
import json
import re
import sys
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from test_kernels_cuda import DTYPES, FUSED, ROOT, SIGNS, guarded, needs_gpu, needs_triton, round_as_a_gpu_does, run

from zolab.noise import NOT_GIVEN, Chunk, Direction, Source, per_tensor
from zolab.noise.kernels import cpu

pytestmark = needs_triton

SIZES = (1, 1024, 2049)  # within a tile, to its end, past it
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


def source(cuda, keys, signs, values=None, scaled=False):
    """What is made from the keys, or given: the values themselves, or factors of normals from the keys."""
    if values is None:
        return Source(keys, NOT_GIVEN, signs)
    return Source(keys, cuda.given(values)) if scaled else Source(keys[:0], cuda.given(values), signs)


def by_type(measure, *arguments) -> dict:
    """What a measurement says, summed over sizes and both families, for each type of weights."""
    cases = [(size, signs) for size in SIZES for signs in SIGNS.values()]
    return {name: sum(measure(*arguments, *case, dtype) for case in cases) for name, dtype in DTYPES.items()}


def perturbed_errors(cuda, device, size, signs, dtype) -> int:
    w = weights(size, dtype)
    chunk, untouched = guarded(torch.full_like(w, 5), device)
    wrong = 0
    for scale in (1e-3, -0.3):
        there = torch.empty_like(w)
        cpu.perturbed(cpu.view(there), cpu.view(w), 7, Source(KEYS[:1], NOT_GIVEN, signs), scale)
        cuda.perturbed(chunk, w.to(device), 7, source(cuda, KEYS[:1], signs), scale)
        wrong += different(chunk, there)
        values = torch.randn(size)
        for scaled in (False, True):
            cpu.perturbed(cpu.view(there), cpu.view(w), 7, source(cpu, KEYS[:1], signs, [values], scaled), scale)
            cuda.perturbed(chunk, w.to(device), 7, source(cuda, KEYS[:1], signs, [values.to(device)], scaled), scale)
            wrong += different(chunk, there)
    return wrong + (not untouched())


def update_errors(cuda, device, size, signs, dtype) -> int:
    """One direction, several, none; made or given; rounded to nearest and at random."""
    wrong = 0
    values = [torch.randn(size, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    for count, decay in ((1, 1.0), (1, 0.9), (3, 0.99), (0, 0.5), (0, 1.0)):
        coefficients = np.linspace(0.1, -0.2, count, dtype=np.float32)
        for rounding in (None, KEYS[1]):
            for given, scaled in ((None, False), (values[:count], False), (values[:count], True))[: 3 if count else 1]:
                there, chunk = weights(size, dtype), weights(size, dtype)
                there, (chunk, untouched) = there.clone(), guarded(chunk, device)
                cpu.update(cpu.view(there), 7, source(cpu, KEYS[:count], signs, given, scaled), coefficients, decay, rounding)
                moved = given and [value.to(device) for value in given]
                cuda.update(chunk, 7, source(cuda, KEYS[:count], signs, moved, scaled), coefficients, decay, rounding)
                wrong += different(chunk, there) + (not untouched())
    return wrong


def moments_update_errors(cuda, device, size, signs, dtype) -> int:
    wrong = 0
    values = [torch.randn(size, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    first, second = np.array([0.1, -0.2, 0.3], np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    for rounding, given in ((None, None), (KEYS[1], None), (None, values)):
        there, (chunk, untouched) = weights(size, dtype), guarded(weights(size, dtype), device)
        rest = first, second, 0.99, 1e-3, 0.01, rounding
        length = cpu.update_by_moments(cpu.view(there), 7, source(cpu, KEYS, signs, given), *rest)
        moved = given and [value.to(device) for value in given]
        other = float(cuda.update_by_moments(chunk, 7, source(cuda, KEYS, signs, moved), *rest))
        wrong += different(chunk, there) + (not untouched()) + (abs(other - length) > 1e-5 * length)
    return wrong


def reversible_errors(cuda, device, size, signs, dtype) -> int:
    """From w to both sides with the CPU's bits, from either side back to the bit, with an update and without."""
    wrong = 0
    key, values = KEYS[:1], torch.randn(size, generator=torch.Generator().manual_seed(3))
    start = weights(size, dtype)
    step = np.array([0.3], np.float32)
    nothing, empty = np.empty(0, np.float32), np.empty(0)
    for scale, given, scaled, flipped, updated in (
        (1e-3, None, False, True, False),
        (0.3, None, False, False, True),
        (1e-3, [values], False, True, True),
        (1e-3, [values], True, True, True),
        (1e-9, None, False, True, False),
    ):
        there, (chunk, untouched) = start.clone(), guarded(start, device)
        at_cpu, at = source(cpu, key, signs, given, scaled), source(cuda, key, signs, given and [values.to(device)], scaled)
        theirs, ours = cpu.perturb(cpu.view(there), 7, at_cpu, scale), cuda.perturb(chunk, 7, at, scale)
        wrong += different(chunk, there) + (int(theirs[0].sum()) != sum(int(part.counts.sum()) for part in ours))
        if flipped:
            cpu.flip(cpu.view(there), 7, at_cpu, scale, theirs)
            cuda.flip(chunk, 7, at, scale, ours)
            wrong += different(chunk, there)
        here, coefficients = (at, step) if updated else (source(cuda, KEYS[:0], signs), nothing)
        cuda.restore(chunk, 7, at, -scale if flipped else scale, ours, False, here, coefficients, 1.0, empty)
        back = start.clone()
        if updated:
            cpu.update(cpu.view(back), 7, at_cpu, step, 1.0)
        wrong += different(chunk, back) + (not untouched())
    return wrong


def scaled_update_errors(cuda, device, size, signs, dtype) -> int:
    """Where z is made or given, where weights are moved along it still or are not, and factors at both bounds."""
    generator = torch.Generator().manual_seed(4)
    factors, values, wrong = torch.rand(size, generator=generator) + 0.5, torch.randn(size, generator=generator), 0
    for gain, shift, given, moved, rounding in (
        (0.3, 0.0, None, False, None),
        (-0.9, 1.0, None, True, KEYS[1]),
        (5.0, 1.0, [values], False, None),
        (0.0, 0.0, None, True, None),
    ):
        there, (chunk, untouched) = weights(size, dtype), guarded(weights(size, dtype), device)
        theirs, (ours, whole) = factors.clone(), guarded(factors, device)
        at_cpu, at = source(cpu, KEYS[:1], signs, given), source(cuda, KEYS[:1], signs, given and [values.to(device)])
        back = here = None
        if moved and not signs:
            along_cpu, along = (source(of, KEYS[:1], False, [f], True) for of, f in ((cpu, theirs), (cuda, ours)))
            back = 1e-3, cpu.perturb(cpu.view(there), 7, along_cpu, 1e-3)
            here = 1e-3, cuda.perturb(chunk, 7, along, 1e-3)
        rest = 0.01, 0.99, (0.9, gain, shift, 0.6, 1.4), rounding
        cpu.update_scaled(cpu.view(there), 7, at_cpu, theirs, *rest, back)
        cuda.update_scaled(chunk, 7, at, ours, *rest, here)
        wrong += different(chunk, there) + different(ours, theirs) + (not untouched()) + (not whole())
    return wrong


def broken_off(cuda, device) -> dict:
    """A chunk of several launches, the last of which finds no memory for its journal."""
    cuda.JOURNAL, whole = 2048, cuda.JOURNAL
    w = weights(6000, torch.bfloat16)
    chunk, here = w.clone().to(device), source(cuda, KEYS[:1], False)
    journals = cuda.perturb(chunk, 7, here, 1e-3)
    there = w.clone()
    cpu.perturb(cpu.view(there), 7, here, 1e-3)
    moved = different(chunk, there)
    cuda.flip(chunk, 7, here, 1e-3, journals)
    cuda.restore(
        chunk, 7, here, -1e-3, journals, False, source(cuda, KEYS[:0], False), np.empty(0, np.float32), 1.0, np.empty(0)
    )
    back = different(chunk, w)
    calls, journal = [], cuda.Journal

    def failing(part):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return journal(part)

    cuda.Journal = failing
    try:
        cuda.perturb(chunk, 7, here, 1e-3)
    except MemoryError:
        raised = True
    cuda.Journal, cuda.JOURNAL = journal, whole
    return {"launches": len(journals), "moved": moved, "back": back, "raised": raised, "after": different(chunk, w)}


def sums_errors(cuda, device) -> float:
    """The largest error of the sums of weights and squares, relative to the sum of the terms' sizes."""
    worst = 0.0
    for dtype in DTYPES.values():
        for size in (*SIZES, 20_000):
            w = weights(size, dtype)
            exact = w.double().sum(), w.double().square().sum()
            scale = w.double().abs().sum(), exact[1]
            piece = Chunk(0, cuda, w.to(device), 0)
            later = per_tensor([piece] * 2, [cuda.moments(piece.data, wait=False), (0.0, 0.0)], 1)[0]
            for row in (cuda.moments(piece.data), later):
                errors = [abs(a - float(b)) / max(float(c), 1e-30) for a, b, c in zip(row, exact, scale, strict=True)]
                worst = max(worst, *errors)
    return worst


def measure(cuda, device: str) -> dict:
    return {
        "perturbed": by_type(perturbed_errors, cuda, device),
        "update": by_type(update_errors, cuda, device),
        "moments update": by_type(moments_update_errors, cuda, device),
        "scaled update": by_type(scaled_update_errors, cuda, device),
        "reversible": by_type(reversible_errors, cuda, device),
        "broken off": broken_off(cuda, device),
        "sums": sums_errors(cuda, device),
    }


# Each kernel with its arguments beyond the weights: for a compiler without a GPU, and as types of weights `like` says.
SIGNATURES = {
    ("cuda_probe", "perturbed"): "i64 u32 u32 u32 like none signs fp32",
    ("cuda_probe", "both"): "i64 *i32 u32 like like none signs",
    ("cuda_probe", "add_rows"): "i64 *i32 *i64 i32 i32 signs true",
    ("cuda_probe", "perturb"): "i64 u32 u32 u32 none signs fp32 *i32 *i32 *i32 *i16 like",
    ("cuda_probe", "undo"): "i64 u32 u32 u32 none signs fp32 *i32 *i32 *i16 like true",
    ("cuda_update", "update"): "i64 u32 u32 u32 none signs fp32 fp32 u32 u32 true *fp32 *fp32 i32",
    ("cuda_update", "update_many"): "i64 *i32 i32 u32 *fp32 false fp32 u32 u32 false",
    ("cuda_update", "update_by_moments"): "i64 *i32 i32 u32 none signs fp32 fp32 fp32 *fp32 u32 u32 false",
    ("cuda_all", "fill_all"): "i64 *i64 *i32 *i32 false",
    ("cuda_all", "both_all"): "i64 *i64 *i32 *i32 signs",
    ("cuda_all", "update_all"): "i64 *i64 *i32 *i32 i32 signs true false",
    ("cuda_all", "update_all_by_moments"): "i64 *i64 *i32 *i32 i32 fp32 fp32 *fp32 signs false",
    ("cuda_all", "moments_all"): "i64 *i64 *i32 *fp32 *fp32",
    ("cuda_update", "moments"): "i64 *fp32 *fp32",
    ("cuda_products", "update_product"): "i64 *fp32 *fp32 i32 i32 fp32 fp32 u32 u32 true",
    ("cuda_products", "update_rows"): "i64 *fp32 *fp32 i32 i32 fp32 fp32 u32 u32 true",
    ("cuda_products", "project"): "i64 like like i32 i32 i32",
    ("cuda_products", "spread"): "i64 like like *i32 i32 i32 i32 i32 i32 i32",
    ("cuda_scaled", "update_scaled"): "i64 u32 u32 u32 none signs *fp32 fp32 fp32 fp32 fp32 fp32 fp32 fp32 u32 u32 true",
}
FAMILIES = {**SIGNS, "scaled": 2}
LIKE = {80: ("*bf16",), 90: ("*fp32", "*bf16", "*fp16")}  # types of weights, by the capability that they are compiled for


def compiled(capability: int) -> dict:
    """How often each instruction occurs in each kernel, compiled as it is launched."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    counts = {}
    for ((module, name), more), (family, signs) in product(SIGNATURES.items(), FAMILIES.items()):
        if family != "gaussian" and "signs" not in more:
            continue  # compiled once
        if family == "scaled" and "none signs" in more:
            more = more.replace("none signs", "*fp32 signs")
        kernel = getattr(importlib.import_module(f"zolab.noise.kernels.{module}"), f"{name}_kernel")
        for like in LIKE[capability]:
            kinds = dict(zip(kernel.arg_names, [like, *more.replace("like", like).split()], strict=True))
            constants = {"none": None, "true": like != "*fp32", "false": False, "signs": signs}
            fixed = {(kernel.arg_names.index(n),): constants[kind] for n, kind in kinds.items() if kind in constants}
            kinds = {n: "constexpr" if kind in constants else kind for n, kind in kinds.items()}
            target = GPUTarget("cuda", capability, 32)
            ptx = compile(ASTSource(kernel, kinds, fixed), target, {"enable_fp_fusion": False}).asm["ptx"]
            counts[f"{name} {like} {family}"] = Counter(re.findall(r"^\s+(?:@\S+ )?([a-z]+[\w.:]*)\s", ptx, re.M))
    return counts


def main(way: str) -> None:
    from zolab.noise.kernels import cuda

    if way.startswith("sm_"):
        print(json.dumps(compiled(int(way[3:]))))
        return
    if way == "interpreter":
        round_as_a_gpu_does()
    print(json.dumps(measure(cuda, "cpu" if way == "interpreter" else "cuda")))


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=needs_gpu)])
def measured(request, tmp_path_factory) -> dict:
    return run(request.param, tmp_path_factory.mktemp("triton"), __file__)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_moved_into_scratch_have_the_cpu_kernels_bits(measured, dtype):
    assert measured["perturbed"][dtype] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["update", "moments update", "scaled update"])
def test_updates_have_the_cpu_kernels_bits(measured, kind, dtype):
    assert measured[kind][dtype] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_move_in_place_has_the_cpu_kernels_bits_and_leaves_no_trace(measured, dtype):
    assert measured["reversible"][dtype] == 0


def test_a_chunk_of_several_launches_moves_as_a_whole_or_not_at_all(measured):
    result = measured["broken off"]
    assert result["launches"] == 3
    assert result["raised"]
    assert result["moved"] == result["back"] == result["after"] == 0


def test_sums_over_weights(measured):
    assert measured["sums"] < 1e-6


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_compiled_for_a_gpu_no_sum_takes_in_a_product(tmp_path, architecture):
    """The source's fused multiply-adds of a pair: moves in place add no other, or their way back would miss."""
    kernels = run(architecture, tmp_path, __file__)
    for name in ("perturbed", "both", "both_all", "add_rows", "perturb", "undo"):
        for like in LIKE[int(architecture[3:])]:
            counts = kernels[f"{name} {like} gaussian"]
            assert counts["fma.rn.f32"] == FUSED * counts[ROOT] > 0, (name, like)
            assert not kernels[f"{name} {like} rademacher"].keys() & {"fma.rn.f32", ROOT}, (name, like)
            if name in ("both_all", "add_rows"):
                continue  # they take no values
            counts = kernels[f"{name} {like} scaled"]
            assert counts["fma.rn.f32"] == FUSED * counts[ROOT] > 0, (name, like)
    for name, counts in kernels.items():
        assert not [op for op in counts if re.search("f64|approx|ftz", op) and op != ROOT], name
        assert name.startswith(("update_by", "update_all_by", "update_scaled", "moments")) or "div.rn.f32" not in counts, name


if __name__ == "__main__":
    main(sys.argv[1])
