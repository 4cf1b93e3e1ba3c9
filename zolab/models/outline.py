"""Configurations of the papers' models as data, so that their size is known without the Hub, and any model's from its own."""

from functools import cache
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from zolab.models.folder import check_config
from zolab.models.load import DTYPES, MASKED, local_folder

_LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_OPT = {"vocab_size": 50272, "max_position_embeddings": 2048}


def _llama(hidden: int, inner: int, layers: int, heads: int, head: int, tied: bool) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "llama", **_LLAMA, **sizes, "head_dim": head, "tie_word_embeddings": tied}


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "word_embed_proj_dim": hidden, "ffn_dim": 4 * hidden, "num_hidden_layers": layers}
    return {"model_type": "opt", **_OPT, **sizes, "num_attention_heads": heads}


_EIGHT = _llama(4096, 14336, 32, 32, 128, False)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": _llama(2048, 8192, 16, 32, 64, True),
    "meta-llama/Llama-3.2-3B": _llama(3072, 8192, 28, 24, 128, True),
    "meta-llama/Llama-3.1-8B": _EIGHT,
    "meta-llama/Llama-3.1-8B-Instruct": _EIGHT,
    "meta-llama/Meta-Llama-3-8B": _EIGHT,
    "Qwen/Qwen2.5-14B": {
        **{"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 13824},
        **{"num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "tie_word_embeddings": False},
    },
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-13b": _opt(5120, 40, 40),
    "facebook/opt-30b": _opt(7168, 48, 56),
    "FacebookAI/roberta-large": {
        **{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 1024, "intermediate_size": 4096},
        **{"num_hidden_layers": 24, "num_attention_heads": 16, "max_position_embeddings": 514, "type_vocab_size": 1},
    },
}
"""By the Hub's names: what their config.json says of sizes."""


def config_of(name: str) -> PreTrainedConfig:
    """The configuration of a model, its weights left alone.

    Args:
        name: of `ARCHITECTURES`, or as `zolab.models.load_model` takes it; of the Hub, only what is on this machine.

    Raises:
        OSError: no configuration is here, or it is damaged.
    """
    if name in ARCHITECTURES:
        own = dict(ARCHITECTURES[name])
        return AutoConfig.for_model(own.pop("model_type"), **own)
    folder = local_folder(name)
    if folder.is_dir():
        check_config(folder / "config.json")
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    try:
        return AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise OSError(f"no configuration of {name!r} is on this machine; load the model once, or give a folder.") from error


@cache
def outline(name: str, dtype: str, layers: int | None = None) -> PreTrainedModel:
    """A model in eval mode whose tensors have shapes and types and no memory: torch's fake ones, all of one `fake_mode`.

    Args:
        name: as for `config_of`.
        dtype: "float32", "bfloat16" or "float16".
        layers: how many, instead of all.

    Raises:
        OSError: as `config_of` does.
    """
    config = config_of(name)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    config._attn_implementation = config._experts_implementation = None  # what it says might name code of the Hub
    auto = AutoModelForMaskedLM if config.model_type in MASKED else AutoModelForCausalLM
    with FakeTensorMode(allow_non_fake_inputs=True), no_init_weights():
        model = auto.from_config(config, dtype=DTYPES[dtype], trust_remote_code=False).eval()
        model.tie_weights()
    return model
