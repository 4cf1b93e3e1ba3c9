"""First-order methods: SGD and Adam by backpropagation, in the least memory that each takes; what zeroth order is measured by.

They are driven by the same loop as the zeroth-order methods. A step's record cannot give its change again, which came from
gradients: such a run keeps the weights of its best step in a file, and no trajectory.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from zolab.models.gradients import consumed, recomputable, recomputed
from zolab.optim import StepRecord, Trajectory
from zolab.optim.checks import plain

FIRST_ORDER: dict[str, dict[str, Any]] = {
    "sgd": {"rule": torch.optim.SGD},
    "adam": {"rule": torch.optim.Adam},
    "sgd_checkpointed": {"rule": torch.optim.SGD, "recompute": True},
    "sgd_fused": {"rule": torch.optim.SGD, "fused": True},
}
"""What each method's name stands for among the settings of `FirstOrder`; its own settings may add to that, or change it."""


class FirstOrder(torch.optim.Optimizer):
    """A rule of `torch.optim` that is driven by a closure, as the zeroth-order optimizers are.

    Beside weights and activations, SGD holds all gradients at once, Adam two moments, too; the two switches are the known ways
    to less. Weights of half precision take a step rounded to nearest, which loses most of a small one; float16 losses are not
    scaled. An error or Ctrl-C in a fused step leaves the weights between two steps.

    Args:
        model: its parameters with `requires_grad` are trained.
        rule: `torch.optim.SGD` or `torch.optim.Adam`.
        lr: learning rate, >= 0, in weight units per unit of the rule's step; may follow a scheduler.
        weight_decay: decoupled, >= 0: each step multiplies the weights by 1 - lr * weight_decay.
        fused: a tensor takes its step inside the backward pass, as soon as its gradient is whole, and the gradient is freed:
            they never exist together (LOMO, arXiv 2306.09782). Same bits, no clipping, which needs all of them.
        recompute: keep only each layer's input for the backward pass, and make its activations again there (arXiv 1604.06174).
            Same bits, one more forward pass.
        own: further settings of the rule: `momentum` of SGD, `betas` and `eps` of Adam.

    Raises:
        ValueError: a setting is out of range, there is nothing to train, or no layer of the model can be recomputed.
        TypeError: the rule has no such setting.
    """

    rounding = "nearest"
    arrived = None  # of its step nothing is measured

    def __init__(
        self,
        model: nn.Module,
        rule: Callable[..., torch.optim.Optimizer],
        *,
        lr: float,
        weight_decay: float = 0.0,
        fused: bool = False,
        recompute: bool = False,
        **own: Any,
    ):
        for name, value in (("fused", fused), ("recompute", recompute)):
            if type(value) is not bool:
                raise ValueError(f"{name} must be True or False, got {value!r}.")
        if recompute and not recomputable(model):
            raise ValueError(f"{type(model).__name__} marks no layers that can be recomputed; leave recompute out.")
        params = [p for p in model.parameters() if p.requires_grad]
        if not params:
            raise ValueError("there is nothing to train: every parameter has requires_grad=False.")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        parts = [[p] for p in params] if fused else [params]
        self.rules = [rule(part, lr=lr, foreach=False, **own) for part in parts]  # foreach would make copies of all tensors
        self.model, self.fused, self.recompute, self.steps = model, fused, recompute, 0
        settings = plain({"fused": fused, "recompute": recompute, **own})
        # The steps as the log has them. Gradients changed the weights, not these records: they give nothing to replay.
        self.trajectory = Trajectory(type(self.rules[0]).__name__, 0, 0.0, 1, settings, overwritten=0)

    @staticmethod
    def forwards(recompute: bool = False, **_: Any) -> int:
        """Forward passes that a step counts as: the backward pass takes as long as two, recomputation makes one more."""
        return 3 + recompute

    def step(self, closure: Callable[[], Tensor | float]) -> float:  # pyrefly: ignore[bad-override]
        """Step against the gradient of the loss.

        Args:
            closure: returns the loss of the current weights on this step's batch, one number with its graph; called once.

        Returns:
            The loss before the step.

        Raises:
            ValueError: the loss has no gradient.
            FloatingPointError: the loss is NaN or infinite. Nothing has moved then.
        """
        with torch.enable_grad(), ExitStack() as around:
            if self.recompute:
                around.enter_context(recomputed(self.model))
            loss = closure()
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise ValueError("the loss has no gradient, which first-order methods need; use a zeroth-order one.")
            if not torch.isfinite(loss):
                raise FloatingPointError(f"step {self.steps}: the loss is {loss.item()}; lower lr.")
            if self.fused:
                around.enter_context(consumed(self.param_groups[0]["params"], self._arrived))
            loss.backward()
        if not self.fused:
            self._take(self.rules[0])
        group = self.param_groups[0]
        rates = (float(group["lr"]),), (float(group["weight_decay"]),)
        self.trajectory.records.append(StepRecord(self.steps, (), *rates))
        self.steps += 1
        return loss.item()

    def skip(self, records: Iterable[StepRecord]) -> None:
        """Take note of steps that the weights already contain, as after loading them."""
        self.trajectory.extend(records)
        self.steps = len(self.trajectory.records)

    def replay(self, records: Iterable[StepRecord]) -> None:
        """Raise ValueError if there are steps to be taken again: they cannot be."""
        if list(records):
            raise ValueError(
                "the weights that a first-order run keeps in weights-STEP.safetensors are gone, and its steps cannot be "
                "replayed; run it again with --overwrite."
            )

    def resumable(self, step: int) -> bool:
        """Whether the weights after so many steps are enough to go on from: those that are kept, always."""
        return True

    def _arrived(self, j: int, gradient: Tensor) -> None:
        """The gradient of a tensor is whole."""
        self.param_groups[0]["params"][j].grad = gradient
        self._take(self.rules[j])

    @torch.no_grad()
    def _take(self, rule: torch.optim.Optimizer) -> None:
        """The step of a rule's tensors, whose gradients are freed."""
        (group,), (mine,) = rule.param_groups, self.param_groups
        group["lr"] = mine["lr"]
        if mine["weight_decay"]:
            for p in group["params"]:
                p.mul_(1 - mine["lr"] * mine["weight_decay"])
        rule.step()
        rule.zero_grad()


class _OneWeight(GradientCheckpointingLayer):
    """Stands for a model that is not there yet."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def first_order(name: str, model: nn.Module | None = None, **settings: Any) -> FirstOrder:
    """The optimizer of a method's name. Raises what `FirstOrder` does.

    Args:
        name: of `FIRST_ORDER`.
        model: what to train; without one, settings are tried before there is a model.
        settings: of `FirstOrder`.
    """
    known = {"lr", "weight_decay", "fused", "recompute", "momentum", "betas", "eps"}
    if unknown := sorted(settings.keys() - known):
        raise TypeError(f"{name} has no setting {unknown[0]}; choose {', '.join(sorted(known - {'lr', 'weight_decay'}))}")
    return FirstOrder(_OneWeight() if model is None else model, **{**FIRST_ORDER[name], **settings})
