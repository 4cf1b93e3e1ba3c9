"""Peak memory of a step, part by part, predicted from a model's configuration: neither weights nor a network is needed.

Passes of the model are followed on tensors without memory and a few short texts (`zolab.runs.passes`), and grow with the tokens
of a batch. What a method adds follows from what it says of itself: what it keeps (`Method.stored_bytes`), along what it
probes, and how many sides. Left out: what a process or a GPU's context takes before a model is loaded, matrix products' own
buffers, the blocks that an allocator keeps, and the memory of a CUDA graph.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zolab.models.outline import outline
from zolab.models.quantised import WORKING, quantised_bytes, quantised_layers
from zolab.noise import Direction, GroupDirection, LowRankDirection
from zolab.noise.kernels.cuda_journal import JOURNAL
from zolab.optim import METHODS
from zolab.optim.method import Method
from zolab.probe.doubled import TOKENS as DOUBLED
from zolab.probe.in_place import Perturbation
from zolab.probe.large import BAND
from zolab.probe.model_view import SPARE
from zolab.runs.config import Config, require
from zolab.runs.literals import own_settings
from zolab.runs.passes import PASS, SHORT, TEXTS, differentiated, followed

PARTS = ("weights", "states", "gradients", "saved", "activations", "logits", "scratch", "journal")
"""Of a step's memory: the model's weights; what the method keeps from step to step; gradients; activations kept for a backward
pass; those of the moment; logits and what is made of them; moved weights and other working memory; the journal of a probe in
place."""
CARDS = (24, 40, 80)  # GB of GPUs in use
CONTEXT = 1e9  # bytes of a card that the driver takes, and that an allocator leaves between blocks
SCRATCH, JOURNALED = PARTS.index("scratch"), PARTS.index("journal")
NORMALS = 1 << 20  # weights by which a journal is measured


@dataclass(frozen=True)
class Memory:
    """Bytes of each of `PARTS` at the moment when they are most together."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Tokens:
    """What a pass computes.

    Args:
        rows: texts of a batch.
        length: tokens of each.
        scored: of these, those whose logits are needed; one in a task of short answers, all in language modelling.
    """

    rows: int
    length: int
    scored: int = 1

    def __post_init__(self):
        for name in ("rows", "length", "scored"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        require(self.scored <= self.length, f"scored must be at most length, {self.length}, got {self.scored}.")


def predicted(config: Config, tokens: Tokens) -> Memory:
    """The peak of a run's steps.

    Args:
        config: of the run: its model, tuning, quantise, optimizer, optim_args, dtype, device, probe and eps count. What an
            adapter itself takes is left out.
        tokens: of a batch.

    Raises:
        OSError: the model's configuration is not on this machine.
        ValueError: gradients train an adapter.
    """
    tensors, own = weights_of(config.model, config.dtype), own_settings(config.optim_args)
    weights = sum(tensor.nbytes for tensor in tensors)
    if config.first_order:
        require(
            config.tuning == "full", "the memory of gradients is predicted for every weight, not for an adapter: tuning full."
        )
        settings = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in own.items())
        rows = grown(differentiated(config.model, config.dtype, config.optimizer, settings), tokens)
        return peak(rows, weights=weights)
    method, on_gpu = METHODS[config.optimizer], torch.device(config.device).type == "cuda"
    states = sum(method.stored_bytes(tensor, **own) for tensor in tensors)
    if config.tuning != "full":  # an adapter's states, scratch and journal are as small as it is
        return peak(grown(followed(config.model, config.dtype), tokens), **_frozen(config, weights))
    always = {"weights": weights, "states": states}
    if method.differentiates:  # its attention grows with the square of a text's length
        rows = followed(config.model, config.dtype, True, tokens.length)
        return peak(grown(rows, tokens, length=tokens.length), **always, scratch=weights)
    through = {"auto": method.faster_through(config.dtype, config.device), "in_place": False, "through": True}[config.probe]
    if not (through or method.per_example):
        return peak(in_place(config, tokens), **always)
    scratch, sides = _scratch(config, method, on_gpu, tokens)
    return peak(grown(followed(config.model, config.dtype), tokens, sides), **always, scratch=scratch)


def fits(total: float, card: float) -> bool:
    """Whether so many bytes, and what is never ours, have room on a card of so many GB."""
    return total + CONTEXT <= card * 1e9


@cache
def weights_of(name: str, dtype: str) -> tuple[Tensor, ...]:
    """A model's weights as tensors without memory, on which to ask is quick."""
    return tuple(torch.empty(p.shape, dtype=p.dtype, device="meta") for p in outline(name, dtype).parameters())


@cache
def journaled(dtype: str, spread: float, eps: float) -> float:
    """Bytes of a journal for each weight, measured on normal weights: which ones must be written down depends on values.

    Args:
        dtype: of the weights.
        spread: their standard deviation.
        eps: radius of the probe.
    """
    values = torch.randn(NORMALS, generator=torch.Generator().manual_seed(0)) * spread
    probe = Perturbation([values.to(getattr(torch, dtype))], (0,), Direction(0, 0), [eps])
    probe.plus()
    return probe.journal_bytes / NORMALS


