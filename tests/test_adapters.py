"""LoRA and prefixes of peft: trained by every method on both probes, replayed, saved, refused where they do not fit."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import LOW_RANK, NUMBERS, command, equal, maker
from torch import nn

from zolab import MeZO, Trajectory
from zolab import replay as replay_steps
from zolab.models import (
    ADAPTERS,
    LoRA,
    Prefix,
    adapter_digest,
    architecture,
    fingerprint,
    load_model,
    read_adapter,
    save_adapter,
    tiny_model,
    trained_weights,
)
from zolab.models.adapters import adapter_weights
from zolab.records import load_record, save_record
from zolab.runs.config import TUNINGS
from zolab.runs.finetune import Config, finetune
from zolab.tasks import load_task
from zolab.tasks.generation import generate
from zolab.tasks.logits import causal_logits
from zolab.tasks.packing import pack

CONFIG = Config(
    model="tiny-random-llama", lr=1e-2, eps=1e-2, steps=8, eval_every=4, batch_size=4, train=16, dev=6, test=6, tuning="lora"
)
OF_PEFT = "ignore:.*is_gradient_checkpointing:FutureWarning"  # what its PeftModel asks transformers for
BOTH = [LoRA(r=4), Prefix()]
TEXTS = [tuple(range(3, 40)), tuple(range(50, 64)), tuple(range(7, 100, 3))]


def named(adapter):
    return type(adapter).__name__


def adapted(adapter, family="llama", seed=0):
    model = tiny_model(family)
    adapter.attach(model, seed)
    return model


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def moved(model, scale=0.05):
    """The model with other adapter weights than at first."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def logits_of(model, texts=TEXTS):
    """Logits at the last token of each text, laid together."""
    packs, homes = pack(texts, [[len(text) - 1] for text in texts], causal=True)
    with torch.no_grad():
        logits = [causal_logits(model, part) for part in packs]
    return torch.stack([logits[number][rows[0]] for number, rows in homes])


def last_logits(model, text, before=()):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[*before, *text]])).logits[0, -1]


@pytest.fixture(scope="module")
def batch():
    _, tokenizer = load_model("tiny-random-llama")
    task = load_task("rotten_tomatoes")
    return task, task.encode(tokenizer, task.sample(0, 4, 2, 2).train)


def run(config, out, **options):
    return finetune(config, out, progress=False, **options)


def lasting(record):
    return {key: value for key, value in record.items() if key not in ("timing", "command")}


