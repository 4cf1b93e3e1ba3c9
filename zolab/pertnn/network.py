"""PertNN: for each block of weights a tiny network that proposes how far to perturb it (arXiv 2510.00419, section 3)."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.pertnn.card import FEATURES, blocks_from, brief, card_of, check_same_blocks, options_from, read_card
from zolab.probe.blocks import Blocks, budget_factor
from zolab.records.files import json_for, write_json
from zolab.records.sealed import read_tensors, tensors_digest, write_tensors

HIDDEN = 64
BUDGETS = ("paper", "code", None)
LONGEST = 4000  # characters of a path; a system gives other errors at longer ones
Numbers = Sequence[float] | np.ndarray
FINETUNERS = Path(__file__).parent / "shipped"
SHIPPED_FINETUNERS = {name: FINETUNERS / name for name in ("smollm2-135m", "tiny-reviews")}


class PertNN(nn.Module):
    """One network for each block, sigma_j = |w2_j . tanh(W1_j x_j + b1_j) + b2_j|, all blocks evaluated at once.

    sigma_j is a standard deviation: block j is probed along sigma_j z_j, so that its learning rate is lr sigma_j^2. The five
    inputs x_j are those of `features`. Not for choosing a scale for each weight: a block's weights share one.

    Args:
        blocks: the partition, from `zolab.probe.blocks.split`, by tensor or by layer.
        hidden: tanh units of each network; 64 in the published ones.
        identity: begin with sigma = 1 for any input (w2 = 0, b2 = 1), so that training begins at MeZO. Otherwise begin with
            the default of torch's linear layers, as the published ones do: U(-1/sqrt(n), 1/sqrt(n)) for n inputs.
        input_scaling: bring mean and variance, which differ by orders of magnitude between blocks, to the order of one:
            mean / sqrt(mean^2 + variance), in [-1, 1], and log10(variance + 1e-8) / 4, in [-2, 0] for variances up to one.
            Otherwise they enter as they are, as in the published ones.
        normalise: "paper" (sum_j d_j sigma_j^2 = sum_j d_j), "code" (the same with `budget_weights` for d_j), or None.
        budget_weights: n_j of the code's budget, from `zolab.probe.blocks.published_weights`.
        seed: of the first weights; the global generator is not touched.

    Attributes:
        w1 (b, h, 5), b1 (b, h), w2 (b, h), b2 (b): the weights of all networks, float32.
        budget: n_j, float64 of shape (b,), or None.

    Raises:
        ValueError: an argument is out of range, or `budget_weights` are missing, superfluous, or not positive.
    """

    card: dict[str, Any]  # of one that was read

    def __init__(
        self,
        blocks: Blocks,
        hidden: int = HIDDEN,
        *,
        identity: bool = False,
        input_scaling: bool = False,
        normalise: str | None = "paper",
        budget_weights: Numbers | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if type(hidden) is not int or hidden < 1:
            raise ValueError(f"hidden must be a whole number of at least 1, got {hidden!r}.")
        if type(identity) is not bool or type(input_scaling) is not bool:
            raise ValueError(f"identity and input_scaling must be True or False, got {identity!r} and {input_scaling!r}.")
        if normalise not in BUDGETS:
            raise ValueError(f"normalise must be 'paper', 'code' or None, got {normalise!r}.")
        if (normalise == "code") != (budget_weights is not None):
            raise ValueError("budget_weights go with normalise='code', and only with it: give both or neither.")
        if not all(blocks.sizes):
            raise ValueError(f"the block {blocks.names[blocks.sizes.index(0)]} has no weights; leave it out.")
        weights = blocks.sizes if normalise == "paper" else budget_weights
        if weights is not None and not _fit(np.asarray(weights), len(blocks)):
            raise ValueError(f"the budget needs {len(blocks)} positive finite weights, one for each block.")
        self.blocks, self.hidden = blocks, hidden
        self.input_scaling, self.normalise = input_scaling, normalise
        budget = None if weights is None else torch.tensor(np.asarray(weights), dtype=torch.float64)
        self.register_buffer("budget", budget, persistent=False)
        source, b = torch.Generator().manual_seed(seed), len(blocks)

        def uniform(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape, generator=source) - 1) / inputs**0.5)

        self.w1, self.b1 = uniform(b, hidden, len(FEATURES), inputs=len(FEATURES)), uniform(b, hidden, inputs=len(FEATURES))
        self.w2, self.b2 = uniform(b, hidden, inputs=hidden), uniform(b, inputs=hidden)
        if identity:
            nn.init.zeros_(self.w2)
            nn.init.ones_(self.b2)

    def forward(self, x: Tensor) -> Tensor:
        """Raw sigma of each block, shape (b,), from `features` of shape (b, 5)."""
        if self.input_scaling:
            mean, variance = x[:, 0], x[:, 1]
            size = (mean.square() + variance).sqrt().clamp(min=1e-8)
            x = torch.cat((torch.stack((mean / size, torch.log10(variance + 1e-8) / 4), dim=1), x[:, 2:]), dim=1)
        units = torch.tanh((self.w1 * x[:, None, :]).sum(2) + self.b1)
        return ((self.w2 * units).sum(1) + self.b2).abs()

    def normaliser(self, raw: Tensor) -> Tensor:
        """f, so that f * raw keeps the budget: a scalar that can be differentiated, or cut with `detach`."""
        if self.budget is None:
            return raw.new_ones(())
        return budget_factor(raw.double(), self.budget).to(raw.dtype)

    def normalised(self, raw: Tensor) -> Tensor:
        """raw * f, shape (b,)."""
        return raw * self.normaliser(raw)

    def spread(self, sigma: Tensor) -> Tensor:
        """The sigma of each tensor, shape (tensors,), from that of each block."""
        return sigma[list(self.blocks.block_of)]

    def digest(self) -> str:
        """16 hex digits of the SHA-256 over the weights of all networks and how their inputs are scaled."""
        digest = hashlib.sha256(f"{self.hidden} {self.input_scaling}\n".encode())
        for w in self.parameters():
            digest.update(w.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(
        self,
        folder: str | os.PathLike,
        *,
        base_model: str,
        fingerprint: str,
        training_data: str,
        licence: str,
        metrics: dict[str, Any],
    ) -> None:
        """Write `pertnn.safetensors` and `card.json`, the card last.

        Args:
            folder: made if it is not there.
            base_model, fingerprint: the model that it was trained on, and `zolab.models.fingerprint` of it.
            training_data, licence, metrics: what the card says about its training.

        Raises:
            OSError: a file could not be written.
            ValueError: the card cannot hold what it is to say; nothing was written then.
        """
        folder = Path(folder)
        about: dict[str, Any] = {"base_model": base_model, "fingerprint": fingerprint, "training_data": training_data}
        about |= {"licence": licence, "metrics": metrics}
        json_for(folder / "card.json", about)
        weights = {name: w.detach().cpu() for name, w in self.named_parameters()}
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(weights, folder / "pertnn.safetensors", {})
        write_json(folder / "card.json", card_of(self, tensors_digest(weights), about))

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "PertNN":
        """The PertNN in a folder, or shipped under a name, whatever model it belongs to; its card is `pertnn.card`.

        Raises:
            OSError: there is no such folder or name, or a file is missing.
            ValueError: card or weights are damaged, or do not fit each other.
        """
        folder = folder_of(folder)
        for name in ("card.json", "pertnn.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}: it is not the folder of a PertNN.")
        try:
            card = read_card(folder / "card.json")
            blocks, options = blocks_from(card), options_from(card)
            weights, _ = read_tensors(folder / "pertnn.safetensors")
            expected = _shapes(len(blocks), options.get("hidden", HIDDEN))
            shapes = {name: (tuple(w.shape), w.dtype) for name, w in weights.items()}
            if expected != shapes:
                raise ValueError(f"the card asks for {expected}, but the file has {brief(shapes)}")
            if "weights" in card and card.pop("weights") != tensors_digest(weights):
                raise ValueError("its weights are not those that the card was written for")
            if not all(w.isfinite().all() for w in weights.values()):
                raise ValueError("a weight is not finite")
            pertnn = cls(blocks, **options)
        except ValueError as error:
            reason = brief(error, 500).rstrip(".")
            raise ValueError(f"the PertNN in {folder} is damaged or its card is wrong: {reason}.") from error
        pertnn.load_state_dict(weights)
        pertnn.card = card
        return pertnn

    @classmethod
    def load(cls, folder: str | os.PathLike, model: nn.Module | Iterable[tuple[str, Tensor]]) -> "PertNN":
        """The PertNN in a folder, or shipped under a name, for a model that is split as the one it was trained on.

        Args:
            folder: of `save`, or a key of `SHIPPED_FINETUNERS`.
            model: the base model or one of the same architecture with other weights, or its (name, tensor) pairs.

        Raises:
            OSError: there is no such folder or name, or a file is missing.
            ValueError: it is damaged, or for another architecture; the sentence says which blocks differ.
        """
        pertnn = cls.read(folder)
        check_same_blocks(pertnn.blocks, model, f"the PertNN in {folder}, trained on {brief(pertnn.card.get('base_model'))},")
        return pertnn


def features(mean: Numbers, variance: Numbers, losses: Sequence[float], sigma: Numbers) -> Tensor:
    """Inputs of all blocks' networks, float32 of shape (b, 5); constants, no gradient flows through them.

    Args:
        mean, variance: of each block's weights, the variance unbiased; from `zolab.probe.blocks.mean_and_variance`.
        losses: loss_plus and loss_minus of the previous step; zero before the first.
        sigma: raw sigma of the previous step, shape (b,); one before the first.
    """
    parts = np.broadcast_arrays(*(np.asarray(part, dtype=np.float64) for part in (mean, variance, *losses, sigma)))
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))


def _shapes(blocks: int, hidden: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Of the weights of all networks, before there are any."""
    shapes = {"w1": (blocks, hidden, len(FEATURES)), "b1": (blocks, hidden), "w2": (blocks, hidden), "b2": (blocks,)}
    return {name: (shape, torch.float32) for name, shape in shapes.items()}


def _fit(weights: np.ndarray, blocks: int) -> bool:
    """Whether numbers can be a budget's: so far from what float64 holds that no sum over blocks and scales overflows."""
    return weights.shape == (blocks,) and weights.dtype.kind in "iuf" and bool(((weights > 1e-100) & (weights < 1e100)).all())


def folder_of(name: str | os.PathLike) -> Path:
    """Where a shipped PertNN, or the one in a folder, lies. Raises FileNotFoundError, naming those that are there."""
    folder = SHIPPED_FINETUNERS.get(str(name), Path(name).expanduser())
    if len(str(folder)) > LONGEST or not folder.is_dir():
        names = [shipped for shipped, place in SHIPPED_FINETUNERS.items() if place.is_dir()]
        choices = f"the shipped ones are {', '.join(names)}" if names else "none is shipped"
        raise FileNotFoundError(f"no folder and no shipped PertNN is called {brief(name)!r}; {choices}.")
    return folder
