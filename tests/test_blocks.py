"""Blocks: how weights are split and counted, their moments in one pass, and the budget."""

import numpy as np
import pytest
import torch
from torch import nn

from zolab.models import load_model
from zolab.probe.blocks import budget_factor, kind_of, layer_of, mean_and_variance, moments, published_weights, split


@pytest.fixture(scope="module")
def llama():
    return load_model("tiny-random-llama")[0]


def test_a_tied_weight_is_one_block_whatever_its_names_are(llama):
    blocks = split(llama)
    assert len(blocks) == len(list(llama.parameters())) == 20
    assert sum(blocks.sizes) == sum(p.numel() for p in llama.parameters())
    assert blocks.ties == {"model.embed_tokens.weight": ("lm_head.weight",)}


def test_layers_and_rules_gather_tensors(llama):
    layers = split(llama, "layer")
    assert layers.names == ("model.embed_tokens.weight", "model.layers.0", "model.layers.1", "model.norm.weight")
    assert layers.tensors == split(llama).tensors
    kinds = split(llama, kind_of)
    assert "self_attn.v_proj" in kinds.names
    assert len(kinds) == 11
    ones = np.ones(len(kinds.tensors))
    assert kinds.totals(ones).tolist() == [1.0] + [2.0] * 9 + [1.0]
    assert kinds.spread(np.arange(11))[kinds.tensors.index("model.layers.1.self_attn.v_proj.weight")] == kinds.names.index(
        "self_attn.v_proj"
    )


def test_names():
    assert layer_of("model.decoder.layers.11.fc1.bias") == "model.decoder.layers.11"
    assert layer_of("lm_head.weight") == "lm_head.weight"
    assert kind_of("model.layers.3.mlp.gate_proj.weight") == "mlp.gate_proj"
    assert kind_of("model.norm.weight") == "norm"


def test_frozen_weights_are_no_block():
    model = nn.Linear(3, 2)
    model.bias.requires_grad = False
    assert split(model).names == ("weight",)
    model.weight.requires_grad = False
    with pytest.raises(ValueError, match="nothing to train"):
        split(model)


def test_an_unknown_rule_is_refused(llama):
    with pytest.raises(ValueError, match="unknown rule 'row'; choose tensor or layer"):
        split(llama, "row")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sizes", [(1,), (2047, 2048, 2049), (3_000_001, 5)])
def test_moments_are_those_of_the_weights(dtype, sizes):
    generator = torch.Generator().manual_seed(0)
    tensors = [(0.02 * torch.randn(n, generator=generator) + 0.01).to(dtype) for n in sizes]
    mean, variance = mean_and_variance(moments(tensors), sizes)
    for j, tensor in enumerate(tensors):
        exact = tensor.double()
        assert mean[j] == pytest.approx(float(exact.mean()), rel=1e-5)
        assert variance[j] == pytest.approx(float(exact.var()) if len(tensor) > 1 else 0.0, rel=1e-4, abs=1e-12)


def test_the_budget_is_the_squared_length_of_mezos_direction(llama):
    blocks = split(llama)
    sigma = np.random.default_rng(0).uniform(0.1, 3, len(blocks))
    sizes = np.array(blocks.sizes, float)
    assert (budget_factor(sigma, sizes) * sigma) ** 2 @ sizes == pytest.approx(sum(sizes))
    assert budget_factor(np.ones(len(blocks)), sizes) == 1


def test_the_published_codes_weights_guess_touched_rows(llama):
    blocks = split(llama)
    weights = published_weights(blocks, hidden=32, batch=16)
    assert weights[0] == 32 * 15 * 16
    assert weights[1:].tolist() == list(blocks.sizes[1:])
