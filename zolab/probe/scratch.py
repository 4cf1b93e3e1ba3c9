"""Memory in which modules compute with moved weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zolab.noise import Chunk
from zolab.noise.kernels.threefry import TILE
from zolab.probe.halves import Moved
from zolab.probe.owners import Owner, Part


class Slot(NamedTuple):
    """A part's place in scratch memory.

    Args:
        part: the part.
        pieces: the part's pieces, each with the piece of the scratch that belongs to it.
        views: what the module finds in each of the part's places.
    """

    part: Part
    pieces: list[tuple[Chunk, Any]]
    views: list[Tensor]


class Scratch:
    """Memory in which one module at a time computes with moved weights.

    Args:
        size: in bytes.
        device: of the memory.
    """

    def __init__(self, size: int, device: torch.device):
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.slots: dict[Owner, list[Slot]] = {}
        self.users = 0

    def slots_of(self, owner: Owner) -> list[Slot]:
        """A slot for each part of the owner, made once."""
        if owner not in self.slots:
            parts = zip(owner.parts.values(), owner.starts, strict=False)
            self.slots[owner] = [_slot(part, self.memory[start : start + part.bytes]) for part, start in parts]
            self.users = _users(self.memory)
        return self.slots[owner]

    @property
    def is_still_used(self) -> bool:
        """Whether somebody else holds a view of the memory; also where torch does not tell."""
        return _users(self.memory) != self.users or self.users < 0


def _slot(part: Part, scratch: Tensor) -> Slot:
    flat = scratch.view(part.weight.dtype)
    data = part.pieces[0].kernels.view(flat) if part.pieces else None
    pieces = [(piece, opposite(piece, data)) for piece in part.pieces]
    return Slot(part, pieces, [flat.as_strided(own.shape, own.stride()) for _, _, own in part.places])


def _users(memory: Tensor) -> int:
    """How many tensors share a memory, or -1."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return count(memory.untyped_storage()._cdata) if count else -1


class ScratchPool:
    """One piece of scratch a device for as long as modules take turns, and one more for each module inside another.

    What something still looks into when its module is done, such as an output that is a view of the weights, or what a
    backward pass will need, is never used again.
    """

    def __init__(self):
        self.free: list[Scratch] = []
        self.lent: list[Scratch] | None = None
        """What has been taken since somebody began to keep a list."""

    def take(self, size: int, device: torch.device) -> Scratch:
        """Scratch of at least so many bytes, the smallest there is; if all are too small, one makes way for it."""
        free = sorted((s for s in self.free if s.memory.device == device), key=lambda s: s.memory.numel())
        fitting = [scratch for scratch in free if scratch.memory.numel() >= size]
        for scratch in (fitting or free)[:1]:
            self.free.remove(scratch)
        chosen = fitting[0] if fitting else Scratch(size, device)
        if self.lent is not None:
            self.lent.append(chosen)
        return chosen

    def holds(self, scratches: Sequence[Scratch]) -> bool:
        """Whether all of these are free."""
        return all(any(one is other for other in self.free) for one in scratches)

    def give(self, scratch: Scratch) -> None:
        if not scratch.is_still_used:
            self.free.append(scratch)


class BothSides:
    """Scratch for both sides of every trained tensor.

    Args:
        tensors: the trained tensors.
        pieces: their chunks.
        owners: the modules that read them.
    """

    def __init__(self, tensors: Sequence[Tensor], pieces: Sequence[Chunk], owners: Sequence[Owner]):
        sides = [[torch.empty_like(tensor).view(-1) for tensor in tensors] for _ in range(2)]
        kernels = {piece.tensor: piece.kernels for piece in pieces}
        data = [{j: kernels[j].view(side[j]) for j in kernels} for side in sides]
        self.pieces = [(piece, *(opposite(piece, side[piece.tensor]) for side in data)) for piece in pieces]
        """Each piece with its opposites on both sides."""
        self.chunks = pieces
        plus, minus = sides
        self.of: dict[Owner, Moved] = {
            owner: [
                (places, name, _like(plus[part.number], own), _like(minus[part.number], own))
                for part in owner.parts.values()
                for places, name, own in part.places
            ]
            for owner in owners
        }
        """Where each module finds a tensor, and what it is on both sides."""
        self.addresses = self._addresses()

    def intact(self) -> bool:
        """Whether every copy still is where it was made."""
        return self._addresses() == self.addresses

    def _addresses(self) -> list[int]:
        return [side.data_ptr() for moved in self.of.values() for _, _, plus, minus in moved for side in (plus, minus)]


def _like(copy: Tensor, own: Tensor) -> Tensor:
    return copy.as_strided(own.shape, own.stride())


def opposite(piece: Chunk, data: Any) -> Any:
    """The part of a flat tensor, as the kernels take it, that is where the piece is in its own."""
    return data[piece.tile * TILE : piece.tile * TILE + len(piece.data)]
