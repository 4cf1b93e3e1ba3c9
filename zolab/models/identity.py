"""What a model and a tokenizer are, as short digests: results hold for these weights, this function and these tokens alone."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
import transformers

from zolab.models.adapters import adapter_of, adapter_weights, base_parameters
from zolab.models.quantised import plain_tensors
from zolab.models.shards import whole
from zolab.records.sealed import tensors_digest

# What a configuration tells of a file or of a call, and not of the function that the weights make.
NOT_THE_FUNCTION = {
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def fingerprint(model: torch.nn.Module) -> str:
    """16 hex digits of the SHA-256 over names, shapes, dtypes and bytes of the parameters, one tensor at a time.

    An adapter that `zolab.models` put into the model is not seen: the base weights have the digest that they have without it.
    Quantised weights are taken as they are held, sharded ones are put together one by one, so that each of their processes must
    call this.

    Raises:
        ValueError: a parameter is on the meta device, where offloading leaves it.
    """
    digest = hashlib.sha256()
    for name, parameter in base_parameters(model):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if parameter.is_meta:
            raise ValueError(
                f"{name} is on the meta device, where offloading leaves a weight whose numbers are elsewhere; a fingerprint "
                "needs the model in memory."
            )
        for tensor in plain_tensors(whole(parameter)):
            flat = tensor.cpu().contiguous().as_strided((tensor.numel(),), (1,))  # of one number, any stride is contiguous
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def architecture(model: torch.nn.Module) -> str:
    """16 hex digits of the SHA-256 over a model's class and what its configuration, if it has one, says of its function.

    The same weights make another function under another `rope_theta`, say, which `fingerprint` does not see. Settings that
    have their default are left out, so that a release of transformers with a new setting changes no digest.
    """
    config = getattr(model, "config", None) or transformers.PreTrainedConfig()
    settings, usual = config.to_dict(), config.default_config_fields()
    non_default = {name: value for name, value in settings.items() if name not in usual or value != usual[name]}
    return _digest({"class": type(model).__name__, **_function(non_default)})


def adapter_digest(model: torch.nn.Module) -> str | None:
    """16 hex digits of the SHA-256 over a model's adapter: its kind, settings and weights; None if we put none there."""
    adapter = adapter_of(model)
    if adapter is None:
        return None
    weights = tensors_digest(adapter_weights(model))
    return _digest({"kind": type(adapter).__name__, **asdict(adapter), "weights": weights})


def trained_digest(model: torch.nn.Module) -> str:
    """Of what a run changes: the adapter's digest, or the fingerprint of a model without one."""
    return adapter_digest(model) or fingerprint(model)


def tokenizer_digest(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """16 hex digits of the SHA-256 over all that decides which tokens a text becomes, and over the special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # one that is written in Python
        core: Any = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        core = json.loads(backend.to_str()) | {"truncation": None, "padding": None}  # these two are left by the last call
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _digest({"core": core, "special": special})


def _function(settings: Any) -> Any:
    """Settings without what is not of the function, at every depth: some models keep one configuration inside another."""
    if isinstance(settings, dict):
        return {str(name): _function(value) for name, value in settings.items() if name not in NOT_THE_FUNCTION}
    return settings


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