def grown(rows: np.ndarray, tokens: Tokens, sides: int = 1, length: int = SHORT) -> np.ndarray:
    """What is allocated in a pass over a batch, int64 of shape (moments, `PARTS`), from what a few short texts take.

    Args:
        rows: of shape (moments, `zolab.runs.passes.PASS`).
        tokens: of the batch.
        sides: of a probe that the model's body runs on at once.
        length: tokens of each of those texts.
    """
    columns = dict(zip(PASS, rows.T, strict=True))
    longer, scored = sides * tokens.rows * tokens.length / (TEXTS * length), tokens.rows * tokens.scored / TEXTS
    parts = {"states": columns["states"], "gradients": columns["gradients"], "saved": longer * columns["saved"]}
    parts |= {"activations": longer * (columns["activations"] + columns["backward"]), "logits": scored * columns["logits"]}
    parts |= {"scratch": columns["update"]}
    return np.stack([np.broadcast_to(parts.get(part, 0), len(rows)) for part in PARTS], axis=1).astype(np.int64)


def peak(rows: np.ndarray, **always: int) -> Memory:
    """The moment of most.

    Args:
        rows: as `grown` gives them.
        always: bytes of parts that are there all the time.
    """
    most = rows[rows.sum(axis=1).argmax()]
    return Memory({part: int(size) + always.get(part, 0) for part, size in zip(PARTS, most, strict=True)})


def in_place(config: Config, tokens: Tokens) -> np.ndarray:
    """Moments of a probe that moves the weights, as `grown` has them: while it moves them, and in the pass then.

    Args:
        config: of which model, dtype, device and eps count.
        tokens: of the batch.
    """
    sizes = [tensor.numel() for tensor in weights_of(config.model, config.dtype)]
    # About the spread of trained matrices, whose outputs are as large as their inputs.
    spread = outline(config.model, config.dtype).config.hidden_size ** -0.5
    share, size = journaled(config.dtype, spread, config.eps), 4 if config.dtype == "float32" else 2
    rows = grown(followed(config.model, config.dtype), tokens)
    if torch.device(config.device).type == "cuda":
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
        rows[-1, SCRATCH], rows[-1, JOURNALED] = max(_launches(sizes, share, 2 + size), key=sum)
        rows[:-1, JOURNALED] = share * sum(sizes)
    else:  # there memory counts once it is written to
        rows[:, JOURNALED] = share * sum(sizes)
    return rows


def _launches(sizes: list[int], share: float, entry: int) -> Iterator[tuple[int, int]]:
    """Room that is not known to be spare yet, and what is written down, while one launch after the other moves weights."""
    written, before = 0.0, 0
    for size in (min(JOURNAL, whole - start) for whole in sizes for start in range(0, whole, JOURNAL)):
        yield entry * (before + size), round(written)
        written, before = written + share * before, size


def _frozen(config: Config, weights: int) -> dict[str, int]:
    """Bytes of a frozen base, and of its largest quantised module's weights, as its call makes them again.

    Args:
        config: of the run.
        weights: bytes of the base before it is quantised.
    """
    if (how := config.quantise) == "none":
        return {"weights": weights}
    small = [layer.weight for layer in quantised_layers(outline(config.model, config.dtype)).values()]
    saved = sum(weight.nbytes - quantised_bytes(weight, how) for weight in small)
    return {"weights": weights - saved, "scratch": max(w.numel() * WORKING[how](w.element_size()) for w in small)}


class _Owner(NamedTuple):
    """A module with weights of its own.

    Args:
        body: it is a part of the model's body.
        embeds: it is an embedding.
        plain: it is a linear layer without a bias.
        vectors, matrices: bytes of its weights; of modules other than linear layers and embeddings all are vectors.
    """

    body: bool
    embeds: bool
    plain: bool
    vectors: int
    matrices: int


@cache
def _owners(name: str, dtype: str) -> tuple[_Owner, ...]:
    model, owners = outline(name, dtype), []
    body = set(model.base_model.modules())
    for module in model.modules():
        own, factored = list(module.parameters(recurse=False)), isinstance(module, nn.Linear | nn.Embedding)
        matrices = sum(p.nbytes for p in own if factored and p.dim() == 2)
        kind = module in body, type(module) is nn.Embedding, isinstance(module, nn.Linear) and module.bias is None
        owners.append(_Owner(*kind, sum(p.nbytes for p in own) - matrices, matrices))
    return tuple(owner for owner in owners if owner.vectors or owner.matrices)


def _scratch(config: Config, method: type[Method], on_gpu: bool, tokens: Tokens) -> tuple[int, int]:
    """Bytes in which modules find moved weights, and the sides that the body sees at once."""
    factored = issubclass(method.along, LowRankDirection | GroupDirection)
    both = on_gpu and method.sides == 2 and not factored and tokens.rows * tokens.length <= DOUBLED
    whole = sum(tensor.nbytes for tensor in weights_of(config.model, config.dtype))
    if not (both or factored) and 2 * whole <= SPARE["cuda" if on_gpu else "cpu"]:
        return 2 * whole, 1  # a copy of every weight on each side
    inside, outside = [0], [0]
    for owner in _owners(config.model, config.dtype):
        if on_gpu and owner.embeds and method.along is Direction:
            continue  # moved in its output
        moved = owner.vectors + owner.matrices * (not factored)
        (inside if owner.body else outside).append(min(moved, BAND) if on_gpu and owner.plain else moved)
    if not both:
        return max(*inside, *outside), 1
    return max(inside) + max(*inside, *outside), 2
