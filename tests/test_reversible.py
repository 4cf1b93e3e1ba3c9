"""A perturbation leaves no trace: the weights come back to the bit, in every dtype, whatever happened."""

import numpy as np
import pytest
import torch

from zolab.noise import NOT_GIVEN, Direction, Source, direction
from zolab.noise.kernels import cpu, plain
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import Update, apply

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAME = Direction(0, 1)


def weights(dtype):
    """Sizes on both sides of every branch, and the values that lose bits: tiny, zero, negative zero, huge, mixed."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(cpu.CHUNK + 7, generator=generator) * 0.2,
        torch.randn(37, 51, generator=generator) * 1e-4,
        torch.randn((), generator=generator),
        torch.zeros(2049),
        -torch.zeros(100),
        torch.empty(0),
        torch.randn(5000, generator=generator) * 10.0 ** torch.randint(-30, 4, (5000,), generator=generator),
        2.0 ** torch.arange(-14, 10),
    ]
    return [t.to(dtype) for t in tensors]


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def same(a, b):
    return all(torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True))


def perturbation(tensors, eps):
    return Perturbation(tensors, tuple(range(len(tensors))), NAME, [eps] * len(tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-9, 1e-3, 1e-1, 100.0])
def test_weights_come_back_to_the_bit(dtype, eps):
    tensors = weights(dtype)
    before = [t.clone() for t in tensors]
    moved = perturbation(tensors, eps)
    moved.plus()
    if eps >= 1e-3:
        assert not same(tensors, before)
    moved.minus()
    moved.leave()
    assert same(tensors, before)


@pytest.mark.parametrize("kernels", [cpu, plain])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sides", [1, 2])
def test_every_pattern_of_sixteen_bits_comes_back(dtype, kernels, sides):
    """Infinities and NaNs too, signalling ones included, which conversions to float32 and back change."""
    start = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    w, source = start.clone(), Source(Direction(0, 1).keys((0,)), NOT_GIVEN)
    journal = kernels.perturb(kernels.view(w), 0, source, 1e-3)
    if sides == 2:
        kernels.flip(kernels.view(w), 0, source, 1e-3, journal)
    nothing = Source(np.zeros((0, 2), np.uint32), NOT_GIVEN), np.empty(0, np.float32), 1.0, np.empty(0)
    kernels.restore(kernels.view(w), 0, source, 1e-3 if sides == 1 else -1e-3, journal, False, *nothing)
    assert same([w], [start])


@pytest.mark.parametrize("stage", ["nothing", "plus"])
def test_leaving_early_restores_too(stage):
    tensors = weights(torch.float32)
    before = [t.clone() for t in tensors]
    moved = perturbation(tensors, 1e-2)
    if stage == "plus":
        moved.plus()
    moved.leave()
    assert same(tensors, before)


def test_a_pass_that_breaks_off_half_way_is_undone(monkeypatch):
    """Each chunk knows where it is, so memory running out in the middle of a pass does no harm."""
    tensors = [torch.randn(5000), torch.randn(5000), torch.randn(5000)]
    before = [t.clone() for t in tensors]
    moved = perturbation(tensors, 1e-2)
    moved.plus()
    calls, flip = [], cpu.flip

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no memory")
        flip(*arguments)

    monkeypatch.setattr(cpu, "flip", failing)
    with pytest.raises(MemoryError):
        moved.minus()
    assert not same(tensors, before)
    moved.leave()
    assert same(tensors, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plus_and_minus_are_where_they_should_be(dtype):
    tensors = [torch.randn(3000).to(dtype)]
    start = tensors[0].double().clone()
    moved = perturbation(tensors, 0.5)
    z = direction(NAME, 0, 3000).double()
    moved.plus()
    assert torch.allclose(tensors[0].double(), start + 0.5 * z, rtol=2 * torch.finfo(dtype).eps, atol=2e-6)
    moved.minus()
    assert torch.allclose(tensors[0].double(), start - 0.5 * z, rtol=2 * torch.finfo(dtype).eps, atol=2e-6)
    moved.leave()


@pytest.mark.parametrize("dtype", DTYPES)
def test_update_while_leaving_equals_update_alone(dtype):
    """This is what makes replay exact."""
    tensors = weights(dtype)
    alone = [t.clone() for t in tensors]
    blocks = tuple(range(len(tensors)))
    directions = [NAME, Direction(0, 1, sample=1)]
    update = Update(blocks, directions, [[-1e-3] * len(tensors), [2e-3] * len(tensors)], [0.99] * len(tensors))
    moved = perturbation(tensors, 1e-3)
    moved.plus()
    moved.minus()
    moved.leave(update)
    apply(alone, update)
    assert same(tensors, alone)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_plain_kernels_do_the_same_within_rounding(dtype):
    key = Source(NAME.keys((0,)), NOT_GIVEN)
    compiled = (torch.randn(6000, generator=torch.Generator().manual_seed(1)) * 0.2).to(dtype)
    reference, before = compiled.clone(), compiled.clone()
    array = cpu.view(compiled)
    journal = cpu.perturb(array, 0, key, 1e-3)
    plain_journal = plain.perturb(reference, 0, key, 1e-3)
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-9}
    assert torch.allclose(compiled.double(), reference.double(), **close)
    cpu.flip(array, 0, key, 1e-3, journal)
    plain.flip(reference, 0, key, 1e-3, plain_journal)
    assert torch.allclose(compiled.double(), reference.double(), **close)
    sources, coefficients = Source(NAME.keys((3, 4)), NOT_GIVEN), torch.tensor([0.1, -0.2]).numpy()
    cpu.restore(array, 0, key, -1e-3, journal, False, sources, coefficients, 0.9, np.empty(0))
    plain.restore(reference, 0, key, -1e-3, plain_journal, False, sources, coefficients, 0.9, np.empty(0))
    assert torch.allclose(compiled.double(), reference.double(), rtol=close["rtol"], atol=1e-7)
    assert not torch.equal(compiled, before)


def test_the_journal_is_small():
    """At eps = 1e-3 and weights of the usual size, a few percent of the weights need writing down."""
    w = torch.randn(500_000) * 0.05
    counts, where, kept = cpu.perturb(cpu.view(w[: cpu.CHUNK]), 0, Source(NAME.keys((0,)), NOT_GIVEN), 1e-3)
    assert len(kept) == len(where) == counts.sum()
    assert 0 < len(kept) < 0.1 * cpu.CHUNK
