"""An adapter as a folder: peft's two files, and one that tells which base model they belong to.

`PeftModel.from_pretrained(base, FOLDER)` reads the first two; they come from anywhere, so that here nothing of them is executed
and only what is computed the same way is taken.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from zolab.models.adapters import Adapter, LoRA, Prefix, adapter_of, adapter_weights
from zolab.models.as_before import as_before
from zolab.models.folder import brief
from zolab.models.identity import adapter_digest, fingerprint
from zolab.models.quantised import quantised_in
from zolab.records.files import new_folder, read_json, write_json
from zolab.records.sealed import seal, unseal

ADAPTER_FILES = CONFIG, WEIGHTS, ABOUT = "adapter_config.json", "adapter_model.safetensors", "zolab.json"
LARGEST = 2**24  # bytes of a file of settings
# What of peft's settings does not change what a trained adapter computes, or is told otherwise here.
ASIDE = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"),
    *("init_lora_weights", "init_weights", "lora_dropout", "encoder_hidden_size"),
    *("num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules"),
}


class SavedAdapter(NamedTuple):
    """An adapter that was read, and is in no model yet.

    Args:
        folder: where it was read.
        settings: of the adapter.
        weights: by the names that peft gives them.
        about: which base model it belongs to, and its digest; empty for a folder that others made.
    """

    folder: Path
    settings: Adapter
    weights: dict[str, Tensor]
    about: dict[str, Any]

    def attach(self, model: PreTrainedModel) -> None:
        """Put the adapter into its base model, and warn where other numbers hide whether it is the one.

        Raises:
            ValueError: in one sentence, if it belongs to another base or is damaged; the model is as before then.
        """
        with as_before(model):
            self._attach(model)

    def _attach(self, model: PreTrainedModel) -> None:
        dtype, base = str(model.dtype), self.about.get("base")
        same = self.about.get("dtype") == dtype and self.about.get("quantised", "none") == quantised_in(model)
        if base and same and base != fingerprint(model):
            raise ValueError(f"{self.folder} belongs to other base weights ({self.about.get('model')}); give those.")
        self.settings.attach(model)
        parameters = adapter_weights(model)
        for name in sorted({*parameters, *self.weights}):
            shapes = [list(weights[name].shape) if name in weights else "nothing" for weights in (parameters, self.weights)]
            if shapes[0] != shapes[1]:
                message = f"{name} has the shape {shapes[0]} in the model, {shapes[1]} in the file"
                raise ValueError(f"{self.folder} is an adapter of another model ({message}); give its own.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.weights[name])
        if self.about and self.about.get("adapter") != adapter_digest(model):
            raise ValueError(f"{self.folder} is damaged: its adapter is not the one that was written; restore it.")
        if base and not same:
            held = [f"{self.about.get('dtype')}, quantised {self.about.get('quantised', 'none')}"]
            held.append(f"{dtype}, quantised {quantised_in(model)}")
            warnings.warn(
                f"{self.folder} was trained beside weights in {held[0]}, and these are in {held[1]}: whether they are the same "
                f"base, {self.about.get('model')}, is not checked.",
                stacklevel=3,
            )


def save_adapter(model: PreTrainedModel, folder: str | Path, base: str) -> None:
    """Write a model's adapter as `PeftModel.from_pretrained` reads it; the folder appears whole or not at all.

    The same weights give the same bytes.

    Args:
        model: with an adapter.
        folder: a new one.
        base: what the base model is called.

    Raises:
        ValueError: the model has no adapter.
        OSError: the folder is there and holds something, or cannot be written.
    """
    if adapter_of(model) is None:
        raise ValueError("the model has no adapter to save; save its weights with model.save_pretrained(folder).")
    config = vars(model)["peft_config"]["default"].to_dict()
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in sorted(config.items())}
    about = {"model": base, "dtype": str(model.dtype), "base": fingerprint(model), "adapter": adapter_digest(model)}
    if quantised_in(model) != "none":
        about["quantised"] = quantised_in(model)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapter_weights(model).items()}
    with new_folder(folder) as partial:
        write_json(partial / CONFIG, settings, 2)
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})
        write_json(partial / ABOUT, seal(about))


def read_adapter(folder: str | Path) -> SavedAdapter:
    """Read a folder of `save_adapter`, or of peft itself.

    Raises:
        OSError: a file is missing.
        ValueError: a file is damaged, or the adapter is neither plain LoRA nor a plain prefix.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: give the folder of an adapter that peft or zolab saved.")
    settings = _settings(folder, read_json(folder / CONFIG, LARGEST))
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, KeyError, RuntimeError) as error:  # such as a dtype that torch does not have
        raise ValueError(f"{folder / WEIGHTS} is damaged ({brief(error)}); restore it.") from error
    about = folder / ABOUT
    known = unseal(read_json(about, LARGEST), str(about)) if about.exists() else {}
    return SavedAdapter(folder, settings, weights, known)


def _settings(folder: Path, content: Any) -> Adapter:
    """The settings in a configuration of peft, which must have no others that change what is computed."""
    from peft import LoraConfig, PrefixTuningConfig

    kind = content.get("peft_type") if isinstance(content, dict) else None
    if kind == "LORA":
        targets = content.get("target_modules") or ()
        adapter = _made(folder, LoRA, r=content.get("r"), alpha=content.get("lora_alpha"), targets=targets)
        plain = LoraConfig(r=content["r"], lora_alpha=content["lora_alpha"], target_modules=list(targets)).to_dict()
    elif kind == "PREFIX_TUNING":
        adapter = _made(folder, Prefix, tokens=content.get("num_virtual_tokens"))
        plain = PrefixTuningConfig(num_virtual_tokens=content["num_virtual_tokens"]).to_dict()
    else:
        raise ValueError(f"{folder} holds an adapter of kind {brief(repr(kind))}; LORA and PREFIX_TUNING can be used here.")
    for name, value in content.items():
        usual = plain.get(name)
        if name not in ASIDE and value != usual and not (isinstance(usual, set) and set(value) == usual):
            known = f"{brief(name)} is {brief(repr(value))}, where only {usual!r} is known here"
            raise ValueError(f"{folder} cannot be used: its {known}.")
    return adapter


def _made(folder: Path, kind: type[Adapter], **settings: Any) -> Adapter:
    try:
        return kind(**settings)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} cannot be used: {brief(error)}.") from error
