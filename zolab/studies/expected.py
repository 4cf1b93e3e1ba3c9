"""What runs of the papers' models take on one H100, from their shapes and from steps that were measured there.

Nothing is loaded. Seconds and memory scale from LLaMA shapes with random weights, measured in the kept record of the card (a
test compares the numbers here with it): arithmetic with weights and tokens, what a method does to the weights with the weights
alone. Other families, float16 and what the record does not have are taken to be alike. Half of these hours, or twice as many,
is what to expect from such an estimate.
"""

from dataclasses import dataclass

from zolab.probe.doubled import TOKENS as DOUBLED
from zolab.probe.large import BAND
from zolab.runs.config import Config, forwards

CARD = 80e9
"""Bytes of memory of the H100."""


@dataclass(frozen=True)
class Shape:
    """Of a model that the papers use.

    Args:
        printed: its name in the papers' numbers.
        weights: how many.
        vocabulary, hidden, inner, layers: rows of the embedding, width of the model and of its MLP, number of layers.
    """

    printed: str
    weights: float
    vocabulary: int
    hidden: int
    inner: int
    layers: int


SHAPES = {
    "meta-llama/Llama-3.2-1B": Shape("Llama-3.2-1B", 1.236e9, 128256, 2048, 8192, 16),
    "meta-llama/Llama-3.2-3B": Shape("Llama-3.2-3B", 3.213e9, 128256, 3072, 8192, 28),
    "meta-llama/Llama-3.1-8B": Shape("Llama-3.1-8B", 8.030e9, 128256, 4096, 14336, 32),
    "meta-llama/Llama-3.1-8B-Instruct": Shape("Llama-3.1-8B-Instruct", 8.030e9, 128256, 4096, 14336, 32),
    "meta-llama/Meta-Llama-3-8B": Shape("Llama-3-8B", 8.030e9, 128256, 4096, 14336, 32),
    "Qwen/Qwen2.5-14B": Shape("Qwen2.5-14B", 14.770e9, 152064, 5120, 13824, 48),
    "facebook/opt-1.3b": Shape("OPT-1.3B", 1.316e9, 50272, 2048, 8192, 24),
    "facebook/opt-13b": Shape("OPT-13B", 12.853e9, 50272, 5120, 20480, 40),
    "facebook/opt-30b": Shape("OPT-30B", 29.975e9, 50272, 7168, 28672, 48),
    "FacebookAI/roberta-large": Shape("RoBERTa-large", 0.355e9, 50265, 1024, 4096, 24),
}
"""By the Hub's names."""
MEASURED = {  # two forward passes on 16 x 256 tokens: weights, seconds
    "1B, bfloat16": (1.236e9, 0.0447),
    "8B, bfloat16": (8.030e9, 0.2321),
    "1B, float32": (1.236e9, 0.373),
}
MEASURED_TOKENS = 16 * 256
A_STEP = {  # seconds of a step of the 1B shape in bfloat16
    **{"mezo": 0.0545, "mezo_switch": 0.0556, "meazo": 0.0566, "adamezo": 0.0815, "zo_finetuner": 0.0610},
    **{"mezo_momentum": 0.324, "mezo_adam": 0.408, "zo_adamu": 0.441, "hizoo": 0.115, "lozo": 0.168},
}
STATES = {**dict.fromkeys(("mezo_momentum", "zo_adamu", "hizoo"), 1), "mezo_adam": 2}
"""Numbers of four bytes that a method keeps for each weight."""
GRADIENTS = {"sgd": 0, "adam": 2}
"""Likewise of first-order methods, beside the gradient."""
TOKENS = {
    **{"sst2": 25, "rte": 92, "cb": 95, "boolq": 160, "wsc": 52, "wic": 40, "multirc": 380, "copa": 13, "record": 283},
    **{"squad": 198, "drop": 301},
    **{"masked_sst2": 30, "masked_sst5": 30, "masked_snli": 35, "masked_mnli": 45, "masked_rte": 80, "masked_trec": 15},
}
"""Tokens of a training example, all candidates included: means of 64, by SmolLM2's tokenizer; of masked tasks an estimate."""
WRITTEN = 50
"""Tokens of a generated answer, each of which reads all weights."""
BANDWIDTH = 3.35e12
TOGETHER = 8
"""Examples that are evaluated at once."""


def seconds_of(config: Config, evaluated: int, generates: bool) -> float:
    """Of a run with all its steps, evaluations included.

    Args:
        config: its settings; the model is one of `SHAPES`, the task one of `TOKENS`.
        evaluated: examples of all its evaluations together.
        generates: the metric takes generated answers.
    """
    shape, tokens = SHAPES[config.model], TOKENS[config.task]
    a_token = _seconds_a_token(shape, config.dtype)
    base_weights, base = MEASURED["1B, bfloat16"]
    passes = forwards(config, config.steps, config.train or 1000)
    beyond = max(A_STEP.get(config.optimizer, 0.0) - base / 2 * passes / config.steps, 0.0)  # its forward passes
    steps = passes * a_token * config.batch_size * tokens + config.steps * beyond / base_weights * shape.weights
    reading = WRITTEN * shape.weights * _bytes(config.dtype) / BANDWIDTH / TOGETHER if generates else 0.0
    return steps + evaluated * (a_token * tokens + reading)


def memory_of(config: Config) -> float:
    """Bytes at the peak of a run: weights, what the method keeps, scratch for moved ones, and activations.

    Args:
        config: its settings; the model is one of `SHAPES`, the task one of `TOKENS`.
    """
    shape, size = SHAPES[config.model], _bytes(config.dtype)
    tokens, largest = config.batch_size * TOKENS[config.task], shape.vocabulary * shape.hidden * size
    a_layer = 4.2 * shape.inner * size * tokens  # of the MLP, which is the widest
    if config.first_order:
        kept = size + 4 * GRADIENTS.get(config.optimizer, 0)
        return shape.weights * (size + kept) + largest + a_layer * 1.5 * shape.layers
    sides = 2 if tokens <= DOUBLED else 1  # of a probe at once
    scratch = min(largest, BAND) + 2 * shape.inner * shape.hidden * size
    return shape.weights * (size + 4 * STATES.get(config.optimizer, 0)) + scratch + sides * a_layer


def _seconds_a_token(shape: Shape, dtype: str) -> float:
    """Of one forward pass."""
    kind = "1B, float32" if dtype == "float32" else "8B, bfloat16" if shape.hidden >= 4096 else "1B, bfloat16"
    weights, seconds = MEASURED[kind]
    return seconds / 2 / MEASURED_TOKENS / weights * shape.weights


def _bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
