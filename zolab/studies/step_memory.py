"""Peak memory of a step of each method, measured in a process of its own, to be set beside what is predicted of it."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from zolab.l2l import History, MetaStep
from zolab.l2l.config import MetaConfig
from zolab.l2l.memory import predicted_meta
from zolab.models import ADAPTERS, load_model, model_bytes
from zolab.models.gradients import recomputed
from zolab.optim import METHODS
from zolab.pertnn import PertNN
from zolab.probe.blocks import split
from zolab.records import FREED, give_back_memory, peak_memory, reset_peak_memory
from zolab.runs.config import Config, make_optimizer, require
from zolab.runs.memory import Memory, Tokens, predicted
from zolab.studies.family import FAMILY

LR, STEPS, PROCESSES = 1e-6, 2, 2
META: dict[str, dict[str, Any]] = {
    "meta_training": {},
    "meta_training_fused": {"momentum": 0.0, "clip": 0.0, "fused": True, "recompute": True},
}
"""The ways to train a PertNN: as published, and in the least memory."""
LABELS = {name: member.label for name, member in FAMILY.items()}
LABELS |= {"meta_training": "meta-training", "meta_training_fused": "meta-training, fused"}


@dataclass(frozen=True)
class Peak:
    """What steps took.

    Args:
        weights: bytes of the model's weights.
        peak: bytes of the resident set at its peak, beyond what the process held before the model, the weights included.
    """

    weights: int
    peak: int


def expected(model: str, way: str, tokens: Tokens, dtype: str = "float32", device: str = "cpu", **base: str) -> Memory:
    """What is predicted of a step.

    Args:
        model: name of the model.
        way: a method's name, or one of `META`.
        tokens: of a batch.
        dtype, device: of the weights.
        base: `tuning` and `quantise`, as of a run.
    """
    if way in META:
        return predicted_meta(MetaConfig(model=model, dtype=dtype, device=device, **META[way]), tokens)
    return predicted(Config(model, optimizer=way, dtype=dtype, device=device, **base), tokens)  # pyrefly: ignore[bad-argument-type]


def measured(model: str, ways: Sequence[str], tokens: Tokens, tuning: str = "full", quantise: str = "none") -> dict[str, Peak]:
    """Peaks of steps in float32 on the CPU, on random tokens, the last of each text scored; two processes run at a time.

    Args:
        model: name of the model.
        ways: names of methods, or of `META`.
        tokens: of a batch.
        tuning: "full", or "lora" for LoRA as it is by default.
        quantise: format of its base.

    Raises:
        ValueError: there is no such method.
        RuntimeError: a process ended with an error, whose last line is told.
    """
    for way in ways:
        require(way in LABELS, f"there is no method {way}; choose {', '.join(LABELS)}.")
    with ThreadPoolExecutor(PROCESSES) as pool:
        peaks = pool.map(lambda way: _measured(model, way, tokens.rows, tokens.length, tuning, quantise), ways)
        return dict(zip(ways, peaks, strict=True))


def _measured(model: str, way: str, *more: int | str) -> Peak:
    code = f"from zolab.studies.step_memory import report; report{(model, way, *more)!r}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **FREED})
    if done.returncode:
        raise RuntimeError(f"{way} on {model} could not be measured: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def report(model: str, way: str, rows: int, length: int, tuning: str, quantise: str) -> None:
    """Print a `Peak` of this process, which has done nothing else, as JSON; arguments as of `measured`."""
    loaded, small = load_model(model, quantise=quantise)[0], load_model("tiny-random-llama")[0]
    if tuning != "full":
        ADAPTERS[tuning]().attach(loaded)
    with ExitStack() as around:  # what any process has once it has taken a step: threads, compiled kernels
        step_of(small, way, loss_of(small, 2, 4), around)()
    with torch.no_grad():
        loss_of(loaded, 1, 2)()
    gc.collect()
    give_back_memory()
    before = psutil.Process().memory_info().rss
    reset_peak_memory()
    with ExitStack() as around:
        step = step_of(loaded, way, loss_of(loaded, rows, length), around)
        for _ in range(STEPS):
            step()
    weights = model_bytes(loaded)
    print(json.dumps(asdict(Peak(weights, weights + peak_memory() - before))))


def loss_of(model: Any, rows: int, length: int) -> Callable[..., Tensor]:
    """A loss of random tokens at the last position, logits only there; of each text with "none"."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)

    def loss(reduction: str = "mean") -> Tensor:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return nn.functional.cross_entropy(model.get_output_embeddings()(hidden).float(), ids[:, 0], reduction=reduction)

    return loss


def step_of(model: nn.Module, way: str, loss: Callable[..., Tensor], around: ExitStack) -> Callable[[], Any]:
    """One step of a method, as a function without arguments; what it needs around it is entered."""
    if way in META:
        return _meta_step(model, MetaConfig(**META[way]), loss, around)
    optimizer: Any = optimizer_of(model, way)
    return partial(optimizer.step, partial(loss, "none") if way in METHODS and METHODS[way].per_example else loss)


def optimizer_of(model: nn.Module, way: str) -> Any:
    """A method's optimizer, which sees moved weights as `finetune` chooses; with an untrained PertNN, where it takes one."""
    if way in METHODS:
        more = [PertNN(split(model))] if way == "zo_finetuner" else []
        method: Any = METHODS[way]
        optimizer = method(model.named_parameters(), *more, lr=LR)
        return optimizer.look_through(model if optimizer.faster_through("float32", "cpu") else None)
    return make_optimizer(Config(optimizer=way, lr=LR), model)


def _meta_step(model: nn.Module, config: MetaConfig, loss: Callable[..., Tensor], around: ExitStack) -> Callable[[], Any]:
    if config.recompute:
        around.enter_context(recomputed(model))
    pertnn = PertNN(split(model))
    own = {"momentum": config.momentum, "lr_zo": config.lr_zo, "fused": config.fused, "clip": config.clip or None}
    outer = torch.optim.SGD(pertnn.parameters(), lr=config.meta_lr)
    return partial(MetaStep(list(model.parameters()), pertnn, outer, lr=LR, **own), loss, History())
