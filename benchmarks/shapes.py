"""Models of known shapes with random weights, for measurements of time and memory without a download."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

_COMMON = {"max_position_embeddings": 4096, "attention_dropout": 0.0, "use_cache": False}
SHAPES = {
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        **_COMMON,
    ),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        **_COMMON,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        **_COMMON,
    ),
    "small": LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        **_COMMON,
    ),
}


def shaped(name: str, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> PreTrainedModel:
    """A model of one of the SHAPES in eval mode; the global generators are left as they were."""
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(SHAPES[name], dtype=getattr(torch, dtype)).eval()
