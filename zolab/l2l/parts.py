"""The weights that a step of learning to learn moves: all of them, or in each of several ranks a part of every tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zolab.models.gradients import gradient_of, squares
from zolab.models.shards import own_part, start_of
from zolab.noise import Direction, MadeDirection, on_parts
from zolab.probe.blocks import moments
from zolab.runs.ranks import ALONE, Ranks


class Parts:
    """Parameters, and what this process holds of them.

    Args:
        params: the trainable parameters, sharded if there are several ranks.
        ranks: those who hold them.
    """

    def __init__(self, params: Sequence[Tensor], ranks: Ranks = ALONE):
        self.params, self.ranks = list(params), ranks
        self.tensors = [own_part(p.detach()) if ranks.count > 1 else p for p in self.params]
        self.starts = [start_of(p) for p in self.params]

    def direction(self, name: Direction) -> Direction | MadeDirection:
        """A direction of the whole tensors on what is held of them."""
        return name if self.ranks.count == 1 else on_parts(name, self.starts, self.tensors)

    def gradient(self, j: int) -> Tensor:
        """What is held of a parameter's gradient. Raises ValueError if a backward pass left none."""
        return own_part(gradient_of(self.params[j]))

    def moments(self) -> np.ndarray:
        """Sum and sum of squares of each whole tensor, float64 of shape (tensors, 2); the same bits in each rank."""
        return self.total(moments(self.tensors))

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sums over the ranks of what each has found on its parts."""
        if self.ranks.count == 1:
            return values
        return np.array(self.ranks.total(values.ravel().tolist())).reshape(values.shape)

    def forget_gradients(self) -> None:
        for p in self.params:
            p.grad = None

    def clip(self, largest: float) -> None:
        """Bring the length of the whole gradient down to `largest`, if it is more."""
        if self.ranks.count == 1:
            torch.nn.utils.clip_grad_norm_(self.params, largest)
            return
        by_tensor = squares(self.gradient(j) for j in range(len(self.params)))
        factor = largest / (float(self.total(by_tensor).sum()) ** 0.5 + 1e-6)  # as torch's clip_grad_norm_
        for j in range(len(self.params) if factor < 1 else 0):
            self.gradient(j).mul_(factor)
