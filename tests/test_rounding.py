"""Half-precision updates rounded at random: no bias where rounding to nearest would stand still, and the same bits again."""

import numpy as np
import pytest
import torch

from zolab.noise import NOT_GIVEN, Direction, Source
from zolab.noise.kernels import cpu, plain

HALVES = [torch.bfloat16, torch.float16]
NOTHING = Source(np.zeros((0, 2), np.uint32), NOT_GIVEN)
NONE = np.empty(0, np.float32)


def key(step, block=0):
    return Direction(11, step).keys((block,))[0]


def rounded(x, dtype, rounding, kernels=cpu):
    """float32 numbers in another type, as an update stores them: the direction is given, the weights are zero."""
    w = torch.zeros(len(x), dtype=dtype)
    rows = kernels.given([x])
    kernels.update(kernels.view(w), 3, Source(np.zeros((0, 2), np.uint32), rows), np.ones(1, np.float32), 1.0, rounding)
    return w


def numbers():
    """All sizes that matter to float16 and bfloat16, subnormal ones included."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5000, generator=generator) * 10.0 ** torch.randint(-9, 4, (5000,), generator=generator)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_result_is_one_of_the_two_neighbours(dtype):
    x = numbers()
    got = rounded(x, dtype, key(0))
    nearest = x.to(dtype)
    other = torch.where(nearest.double() < x.double(), nextafter(nearest, np.inf), nextafter(nearest, -np.inf))
    exact = nearest.double() == x.double()
    assert bool(((got == nearest) | ((got == other) & ~exact)).all())
    assert 0.05 < float((got != nearest).double().mean()) < 0.5


def nextafter(values, towards):
    """The neighbour of each half-precision number."""
    return torch.nextafter(values, torch.full_like(values, towards))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_mean_over_keys_is_the_value(dtype):
    x = numbers()[:2000]
    draws = torch.stack([rounded(x, dtype, key(step)).double() for step in range(400)])
    spacing = (nextafter(x.to(dtype), np.inf).double() - x.to(dtype).double()).abs()
    error = (draws.mean(0) - x.double()).abs() / spacing
    assert float(error.max()) < 5 * 0.5 / 400**0.5
    assert float((draws.mean(0) - x.double()).div(spacing).mean().abs()) < 5 * 0.5 / (400 * 2000) ** 0.5


@pytest.mark.parametrize("dtype", HALVES)
def test_ten_thousand_tiny_updates_come_to_their_sum(dtype):
    """Each is a hundredth of the spacing, where rounding to nearest would leave the weights for ever."""
    w, still = torch.full((2048,), 1.0, dtype=dtype), torch.full((2048,), 1.0, dtype=dtype)
    spacing = torch.finfo(dtype).eps
    rows = Source(np.zeros((0, 2), np.uint32), cpu.given([torch.ones(2048)]))
    tiny = np.full(1, spacing / 100, np.float32)
    for step in range(10_000):
        cpu.update(cpu.view(w), 0, rows, tiny, 1.0, key(step))
    cpu.update(cpu.view(still), 0, rows, tiny, 1.0)
    assert bool((still == 1).all())
    moved = (w.double() - 1) / spacing
    assert abs(float(moved.mean()) - 100) < 5 * (100 / 2048) ** 0.5
    assert 0.7 < float(moved.var()) / 99 < 1.3


@pytest.mark.parametrize("dtype", HALVES)
def test_the_same_key_gives_the_same_bits_and_another_key_others(dtype):
    x = numbers()
    assert torch.equal(rounded(x, dtype, key(0)), rounded(x, dtype, key(0)))
    assert not torch.equal(rounded(x, dtype, key(0)), rounded(x, dtype, key(1)))
    assert not torch.equal(rounded(x, dtype, key(0)), rounded(x, dtype, key(0, block=1)))


@pytest.mark.parametrize("dtype", HALVES)
def test_plain_torch_rounds_alike(dtype):
    x = numbers()
    assert torch.equal(rounded(x, dtype, key(0)), rounded(x, dtype, key(0), plain))


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_that_are_stored_exactly_stay(dtype):
    x = torch.cat((numbers().to(dtype).float(), torch.tensor([0.0, -0.0, np.inf, -np.inf, np.nan])))
    got = rounded(x, dtype, key(0))
    assert torch.equal(got[:-1], x[:-1].to(dtype))
    assert bool(got[-1].isnan())


def test_single_precision_does_not_change():
    x = numbers()
    assert torch.equal(rounded(x, torch.float32, key(0)), x)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kernels", [cpu, plain])
def test_an_update_on_the_way_back_has_the_bits_of_one_alone(dtype, kernels):
    start = (torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.1).to(dtype)
    moved, alone = start.clone(), start.clone()
    source = Source(Direction(0, 1).keys((0,)), NOT_GIVEN)
    step = np.full(1, 1e-5, np.float32)
    journal = kernels.perturb(kernels.view(moved), 0, source, 1e-3)
    kernels.restore(kernels.view(moved), 0, source, 1e-3, journal, True, source, step, 0.999, np.empty(0), key(1))
    kernels.update(kernels.view(alone), 0, source, step, 0.999, key(1))
    assert torch.equal(moved, alone)
    kernels.update(kernels.view(start), 0, source, step, 0.999)
    assert not torch.equal(start, alone)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_step_by_moments_is_rounded_alike(dtype):
    start = (torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.1).to(dtype)
    sources = Source(Direction(0, 1).keys((0, 1, 2)), NOT_GIVEN)
    first, second = np.full(3, 1e-3, np.float32), np.full(3, 1e-2, np.float32)
    results = []
    for rounding in (None, key(0), key(0), key(1)):
        w = start.clone()
        cpu.update_by_moments(cpu.view(w), 0, sources, first, second, 1.0, 1e-3, 0.0, rounding)
        results.append(w)
    nearest, a, same, b = results
    assert torch.equal(a, same)
    assert not torch.equal(a, b)
    assert not torch.equal(a, nearest)
    assert float((a.double() - nearest.double()).abs().max()) <= 4 * torch.finfo(dtype).eps * 0.5
