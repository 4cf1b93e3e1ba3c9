"""How long runs of the papers' models take on one H100, from their shapes and from steps that were measured there.

Nothing is loaded. Seconds scale from LLaMA shapes with random weights, measured in the kept record of the card (a test compares
the numbers here with it): arithmetic with weights and tokens, what a method does to the weights with the weights alone. Other
families, float16 and what the record does not have are taken to be alike. Half of these hours, or twice as many, is what to
expect from such an estimate. Memory is predicted by `zolab.runs.memory`.
"""

from dataclasses import dataclass

from zolab.runs.config import Config, forwards
from zolab.runs.memory import CARDS

CARD = CARDS[-1]
"""GB of memory of the H100."""


@dataclass(frozen=True)
class Shape:
    """Of a model that the papers use.

    Args:
        printed: its name in the papers' numbers.
        weights: how many.
        hidden: width of the model.
    """

    printed: str
    weights: float
    hidden: int


SHAPES = {
    "meta-llama/Llama-3.2-1B": Shape("Llama-3.2-1B", 1.236e9, 2048),
    "meta-llama/Llama-3.2-3B": Shape("Llama-3.2-3B", 3.213e9, 3072),
    "meta-llama/Llama-3.1-8B": Shape("Llama-3.1-8B", 8.030e9, 4096),
    "meta-llama/Llama-3.1-8B-Instruct": Shape("Llama-3.1-8B-Instruct", 8.030e9, 4096),
    "meta-llama/Meta-Llama-3-8B": Shape("Llama-3-8B", 8.030e9, 4096),
    "Qwen/Qwen2.5-14B": Shape("Qwen2.5-14B", 14.770e9, 5120),
    "facebook/opt-1.3b": Shape("OPT-1.3B", 1.316e9, 2048),
    "facebook/opt-13b": Shape("OPT-13B", 12.853e9, 5120),
    "facebook/opt-30b": Shape("OPT-30B", 29.975e9, 7168),
    "FacebookAI/roberta-large": Shape("RoBERTa-large", 0.355e9, 1024),
}
"""By the Hub's names."""
MEASURED = {  # two forward passes on 16 x 256 tokens: weights, seconds
    "1B, bfloat16": (1.236e9, 0.0451),
    "8B, bfloat16": (8.030e9, 0.2466),
    "1B, float32": (1.236e9, 0.372),
}
MEASURED_TOKENS = 16 * 256
A_STEP = {  # seconds of a step of the 1B shape in bfloat16
    **{"mezo": 0.0536, "mezo_switch": 0.0534, "meazo": 0.0573, "adamezo": 0.0806},
    **{"mezo_momentum": 0.1672, "mezo_adam": 0.1624, "zo_adamu": 0.1906, "hizoo": 0.0880, "lozo": 0.0627},
    "zo_finetuner": 0.0545,  # as much more than MeZO's as on the 8B shape: on this one only MeZO's was recorded as a graph
}
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


def seconds_of(config: Config, evaluated: int, generates: bool) -> tuple[float, float]:
    """Of a run's training forward passes, and of the rest: updates and evaluations, which sharing a batch leaves as they are.

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
    updates = config.steps * beyond / base_weights * shape.weights
    reading = WRITTEN * shape.weights * _bytes(config.dtype) / BANDWIDTH / TOGETHER if generates else 0.0
    return passes * a_token * config.batch_size * tokens, updates + evaluated * (a_token * tokens + reading)


def _seconds_a_token(shape: Shape, dtype: str) -> float:
    """Of one forward pass."""
    kind = "1B, float32" if dtype == "float32" else "8B, bfloat16" if shape.hidden >= 4096 else "1B, bfloat16"
    weights, seconds = MEASURED[kind]
    return seconds / 2 / MEASURED_TOKENS / weights * shape.weights


def _bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
