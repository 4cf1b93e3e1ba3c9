"""ZO Fine-tuner: MeZO along a direction whose scale in each block a small network proposes (arXiv 2510.00419)."""

import os
from collections.abc import Iterable, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.probing import Probes
from zolab.optim.trajectory import StepRecord
from zolab.pertnn import PertNN, features
from zolab.pertnn.card import check_same_blocks
from zolab.probe.blocks import budget_factor, mean_and_variance, moments, split
from zolab.probe.updates import AnyUpdate, Update


class ZOFineTuner(ZeroOrderOptimizer):
    """Probe block j along u_j = f sigma_j z_j, with sigma from `PertNN`, and step against p u (Algorithm 1).

        sigma_j = PertNN_j(mean and variance of the block, loss_plus, loss_minus and raw sigma_j of the previous step)

    f keeps the budget sum_j n_j (f sigma_j)^2 = sum_j n_j; what is fed back is sigma before f. The first step sees losses of
    zero and sigma = 1. With several samples, the losses are their means. State: what the last step's record holds; a block's
    moments are summed in the pass that takes the step, so weights that others change are seen a step later. With sigma = 1
    it is MeZO, to the bit. Not for models that no PertNN was trained on: an untrained one scales blocks at random.

    Args:
        params: as in `MeZO`; the tensors of the PertNN's blocks, with their names, or without and in the blocks' order.
        pertnn: the network, its folder, or the name of a shipped one; the last two take parameters with names.
        lr, eps, weight_decay, seed, samples, rounding, directions: as in `MeZO`; block j learns at the rate lr f^2 sigma_j^2.
        freeze: keep the sigma of the first step, as a control.
        kept: what a trajectory holds of a PertNN; with it alone, steps can be replayed, and taken only after `attach`.

    Raises:
        OSError: there is no such folder or name.
        ValueError: an argument is out of range, or the PertNN is damaged or for other blocks.

    Example:
        >>> optimizer = ZOFineTuner.from_pretrained("smollm2-135m", model, lr=1e-5)
        >>> loss = optimizer.step(lambda: loss_of(model, batch))
    """

    def __init__(
        self,
        params: Iterable,
        pertnn: PertNN | str | os.PathLike | None = None,
        lr: float = 1e-6,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        freeze: bool = False,
        kept: dict[str, Any] | None = None,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        if (pertnn is None) == (kept is None):
            raise ValueError("give pertnn: a PertNN, its folder, or the name of a shipped one.")
        self.pertnn: PertNN | None = None
        self.kept = cast(Any, kept)  # a dictionary once this constructor is done
        self.freeze = freeze
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
            settings={"freeze": freeze, "kept": kept},
        )
        if pertnn is not None:
            self.attach(pertnn)
        self.fits()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, model: nn.Module, **settings) -> "ZOFineTuner":
        """A fine-tuner of all trainable weights of a model, with the PertNN in a folder or shipped under a name.

        Args:
            name: folder or name.
            model: the model that the PertNN was trained on, or another with the same architecture.
            settings: as the constructor takes them.

        Raises:
            OSError, ValueError: as the constructor and `PertNN.load` do.
        """
        return cls(model.named_parameters(), PertNN.load(name, model), **settings)

    @classmethod
    def try_settings(cls, *, pertnn: str | os.PathLike | None = None, **settings) -> None:
        if not isinstance(pertnn, (str, os.PathLike)):
            raise ValueError("pertnn must be the folder of a PertNN, or the name of a shipped one.")
        PertNN.read(pertnn)
        weight = [("weight", nn.Parameter(torch.zeros(1)))]
        cls(weight, PertNN(split(weight)), **settings)

    def attach(self, pertnn: PertNN | str | os.PathLike) -> None:
        """Propose sigma with this network, as is necessary to go on after `zolab.replay`.

        Raises:
            ValueError: it is for other blocks, or not the network that the trajectory was made with.
        """
        trained = self.trained()
        named = list(zip(trained.names, trained.tensors, strict=True))
        if isinstance(pertnn, (str, os.PathLike)):
            pertnn = PertNN.load(pertnn, named)
        blocks = pertnn.blocks
        if any("param_names" not in group for group in self.param_groups):
            if tuple(tensor.numel() for _, tensor in named) != blocks.numels:
                raise ValueError("the parameters are not those of the PertNN's blocks; pass model.named_parameters().")
            names = blocks.tensors
        else:
            check_same_blocks(blocks, named, "this PertNN")
            names = [name for name, _ in named]
        block = dict(zip(blocks.tensors, blocks.block_of, strict=True))
        budget = None if pertnn.budget is None else pertnn.budget.tolist()
        kept = {"network": pertnn.digest(), "block_of": [block[name] for name in names], "budget": budget}
        if self.kept not in (None, kept):
            raise ValueError("the steps so far were taken with another PertNN; attach that one.")
        self.pertnn = pertnn
        self.kept = self.trajectory.settings["kept"] = kept

    def fits(self) -> None:
        tensors = len(self.trained().tensors)
        if self.kept is not None and len(self.kept["block_of"]) != tensors:
            raise ValueError(f"the trajectory is of {len(self.kept['block_of'])} trainable tensors, but {tensors} are given.")

    def begin(self) -> None:
        super().begin()
        self.raw: tuple[float, ...] = (1.0,)
        self.losses = (0.0, 0.0)
        self.sums = self.measured = None

    def propose(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> tuple[float, ...]:
        if self.pertnn is None:
            raise ValueError("this optimizer was made from a trajectory alone; attach the PertNN to take further steps.")
        if self.freeze and self.steps:
            return self.raw
        sums = moments(tensors) if self.sums is None else self.sums
        sums = sums.cpu().numpy() if isinstance(sums, Tensor) else sums  # only now, since the step before ends meanwhile
        mean, variance = mean_and_variance(self._per_block(sums, self.pertnn.blocks), self.pertnn.blocks.sizes)
        x = features(mean, variance, self.losses, self.raw).to(self.pertnn.b2.device)
        raw = self.pertnn(x).detach().cpu().numpy()
        if not (np.isfinite(raw).all() and raw.any()):
            bad = [name for name, s in zip(self.pertnn.blocks.names, raw, strict=True) if not np.isfinite(s)]
            what = f"no finite sigma for {len(bad)} blocks, such as {bad[0]}" if bad else "zero for every block"
            raise FloatingPointError(f"step {self.steps}: PertNN proposes {what}; the weights are as before the step.")
        return tuple(raw.astype(str).astype(float).tolist())  # the shortest decimals that are these float32, for the log

    def scales(self, sigmas: tuple[float, ...], blocks: tuple[int, ...]) -> list[float]:
        sigma = np.array(sigmas)
        if self.kept["budget"] is not None:
            sigma = sigma * budget_factor(sigma, np.array(self.kept["budget"]))
        return sigma[self.kept["block_of"]].tolist()

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        return self.against(record, blocks, groups)

    def leave(self, probes: Probes, update: AnyUpdate) -> None:
        self.measured = probes.leave(update, measure=not self.freeze)

    def advance(self, record: StepRecord, tensors, blocks, groups) -> None:
        self.raw = record.sigmas
        self.losses = tuple(sum(side) / len(side) for side in (record.losses[::2], record.losses[1::2]))
        self.sums, self.measured = self.measured, None  # none after a replay: then `propose` reads the weights itself

    def _per_block(self, sums: np.ndarray, blocks: Sized) -> np.ndarray:
        out = np.zeros((len(blocks), 2))
        np.add.at(out, self.kept["block_of"], sums)
        return out
