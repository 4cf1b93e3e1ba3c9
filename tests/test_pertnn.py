"""PertNN: all networks at once, the budget, cards that are checked, and released files that can do no harm."""

import io
import json
import math
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import budgeted
from torch import nn

from zolab.models import fingerprint, tiny_model
from zolab.pertnn import FEATURES, PertNN, features
from zolab.pertnn.published import import_published, llama_sizes
from zolab.probe.blocks import published_weights, split

ABOUT = {"fingerprint": "0" * 16, "training_data": "none", "licence": "MIT", "metrics": {"dev_loss": 1.0}}


class Odd(nn.Module):
    """A scalar, a tie, a frozen tensor, numbered layers of two tensors each, and a tensor outside them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(torch.full((7, 3), 0.5))
        self.head = self.embed
        self.layers = nn.ModuleList(nn.Linear(3, 4) for _ in range(2))
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.Parameter(torch.zeros(100), requires_grad=False)


def inputs(b, seed=0):
    source = np.random.default_rng(seed)
    return features(source.normal(size=b), source.uniform(size=b), (1.3, 1.1), source.uniform(size=b))


def sequential(pertnn, j):
    """Block j's network as torch's own modules."""
    network = nn.Sequential(nn.Linear(5, pertnn.hidden), nn.Tanh(), nn.Linear(pertnn.hidden, 1))
    values = (pertnn.w1[j], pertnn.b1[j], pertnn.w2[j][None], pertnn.b2[j][None])
    network.load_state_dict({name: v.detach() for name, v in zip(network.state_dict(), values, strict=True)})
    return network


@pytest.mark.parametrize("hidden", [1, 64])
def test_all_networks_at_once_equal_a_loop_over_torchs_own(hidden):
    pertnn = PertNN(split(Odd()), hidden)
    x = inputs(len(pertnn.blocks))
    expected = torch.cat([sequential(pertnn, j)(row).abs() for j, row in enumerate(x)])
    torch.testing.assert_close(pertnn(x), expected, rtol=1e-5, atol=1e-6)
    assert sum(w.numel() for w in pertnn.parameters()) == len(pertnn.blocks) * (7 * hidden + 1)


def test_the_first_weights_are_drawn_as_torchs_linear_layers_are():
    before = torch.get_rng_state()
    pertnn = PertNN(split((f"w{j}", nn.Parameter(torch.ones(2))) for j in range(300)), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    for w, bound in ((pertnn.w1, 5**-0.5), (pertnn.b1, 5**-0.5), (pertnn.w2, 0.125), (pertnn.b2, 0.125)):
        assert w.abs().max() <= bound
        assert w.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert torch.equal(pertnn.w1, PertNN(pertnn.blocks, seed=3).w1)
    assert not torch.equal(pertnn.w1, PertNN(pertnn.blocks, seed=4).w1)


@pytest.mark.parametrize("input_scaling", [False, True])
def test_identity_begins_at_one_for_any_input_and_can_leave_it(input_scaling):
    pertnn = PertNN(split(Odd()), identity=True, input_scaling=input_scaling)
    x = inputs(len(pertnn.blocks))
    assert torch.equal(pertnn(x), torch.ones(len(pertnn.blocks)))
    assert torch.equal(pertnn.normalised(pertnn(x)), torch.ones(len(pertnn.blocks)))
    pertnn(x).sum().backward()
    assert pertnn.w2.grad.abs().sum() > 0


def test_scaled_inputs_are_of_the_order_of_one_for_weights_of_any_size():
    pertnn = PertNN(split(Odd()), input_scaling=True)
    b = len(pertnn.blocks)
    outputs = []
    for mean, variance in ((0.0, 0.0), (1.0, 0.0), (1e-5, 4e-4), (-3.0, 2.0)):
        raw = pertnn(features([mean] * b, [variance] * b, (1, 1), [1] * b))
        assert raw.isfinite().all()
        outputs.append(raw)
    small, smaller = (PertNN(pertnn.blocks, input_scaling=scaled) for scaled in (True, False))
    x = [features([0] * b, [variance] * b, (1, 1), [1] * b) for variance in (1e-4, 1e-6)]
    assert (small(x[0]) - small(x[1])).abs().max() > 0.01 > (smaller(x[0]) - smaller(x[1])).abs().max()


def test_budgets():
    blocks = split(Odd())
    raw = torch.linspace(0.1, 2.0, len(blocks)).requires_grad_()
    weights = published_weights(blocks, hidden=3, batch=2)
    for pertnn, n in (
        (PertNN(blocks), np.array(blocks.sizes)),
        (PertNN(blocks, normalise="code", budget_weights=weights), weights),
    ):
        sigma = pertnn.normalised(raw)
        assert float(n @ sigma.detach().double().numpy() ** 2) == pytest.approx(n.sum(), rel=1e-6)
        assert sigma.detach().numpy() == pytest.approx(budgeted(raw.detach().numpy(), n), rel=1e-6)
    assert torch.equal(PertNN(blocks, normalise=None).normalised(raw), raw)
    factor = PertNN(blocks).normaliser(raw)
    factor.backward()  # df/dsigma_j = -f^3 d_j sigma_j / sum d
    expected = -(factor.item() ** 3) * torch.tensor(blocks.sizes) * raw.detach() / sum(blocks.sizes)
    torch.testing.assert_close(raw.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden"),
        ({"normalise": "theirs"}, "normalise"),
        ({"normalise": "code"}, "budget_weights"),
        ({"budget_weights": [1.0]}, "budget_weights"),
        ({"normalise": "code", "budget_weights": [1.0]}, "one for each block"),
        ({"normalise": "code", "budget_weights": [math.nan] * 6}, "positive finite"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PertNN(split(Odd()), **options)


def test_layers_share_a_network():
    pertnn = PertNN(split(Odd(), "layer"))
    assert pertnn.blocks.names == ("embed", "temperature", "layers.0", "layers.1")
    assert pertnn.spread(torch.arange(4.0)).tolist() == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("rule", ["tensor", "layer"])
def test_a_saved_pertnn_is_the_same_when_loaded(tmp_path, rule):
    model = tiny_model("llama")
    blocks = split(model, rule)
    n = np.arange(1.0, len(blocks) + 1)
    pertnn = PertNN(blocks, 8, input_scaling=True, normalise="code", budget_weights=n, seed=5)
    pertnn.save(tmp_path / "new", base_model="tiny", **{**ABOUT, "fingerprint": fingerprint(model)})
    derivative = tiny_model("llama", seed=1)
    for same in (model, derivative, list(model.named_parameters())):
        loaded = PertNN.load(tmp_path / "new", same)
        assert loaded.blocks == blocks
        assert loaded.card["fingerprint"] == fingerprint(model) != fingerprint(derivative)
        x = inputs(len(blocks))
        assert torch.equal(loaded.normalised(loaded(x)), pertnn.normalised(pertnn(x)))
        assert loaded.digest() == pertnn.digest()


@pytest.mark.parametrize(("value", "message"), [(math.nan, "metrics.loss = nan"), (np.float32(1), "float32 is not JSON")])
def test_a_card_that_cannot_be_written_leaves_the_folder(tmp_path, value, message):
    blocks = split(tiny_model("llama"))
    first = PertNN(blocks, 4, seed=0)
    first.save(tmp_path / "old", base_model="tiny", **ABOUT)
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(ValueError, match=f"card.json cannot hold .*{message}"):
            PertNN(blocks, 4, seed=1).save(folder, base_model="tiny", **{**ABOUT, "metrics": {"loss": value}})
    assert PertNN.read(tmp_path / "old").digest() == first.digest()
    assert not (tmp_path / "new").exists()


class TestRefused:
    @pytest.fixture
    def folder(self, tmp_path):
        PertNN(split(tiny_model("llama")), 4).save(tmp_path, base_model="tiny", **ABOUT)
        return tmp_path

    def edit(self, folder, change):
        """Change a card that is as they were before they had seals."""
        card = json.loads((folder / "card.json").read_text())
        for key in ("sealed", "digest", "weights"):
            del card[key]
        change(card)
        (folder / "card.json").write_text(json.dumps(card))

    def test_another_architecture_and_which_blocks_differ(self, folder):
        with pytest.raises(ValueError, match=r"no blocks for \(6\): model.layers.0.self_attn.q_proj.bias, .* and 3 more"):
            PertNN.load(folder, tiny_model("qwen2"))
        with pytest.raises(ValueError, match=r"blocks that the model lacks \(20\)"):
            PertNN.load(folder, tiny_model("opt"))

    def test_other_sizes(self, folder):
        model = tiny_model("llama")
        model.model.norm.weight = nn.Parameter(torch.ones(33))
        with pytest.raises(ValueError, match=r"another size of \(1\): model.norm.weight \(32, not 33\)"):
            PertNN.load(folder, model)

    def test_other_ties(self, folder):
        model = tiny_model("llama")
        model.model.norm.other = model.model.norm.weight
        with pytest.raises(ValueError, match=r"other ties of \(1\): model.norm.weight"):
            PertNN.load(folder, model)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda card: card["blocks"]["sizes"].update({"model.norm.weight": 31}), "said to have 31 weights.*have 32"),
            (lambda card: card["blocks"]["tensors"].pop("model.norm.weight"), "said to have 32 weights.*have 0"),
            (lambda card: card["blocks"]["sizes"].update({"more": 5}), "said to have 5 weights"),
            (lambda card: card["blocks"]["sizes"].update({"model.norm.weight": "32"}), "whole numbers"),
            (lambda card: card["blocks"]["tensors"]["model.norm.weight"].update(block="none"), "has no size"),
            (lambda card: card["options"].update(hidden=5), "the card asks for"),
            (lambda card: card["options"].update(colour=5), "colour"),
            (lambda card: card.update(features=["mean"]), "features"),
            (lambda card: card.pop("options"), "options"),
        ],
    )
    def test_cards_that_lie(self, folder, change, message):
        self.edit(folder, change)
        with pytest.raises(ValueError, match=message):
            PertNN.load(folder, tiny_model("llama"))

    def test_weights_that_are_damaged_or_not_finite(self, folder):
        path = folder / "pertnn.safetensors"
        self.edit(folder, lambda card: None)
        weights = load_file(path)
        weights["b2"][0] = math.nan
        save_file(weights, path)
        with pytest.raises(ValueError, match="not finite"):
            PertNN.read(folder)
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ValueError, match="damaged"):
            PertNN.read(folder)
        path.unlink()
        with pytest.raises(OSError, match=r"no pertnn.safetensors"):
            PertNN.read(folder)

    def test_names_that_are_not_there(self):
        with pytest.raises(OSError, match="no folder and no shipped PertNN is called 'gpt'"):
            PertNN.read("gpt")


class Protocol2(pickle._Pickler):
    """Writes what torch.save would, storages as references, so that odd files can be made."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


class Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", kind, key, "cpu", count)


class Rebuilt:
    def __init__(self, *values):
        self.values = values

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.values


class Calls:
    def __init__(self, function, *values):
        self.call = function, values

    def __reduce__(self):
        return self.call


def archive(path, thing, storages=()):
    buffer = io.BytesIO()
    Protocol2(buffer, protocol=2).dump(thing)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", buffer.getvalue())
        for key, content in enumerate(storages):
            file.writestr(f"x/data/{key}", content)
    return path


def released(path, dtype=torch.float32, hidden=4, last=nn.Tanh):
    torch.manual_seed(0)
    networks = {name: nn.Sequential(nn.Linear(5, hidden), last(), nn.Linear(hidden, 1)).to(dtype) for name in ("a", "b")}
    torch.save(networks, path)
    return networks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_as_the_authors_write_them_is_imported(tmp_path, dtype):
    networks = released(tmp_path / "x.pth", dtype)
    pertnn = import_published(tmp_path / "x.pth", {"b": 7, "a": 3})
    assert pertnn.blocks.names == ("a", "b")
    assert pertnn.blocks.sizes == (3, 7)
    x = inputs(2)
    expected = torch.cat([network.float()(row).abs() for network, row in zip(networks.values(), x, strict=True)])
    torch.testing.assert_close(pertnn(x), expected)
    with pytest.raises(ValueError, match="for another model"):
        import_published(tmp_path / "x.pth", {"a": 3})


