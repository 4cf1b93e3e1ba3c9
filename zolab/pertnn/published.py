"""Fine-tuners that the authors of ZO Fine-tuner released: read without running what a pickle can, and traced to their init.

`python -m zolab published FILE` does both.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zolab.models.folder import check_config, skeleton
from zolab.pertnn import FEATURES, PertNN, features
from zolab.pertnn.card import brief
from zolab.pertnn.philox import OFFSETS, cuda_linear
from zolab.pertnn.released import read_networks
from zolab.probe.blocks import Blocks


def llama_sizes(
    hidden: int = 2048,
    layers: int = 16,
    intermediate: int = 8192,
    heads: int = 32,
    kv_heads: int = 8,
    head_dim: int = 64,
    vocabulary: int = 128_256,
    tied: bool = True,
) -> dict[str, int]:
    """Weights of each tensor of a LLaMA model, from the numbers in its config.json; by default LLaMA-3.2-1B's."""
    query, key = hidden * heads * head_dim, hidden * kv_heads * head_dim
    attention = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query}
    parts = {f"self_attn.{name}": size for name, size in attention.items()}
    parts |= {f"mlp.{name}": hidden * intermediate for name in ("gate_proj", "up_proj", "down_proj")}
    parts |= {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    sizes = {"model.embed_tokens.weight": vocabulary * hidden}
    sizes |= {f"model.layers.{layer}.{part}.weight": size for layer in range(layers) for part, size in parts.items()}
    return sizes | {"model.norm.weight": hidden} | ({} if tied else {"lm_head.weight": vocabulary * hidden})


def sizes_of(config: str | os.PathLike) -> dict[str, int]:
    """Weights of each tensor of any model that transformers knows, biases and an lm_head of its own included; none is made.

    Args:
        config: its config.json, or the folder that has it.

    Raises:
        OSError: there is no such file.
        ValueError: it does not describe a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    file = Path(config) / "config.json" if Path(config).is_dir() else Path(config)
    if not file.exists():
        raise FileNotFoundError(f"there is no {file}; give a config.json, or the folder that has it.")
    try:
        check_config(file)
        known = AutoConfig.from_pretrained(file, local_files_only=True, trust_remote_code=False)
        model = skeleton(AutoModelForCausalLM, known)
        model.tie_weights()
    except Exception as error:  # wrong values raise what each model's code happens to raise
        raise ValueError(f"{config} does not describe a causal language model ({brief(error)}).") from error
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def import_published(path: str | os.PathLike, sizes: Mapping[str, int], **options: Any) -> PertNN:
    """A released `.pth`: a dictionary from tensor names to Sequential(Linear(5, h), Tanh, Linear(h, 1)).

    Nothing of the file is executed: `zolab.pertnn.released` reads it.

    Args:
        path: the file.
        sizes: number of weights of each tensor, which the file does not tell: `llama_sizes`, or `sizes_of` a config.json.
        options: `normalise` and `budget_weights`, as `PertNN` takes them; by default the paper's budget. The authors' code has
            normalise="code" with `zolab.probe.blocks.published_weights`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, larger than its networks need, asks for anything else, or has other names than `sizes`.
    """
    layers = read_networks(path, len(sizes))
    if set(layers) != set(sizes):
        lacking, foreign = sorted(set(sizes) - set(layers)), sorted(set(layers) - set(sizes))
        message = f"no network for {len(lacking)} of sizes {lacking[:3]}, and {len(foreign)} networks without one {foreign[:3]}"
        raise ValueError(f"{path} is for another model than sizes tells: it has {brief(message)}.")
    if len(hidden := {len(layer["b1"]) for layer in layers.values()}) != 1:
        raise ValueError(f"{path} has networks of {len(hidden)} different numbers of units, where all have the same.")
    stacked = {name: torch.stack([layer[name] for layer in layers.values()]) for name in ("w1", "b1", "w2", "b2")}
    names, numels = tuple(layers), tuple(int(sizes[name]) for name in layers)
    pertnn = PertNN(Blocks(names, numels, names, tuple(range(len(names))), numels, {}), stacked["b1"].shape[1], **options)
    pertnn.load_state_dict(stacked)
    return pertnn


@dataclass(frozen=True)
class Init:
    """Where the networks of a PertNN began, and how far they have come.

    Args:
        draws: number of the draw that each network began as, shape (b,), counted along the random stream of a device.
        distances: median |W1 - draw| of each network, shape (b,).
        others: the same to the nearest of the other draws: what a distance to a draw is that a network did not begin as.
        relative: norm of the change of all weights of a network over their norm as drawn, shape (b,).
        drawn: the PertNN as it began.
    """

    draws: np.ndarray
    distances: np.ndarray
    others: np.ndarray
    relative: np.ndarray
    drawn: PertNN


def find_init(pertnn: PertNN, seed: int = 42, count: int | None = None) -> Init:
    """The nearest of torch's first weights on CUDA to each network, for a PertNN made there one network after the other.

    A network is Linear(5, h) and Linear(h, 1), four calls of `uniform_`. `torch.manual_seed` gives the same stream to every
    device, so the networks on each begin with draw 0. Not for a PertNN whose seed is unknown: the nearest draw is then far.

    Args:
        pertnn: for example from `import_published`.
        seed: given to `torch.manual_seed`; 42 in the released ones.
        count: draws to compare with, two if fewer are asked for; by default one for each network.
    """
    inits = [_drawn(pertnn.hidden, seed, 4 * OFFSETS * i) for i in range(max(count or len(pertnn.blocks), 2))]
    w1 = np.stack([weights["w1"] for weights in inits])
    table = np.stack([np.median(np.abs(w1 - w), axis=(1, 2)) for w in pertnn.w1.detach().cpu().numpy()])
    draws = table.argmin(1)
    distances, others = np.sort(table, axis=1)[:, :2].T
    drawn = PertNN(pertnn.blocks, pertnn.hidden, input_scaling=pertnn.input_scaling, normalise=None)
    drawn.load_state_dict({name: torch.from_numpy(np.stack([inits[i][name] for i in draws])) for name in inits[0]})
    now, then = (np.concatenate([w.detach().cpu().reshape(len(draws), -1) for w in p.parameters()], 1) for p in (pertnn, drawn))
    relative = np.linalg.norm(now - then, axis=1) / np.linalg.norm(then, axis=1)
    return Init(draws, distances, others, relative, drawn)


def _drawn(hidden: int, seed: int, offset: int) -> dict[str, np.ndarray]:
    """First weights of one network, named and shaped as PertNN has them."""
    w1, b1 = cuda_linear(len(FEATURES), hidden, seed, offset)
    w2, b2 = cuda_linear(hidden, 1, seed, offset + 2 * OFFSETS)
    return {"w1": w1, "b1": b1, "w2": w2[0], "b2": b2[0]}


@torch.no_grad()
def settled_sigma(pertnn: PertNN, variance: float = 4e-4, loss: float = 1.0, steps: int = 200) -> np.ndarray:
    """Raw sigma of each block after its feedback has settled: fed back `steps` times, from one, at inputs that stay the same.

    Args:
        pertnn: on the CPU.
        variance: of every block's weights, their mean being zero.
        loss: on both sides of the probe.
        steps: one gives sigma at these inputs with a previous sigma of one.
    """
    sigma = np.ones(len(pertnn.blocks))
    for _ in range(steps):
        sigma = pertnn(features([0.0], [variance], (loss, loss), sigma)).numpy()
    return sigma


def trace(pertnn: PertNN, seed: int = 42) -> dict[str, dict[str, float]]:
    """What `find_init` and `settled_sigma` tell of each block, by its name: numbers for a record, no weights.

    Args:
        pertnn: on the CPU; its budget plays no part, since sigma is raw.
        seed: as in `find_init`.

    Returns:
        For each block `draw`, `distance`, `other` and `relative` of `Init`, `sigma` now and `sigma_drawn`.
    """
    init = find_init(pertnn, seed)
    columns = {"draw": init.draws, "distance": init.distances, "other": init.others, "relative": init.relative}
    columns |= {"sigma": settled_sigma(pertnn), "sigma_drawn": settled_sigma(init.drawn)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(pertnn.blocks.names, rows, strict=True)}


def summary(entries: Mapping[str, Mapping[str, float]], seed: int = 42) -> str:
    """What `trace` found, in three lines."""
    column = {key: [entry[key] for entry in entries.values()] for key in ("draw", "distance", "other", "relative")}
    lines = (
        f"{len(entries)} networks, {len(set(column['draw']))} distinct draws of seed {seed}",
        f"median |W1 - draw|: at most {max(column['distance']):.1e}; to any other draw at least {min(column['other']):.1e}",
        f"relative change of a network: median {np.median(column['relative']):.1e}",
    )
    return "\n".join(lines)
