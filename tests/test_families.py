"""Rademacher directions: exact signs at every address and from every kernel, probes that leave no trace, and their moments."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_noise import SIZES
from test_reversible import DTYPES, bits, same, weights

from zolab import Direction, noise
from zolab.noise import FAMILIES, GivenDirection, Sources, chunks
from zolab.noise.kernels import cpu, plain, sides
from zolab.noise.kernels.threefry import SIGN_CALLS, SIGN_COUNTER, TILE, threefry2x32
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import MomentsUpdate, Update, apply

SIGNS = partial(Direction, family="rademacher")
NAME = SIGNS(0, 3)


def signs_of_numpy(key, tile):
    """One tile as its definition reads: bit b of word j is that of element 64 b + j."""
    calls = np.arange(tile * SIGN_CALLS, (tile + 1) * SIGN_CALLS, dtype=np.uint32)
    words = np.stack(threefry2x32(tuple(key), (calls, SIGN_COUNTER)), axis=1).reshape(-1)
    return np.concatenate([1.0 - 2.0 * ((words >> np.uint32(b)) & np.uint32(1)) for b in range(32)])


# The signs themselves.


@pytest.mark.parametrize("tile", [0, 1, 700, 2**21 - 1])
def test_every_kernel_makes_the_signs_of_the_definition(tile):
    for key in ((0, 0), (1, 0xFFFFFFFF), (0x9E3779B9, 0x7F4A7C15)):
        expected = signs_of_numpy(key, tile)
        for kernels in (cpu, plain):
            out = torch.empty(TILE)
            kernels.fill(kernels.view(out), *key, tile, True)
            assert np.array_equal(out.numpy(), expected)


def test_known_answers_stay():
    """The first signs of a name, so that no later version changes what a file means."""
    first = noise.direction(SIGNS(7, 11, 2), 5, 24).tolist()
    assert "".join("+" if z > 0 else "-" for z in first) == "+++-+---+++-++-+++---+--"


def test_every_value_is_plus_or_minus_one_and_both_are_as_frequent():
    n = 4_000_000
    z = noise.direction(SIGNS(17, 0), 0, n)
    assert torch.equal(z.abs(), torch.ones(n))
    assert abs(float(z.double().sum())) < 4.5 * math.sqrt(n)
    places = z[: n // TILE * TILE].view(-1, TILE).double().mean(0) * math.sqrt(n // TILE)  # each bit of each word
    assert float(places.abs().max()) < 5.5
    assert float(places.square().mean()) == pytest.approx(1, abs=4.5 * math.sqrt(2 / TILE))


@pytest.mark.parametrize(
    "other",
    [
        (SIGNS(0, 4), 0, 0),
        (SIGNS(1, 3), 0, 0),
        (SIGNS(2**63, 3), 0, 0),
        (SIGNS(0, 3, 1), 0, 0),
        (NAME, 1, 0),
        *((NAME, 0, shift) for shift in (1, 2, 32, 63, 64, 65, TILE // 2, TILE)),
        (Direction(0, 3), 0, 0),
        (Direction(0, 3), 0, 1),
    ],
)
def test_addresses_families_and_neighbours_are_uncorrelated(other):
    name, block, shift = other
    n = 1_000_000
    a, b = noise.direction(NAME, 0, n).double(), noise.direction(name, block, n, offset=shift).double()
    for x, y in ((a, b), (a[1:] * a[:-1], b[1:] * b[:-1])):
        assert abs(float((x * y).mean())) * math.sqrt(n) < 4.5


@pytest.mark.parametrize("size", SIZES)
def test_any_slice_is_a_piece_of_the_whole(size):
    whole = noise.direction(NAME, 4, size)
    for offset in {0, 1, size // 3, size // 2, max(0, size - 1)}:
        assert torch.equal(noise.direction(NAME, 4, size - offset, offset=offset), whole[offset:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_and_dot_equal_the_materialised_direction(size, dtype):
    start = torch.linspace(-0.3, 0.3, size).to(dtype) if size else torch.empty(0, dtype=dtype)
    z = noise.direction(NAME, 2, size)
    added = noise.add_(start.clone(), NAME, 2, 0.01)
    step = 0.01 if dtype == torch.float64 else float(np.float32(0.01))
    assert torch.equal(
        added, (start.double() + step * z.double()).to(torch.float32 if dtype != torch.float64 else dtype).to(dtype)
    )
    tolerance = 1e-6 * max(1.0, float(start.double().abs().sum()))
    assert abs(noise.dot(start, NAME, 2) - float(start.double() @ z.double())) <= tolerance


def test_its_squared_length_is_its_number_of_elements():
    tensors = [torch.zeros(3000), torch.zeros(5, 7)]
    assert noise.squared_length(tensors, NAME, (0, 1)) == [3000, 35]


# Probes and updates.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-9, 1e-3, 1e-1, 100.0])
def test_weights_come_back_to_the_bit(dtype, eps):
    tensors = weights(dtype)
    before = [t.clone() for t in tensors]
    moved = Perturbation(tensors, tuple(range(len(tensors))), NAME, [eps] * len(tensors))
    moved.plus()
    assert eps < 1e-3 or not same(tensors, before)
    moved.minus()
    moved.leave()
    assert same(tensors, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_update_while_leaving_is_that_alone_and_that_of_the_values(dtype):
    tensors = weights(dtype)
    alone, by_values = ([t.clone() for t in tensors] for _ in range(2))
    blocks, directions = tuple(range(len(tensors))), [NAME, SIGNS(0, 3, 1)]
    rows, decays = [[-1e-3] * len(tensors), [2e-3] * len(tensors)], [0.99] * len(tensors)
    moved = Perturbation(tensors, blocks, directions[0], [1e-3] * len(tensors))
    moved.plus()
    moved.minus()
    moved.leave(Update(blocks, directions, rows, decays))
    apply(alone, Update(blocks, directions, rows, decays))
    assert same(tensors, alone)
    values = [GivenDirection([noise.direction(name, j, t.shape) for j, t in enumerate(tensors)]) for name in directions]
    apply(by_values, Update(blocks, values, rows, decays))
    assert same(tensors, by_values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_moments_are_those_of_the_values(dtype, count):
    by_keys, by_values = weights(dtype), weights(dtype)
    blocks, names = tuple(range(len(by_keys))), [SIGNS(0, step) for step in range(count)]
    values = [GivenDirection([noise.direction(name, j, t.shape) for j, t in enumerate(by_keys)]) for name in names]
    first, second = ([[scale * (k + 1)] * len(by_keys) for k in range(count)] for scale in (1e-3, 0.5))
    lengths = []
    for tensors, directions in ((by_keys, names), (by_values, values)):
        update = MomentsUpdate(blocks, directions, first, second, [0.99] * len(by_keys), inside=1e-8)
        apply(tensors, update)
        lengths.append(update.length())
    assert same(by_keys, by_values)
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_weights_in_scratch_have_the_bits_of_the_move_in_place(dtype):
    w = weights(dtype)[0]
    plus, minus, both, some = (torch.full_like(w, 7) for _ in range(4))
    (piece, *_), source = chunks([w]), Sources([NAME], (0,)).at(chunks([w])[0])
    part, size = piece.data, len(piece.data)
    for out, scale in ((plus, 0.1), (minus, -0.1)):
        cpu.perturbed(cpu.view(out)[:size], part, 0, source, scale)
    moved = w.clone()
    journal = cpu.perturb(cpu.view(moved)[:size], 0, source, 0.1)
    assert torch.equal(bits(moved[:size]), bits(plus[:size]))
    cpu.flip(cpu.view(moved)[:size], 0, source, 0.1, journal)
    assert torch.equal(bits(moved[:size]), bits(minus[:size]))
    below = torch.empty_like(w)
    sides.both(cpu.view(both)[:size], cpu.view(below)[:size], part, 0, source, 0.1)
    assert same([both[:size], below[:size]], [plus[:size], minus[:size]])
    sides.some(cpu.view(some), cpu.view(w), np.array([1, 5]), source, 0.1)
    for tile in (1, 5):
        assert same([some[tile * TILE : (tile + 1) * TILE]], [plus[tile * TILE : (tile + 1) * TILE]])
    assert bool((some[:TILE] == 7).all())


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_plain_kernels_have_the_same_bits(dtype):
    """A sign times a scale is exact, so that there is no rounding in which they could differ."""
    compiled = (torch.randn(6000, generator=torch.Generator().manual_seed(1)) * 0.2).to(dtype)
    readable, source = compiled.clone(), Sources([NAME], (0,)).at(chunks([compiled])[0])
    array, nothing = cpu.view(compiled), (np.empty(0, np.float32), 1.0, np.empty(0))
    journal, plain_journal = cpu.perturb(array, 0, source, 1e-3), plain.perturb(readable, 0, source, float(np.float32(1e-3)))
    assert torch.equal(bits(compiled), bits(readable))
    cpu.flip(array, 0, source, 1e-3, journal)
    plain.flip(readable, 0, source, float(np.float32(1e-3)), plain_journal)
    assert torch.equal(bits(compiled), bits(readable))
    cpu.restore(array, 0, source, -1e-3, journal, False, source._replace(keys=source.keys[:0]), *nothing)
    plain.restore(readable, 0, source, -float(np.float32(1e-3)), plain_journal, False, source, *nothing)
    assert torch.equal(bits(compiled), bits(readable))


# Statistics of the estimate p z of a gradient g, which is z z^T g on a quadratic.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_unbiased_and_varies_as_algebra_says(family):
    """E |p z - g|^2 is (n + 1) |g|^2 for normals and (n - 1) |g|^2 for signs: n - 2 + E z^4, where E z^4 is 3 or 1."""
    g, draws = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64), 400_000
    z = noise.direction(Direction(5, 0, family=family), 0, (draws, 4)).double()
    estimates = (z @ g)[:, None] * z
    error = (estimates.mean(0) - g) / (estimates.std(0) / math.sqrt(draws))
    assert float(error.abs().max()) < 4.5
    fourth = {"gaussian": 3.0, "rademacher": 1.0}[family]
    assert float((z**4).mean()) == pytest.approx(fourth, abs=4.5 * math.sqrt(96 / (4 * draws)) if fourth == 3 else 0)
    squares = (estimates - g).square().sum(1)
    expected = (len(g) - 2 + fourth) * float(g @ g)
    assert abs(float(squares.mean()) - expected) < 4.5 * float(squares.std()) / math.sqrt(draws)


def test_one_update_has_one_family():
    for names in pairwise((Direction(0, 0), SIGNS(0, 0), Direction(0, 1))):
        with pytest.raises(ValueError, match="directions of two families"):
            Update((0,), names, [[1.0]] * 2, [1.0])
