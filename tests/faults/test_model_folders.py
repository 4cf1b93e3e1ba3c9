"""Folders of models that are damaged, hostile or of another kind are refused in one sentence, before anything is made."""

import json
import shutil
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from zolab.models import SHIPPED, architecture, fingerprint, load_model, tiny_model, tokenizer_digest
from zolab.models.load import _quiet
from zolab.tasks.generation import generate
from zolab.tasks.scoring import encode, token_log_probs


@pytest.fixture
def folder(tmp_path):
    """A copy of tiny-reviews, which a test may damage."""
    return shutil.copytree(SHIPPED["tiny-reviews"], tmp_path / "model")


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny-random-llama")[1]


def change(file, **settings):
    """Change settings of a JSON file; `...` takes one away."""
    content = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def refused(folder, match=r"\S"):
    """The one sentence that a folder is refused with."""
    with pytest.raises((OSError, RuntimeError, ValueError), match=match) as caught:
        load_model(str(folder))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def saved(path, *parts):
    with _quiet():
        for part in parts:
            part.save_pretrained(path)
    return path


# --- kinds of models


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "torchao"])
def test_a_quantised_folder_is_refused(folder, method):
    change(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    refused(folder, "it is quantised, .*: give the folder of the model before quantisation")


def test_an_adapter_folder_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    save_file({"base_model.model.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "PEFT adapter: give its base model here and the folder as --adapter, .*merge_and_unload")


SIZES = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.mark.parametrize("family", ["gemma2", "bloom", "xglm"])
def test_a_model_without_torchs_attention_is_refused_at_load(family, tmp_path, tokenizer):
    sizes = SIZES | {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 64,
    }
    names = AutoConfig.for_model(family).to_dict()
    config = AutoConfig.for_model(family, **{name: size for name, size in sizes.items() if name in names or family == "bloom"})
    model = AutoModelForCausalLM.from_config(config)
    refused(
        saved(tmp_path, model, tokenizer), r"ForCausalLM has no attention of torch \(sdpa\).* choose a model of another family"
    )


@pytest.mark.parametrize("name", ["eager", "someone/kernel", "someone/kernel@main:attention"])
def test_a_kernel_that_the_configuration_names_is_not_used(folder, name):
    change(folder / "config.json", _attn_implementation=name, attn_implementation=name, _experts_implementation=name)
    assert load_model(str(folder))[0].config._attn_implementation == "sdpa"


# --- tokenizers


def test_a_token_without_a_row_of_embeddings_is_refused(folder):
    tokenizer = load_model(str(folder))[1]
    tokenizer.add_tokens(["<further>"])
    tokenizer.save_pretrained(folder)
    refused(
        folder, r"the token '<further>' of number 2048, and the model has 2048 rows of embeddings: .*resize_token_embeddings"
    )


def test_a_padding_token_without_a_row_is_refused(folder):
    tokenizer = load_model(str(folder))[1]
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    refused(folder, r"the token '\[PAD\]' of number 2048")


def test_a_special_token_that_no_text_is_made_of_needs_no_row(folder):
    tokenizer = load_model(str(folder))[1]
    tokenizer.add_tokens(["<picture>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_model(str(folder))
    assert len(tokenizer) == 2049
    batch = encode(tokenizer, [("It was", (" bad", " good"), 1)])
    assert token_log_probs(model, batch).isfinite().all()
    message = "a text holds the token of number 2048, and the model has 2048 rows of embeddings"
    for question in (("A <picture> was", (" bad", " good"), 1), ("It was", (" bad", " <picture>"), 0)):
        with pytest.raises(ValueError, match=message):
            token_log_probs(model, encode(tokenizer, [question]))
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, ["It was", "A <picture> was"], max_new_tokens=1)


# --- damaged files


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[]", '{"model": null}', '{"model": {"type": "BPE"}}', "[" * 10**5])
def test_a_damaged_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    refused(folder)


@pytest.mark.parametrize("file", ["config", "generation_config", "tokenizer_config", "tokenizer"])
@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "\x00"])
def test_a_file_that_is_no_object_is_refused(folder, file, content):
    (folder / f"{file}.json").write_text(content)
    refused(folder, f"{file}.json is damaged .*: bring back the original")


@pytest.mark.parametrize("length", ["long", [256], 0, -1, True])
def test_a_length_that_is_no_number_is_refused(folder, length):
    change(folder / "tokenizer_config.json", model_max_length=length)
    refused(folder, "tokenizer_config.json is damaged .model_max_length is")


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": None},
        {"num_hidden_layers": 1},  # and the files hold two
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 10**8},
        {"num_hidden_layers": 9_999},
        {"num_hidden_layers": True},
        {"num_hidden_layers": "2"},
        {"hidden_size": 10**9},
        {"hidden_size": 0},
        {"vocab_size": 10**10},
        {"vocab_size": []},
        {"intermediate_size": None},
        {"num_attention_heads": 10**7},
        {"head_dim": 10**18},
        {"rms_norm_eps": float("inf")},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": 0.0},
        {"rms_norm_eps": 1e30},
        {"rms_norm_eps": "1e-6"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": float("nan")}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "big"}},
        {"rope_parameters": [1]},
        {"max_position_embeddings": 0},
        {"hidden_act": 5},
        {"hidden_act": "x" * 10**5},
        {"architectures": 3},
        {"model_type": {}},
        {"transformers_weights": "../other.safetensors"},
    ],
    ids=lambda settings: json.dumps(settings)[:60],
)
def test_a_damaged_configuration_is_refused_at_once(folder, settings):
    change(folder / "config.json", **settings)
    start = time.monotonic()
    refused(folder)
    assert time.monotonic() - start < 5


def test_a_number_beyond_floats_is_refused(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e999'))
    refused(folder, "config.json is damaged")


def test_an_index_that_maps_nothing_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    refused(folder, "index.json is damaged")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "none.safetensors"}, "metadata": {}}')
    refused(folder)