def bits(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_command_line_knows_every_adapter():
    assert ("full", *ADAPTERS) == TUNINGS


def test_lora_begins_as_the_model_and_trains_its_own_weights_alone():
    base, model = tiny_model("llama"), adapted(LoRA(r=4))
    assert torch.equal(logits_of(base), logits_of(model))
    assert trained_weights(model) == 2 * (4 * (32 + 32) + 4 * (32 + 16))  # two layers: q_proj, and v_proj of half the heads
    assert {name.rpartition("lora_")[2][0] for name, p in model.named_parameters() if p.requires_grad} == {"A", "B"}
    assert (fingerprint(base), architecture(base)) == (fingerprint(model), architecture(model))
    assert not torch.equal(logits_of(base), logits_of(moved(model)))
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_lora_is_the_low_rank_sum():
    model = moved(adapted(LoRA(r=4, alpha=6)))
    layer = model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(layer(x), x @ (layer.base_layer.weight + 6 / 4 * b @ a).T, atol=1e-6)


@pytest.mark.parametrize("adapter", BOTH, ids=named)
def test_first_weights_come_from_the_seed_alone(adapter):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = adapted(adapter, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = adapted(adapter, seed=3), adapted(adapter, seed=4)
    assert equal(trained(one), trained(same))
    assert adapter_digest(one) == adapter_digest(same) != adapter_digest(other)


def test_a_of_lora_is_drawn_as_peft_draws_it():
    model = adapted(LoRA(r=16))
    for name, weight in adapter_weights(model).items():
        if "lora_B" in name:
            assert not weight.any()
        else:
            assert 0.9 / np.sqrt(32) < weight.abs().max() <= 1 / np.sqrt(32)


@pytest.mark.parametrize("family", ["llama", "opt", "qwen3"])
def test_a_prefix_begins_as_real_tokens_before_the_text(family):
    base, model = tiny_model(family), adapted(Prefix(tokens=5), family, seed=3)
    ids = torch.randint(260, (1, 5), generator=torch.Generator().manual_seed(3))[0].tolist()
    expected = torch.stack([last_logits(base, text, ids) for text in TEXTS])
    assert torch.allclose(logits_of(model), expected, atol=2e-6)  # in packs
    assert torch.allclose(logits_of(model, TEXTS[:1])[0], expected[0], atol=2e-6)  # alone, without a mask
    assert torch.allclose(last_logits(model, TEXTS[1]), expected[1], atol=2e-6)  # as anybody calls it
    assert trained_weights(model) == model.prompt_encoder.embedding.weight.numel()
    assert fingerprint(base) == fingerprint(model)


def test_a_model_writes_on_after_its_prefix():
    base, tokenizer = load_model("tiny-random-llama")
    model, _ = load_model("tiny-random-llama")
    Prefix(tokens=5).attach(model, 3)
    ids = torch.randint(260, (1, 5), generator=torch.Generator().manual_seed(3))[0].tolist()
    prompt = "a film"
    tokens = tokenizer(prompt)["input_ids"]
    for _ in range(8):
        tokens.append(int(last_logits(base, tokens, ids).argmax()))
        if tokens[-1] == tokenizer.eos_token_id or "\n" in tokenizer.decode(tokens[-1:]):
            break
    written = tokenizer.decode(tokens[len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True)
    assert generate(model, tokenizer, [prompt, "a much longer prompt than that"], 8)[0] == written.partition("\n")[0].strip()


@pytest.mark.parametrize("adapter", [LoRA(r=2), Prefix(tokens=3)], ids=named)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapter_weights_are_float32_in_every_dtype(adapter, dtype):
    model, _ = load_model("tiny-random-llama", dtype)
    adapter.attach(model)
    assert {parameter.dtype for parameter in trained(model)} == {torch.float32}
    full = moved(adapted(adapter))
    for theirs, ours in zip(trained(full), trained(model), strict=True):
        ours.data.copy_(theirs)
    assert logits_of(model).dtype == getattr(torch, dtype)
    assert torch.allclose(logits_of(model).float(), logits_of(full), atol=0.05)


def test_a_prefix_under_autocast(batch):
    task, encoded = batch
    model = moved(adapted(Prefix()))
    with torch.no_grad():
        plain, fast = task.loss(model, encoded), load_task("rotten_tomatoes", autocast=True).loss(model, encoded)
    assert plain != fast
    assert abs(plain - fast) < 0.02


@pytest.mark.parametrize("adapter", [LoRA(), Prefix()], ids=named)
@pytest.mark.parametrize("name", NUMBERS)
def test_every_method_on_both_probes_and_replayed(batch, adapter, name):
    task, encoded = batch
    walked = []
    for through in (False, True):
        model = adapted(adapter)
        frozen = [p.clone() for p in model.parameters() if not p.requires_grad]
        optimizer = maker(name)(trained(model), lr=1e-2, eps=1e-2, seed=1)
        optimizer.look_through(model if through else None)
        for _ in range(3):
            optimizer.step(lambda model=model: task.loss(model, encoded))
        walked.append(trained(model))
        assert equal(frozen, [p for p in model.parameters() if not p.requires_grad])
    if name in LOW_RANK:
        torch.testing.assert_close(*walked, atol=1e-5, rtol=0)
    else:
        assert equal(*walked)
    fresh = adapted(adapter)
    assert not equal(trained(fresh), walked[1])
    replay_steps(trained(fresh), optimizer.trajectory)
    assert equal(trained(fresh), walked[1])


def test_a_whole_model_is_replayed_with_what_was_frozen(batch, tmp_path):
    task, encoded = batch
    model, again = adapted(LoRA()), adapted(LoRA())
    optimizer = MeZO(model.named_parameters(), lr=1e-2, eps=1e-2)
    optimizer.step(lambda: task.loss(model, encoded))
    optimizer.trajectory.save(tmp_path / "steps.npz")
    replay_steps(again, Trajectory.load(tmp_path / "steps.npz"))
    assert equal(list(again.parameters()), list(model.parameters()))


def test_lora_in_a_masked_model(tmp_path):
    model, tokenizer = load_model("tiny-random-roberta")
    LoRA(r=4).attach(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 8
    assert all(".query.lora_" in name or ".value.lora_" in name for name in names)
    text = torch.tensor([tokenizer("some words")["input_ids"]])
    save_adapter(moved(model), tmp_path / "adapter", "tiny-random-roberta")
    other, _ = load_model("tiny-random-roberta")
    before = other(input_ids=text).logits
    read_adapter(tmp_path / "adapter").attach(other)
    assert torch.equal(other(input_ids=text).logits, model(input_ids=text).logits)
    assert not torch.equal(before, other(input_ids=text).logits)


@pytest.mark.filterwarnings(OF_PEFT)
@pytest.mark.parametrize("adapter", [LoRA(r=4, alpha=6, targets=["v_proj", "k_proj"]), Prefix(tokens=3)], ids=named)
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_peft_reads_what_is_saved(adapter, family, tmp_path):
    from peft import PeftModel

    model = moved(adapted(adapter, family))
    save_adapter(model, tmp_path / "adapter", "base")
    base = tiny_model(family)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    for text in TEXTS:
        assert torch.allclose(last_logits(theirs, text), last_logits(model, text), atol=1e-6)
    ours = tiny_model(family)
    read_adapter(tmp_path / "adapter").attach(ours)
    assert equal(trained(ours), trained(model))
    assert torch.equal(logits_of(ours), logits_of(model))


@pytest.mark.filterwarnings(OF_PEFT)
def test_what_peft_saves_is_read(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    moved(model).save_pretrained(tmp_path / "plain")
    ours = tiny_model("llama")
    read_adapter(tmp_path / "plain").attach(ours)
    assert torch.allclose(last_logits(ours, TEXTS[0]), last_logits(model, TEXTS[0]), atol=1e-6)
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    for change, sentence in (
        ({"use_rslora": True}, "its use_rslora is True, where only False is known here"),
        ({"peft_type": "IA3"}, "an adapter of kind 'IA3'; LORA and PREFIX_TUNING can be used"),
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"target_modules": ".*q_proj"}, "targets must be a list of names of modules"),
    ):
        (tmp_path / "plain" / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=sentence):
            read_adapter(tmp_path / "plain")


def test_a_base_in_another_dtype_is_not_checked_and_that_is_said(tmp_path):
    save_adapter(moved(adapted(LoRA(r=4))), tmp_path / "adapter", "tiny-random-llama")
    with pytest.warns(UserWarning, match=r"these are in torch.bfloat16.* is not checked"):
        read_adapter(tmp_path / "adapter").attach(tiny_model("llama").bfloat16())


def test_an_adapter_of_another_model_or_a_damaged_one_is_refused(tmp_path):
    save_adapter(moved(adapted(LoRA(r=4))), tmp_path / "adapter", "tiny-random-llama")
    with pytest.raises(ValueError, match=r"belongs to other base weights \(tiny-random-llama\); give those"):
        read_adapter(tmp_path / "adapter").attach(tiny_model("llama", seed=1))
    (tmp_path / "adapter" / "zolab.json").rename(tmp_path / "zolab.json")
    with pytest.raises(ValueError, match=r"is an adapter of another model \(.*lora_A.* has the shape"):
        read_adapter(tmp_path / "adapter").attach(tiny_model("opt"))
    (tmp_path / "zolab.json").rename(tmp_path / "adapter" / "zolab.json")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    with safe_open(weights, "pt") as opened:
        other = {name: opened.get_tensor(name) + 1 for name in opened.keys()}  # noqa: SIM118
    save_file(other, weights)
    with pytest.raises(ValueError, match="is damaged: its adapter is not the one that was written"):
        read_adapter(tmp_path / "adapter").attach(tiny_model("llama"))
    weights.write_bytes(b"short")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        read_adapter(tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model\.safetensors: give the folder of an adapter"):
        read_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("adapter", BOTH, ids=named)
def test_a_model_is_as_before_when_an_adapter_turns_out_to_be_damaged(adapter, tmp_path):
    """Its modules, hooks, attributes and flags, and the handles of its hooks: so that the right adapter can follow."""
    save_adapter(moved(adapted(adapter)), tmp_path / "right", "tiny-random-llama")
    shutil.copytree(tmp_path / "right", tmp_path / "wrong")
    saved = load_file(tmp_path / "right" / "adapter_model.safetensors")
    save_file({name: weight + 1 for name, weight in saved.items()}, tmp_path / "wrong" / "adapter_model.safetensors")
    model, calls = tiny_model("llama"), []
    model.model.norm.weight.requires_grad_(False)
    model.model.layers[0].train()
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    out = logits_of(model)
    before = _known(model)
    with pytest.raises(ValueError, match="is damaged: its adapter is not the one that was written"):
        read_adapter(tmp_path / "wrong").attach(model)
    assert _known(model) == before
    assert torch.equal(logits_of(model), out)
    handle.remove()
    calls.clear()
    model.eval()
    read_adapter(tmp_path / "right").attach(model)
    assert torch.equal(logits_of(model), logits_of(moved(adapted(adapter))))
    assert not calls, "the handle still removes its hook"


def _known(model):
    """What a model is made of, but for numbers."""
    modules = [(name, id(module), module.training, sorted(vars(module))) for name, module in model.named_modules()]
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    return modules, hooks, [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]


@pytest.mark.parametrize(
    ("family", "adapter", "sentence"),
    [
        ("llama", LoRA(targets=["nothing"]), "'nothing' matches no module of LlamaForCausalLM; its linear modules are down"),
        ("llama", LoRA(r=17), r"r=17 exceeds the smaller side of .*v_proj, a matrix of 16 x 32; lower r"),
        ("llama", LoRA(targets=["embed_tokens"]), r"embed_tokens is a Embedding, and LoRA is for linear modules"),
        ("llama", LoRA(targets=["lm_head"]), r"lm_head shares its weight with model\.embed_tokens; leave it out"),
        ("roberta", Prefix(), "a prefix needs a causal language model, which RobertaForMaskedLM is not; use lora"),
        ("llama", Prefix(tokens=2048), "tokens=2048 leave no room for a text in the 2048 of LlamaForCausalLM"),
    ],
)
def test_what_does_not_fit_a_model_is_refused_and_changes_nothing(family, adapter, sentence):
    model = tiny_model(family)
    with pytest.raises(ValueError, match=sentence):
        adapter.attach(model)
    assert list(model.state_dict()) == list(tiny_model(family).state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_quantised_modules_unknown_families_and_second_adapters_are_refused():
    class Linear8bitLt(nn.Linear):
        pass

    model = tiny_model("llama")
    model.model.layers[1].self_attn.q_proj.__class__ = Linear8bitLt
    with pytest.raises(ValueError, match="is a Linear8bitLt, and LoRA is for linear modules that are not quantised"):
        LoRA().attach(model)
    model = tiny_model("llama")
    model.config.model_type = "new"
    with pytest.raises(ValueError, match="peft names no usual targets for 'new': name some yourself, its linear modules are"):
        LoRA().attach(model)
    model = adapted(Prefix())
    with pytest.raises(ValueError, match="has an adapter already"):
        LoRA().attach(model)
    with pytest.raises(ValueError, match="has no adapter to save"):
        save_adapter(tiny_model("llama"), "nowhere", "base")


def test_a_model_without_a_plain_cache_cannot_take_a_prefix(monkeypatch):
    model = tiny_model("llama")
    forward = type(model).forward

    def without(self, *args, **inputs):
        output = forward(self, *args, **inputs)
        output.past_key_values.layers[1].keys = output.past_key_values.layers[1].keys[..., :4]
        return output

    monkeypatch.setattr(type(model), "forward", without)
    with pytest.raises(ValueError, match="cannot take a prefix: its layers keep no keys and values of one shape; use lora"):
        Prefix().attach(model)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tuning": "ia3"}, "unknown tuning 'ia3'; choose full, lora, prefix"),
        ({"tuning": "full", "tuning_args": "r=8"}, "tuning_args are for an adapter: choose --tuning lora or prefix"),
        ({"tuning_args": "r=0"}, "r must be a whole number of at least 1, got 0"),
        ({"tuning_args": "r=True"}, "r must be a whole number of at least 1, got True"),
        ({"tuning_args": "alpha=-1"}, "alpha must be a number > 0, got -1"),
        ({"tuning_args": "targets='q_proj'"}, "targets must be a list of names of modules"),
        ({"tuning_args": "targets=[]"}, "targets must be a list of names of modules"),
        ({"tuning_args": "tokens=5"}, r"tuning_args 'tokens=5' do not fit lora \(.*tokens"),
        ({"tuning_args": "r=8; import os"}, "tuning_args 'r=8; import os' do not fit lora: write name=value"),
        ({"tuning": "prefix", "tuning_args": "tokens=0"}, "tokens must be a whole number of at least 1, got 0"),
        ({"tuning_args": "r=17"}, "r=17 exceeds the smaller side"),
        ({"tuning_args": "targets=['nope']"}, "'nope' matches no module"),
        ({"model": "tiny-random-roberta", "tuning": "prefix"}, "a prefix needs a causal language model"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(replace(CONFIG, **change), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=["lora", "prefix"])
def finished_adapter(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    config = replace(CONFIG, tuning=request.param, checkpoint_every=3)
    return config, out, run(config, out)


def test_a_run_trains_and_keeps_its_adapter(finished_adapter):
    config, out, done = finished_adapter
    record = load_record(out / "record.json")
    assert record["trained"] == trained_weights(done.model) < 3000
    assert record["base"] == fingerprint(load_model(config.model)[0])
    assert record["adapter"] != adapter_digest(done.model) or not record["result"]["best_step"]
    assert record["result"]["weights"] == adapter_digest(done.model)
    assert {file.name for file in (out / "adapter").iterdir()} == set(bits(out / "adapter"))
    base, tokenizer = load_model(config.model)
    read_adapter(out / "adapter").attach(base)
    assert equal(trained(base), trained(done.model))
    assert done.task.evaluate(base, tokenizer, done.examples.dev).loss == record["result"]["dev"]["loss"]
    for file in out.glob("weights-*.safetensors"):
        assert file.stat().st_size < 4 * record["trained"] + 3000  # the base weights are nowhere in it


def test_verify_makes_the_adapter_again_and_notices_another(finished_adapter, tmp_path):
    _, out, _ = finished_adapter
    completed = command("verify", out)
    assert completed.status == 0, completed.errors
    assert "weights          ok" in completed.out
    record = load_record(out / "record.json")
    record["result"]["weights"] = record["base"]  # what every adapter has in common
    save_record(record, tmp_path / "record.json")
    (tmp_path / "trajectory.npz").write_bytes((out / "trajectory.npz").read_bytes())
    completed = command("verify", tmp_path)
    assert completed.status == 1
    assert "weights          differs" in completed.out


def test_replay_writes_the_adapter_again(finished_adapter, tmp_path):
    _, out, _ = finished_adapter
    completed = command("replay", out, f"--out={tmp_path / 'again'}")
    assert completed.status == 0, completed.errors
    assert "the adapter is in" in completed.out
    assert bits(tmp_path / "again") == bits(out / "adapter")


def test_a_stopped_run_goes_on_to_the_same_adapter(finished_adapter, tmp_path):
    config, out, done = finished_adapter
    lines = (out / "log.jsonl").read_bytes().splitlines(keepends=True)
    steps = [i for i, line in enumerate(lines) if b'"event": "step"' in line]
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines[: steps[6] + 1]))
    for file in out.glob("weights-*.safetensors"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert lasting(run(config, tmp_path).record) == lasting(done.record)
    assert bits(tmp_path / "adapter") == bits(out / "adapter")


def test_a_finished_run_makes_a_lost_adapter_again_and_another_adapter_is_another_run(finished_adapter, tmp_path):
    config, out, _ = finished_adapter
    for name in ("log.jsonl", "record.json", "trajectory.npz"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    run(config, tmp_path)
    assert bits(tmp_path / "adapter") == bits(out / "adapter")
    args = {"lora": "r=4", "prefix": "tokens=4"}[config.tuning]
    with pytest.raises(ValueError, match=r"holds another run .*tuning_args '' there"):
        run(replace(config, tuning_args=args), tmp_path)
    run(replace(config, tuning="full", tuning_args="", steps=1), tmp_path, overwrite=True)
    assert not list((tmp_path / "adapter").iterdir())


def test_an_adapter_is_evaluated(finished_adapter, tmp_path):
    config, out, done = finished_adapter
    arguments = (f"--model={config.model}", "--task=rotten_tomatoes", "--test=6", f"--out={tmp_path / 'numbers.json'}")
    completed = command("evaluate", *arguments, f"--adapter={out / 'adapter'}")
    assert completed.status == 0, completed.errors
    record = load_record(tmp_path / "numbers.json")
    assert record["result"]["rotten_tomatoes"]["loss"] == done.record["result"]["test"]["after"]["loss"]
    assert record["adapter"] == adapter_digest(done.model)
    refused = command("evaluate", f"--model={out / 'adapter'}", "--task=rotten_tomatoes", "--test=6")
    assert refused.status == 1
    assert "give its base model here and the folder as --adapter" in refused.errors


def test_the_probe_does_not_change_a_run(finished_adapter, tmp_path):
    config, out, done = finished_adapter
    other = run(replace(config, probe="through"), tmp_path)
    assert other.record["steps"] == done.record["steps"]
    assert bits(tmp_path / "adapter") == bits(out / "adapter")


def test_a_run_that_is_older_than_the_setting_goes_on(tmp_path):
    config = replace(CONFIG, tuning="full", lr=1e-3, eps=1e-3)
    done = run(config, tmp_path / "new")
    lines = [line.rpartition(', "crc"')[0] + "}" for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()[1:]]
    started = json.loads(lines[0])
    for name in ("tuning", "tuning_args"):
        del started["config"][name]
    del started["trained"]
    half = next(i for i, line in enumerate(lines) if '"event": "step"' in line) + 4
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "log.jsonl").write_text("\n".join([json.dumps(started), *lines[1:half]]) + "\n")
    with pytest.raises(ValueError, match="tuning 'full' there, 'lora' here"):
        run(replace(config, tuning="lora"), tmp_path / "old")
    again = run(config, tmp_path / "old")
    assert again.record["steps"] == done.record["steps"]
    assert "trained" not in again.record
    completed = command("replay", tmp_path / "old", f"--out={tmp_path / 'model'}")
    assert completed.status == 0, completed.errors
    assert equal(list(load_model(str(tmp_path / "model"))[0].parameters()), list(done.model.parameters()))
