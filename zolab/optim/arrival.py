"""How much of a step arrives in weights of half precision, on a sample of them.

Rounded to nearest, a step smaller than half the spacing of a weight's numbers is lost, and a larger one may arrive too long.
With s the step that was meant, and w and w' the weights before and after it, what arrives is

    share = sum (w' - w) s / sum s^2,

1 where nothing is lost or where losses cancel, 0 where no weight moves. The sample is a few tiles of the weights at even
distances, the same in every step; s is made there again from its address. Nothing is measured where s cannot be made again,
since the step came from stored moments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zolab.noise import Chunk
from zolab.noise.kernels import backend_for
from zolab.noise.kernels.threefry import TILE
from zolab.probe.updates import AnyUpdate, MomentsUpdate, Update

TILES = 16  # of 2,048 weights each


class Arrived(NamedTuple):
    """What became of a step.

    Args:
        share: of the step that arrived, along itself.
        moved: share of the weights that changed, of those that were meant to.
    """

    share: float
    moved: float


class Tiles:
    """A sample of the half-precision weights among the trained tensors."""

    def __init__(self, tensors: Sequence[Tensor]):
        counts = [-(-tensor.numel() // TILE) if tensor.element_size() < 4 else 0 for tensor in tensors]
        ends = np.cumsum(counts)
        chosen = np.unique(((np.arange(TILES) + 0.5) / TILES * ends[-1]).astype(int)) if sum(counts) else []
        owners = [int(np.searchsorted(ends, at, side="right")) for at in chosen]
        self.places = [(j, int(at - ends[j] + counts[j])) for j, at in zip(owners, chosen, strict=True)]
        flat = [tensors[j].detach().view(-1) for j, _ in self.places]
        self.weights = [whole[tile * TILE : (tile + 1) * TILE] for whole, (_, tile) in zip(flat, self.places, strict=True)]

    def copied(self) -> list[Tensor]:
        """The sampled weights as they are now."""
        return [weights.clone() for weights in self.weights]

    def arrived(self, before: Sequence[Tensor], update: AnyUpdate) -> Arrived | None:
        """Compare the weights with the step that was taken; None if that step is unknown, or zero.

        Args:
            before: what `copied` gave before the step.
            update: the step.
        """
        sums = []
        for (j, tile), start, weights in zip(self.places, before, self.weights, strict=True):
            added = torch.zeros(start.shape, device=start.device)
            if not _add(update, j, tile, added):
                return None
            step = (update.decays[j] - 1) * start.double() + added.double()
            arrived_step = weights.double() - start.double()
            sums.append(
                torch.stack(
                    [
                        (arrived_step * step).sum(),
                        (step * step).sum(),
                        ((arrived_step != 0) & (step != 0)).sum(),
                        (step != 0).sum(),
                    ]
                )
            )
        along, squares, moved, meant = torch.stack(sums).sum(0).tolist() if sums else (0.0,) * 4
        return Arrived(along / squares, moved / meant) if squares else None


def _add(update: AnyUpdate, tensor: int, tile: int, zeros: Tensor) -> bool:
    """Add to zeros in float32 what a step adds to a tile of a tensor; False if the step cannot be made again."""
    if not isinstance(update, Update | MomentsUpdate) or not update.sources.directions:
        return False
    kernels = backend_for(zeros)
    update.apply(Chunk(tensor, kernels, kernels.view(zeros), tile))
    if isinstance(update, MomentsUpdate):
        update.squares.pop()  # of a step that was not taken
    return True