def test_what_a_pickle_asks_for_beyond_networks_is_refused(tmp_path):
    mark = tmp_path / "mark"
    tensor = (Storage(torch.FloatStorage, "0", 4), 0, (4,), (1,), False, None)
    odd = {
        "posix.system": ({"a": Calls(os.system, f"touch {mark}")}, ()),
        "eval": ({"a": Calls(eval, "1 + 1")}, ()),
        "nn.modules.activation.ReLU": ({"a": nn.Sequential(nn.ReLU())}, ()),
        "has 12 bytes, but 4 numbers need 16": ({"a": Rebuilt(*tensor)}, [b"0" * 12]),
        "does not lie in its storage": ({"a": Rebuilt(tensor[0], 2, *tensor[2:])}, [b"0" * 16]),
        "no storage of floats": ({"a": Rebuilt(Storage("os", "0", 4), *tensor[1:])}, [b"0" * 16]),
        "no item named": ({"a": Rebuilt(*tensor)}, ()),
        "not a Linear, a Tanh and a Linear": ({"a": 1}, ()),
        "is not a released fine-tuner": ([1], ()),
    }
    for message, (thing, storages) in odd.items():
        with pytest.raises(ValueError, match=message):
            import_published(archive(tmp_path / "x.pth", thing, storages), {"a": 1})
    assert not mark.exists()


def test_files_that_are_cut_short_or_hold_other_networks_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    released(path)
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is not a released fine-tuner"):
            import_published(path, {"a": 1, "b": 1})
    torch.save({"a": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))}, path)
    with pytest.raises(ValueError, match="shapes"):
        import_published(path, {"a": 1})
    torch.save({"a": nn.Sequential(nn.Linear(5, 3), nn.Tanh())}, path)
    with pytest.raises(ValueError, match="not a Linear, a Tanh and a Linear"):
        import_published(path, {"a": 1})
    with pytest.raises(OSError):
        import_published(tmp_path / "none.pth", {"a": 1})


@pytest.mark.skipif("ZOLAB_PUBLISHED" not in os.environ, reason="ZOLAB_PUBLISHED names no released file of LLaMA-3.2-1B")
def test_the_released_file_of_llama_1b():
    pertnn = import_published(os.environ["ZOLAB_PUBLISHED"], llama_sizes())
    assert (len(pertnn.blocks), pertnn.hidden, sum(pertnn.blocks.sizes)) == (146, 64, 1_235_814_400)
    raw = pertnn(features([0.0] * 146, [4e-4] * 146, (1, 1), [1] * 146))
    assert raw.isfinite().all()
    assert pertnn.w1.abs().median().item() == pytest.approx(5**-0.5 / 2, rel=0.05)  # as drawn at first
    assert FEATURES[-1] == "sigma"
