"""The journal of weights moved in place on a GPU, whose size only the GPU knows when it is written."""

import weakref

import torch
from torch import Tensor

from zolab.noise.kernels.threefry import TILE

JOURNAL = 1 << 24  # weights moved by one launch in place: they bound the room that a journal takes before its size is known
_latest: list[weakref.ref] = []


class Journal:
    """What one launch writes down: room for every weight at first, and for as many as there are once that is known.

    To ask the GPU for a number is to wait for all that it has been given to do. So a journal is cut to its size only when
    the next has been begun: the GPU always has a launch to work on, and no more than two have room to spare.

    Args:
        w: the weights that the launch moves.
    """

    def __init__(self, w: Tensor):
        tiles = -(-w.numel() // TILE)
        self.table = torch.zeros(2 * tiles + 1, dtype=torch.int32, device=w.device)
        self.total, self.firsts, self.counts = self.table[:1], self.table[1 : tiles + 1], self.table[tiles + 1 :]
        self.where = torch.empty(w.numel(), dtype=torch.int16, device=w.device)
        self.kept = torch.empty_like(w)
        self.size: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        return self.firsts, self.counts, self.where, self.kept

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.table.nbytes + self.where.nbytes + self.kept.nbytes

    def written(self) -> None:
        """To be called when the launch has been made: cut the journal before this one to its size."""
        if self.table.is_cuda:
            self.size = torch.empty(1, dtype=torch.int32, pin_memory=True)
            self.size.copy_(self.total, non_blocking=True)
            self.known = torch.cuda.Event()
            self.known.record()
        else:
            self.size = self.total
        before = _latest.pop()() if _latest else None
        _latest.append(weakref.ref(self))
        if before is not None:
            before.cut()

    def cut(self) -> None:
        if self.table.is_cuda:
            self.known.synchronize()
        size = int(self.size)
        self.where, self.kept = self.where[:size].clone(), self.kept[:size].clone()
