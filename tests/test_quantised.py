"""A quantised base: what is quantised, that it stays as it is under every method, and runs over it."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from small import NUMBERS, command, equal, maker
from torch import nn

from zolab import GRZO, MeZO
from zolab import replay as replay_steps
from zolab.models import (
    LoRA,
    Prefix,
    adapter_digest,
    fingerprint,
    kept,
    kept_model,
    load_model,
    model_bytes,
    quantise_base,
    quantised_in,
    read_adapter,
    save_adapter,
    tiny_model,
)
from zolab.models import quantised as module
from zolab.models.quantised import QUANTISERS, is_quantised, plain_tensors, quantised_bytes, quantised_layers
from zolab.probe.blocks import unique
from zolab.records import load_record
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.runs.memory import Tokens, predicted
from zolab.runs.names import QUANTISE_NAMES
from zolab.runs.objectives import closure
from zolab.studies.step_memory import measured
from zolab.tasks import load_task

BITS = {"int8": 0.01, "nf4": 0.12}
"""How far a matrix may be from what it was, over its norm, by the format."""
ADAPTERS = [LoRA(r=4), Prefix()]
CONFIG = Config(
    **{"model": "tiny-random-llama", "lr": 1e-2, "eps": 1e-2, "steps": 4, "eval_every": 2, "batch_size": 4, "train": 16},
    **{"dev": 6, "test": 6, "tuning": "lora", "quantise": "int8", "checkpoint_every": 3},
)


def named(adapter):
    return type(adapter).__name__


def loaded(how="int8", adapter=None, name="tiny-random-llama", dtype="float32"):
    model, _ = load_model(name, dtype, quantise=how)
    if adapter:
        adapter.attach(model, 0)
    return model


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


@pytest.fixture(scope="module")
def batch():
    _, tokenizer = load_model("tiny-random-llama")
    task = load_task("rotten_tomatoes")
    return task, task.encode(tokenizer, task.sample(0, 4, 2, 2).train), tokenizer


def test_the_command_line_knows_every_format():
    assert ("none", *QUANTISERS) == QUANTISE_NAMES


@pytest.mark.parametrize("how", QUANTISERS)
@pytest.mark.parametrize("name", ["tiny-reviews", "tiny-random-llama", "tiny-random-opt", "tiny-random-roberta"])
def test_linear_layers_are_quantised_and_the_rest_stays(how, name):
    before, after = loaded("none", name=name), loaded(how, name=name)
    layers = quantised_layers(before)
    assert layers
    assert (quantised_in(before), quantised_in(after)) == ("none", how)
    head, inside = after.get_output_embeddings().weight, {f"{layer}.weight" for layer in layers}
    assert not is_quantised(head)
    for (path, was), (same, now) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert (path, was.shape, was.dtype) == (same, now.shape, now.dtype)
        if path not in inside:
            assert torch.equal(was, now)
            continue
        again = nn.functional.linear(torch.eye(was.shape[1]), now).T
        assert 0 < (again - was).norm() < BITS[how] * was.norm()
        assert sum(part.nbytes for part in plain_tensors(now)) == quantised_bytes(was, how)
        assert not now.requires_grad
    saved = sum(layer.weight.nbytes - quantised_bytes(layer.weight, how) for layer in layers.values())
    assert model_bytes(before) - model_bytes(after) == saved > 0


@pytest.mark.parametrize("how", QUANTISERS)
def test_the_same_weights_are_quantised_to_the_same_bits(how):
    digests = [fingerprint(loaded(how)) for _ in range(2)]
    assert digests[0] == digests[1] != fingerprint(loaded("none"))
    changed = loaded("none")
    changed.model.layers[1].mlp.up_proj.weight.data[3] *= 1.5
    quantise_base(changed, how)
    assert fingerprint(changed) not in digests
    assert len({fingerprint(loaded(each)) for each in QUANTISERS}) == len(QUANTISERS)


@pytest.mark.parametrize("how", QUANTISERS)
def test_a_process_that_keeps_models_copies_all_but_what_is_quantised(how, monkeypatch):
    monkeypatch.setattr(kept, "_kept", {})
    one, two = (kept_model("tiny-random-llama", quantise=how)[0] for _ in range(2))
    assert fingerprint(one) == fingerprint(two) == fingerprint(loaded(how)) != fingerprint(kept_model("tiny-random-llama")[0])
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert (first is second) is is_quantised(first)
    LoRA(r=4).attach(one, 0)
    LoRA(r=4).attach(two, 0)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(one(input_ids=ids).logits, two(input_ids=ids).logits)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=named)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_method_on_both_probes_leaves_the_base_and_is_replayed(batch, adapter, name):
    task, encoded, _ = batch
    for through in (False, True):
        model = loaded("int8", adapter)
        base, first = fingerprint(model), [p.clone() for p in trained(model)]
        optimizer = maker(name)(trained(model), lr=1e-2, eps=1e-2, seed=1)
        optimizer.look_through(model if through else None)
        for _ in range(2):
            optimizer.step(lambda model=model: task.loss(model, encoded))
        assert not equal(first, trained(model))
        assert fingerprint(model) == base == fingerprint(loaded("int8"))
    fresh = loaded("int8", adapter)
    replay_steps(trained(fresh), optimizer.trajectory)
    assert equal(trained(fresh), trained(model))


@pytest.mark.parametrize("how", QUANTISERS)
def test_a_method_with_a_direction_an_example(batch, how):
    task, _, tokenizer = batch
    model = loaded(how, LoRA(r=4))
    base, first = fingerprint(model), [p.clone() for p in trained(model)]
    optimizer = GRZO(model.named_parameters(), lr=1e-2, eps=1e-2).look_through(model)
    for _ in range(2):
        optimizer.step(closure("loss", task, model, tokenizer, task.sample(0, 4, 2, 2).train, each=True))
    assert not equal(first, trained(model))
    assert fingerprint(model) == base


@pytest.mark.parametrize("how", QUANTISERS)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=named)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_directions_are_those_beside_a_base_in_full_precision(batch, how, adapter, dtype):
    """Frozen weights are numbered, too, so that a quantised base must count as many."""
    task, encoded, _ = batch
    slopes = []
    for way in ("none", how):
        model = loaded(way, adapter, dtype=dtype)
        assert {parameter.dtype for parameter in trained(model)} == {torch.float32}
        optimizer = MeZO(model.named_parameters(), lr=0.0, eps=1e-1, seed=3).look_through(model)
        optimizer.step(lambda model=model: task.loss(model, encoded))
        slopes.append(optimizer.trajectory)
    assert slopes[0].parameters == slopes[1].parameters
    assert slopes[0].records[0].losses != slopes[1].records[0].losses
    assert slopes[0].records[0].losses == pytest.approx(slopes[1].records[0].losses, abs=0.3)


def test_quantised_weights_count_once_each_and_ties_stay_one():
    model = loaded()
    names = [name for name, _ in unique(model.named_parameters(remove_duplicate=False))]
    assert names == [name for name, _ in model.named_parameters()]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_adapter_is_saved_and_read_over_the_same_base_and_over_the_full_one(tmp_path):
    model = loaded("int8", LoRA(r=4))
    with torch.no_grad():
        trained(model)[1].add_(0.1)
    save_adapter(model, tmp_path / "adapter", "tiny-random-llama")
    about = json.loads((tmp_path / "adapter" / "zolab.json").read_text())
    assert about["quantised"] == "int8"
    for how in QUANTISE_NAMES:
        other = loaded(how)
        with nullcontext() if how == "int8" else pytest.warns(UserWarning, match="is not checked"):
            read_adapter(tmp_path / "adapter").attach(other)
        assert adapter_digest(other) == adapter_digest(model)
    other = tiny_model("llama", seed=1)
    quantise_base(other, "int8")
    with pytest.raises(ValueError, match="belongs to other base weights"):
        read_adapter(tmp_path / "adapter").attach(other)


@pytest.fixture(scope="module", params=["lora", "prefix"])
def finished(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    config = replace(CONFIG, tuning=request.param)
    return config, out, run(config, out)


def test_a_run_says_what_it_holds(finished):
    _, out, done = finished
    record = load_record(out / "record.json")
    assert record["config"]["quantise"] == "int8"
    assert record["base"] == fingerprint(loaded("int8")) == fingerprint(done.model)
    assert record["weights_bytes"] == model_bytes(done.model)
    assert 8 < record["base_bits"] < 20  # embeddings, a third of this model, have 32
    assert record["timing"]["peak_bytes"] > 0


def test_a_stopped_run_goes_on_verifies_and_is_replayed(finished, tmp_path):
    config, out, done = finished
    lines = (out / "log.jsonl").read_bytes().splitlines(keepends=True)
    steps = [i for i, line in enumerate(lines) if b'"event": "step"' in line]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "log.jsonl").write_bytes(b"".join(lines[: steps[2] + 1]))
    again = run(config, tmp_path / "again").record
    assert again["steps"] == done.record["steps"]
    assert again["result"] == done.record["result"]
    completed = command("verify", out)
    assert completed.status == 0, completed.errors
    assert "weights          ok" in completed.out
    completed = command("replay", out, f"--out={tmp_path / 'adapter'}")
    assert completed.status == 0, completed.errors
    for file in (out / "adapter").iterdir():
        assert (tmp_path / "adapter" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(ValueError, match=r"holds another run .*quantise 'int8' there, 'nf4' here"):
        run(replace(config, quantise="nf4"), out)


def test_the_command_line_trains_and_evaluates(tmp_path):
    words = ("--model=tiny-random-llama", "--task=rotten_tomatoes", "--quantise=nf4")
    few = ("--steps=2", "--eval_every=2", "--batch_size=4", "--train=8", "--dev=4", "--test=6", "--tuning=lora")
    completed = command("finetune", *words, *few, f"--out={tmp_path / 'run'}")
    assert completed.status == 0, completed.errors
    assert "one of the base, in nf4, takes" in completed.out
    numbers = tmp_path / "numbers.json"
    completed = command("evaluate", *words, "--test=6", f"--adapter={tmp_path / 'run' / 'adapter'}", f"--out={numbers}")
    assert completed.status == 0, completed.errors
    after = load_record(tmp_path / "run" / "record.json")["result"]["test"]["after"]
    assert load_record(numbers)["result"]["rotten_tomatoes"]["loss"] == after["loss"]


@pytest.mark.parametrize("how", QUANTISERS)
def test_the_memory_of_a_step_is_predicted(how):
    config = replace(CONFIG, model="tiny-reviews", quantise=how, checkpoint_every=0)
    full, small = (predicted(each, Tokens(2, 4)) for each in (replace(config, quantise="none"), config))
    assert full.parts["weights"] == model_bytes(loaded("none", name="tiny-reviews"))
    assert small.parts["weights"] == model_bytes(loaded(how, name="tiny-reviews"))
    assert small.parts["scratch"] > 0
    assert small.total < full.total


def test_a_process_of_its_own_measures_a_step_over_a_quantised_base():
    row = measured("tiny-reviews", ["mezo"], Tokens(4, 16), "lora", "int8")["mezo"]
    assert row.weights == model_bytes(loaded("int8", LoRA(), "tiny-reviews")) < row.peak


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tuning": "full"}, "quantise int8 freezes the base, and tuning full moves all of it: choose --tuning lora or prefix"),
        ({"quantise": "int3"}, "unknown quantise 'int3'; choose none, int8, nf4"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(replace(CONFIG, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_torchao_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs torchao: pip install 'zolab\[quantised\]'"):
        run(CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())
    completed = command("evaluate", "--model=tiny-random-llama", "--quantise=int8", "--task=rotten_tomatoes")
    assert completed.status == 1
    assert "pip install 'zolab[quantised]'" in completed.errors


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ValueError, match="quantise='int3' is unknown: choose none, int8 or nf4"):
        load_model("tiny-random-llama", quantise="int3")
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn, layer.mlp = nn.Identity(), nn.Identity()
    with pytest.raises(ValueError, match="LlamaForCausalLM has no linear modules beside its head"):
        quantise_base(model, "int8")
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = nn.Linear(32, 63)
    with pytest.raises(ValueError, match=r"up_proj\.weight, a matrix of 63 x 32, cannot be quantised in nf4: choose another"):
        quantise_base(model, "nf4")
    for how in QUANTISERS:
        model = tiny_model("llama")
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
        with pytest.raises(ValueError, match=f"up_proj.weight, a matrix of 64 x 32, cannot be quantised in {how}"):
            quantise_base(model, how)
    with pytest.raises(ValueError, match="LlamaForCausalLM is quantised in int8 already"):
        quantise_base(loaded("int8"), "nf4")
