"""`transformers.Trainer` with a zeroth-order optimizer: its data, schedules, logs and callbacks, our steps."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from zolab.optim import ZeroOrderOptimizer


class ZeroOrderTrainer(Trainer):
    """A Trainer whose step is a zeroth-order one. The batches of `gradient_accumulation_steps` are one step's batch.

    The model stays in eval mode, since both losses of a probe must be of the same function. A learning-rate schedule of the
    arguments sets the optimizer's rate. Not for several processes, nor for float16 with a scaler.

    Args:
        optimizer: of the model's parameters; its `trajectory` rebuilds the weights afterwards.
        settings: of `transformers.Trainer`.

    Raises:
        ValueError: the optimizer is none of ours, which would take no step, or needs the loss of each example.
    """

    def __init__(self, *, optimizer: ZeroOrderOptimizer, **settings: Any):
        if not isinstance(optimizer, ZeroOrderOptimizer) or optimizer.per_example:
            kind = type(optimizer).__name__
            raise ValueError(
                f"this Trainer steps with zeroth-order optimizers that take one loss a batch, which {kind} is not."
            )
        step = optimizer.step
        # The Trainer's own call, which has no closure, comes after the step was taken.
        optimizer.step = MethodType(lambda _, closure=None: closure and step(closure), optimizer)
        super().__init__(**settings, optimizers=(optimizer, None))
        self.zeroth_order, self.batches = optimizer, []

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Keep a batch; at the last one of a step, take the step. Returns the loss's share of this batch."""
        model.eval()
        self.batches.append(self._prepare_inputs(inputs))
        loss = 0.0
        if self.accelerator.sync_gradients:
            batches, self.batches = self.batches, []
            loss = self.zeroth_order.step(lambda: self._mean_loss(model, batches))
        return torch.tensor(loss, device=self.args.device)

    def _mean_loss(self, model: nn.Module, batches: list[Any]) -> float:
        return sum(self.compute_loss(model, batch).item() for batch in batches) / len(batches)  # pyrefly: ignore[missing-attribute]