# --- weights that the configuration leaves out


@pytest.mark.parametrize("family", ["llama", "opt", "qwen2", "qwen3", "roberta"])
def test_fewer_layers_than_the_weights_are_refused(family, tmp_path):
    saved(tmp_path, *load_model(f"tiny-random-{family}"))
    change(tmp_path / "config.json", num_hidden_layers=1, layer_types=...)
    refused(tmp_path, r"holds \d+ weights that its config.json leaves out, such as .*1")


def test_a_bias_that_the_configuration_leaves_out_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(128)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "1 weights that its config.json leaves out, such as model.layers.0.self_attn.q_proj.bias")


def test_parts_that_a_language_model_does_not_have_are_left_alone(folder, tmp_path, tokenizer):
    weights = load_file(folder / "model.safetensors")
    weights |= {name: torch.zeros(4, 4) for name in ("vision.layers.0.proj.weight", "score.weight")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert fingerprint(load_model(str(folder))[0]) == fingerprint(load_model("tiny-reviews")[0])
    with torch.random.fork_rng():
        config = AutoConfig.for_model("bert", **SIZES, architectures=["BertForPreTraining"])
        bert = transformers.BertForPreTraining(config)  # with a pooler and a head that tells what sentence is next
    bert.save_pretrained(tmp_path / "bert")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "bert")
    saved(tmp_path / "bert", tokenizer)
    assert fingerprint(load_model(str(tmp_path / "bert"))[0]) == fingerprint(model)


def test_a_folder_without_the_head_of_a_tied_model_loads(folder, tmp_path, tokenizer):
    base = AutoModel.from_pretrained(folder)
    saved(tmp_path / "base", base, load_model(str(folder))[1])
    assert fingerprint(load_model(str(tmp_path / "base"))[0]) == fingerprint(load_model("tiny-reviews")[0])
    change(tmp_path / "base" / "config.json", num_hidden_layers=1)
    refused(tmp_path / "base", "leaves out, such as")


# --- identities


def test_the_architecture_is_what_the_weights_alone_do_not_tell(folder):
    model, tokenizer = load_model("tiny-reviews")
    change(folder / "config.json", dtype="bfloat16", use_cache=False, transformers_version="1", _name_or_path="elsewhere")
    again, words = load_model(str(folder), "bfloat16")
    assert (architecture(again), tokenizer_digest(words)) == (architecture(model), tokenizer_digest(tokenizer))
    change(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    other = load_model(str(folder))[0]
    assert fingerprint(other) == fingerprint(model)
    assert architecture(other) != architecture(model)
    assert architecture(tiny_model("opt")) != architecture(tiny_model("llama"))
    assert len(architecture(torch.nn.Linear(1, 1))) == 16


def test_a_call_does_not_change_the_digest_of_a_tokenizer():
    tokenizer = load_model("tiny-reviews")[1]
    before = tokenizer_digest(tokenizer)
    tokenizer(["a film", "b"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(tokenizer) == before != tokenizer_digest(load_model("tiny-random-llama")[1])
    tokenizer.add_tokens(["<further>"])
    assert tokenizer_digest(tokenizer) != before


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_an_empty_name_names_no_model(name):
    with pytest.raises(ValueError, match="names no model: pass the path of a local folder"):
        load_model(name)
