"""What is checked in a model's folder before anything is made of it: kind, settings, sizes.

A file of settings may come from anywhere, and may be damaged. Some of its numbers decide how much memory is taken and how long
a loop runs, and others change the result without a word; both are compared here with what the files of weights hold.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_module_registration_hook
from transformers.initialization import no_init_weights

from zolab.records.files import read_json

FILES = ("config", "generation_config", "tokenizer", "tokenizer_config", "special_tokens_map", "added_tokens")
INDEX = "model.safetensors.index.json"
LARGEST_FILE = 2**27  # bytes: the longest tokenizer.json of today has a quarter of it
LARGEST_NUMBER, MOST_LAYERS, MOST_MODULES = 10**12, 10**4, 20_000
COUNTS = re.compile(
    r"vocab_size|hidden_size|intermediate_size|ffn_dim|d_model|head_dim|n_embd|n_positions|max_position_embeddings"
    r"|num_(hidden_)?layers|n_layers?|num_(attention|key_value)_heads|n_heads?"
)
QUANTISED = (
    "it is quantised, and no such format is read here: give the folder of the model before quantisation, for an adapter with "
    "--quantise int8 or nf4"
)
ADAPTER = (
    "it is a PEFT adapter: give its base model here and the folder as --adapter, or merge the two first, "
    "AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW), and save the tokenizer there too"
)


class Weights(NamedTuple):
    """What the headers of a folder's files of weights tell."""

    tensors: int
    numbers: int  # of all tensors together


def check_folder(folder: Path) -> Weights:
    """Read every file of settings and every header of weights that a folder holds.

    Raises:
        OSError: a file is missing, damaged or cut short.
        ValueError: the model is of a kind that cannot be tuned here: quantised, or an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} cannot be loaded: {ADAPTER}.")
    settings = {name: _settings(folder / f"{name}.json") for name in FILES if (folder / f"{name}.json").exists()}
    config = folder / "config.json"
    if config.exists() and any(check_config(config).get(name) for name in ("quantization_config", "compression_config")):
        raise ValueError(f"{folder} cannot be loaded: {QUANTISED}.")
    longest = settings.get("tokenizer_config", {}).get("model_max_length")
    if longest is not None and not (_is_number(longest) and longest >= 1):
        message = f"model_max_length is {brief(repr(longest))}"
        raise OSError(f"{folder / 'tokenizer_config.json'} is damaged ({message}): bring back the original")
    return _weights(folder)


def check_config(file: Path) -> dict[str, Any]:
    """The settings of a config.json. Raises OSError if it is missing or damaged, or holds numbers that no model has."""
    settings = _settings(file)
    if wrong := next(_wrong_settings(settings), None):
        raise OSError(f"{file} is damaged ({brief(wrong)}): bring back the original")
    return settings


def skeleton(auto: Any, config: transformers.PreTrainedConfig, most: int = MOST_MODULES) -> transformers.PreTrainedModel:
    """A model without memory for its weights, to be measured.

    Args:
        auto: the class of transformers that makes the model.
        config: its configuration; what it tells of attention is replaced, since that may name code of the Hub.
        most: modules; a configuration of more raises ValueError before they are made.
    """
    built = 0

    def count(*_: Any) -> None:
        nonlocal built
        built += 1
        if built > most:
            raise ValueError(f"its config.json describes more than {most} modules")

    config._attn_implementation = config._experts_implementation = None
    counter = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"), no_init_weights():
            return auto.from_config(config, trust_remote_code=False)
    finally:
        counter.remove()


def why_not(model: transformers.PreTrainedModel, weights: Weights) -> str | None:
    """Why a model cannot be loaded, or nothing.

    Args:
        model: its skeleton.
        weights: what the files hold; without tensors, if they are not on this machine yet.
    """
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if weights.tensors and numbers > 2 * weights.numbers:
        return f"its config.json describes a model of {numbers:,} weights, and its files hold {weights.numbers:,}"
    if model.config._attn_implementation != "sdpa":
        return (
            f"{type(model).__name__} has no attention of torch (sdpa) in transformers {transformers.__version__}, which packed "
            "texts need: choose a model of another family, such as Llama, Qwen, Gemma 3, OPT or RoBERTa"
        )
    return None


def left_out(model: torch.nn.Module, unexpected: set[str]) -> list[str]:
    """Which weights of the files belong to the model that its configuration describes, and have no place in it.

    Files may hold more than a model: another head, a part that sees pictures. But a further layer of a kind that the model
    has, or a bias of a matrix that the model has, means that the configuration is another model's.

    Args:
        model: as it was made.
        unexpected: names of tensors that transformers found in the files, and did not use.
    """
    used = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    kinds = {_kind(name) for name in used}
    owners = {name.rpartition(".")[0] for name in used}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def belongs(name: str) -> bool:
        return _kind(name) in kinds or name.rpartition(".")[0] in owners

    return sorted(name for name in unexpected if belongs(name) or belongs(prefix + name))


def brief(error: object) -> str:
    """An error in one line of at most 160 characters, from its text or else from its type."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 160 else f"{text[:156]} ..."


def _settings(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, LARGEST_FILE)
    except ValueError as error:
        raise OSError(f"{brief(error)}: bring back the original") from error
    if not isinstance(content, dict):
        raise OSError(f"{file} is damaged (it is no JSON object): bring back the original")
    return content


def _wrong_settings(settings: Any, name: str = "") -> Iterator[str]:
    """What is wrong with the numbers of a configuration, at any depth."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _wrong_settings(value, key)
    elif isinstance(settings, list):
        for value in settings:
            yield from _wrong_settings(value)
    elif settings is not None:
        small = _is_number(settings) and 0 < settings < (1 if name.endswith(("eps", "epsilon")) else LARGEST_NUMBER)
        if name.endswith(("eps", "epsilon", "theta")) and not small:
            yield f"{name} is {settings!r}"
        elif COUNTS.fullmatch(name) and not (type(settings) is int and settings >= 1):
            yield f"{name} is {settings!r}, and must be a whole number of at least 1"
        elif type(settings) is int and abs(settings) > (MOST_LAYERS if "layer" in name else LARGEST_NUMBER):
            yield f"{name} is {len(str(settings))} digits long" if abs(settings) > LARGEST_NUMBER else f"{name} is {settings}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _weights(folder: Path) -> Weights:
    if (folder / INDEX).exists():
        shards = _settings(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise OSError(f"{folder / INDEX} is damaged (it maps no weights to files): bring back the original")
    tensors = numbers = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:  # compares the header with the size of the file
                shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise OSError(f"{file} is damaged or cut short ({brief(error)}): delete it and make it again") from error
        tensors += len(shapes)
        numbers += sum(torch.Size(shape).numel() for shape in shapes)
    return Weights(tensors, numbers)


def _kind(name: str) -> str:
    """A weight's name without the numbers of layers."""
    return re.sub(r"\d+", "#", name)
