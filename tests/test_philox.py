"""Torch's draws on CUDA without CUDA, and the init of networks that began as such draws."""

import json
import os

import numpy as np
import pytest
import torch

from zolab.__main__ import main
from zolab.pertnn import PertNN
from zolab.pertnn.philox import LARGEST, OFFSETS, cuda_linear, cuda_uniform, philox4x32
from zolab.pertnn.published import find_init, import_published, llama_sizes, settled_sigma, sizes_of, trace
from zolab.probe.blocks import split
from zolab.records import load_record


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123's known-answer vectors for philox4x32, 10 rounds
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter, key, words):
    assert " ".join(f"{int(word):08x}" for word in philox4x32(counter, key)) == words
    beside = philox4x32((np.array([counter[0], 7]), *counter[1:]), key)
    assert [int(word[0]) for word in beside] == [int(word, 16) for word in words.split()]


def test_uniform_numbers():
    draws = cuda_uniform(0.5, LARGEST, seed=42, offset=0)
    assert draws.dtype == np.float32
    assert -0.5 <= draws.min() < -0.499
    assert 0.499 < draws.max() < 0.5
    assert abs(draws.mean()) < 4 * (12 * LARGEST) ** -0.5
    assert np.array_equal(cuda_uniform(0.5, 10, 42, 0), draws[:10])
    for seed, offset in ((43, 0), (42, OFFSETS), (42 + 2**32, 0)):
        assert abs(np.corrcoef(draws, cuda_uniform(0.5, LARGEST, seed, offset))[0, 1]) < 5 * LARGEST**-0.5


def test_uniform_arguments_out_of_range_are_refused():
    for count in (0, LARGEST + 1):
        with pytest.raises(ValueError, match="count"):
            cuda_uniform(1.0, count, 0, 0)
    for offset in (-4, 2):
        with pytest.raises(ValueError, match="offset"):
            cuda_uniform(1.0, 4, 0, offset)


def test_a_linear_layer_has_its_own_bounds():
    weight, bias = cuda_linear(5, 64, 42, 0)
    assert (weight.shape, bias.shape) == ((64, 5), (64,))
    assert 0.43 < np.abs(weight).max() <= 5**-0.5
    assert not np.array_equal(bias, weight.ravel()[:64])


def six_blocks():
    return split([(f"w{j}", torch.nn.Parameter(torch.zeros(3))) for j in range(6)])


def begun_as(draws, hidden, seed):
    """A PertNN whose networks are these draws of a seed."""
    pertnn = PertNN(six_blocks(), hidden)
    with torch.no_grad():
        for j, draw in enumerate(draws):
            first = cuda_linear(5, hidden, seed, 4 * OFFSETS * draw)
            second = cuda_linear(hidden, 1, seed, 4 * OFFSETS * draw + 2 * OFFSETS)
            for to, w in zip(pertnn.parameters(), (*first, second[0][0], second[1][0]), strict=True):
                to[j] = torch.as_tensor(w)
    return pertnn


def test_draws_are_found_again_after_a_change():
    draws = [0, 1, 2, 0, 1, 5]
    pertnn = begun_as(draws, 16, seed=7)
    untouched = find_init(pertnn, seed=7)
    assert untouched.draws.tolist() == draws
    assert untouched.distances.max() == untouched.relative.max() == 0
    for now, then in zip(pertnn.parameters(), untouched.drawn.parameters(), strict=True):
        assert torch.equal(now, then)
    with torch.no_grad():
        pertnn.w1[2] += 1e-3
        pertnn.b2[3] += 1.0
    init = find_init(pertnn, seed=7)
    assert init.draws.tolist() == draws
    assert init.distances == pytest.approx([0, 0, 1e-3, 0, 0, 0], rel=1e-3, abs=1e-9)
    assert init.relative.nonzero()[0].tolist() == [2, 3]
    assert init.others.min() > 0.05
    traced = trace(pertnn, seed=7)
    assert [entry["draw"] for entry in traced.values()] == draws
    assert traced["w0"]["sigma"] == traced["w0"]["sigma_drawn"] != traced["w3"]["sigma"]
    assert find_init(pertnn, seed=8).distances.min() > 0.05  # another seed's draws are far
    assert find_init(pertnn, seed=7, count=1).draws.max() <= 1  # there is always another draw to compare with


