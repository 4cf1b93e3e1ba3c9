"""Weights moved into another place: the bits of a move in place, and the weights themselves untouched."""

import pytest
import torch
from test_reversible import DTYPES, NAME, bits, perturbation, same, weights

from zolab.noise import Direction, GivenDirection, ScaledDirection, Sources, chunks, direction, materialise
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import ScaledUpdate, apply


def scratch_of(tensors, source, scale):
    """Each tensor moved by scale * z into scratch that held something else."""
    out = [torch.full_like(t, 7) for t in tensors]
    for there, piece in zip(chunks(out), chunks(tensors), strict=True):
        piece.kernels.perturbed(there.data, piece.data, piece.tile, source.at(piece), scale)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-9, 1e-3, 100.0])
def test_both_sides_have_the_bits_of_the_move_in_place(dtype, eps):
    tensors = weights(dtype)
    before = [t.clone() for t in tensors]
    source = Sources([NAME], tuple(range(len(tensors))))
    plus, minus = scratch_of(tensors, source, eps), scratch_of(tensors, source, -eps)
    assert same(tensors, before)
    moved = perturbation(tensors, eps)
    moved.plus()
    assert same(tensors, plus)
    moved.minus()
    assert same(tensors, minus)


@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_a_direction_that_is_given_moves_as_the_same_one_from_its_key(dtype):
    tensors = weights(dtype)
    blocks = tuple(range(len(tensors)))
    values = GivenDirection([direction(NAME, j, t.shape) for j, t in zip(blocks, tensors, strict=True)])
    pairs = zip(*(scratch_of(tensors, Sources([name], blocks), 0.01) for name in (NAME, values)), strict=True)
    assert all(torch.equal(bits(a), bits(b)) for a, b in pairs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alone", [False, True], ids=["in place", "apply"])
def test_a_step_along_scaled_normals_changes_the_factors_first(dtype, alone):
    """Against tensors of the same values; in place, after a probe along the old factors that it takes back."""
    wide = torch.promote_types(dtype, torch.float32)
    tensors, generator = weights(dtype), torch.Generator().manual_seed(1)
    before, blocks = [t.clone() for t in tensors], tuple(range(len(tensors)))
    factors = {j: torch.rand(t.numel(), generator=generator, dtype=wide) + 0.5 for j, t in enumerate(tensors)}
    old, growth = {j: f.clone() for j, f in factors.items()}, (0.9, 0.2, 1.0, 0.6, 1.4)
    update = ScaledUpdate(blocks, NAME, factors, [0.1] * len(tensors), [0.99] * len(tensors), growth)
    if alone:
        apply(tensors, update)
    else:
        moved = Perturbation(tensors, blocks, ScaledDirection(factors, NAME), [0.01] * len(tensors))
        moved.plus()
        moved.minus()
        assert not same(tensors, before)
        moved.leave(update)
    for j, (now, w) in enumerate(zip(tensors, before, strict=True)):
        z = direction(NAME, j, w.shape, dtype=wide)
        ratio = 0.9 + 0.2 * (z.flatten() ** 2 - 1)
        torch.testing.assert_close(factors[j], (old[j] / ratio.sqrt()).clamp(0.6, 1.4), rtol=1e-5, atol=0)
        torch.testing.assert_close(now, (0.99 * w.to(wide) + 0.1 * z * factors[j].view_as(z)).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_probe_along_scaled_normals_leaves_no_trace(dtype):
    tensors, generator = weights(dtype), torch.Generator().manual_seed(1)
    before, blocks = [t.clone() for t in tensors], tuple(range(len(tensors)))
    wide = torch.promote_types(dtype, torch.float32)
    scaled = ScaledDirection({j: torch.rand(t.numel(), generator=generator, dtype=wide) for j, t in enumerate(tensors)}, NAME)
    values = GivenDirection([materialise(scaled, j, t) for j, t in enumerate(tensors)])
    sides = [scratch_of(tensors, Sources([one], blocks), 0.01) for one in (scaled, values)]
    if dtype != torch.float64:  # its kernels make normals of their own, a few units in the last place off
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(*sides, strict=True))
    moved = Perturbation(tensors, blocks, scaled, [0.01] * len(tensors))
    moved.plus()
    assert same(tensors, sides[0])
    moved.minus()
    moved.leave()
    assert same(tensors, before)


def test_what_cannot_be_scaled_or_summed_is_refused():
    with pytest.raises(ValueError, match="must be normal"):
        ScaledDirection({}, Direction(0, 0, family="rademacher"))
    with pytest.raises(ValueError, match="two families"):
        Sources([NAME, ScaledDirection({}, NAME)], (0,))
