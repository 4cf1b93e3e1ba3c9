"""The step that every zeroth-order method shares: probe along a direction, then step along it.

    +eps z, loss, -2 eps z, loss, back and update                                         (arXiv 2305.17333, Algorithm 1)

A method says which losses it needs and how they become an update (`zolab.optim.method`); safety and bookkeeping live here.
"""

import copy
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from zolab.noise import FAMILIES, Direction, GivenDirection
from zolab.optim.changes import Changes, Standstill, StandstillWarning, looked_after
from zolab.optim.checks import ROUNDINGS, check_choice, check_closure, check_groups, plain, warn_of_lost_decay, whole
from zolab.optim.method import Method
from zolab.optim.parameters import Trainable, check_same, difference, layout, trainable
from zolab.optim.probing import Closure, Probes, evaluated
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.probe.blocks import unique
from zolab.probe.in_place import Perturbation
from zolab.probe.interrupts import DeferInterrupts
from zolab.probe.model_view import ModelView
from zolab.probe.through import ModuleProbe
from zolab.probe.updates import apply


class ZeroOrderOptimizer(Method, torch.optim.Optimizer):
    """Base of the zeroth-order optimizers: a `torch.optim.Optimizer` whose closure is evaluated, never differentiated.

    Every parameter is a block, numbered in the order given; parameters that share memory count once, those with
    `requires_grad=False` are left alone. Put the model in eval mode yourself if it has dropout: both losses of a probe
    must see the same function.

    Args:
        params: tensors, (name, tensor) pairs or parameter groups, as for any torch optimizer.
        lr: learning rate, >= 0. May differ between groups and follow a scheduler.
        eps: finite-difference radius, > 0, in units of the weights; one for all groups.
        weight_decay: decoupled, >= 0: each step multiplies the weights by 1 - lr * weight_decay, a float32 number but for
            float64 weights. It is 1 where lr * weight_decay is at most 2**-25, which a warning says.
        seed: names the sequence of directions; 0 <= seed < 2**64.
        samples: directions averaged in each step, >= 1; each takes two forward passes.
        rounding: how weights of half precision take a step: "nearest" loses steps that are smaller than half the spacing of
            their numbers, "stochastic" goes up or down at random, without bias and the same again in a replay. By default
            "stochastic" where there are such weights; others do not change.
        directions: the family of the directions, "gaussian" or "rademacher", see `zolab.noise.Direction`.
        settings: further hyperparameters of a method, as its constructor names them; they travel with the trajectory.

    Raises:
        ValueError: an argument is out of range, there is nothing to train, or a weight cannot be changed in place.
    """

    _stepping: Trainable | None = None  # what the step trains that is being taken

    def __init__(
        self,
        params: Iterable,
        *,
        lr: float,
        eps: float,
        weight_decay: float,
        seed: int,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
        settings: dict[str, Any] | None = None,
    ):
        seed, samples = whole("seed", seed), whole("samples", samples, 1)
        Direction(seed, 0)
        check_choice("rounding", rounding, (None, *ROUNDINGS))
        check_choice("directions", directions, FAMILIES)
        super().__init__(unique(params), {"lr": lr, "eps": eps, "weight_decay": weight_decay})
        check_groups(self.param_groups)
        eps = float(self.param_groups[0]["eps"])
        family = {} if directions == FAMILIES[0] else {"directions": directions}
        self.trajectory = Trajectory(type(self).__name__, seed, eps, samples, plain({**(settings or {}), **family}))
        self.viewed: ModelView | None = None
        self.changes: Changes | None = Changes(self.trained())
        self.asked_rounding = rounding
        self._choose_rounding(self.changes)
        self.standstill = Standstill()
        self.begin()
        self.fits()
        warn_of_lost_decay(self.param_groups)

    @classmethod
    def try_settings(cls, **settings) -> None:
        """Raise what the constructor raises at settings that are wrong, before there is a model: one weight stands for it."""
        cls([torch.nn.Parameter(torch.zeros(1))], **settings)

    def look_through(self, model: nn.Module | None, spare: int | None = None) -> Self:
        """Probe without moving the stored weights: each module of the model sees moved ones while it is called.

        Exact in every dtype, in the memory of the largest module's weights; directions, losses and steps are the usual ones.
        Not for closures that read a trained weight outside its module's call, or not at all: an error, before any update. Only
        what a model itself passes over, such as an expert that no token is sent to, may stay unread; it is stepped as in place.

        Args:
            model: the module whose parameters these are; None goes back to moving them in place.
            spare: as in `ModelView`.

        Raises:
            ValueError: as in `ModelView`.
        """
        old = self.viewed
        if model is None or old is None or old.model is not model or spare not in (None, old.spare):
            self.viewed = None if model is None else ModelView(model, self.trained().tensors, spare)
        return self

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float:  # pyrefly: ignore[bad-override]
        """Probe the loss around the weights and step.

        Args:
            closure: returns the loss of the current weights on this step's batch, as one number; called as often as
                `forwards` says. It leaves the weights where they are.

        Returns:
            The loss at the weights before the step, or the mean of the losses on both sides of them, which is the same up to
            eps**2 times the curvature.

        Raises:
            ValueError: there is no closure, or it returned something other than one number, gave weights other memory, or
                read them as `look_through` forbids; a setting is out of range; the parameters are others than at first.
            FloatingPointError: it returned NaN or infinity.
            RuntimeError: looking through a model, a module was called in another thread, or a step inside the closure.

        Whatever the closure raises, and on Ctrl-C, the weights are put back to the bit as they were before the step. A warning
        says if something else changed the weights since the last step, and if steps have no effect.
        """
        closure = check_closure(closure)
        check_groups(self.param_groups)
        changes = self._look_after(trained := self.trained())
        self._stepping = trained
        try:
            loss, nothing = self._step(closure, trained, changes)
        finally:
            self._stepping = None
        if nothing:
            warnings.warn(nothing, StandstillWarning, stacklevel=4)  # the caller of what torch wraps a step in
        return loss

    def _step(self, closure: Closure, trained: Trainable, changes: Changes) -> tuple[float, str | None]:
        """A step's loss, and what is to be said of steps that have no effect."""
        tensors, blocks, groups, _ = trained
        eps = float(self.param_groups[0]["eps"])
        sigmas = self.propose(tensors, blocks)
        scales = [eps * scale for scale in self.scales(sigmas, blocks)]
        with DeferInterrupts() as interrupts:
            self.depart(tensors, blocks)
            self.standstill.before(changes, self.steps, self.rounding == ROUNDINGS[0])
            perturb = partial(self._perturbation, changes, blocks)
            evaluate = partial(evaluated, interrupts, changes, self.steps)
            with Probes(tensors, scales, closure, perturb, evaluate) as probes:
                measured = self.measure(probes, eps)
                columns = self._column("lr"), self._column("weight_decay")
                chosen = sigmas if measured.sigmas is None else measured.sigmas
                record = StepRecord(self.steps, tuple(measured.projected_grads), *columns, chosen, tuple(measured.losses))
                update = self._rounded_update(record, blocks, groups)
            self.leave(probes, update)
            self._remember(record, tensors, blocks, groups)
            factors = [record.lrs[g] * scale for g, scale in zip(groups, scales, strict=True)]
            nothing = self.standstill.after(changes, record, factors, update)
            self.arrived = self.standstill.arrived
        return measured.loss, nothing

    @torch.no_grad()
    def replay(self, records: Iterable[StepRecord]) -> None:
        """Take recorded steps again, without forward passes: the same bits as the run that recorded them.

        Raises:
            ValueError: they do not follow the steps so far, or lack what the method needs. Nothing has moved then.
        """
        tensors, blocks, groups, _ = trained = self.trained()
        records = list(records)
        for number, record in enumerate(records, self.steps):
            if record.step != number:
                raise ValueError(f"the next step to replay is {number}, but the record is of step {record.step}.")
            if len(record.lrs) != len(self.param_groups):
                raise ValueError(f"the run had {len(record.lrs)} parameter groups, and here are {len(self.param_groups)}.")
            self.check_record(record)
        changes = self._look_after(trained)
        changes.forget()
        for record in records:
            with DeferInterrupts():
                self.depart(tensors, blocks)
                apply(tensors, self._rounded_update(record, blocks, groups))
                self._remember(record, tensors, blocks, groups)
        changes.note()

    @torch.no_grad()
    def skip(self, records: Iterable[StepRecord]) -> None:
        """Take note of steps that the weights already contain, as after loading a checkpoint."""
        _, blocks, groups, _ = self.trained()
        for record in records:
            self.check_record(record)
            self._remember(record, None, blocks, groups)
        if self.changes:
            self.changes.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters before the first step. Raises ValueError after it, and for what the constructor refuses."""
        if not hasattr(self, "trajectory"):  # torch's constructor adds the first ones
            super().add_param_group(param_group)
            return
        if self.steps:
            raise ValueError("parameters cannot be added after the first step, which numbered them; begin a new optimizer.")
        before = list(self.param_groups)
        *_, group = unique([*({"params": group["params"]} for group in before), param_group])
        super().add_param_group(group)
        try:
            check_groups(self.param_groups)
            self.changes = Changes(self.trained())
            self._choose_rounding(self.changes)
            self.fits()
        except ValueError:
            self.param_groups[:] = before
            raise

    def state_dict(self) -> dict[str, Any]:
        """Torch's state plus the trajectory, from which everything else that a method remembers is made again."""
        header = self.trajectory.header()
        arrays = {name: torch.from_numpy(array) for name, array in self.trajectory.arrays().items()}
        return {**super().state_dict(), "trajectory": {**header, "records": arrays}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; the weights are the caller's to restore."""
        saved = copy.deepcopy(state_dict["trajectory"])
        if saved["method"] != self.trajectory.method:
            raise ValueError(f"this state belongs to {saved['method']}, not to {self.trajectory.method}.")
        mine, theirs = ({**settings, "rounding": None} for settings in (self.trajectory.settings, saved["settings"]))
        if mine != theirs:
            raise ValueError(f"this state was made with {saved['settings']}, this optimizer with {self.trajectory.settings}.")
        if saved.get("parameters") and (other := difference(self.param_groups, saved["parameters"])):
            raise ValueError(f"this state belongs to other parameters ({other}); give those of the run, frozen as they were.")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "trajectory"})
        records = Trajectory.records_from({name: array.cpu().numpy() for name, array in saved.pop("records").items()})
        self.trajectory = Trajectory(**saved)
        self.standstill = Standstill()
        self.begin()
        self.skip(records)

    def __getstate__(self) -> dict[str, Any]:
        """Everything of a run, for copies and pickles; not what belongs to this process, such as hooks and `look_through`."""
        state = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name not in ("step", "spread", "sides_apart")
        }
        return {**state, "viewed": None, "changes": None}

    def _choose_rounding(self, changes: Changes) -> None:
        half = any(tensor.element_size() < 4 for tensor in changes.tensors)
        self.rounding = self.asked_rounding or ("stochastic" if half else "nearest")

    def trained(self) -> Trainable:
        """What is trained. Raises ValueError if it is not what was trained in the steps so far."""
        if self._stepping is not None:
            return self._stepping  # as it was when the step began
        trained = trainable(self.param_groups)
        check_same(self.param_groups, self.trajectory.parameters)
        return trained

    def _look_after(self, trained: Trainable) -> Changes:
        self.changes = looked_after(self.changes, trained, self.trajectory, self.steps)
        return self.changes

    def _perturbation(
        self,
        changes: Changes,
        blocks: tuple[int, ...],
        direction: Direction | GivenDirection,
        scales: list[float],
        both: bool,
    ) -> Perturbation | ModuleProbe:
        if self.viewed is None:
            return Perturbation(changes.tensors, blocks, direction, scales, changes.pieces)
        self.viewed = self.viewed.fit(changes.tensors)
        return self.viewed.probe(blocks, direction, scales, both)

    def _remember(self, record: StepRecord, *where) -> None:
        self.advance(record, *where)
        if self.trajectory.parameters is None:
            self.trajectory.parameters = layout(self.param_groups)
        self.trajectory.records.append(record)
        self.steps += 1

    def _column(self, name: str) -> tuple[float, ...]:
        return tuple(float(group[name]) for group in self.param_groups)
