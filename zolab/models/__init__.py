"""Language models: loaded by name, from a folder or from the Hub; adapters in them; and backward passes in little memory."""

from zolab.models.adapter_folder import ADAPTER_FILES, read_adapter, save_adapter
from zolab.models.adapters import ADAPTERS, Adapter, LoRA, Prefix, trained_weights
from zolab.models.identity import adapter_digest, architecture, fingerprint, tokenizer_digest, trained_digest
from zolab.models.kept import KEPT, keep_models, kept_model
from zolab.models.load import (
    DTYPES,
    EMBEDDED,
    SHIPPED,
    context_of,
    first_position,
    fit_length,
    load_model,
    model_bytes,
    tiny_model,
)
from zolab.models.offloaded import offloaded_weights
from zolab.models.quantised import check_quantiser, quantise_base, quantised_in

__all__ = [
    "ADAPTERS",
    "ADAPTER_FILES",
    "DTYPES",
    "EMBEDDED",
    "KEPT",
    "SHIPPED",
    "Adapter",
    "LoRA",
    "Prefix",
    "adapter_digest",
    "architecture",
    "check_quantiser",
    "context_of",
    "fingerprint",
    "first_position",
    "fit_length",
    "keep_models",
    "kept_model",
    "load_model",
    "model_bytes",
    "offloaded_weights",
    "quantise_base",
    "quantised_in",
    "read_adapter",
    "save_adapter",
    "tiny_model",
    "tokenizer_digest",
    "trained_digest",
    "trained_weights",
]
