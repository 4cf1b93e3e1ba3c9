"""The step that every zeroth-order method shares: probe along a direction, then step along it.

    +eps z, loss, -2 eps z, loss, back and update                                         (arXiv 2305.17333, Algorithm 1)

A method says how the two losses become an update; the probe, its safety and its bookkeeping live here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from zolab import noise
from zolab.noise import Direction, GivenDirection
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.probe.blocks import unique
from zolab.probe.in_place import MomentsUpdate, Perturbation, Update, apply
from zolab.probe.interrupts import DeferInterrupts
from zolab.probe.model_view import ModelView
from zolab.probe.through import ModuleProbe


class ZeroOrderOptimizer(torch.optim.Optimizer, ABC):
    """Base of the zeroth-order optimizers: a `torch.optim.Optimizer` whose closure is evaluated, never differentiated.

    Every parameter is a block, numbered in the order given; parameters that share memory count once, those with
    `requires_grad=False` are left alone. Put the model in eval mode yourself if it has dropout: both losses of a probe
    must see the same function.

    Args:
        params: tensors, (name, tensor) pairs or parameter groups, as for any torch optimizer.
        lr: learning rate, >= 0. May differ between groups and follow a scheduler.
        eps: finite-difference radius, > 0, in units of the weights; one for all groups.
        weight_decay: decoupled, >= 0: each step multiplies the weights by 1 - lr * weight_decay.
        seed: names the sequence of directions; 0 <= seed < 2**64.
        samples: directions averaged in each step, >= 1; a step takes 2 * samples forward passes.
        settings: further hyperparameters of a method, as its constructor names them; they travel with the trajectory.

    Raises:
        ValueError: an argument is out of range, there is nothing to train, or a weight cannot be changed in place.
    """

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        eps: float,
        weight_decay: float,
        seed: int,
        samples: int = 1,
        settings: dict[str, Any] | None = None,
    ):
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {samples!r}.")
        Direction(seed, 0)
        super().__init__(unique(params), {"lr": lr, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            check_range("lr", group["lr"], group["lr"] >= 0)
            check_range("weight_decay", group["weight_decay"], group["weight_decay"] >= 0)
            check_range("eps", group["eps"], group["eps"] > 0)
            if group["eps"] != self.param_groups[0]["eps"]:
                raise ValueError("eps must be the same in every parameter group: the two losses share one radius.")
        eps = float(self.param_groups[0]["eps"])
        self.trajectory = Trajectory(type(self).__name__, seed, eps, samples, settings or {})
        self.viewed: ModelView | None = None
        self.begin()
        self._trainable()

    @classmethod
    def try_settings(cls, **settings) -> None:
        """Raise what the constructor raises at settings that are wrong, before there is a model: one weight stands for it."""
        cls([torch.nn.Parameter(torch.zeros(1))], **settings)

    def look_through(self, model: nn.Module | None, spare: int | None = None) -> Self:
        """Probe without moving the stored weights: each module of the model sees moved ones while it is called.

        Exact in every dtype, in the memory of the largest module's weights; directions, losses and steps are the usual ones.
        Not for closures that read a trained weight outside its module's call, or not at all: an error, before any update.

        Args:
            model: the module whose parameters these are; None goes back to moving them in place.
            spare: as in `ModelView`.

        Raises:
            ValueError: as in `ModelView`.
        """
        old = self.viewed
        if model is None or old is None or old.model is not model or spare not in (None, old.spare):
            self.viewed = None if model is None else ModelView(model, self._trainable()[0], spare)
        return self

    @abstractmethod
    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update | MomentsUpdate:
        """The change that a step makes, from its record alone, so that `replay` can make it again.

        Args:
            record: projected gradients and hyperparameters of the step.
            blocks: block number of each trainable tensor.
            groups: index of the parameter group of each trainable tensor.
        """

    def direction(self, step: int, sample: int = 0) -> Direction | GivenDirection:
        """A random direction of a step. Replace this on an instance to prescribe directions, as toy problems do."""
        return Direction(self.trajectory.seed, step, sample)

    def probe(self, step: int, sample: int = 0) -> Direction | GivenDirection:
        """What a step measures the two losses along: its direction, here."""
        return self.direction(step, sample)

    def propose(self, tensors: list[Tensor], blocks: tuple[int, ...]) -> tuple[float, ...]:
        """What a step chooses about its scales before it probes, to be recorded with it; here, nothing."""
        return ()

    def scales(self, sigmas: tuple[float, ...], blocks: tuple[int, ...]) -> list[float]:
        """sigma_j of each tensor, a standard deviation: the probe is eps sigma_j z_j and the step lr p sigma_j z_j.

        Args:
            sigmas: what `propose` chose for this step.
            blocks: as in `update`.
        """
        return [1.0] * len(blocks)

    def against(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int], factor: float = 1.0) -> Update:
        """The step -lr * factor * p sigma z, averaged over samples: MeZO's with factor 1 and sigma 1."""
        samples = len(record.projected_grads)
        directions = [self.direction(record.step, sample) for sample in range(samples)]
        scales = self.scales(record.sigmas, blocks)
        lrs = [record.lrs[g] * factor for g in groups]
        steps = [[-lr * p / samples * scale for lr, scale in zip(lrs, scales, strict=True)] for p in record.projected_grads]
        return Update(blocks, directions, steps, record.decays(groups))

    def leave(self, perturbation: Perturbation | ModuleProbe, update: Update | MomentsUpdate) -> None:
        """Take the step in the pass that ends the probe; extended by methods that read the weights in that pass."""
        perturbation.leave(update)

    def begin(self) -> None:
        """Set what a method remembers to what it is before the first step; extended by methods that remember more."""
        self.steps = 0

    def advance(self, record: StepRecord, tensors: list[Tensor] | None, blocks: tuple[int, ...], groups: list[int]) -> None:
        """Bring what a method remembers beyond its trajectory from before the step to after it; here, nothing.

        Args:
            record: the step.
            tensors: the trainable tensors, or None if they contain the step already.
            blocks, groups: as in `update`.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float]) -> float:  # pyrefly: ignore[bad-override]  (torch allows none)
        """Probe the loss on both sides of the weights and step.

        Args:
            closure: returns the loss of the current weights on this step's batch, as one number; called twice a sample.

        Returns:
            The mean of the probed losses: the loss at the weights before the step, up to eps**2 times the curvature.

        Raises:
            ValueError: the closure returned something other than one number, or read weights as `look_through` forbids.
            FloatingPointError: it returned NaN or infinity.
            RuntimeError: looking through a model, a module was called in another thread, or a step inside the closure.

        Whatever the closure raises, and on Ctrl-C, the weights are put back to the bit as they were before the step.
        """
        tensors, blocks, groups = self._trainable()
        eps = self.param_groups[0]["eps"]
        losses, projected_grads = [], []
        sigmas = self.propose(tensors, blocks)
        scales = [eps * scale for scale in self.scales(sigmas, blocks)]
        with DeferInterrupts() as interrupts:
            for sample in range(self.trajectory.samples):
                perturbation = self._perturbation(tensors, blocks, self.probe(self.steps, sample), scales)
                try:
                    perturbation.plus()
                    plus = self._evaluate(closure, perturbation, interrupts)
                    perturbation.minus()
                    minus = self._evaluate(closure, perturbation, interrupts)
                except BaseException:
                    perturbation.leave()
                    raise
                losses += [plus, minus]
                projected_grads.append((plus - minus) / (2 * eps))
                if sample < self.trajectory.samples - 1:
                    perturbation.leave()
            columns = self._column("lr"), self._column("weight_decay")
            record = StepRecord(self.steps, tuple(projected_grads), *columns, sigmas, tuple(losses))
            try:
                update = self.update(record, blocks, groups)
            except BaseException:
                perturbation.leave()
                raise
            self.leave(perturbation, update)
            self._remember(record, tensors, blocks, groups)
        return sum(losses) / len(losses)

    @torch.no_grad()
    def replay(self, records: Iterable[StepRecord]) -> None:
        """Take recorded steps again, without forward passes: the same bits as the run that recorded them."""
        tensors, blocks, groups = self._trainable()
        for record in records:
            if record.step != self.steps:
                raise ValueError(f"the next step to replay is {self.steps}, but the record is of step {record.step}.")
            with DeferInterrupts():
                apply(tensors, self.update(record, blocks, groups))
                self._remember(record, tensors, blocks, groups)

    @torch.no_grad()
    def skip(self, records: Iterable[StepRecord]) -> None:
        """Take note of steps that the weights already contain, as after loading a checkpoint."""
        _, blocks, groups = self._trainable()
        for record in records:
            self._remember(record, None, blocks, groups)

    def state_dict(self) -> dict[str, Any]:
        """Torch's state plus the trajectory, from which everything else that a method remembers is made again."""
        header = self.trajectory.header()
        arrays = {name: torch.from_numpy(array) for name, array in self.trajectory.arrays().items()}
        return {**super().state_dict(), "trajectory": {**header, "records": arrays}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; the weights are the caller's to restore."""
        saved = dict(state_dict["trajectory"])
        if saved["method"] != self.trajectory.method:
            raise ValueError(f"this state belongs to {saved['method']}, not to {self.trajectory.method}.")
        if saved["settings"] != self.trajectory.settings:
            raise ValueError(
                f"this state was made with {saved['settings']}, but this optimizer has {self.trajectory.settings}."
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "trajectory"})
        records = Trajectory.records_from({name: array.numpy() for name, array in saved.pop("records").items()})
        self.trajectory = Trajectory(**saved)
        self.begin()
        self.skip(records)

    def _perturbation(self, tensors: list[Tensor], *settings) -> Perturbation | ModuleProbe:
        if self.viewed is None:
            return Perturbation(tensors, *settings)
        self.viewed = self.viewed.fit(tensors)
        return self.viewed.probe(*settings)

    def _evaluate(self, closure: Callable, perturbation: Perturbation | ModuleProbe, interrupts: DeferInterrupts) -> float:
        with perturbation.evaluated():
            interrupts.allow()
            try:
                loss = closure()
                if isinstance(loss, Tensor) and loss.numel() == 1:
                    loss = loss.item()
            finally:
                interrupts.hold()
        if not isinstance(loss, (int, float)):
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"step {self.steps}: the closure returned {shape}; it must return the loss as one number.")
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"step {self.steps}: the closure returned {loss}; the weights are as before the step. "
                "Lower lr or eps, or check the batch."
            )
        return float(loss)

    def _remember(self, record: StepRecord, *where) -> None:
        self.advance(record, *where)
        self.trajectory.records.append(record)
        self.steps += 1

    def _column(self, name: str) -> tuple[float, ...]:
        return tuple(float(group[name]) for group in self.param_groups)

    def _trainable(self) -> tuple[list[Tensor], tuple[int, ...], list[int]]:
        """Tensors to move, their block numbers (frozen parameters keep theirs) and their groups."""
        tensors, blocks, groups, block = [], [], [], 0
        for g, group in enumerate(self.param_groups):
            names = group.get("param_names", [f"parameter {i} of group {g}" for i in range(len(group["params"]))])
            for name, tensor in zip(names, group["params"], strict=True):
                if tensor.requires_grad:
                    noise.check(tensor, name)
                    tensors.append(tensor)
                    blocks.append(block)
                    groups.append(g)
                block += 1
        if not tensors:
            raise ValueError("there is nothing to train: every parameter given has requires_grad=False.")
        return tensors, tuple(blocks), groups


def check_range(name: str, value: float, holds: bool) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name} must be {'> 0' if name == 'eps' else '>= 0'} and finite, got {value}.")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1, as the decay rate of a moving average must be."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}.")
