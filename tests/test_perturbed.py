"""Weights moved into another place: the bits of a move in place, and the weights themselves untouched."""

import pytest
import torch
from test_reversible import DTYPES, NAME, bits, perturbation, same, weights

from zolab.noise import GivenDirection, Sources, chunks, direction


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