def test_settled_sigma_feeds_itself():
    pertnn = begun_as([0, 1, 2, 3, 4, 5], 16, seed=7)
    settled = settled_sigma(pertnn)
    assert settled == pytest.approx(settled_sigma(pertnn, steps=201), rel=1e-6)
    assert not np.allclose(settled, settled_sigma(pertnn, steps=1), rtol=1e-3)


def test_the_command_writes_a_record_without_weights_or_paths(tmp_path, capsys):
    torch.manual_seed(0)
    layers = torch.nn.Linear(5, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)
    torch.save({name: torch.nn.Sequential(*layers) for name in llama_sizes()}, tmp_path / "x.pth")
    words = ["published", str(tmp_path / "x.pth")]
    assert main([*words, "--record", str(tmp_path / "record.json")]) == 0
    record = load_record(tmp_path / "record.json")
    assert set(record["result"]) == set(llama_sizes())
    assert all(
        set(entry) == {"draw", "distance", "other", "relative", "sigma", "sigma_drawn"} for entry in record["result"].values()
    )
    assert record["config"]["file"] == "x.pth"
    assert str(tmp_path) not in (tmp_path / "record.json").read_text()
    output = capsys.readouterr().out
    assert output.startswith(f"{len(llama_sizes())} networks, ")
    (tmp_path / "record.json").unlink()
    assert main(words) == 0  # the numbers alone
    assert capsys.readouterr().out == "".join(output.splitlines(keepends=True)[:3])
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]
    (tmp_path / "x.pth").write_bytes(b"")
    assert main(words) == 1
    assert "is not a released fine-tuner" in capsys.readouterr().err


QWEN = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "vocab_size": 30,
}
QWEN |= {"intermediate_size": 20, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": False}


def test_sizes_of_another_model_come_from_its_config(tmp_path, capsys):
    for file in (tmp_path / "config.json", tmp_path / "of-qwen.json"):
        file.write_text(json.dumps(QWEN))
    sizes = sizes_of(tmp_path)
    assert sizes == sizes_of(tmp_path / "of-qwen.json")
    plain = llama_sizes(12, 2, 20, heads=3, kv_heads=1, head_dim=4, vocabulary=30, tied=False)
    biases = {f"model.layers.{layer}.self_attn.{part}_proj.bias" for layer in (0, 1) for part in "qkv"}
    assert sizes.keys() - plain.keys() == biases
    assert {name: sizes[name] for name in plain} == plain
    layers = torch.nn.Linear(5, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)
    torch.save({name: torch.nn.Sequential(*layers) for name in sizes}, tmp_path / "x.pth")
    assert main(["published", str(tmp_path / "x.pth"), "--config", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{len(sizes)} networks, ")
    assert main(["published", str(tmp_path / "x.pth")]) == 1
    assert "is for another model than sizes tells" in capsys.readouterr().err


def test_the_default_sizes_are_those_of_a_llama_config(tmp_path):
    llama = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "head_dim": 64}
    llama |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    assert sizes_of(tmp_path) == llama_sizes()


@pytest.mark.parametrize(
    "content",
    [
        *("{}", "[]", "{oops", '{"model_type": "clip"}', '{"model_type": "qwen2", "hidden_size": "x"}'),
        '{"model_type": "qwen2", "num_hidden_layers": 100000000}',
        '{"model_type": "qwen2", "hidden_size": null}',
        "[" * 100_000,
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="does not describe a causal language model"):
        sizes_of(tmp_path / "config.json")


@pytest.mark.skipif("ZOLAB_PUBLISHED" not in os.environ, reason="ZOLAB_PUBLISHED names no released file of LLaMA-3.2-1B")
def test_the_released_networks_lie_beside_draws_of_seed_42():
    init = find_init(import_published(os.environ["ZOLAB_PUBLISHED"], llama_sizes()))
    assert init.draws.tolist() == [0, *range(54), *range(54), *range(37)]  # four devices, the same stream on each
    assert init.distances.max() < 1e-3 < 0.1 < init.others.min()
    assert np.median(init.relative) == pytest.approx(4.4e-4, rel=0.02)
