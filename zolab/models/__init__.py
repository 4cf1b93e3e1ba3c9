"""Language models: loaded by name, from a folder or from the Hub; and backward passes in little memory."""

from zolab.models.identity import architecture, fingerprint, tokenizer_digest
from zolab.models.load import (
    DTYPES,
    EMBEDDED,
    SHIPPED,
    context_of,
    first_position,
    load_model,
    model_bytes,
    tiny_model,
)

__all__ = [
    "DTYPES",
    "EMBEDDED",
    "SHIPPED",
    "architecture",
    "context_of",
    "fingerprint",
    "first_position",
    "load_model",
    "model_bytes",
    "tiny_model",
    "tokenizer_digest",
]
