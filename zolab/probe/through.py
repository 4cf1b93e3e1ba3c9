"""A probe that never moves the stored weights: each module looks through a pane at w + d, then at w - d.

While a module that owns trained weights runs, it finds scale_j z_j added to them in a room that the next module uses again;
when it is done it has its own weights back. So there is nothing to undo: the weights are exact in every dtype without a
journal, no interrupt, NaN or kill can leave a moved one behind, and the memory is that of one module's weights.

The price: a weight must be read by its module, while that is called. What a closure reads elsewhere, such as
`F.linear(x, model.head.weight)`, would not be moved; that is an error which names the tensor, before any update. Probe in
place then (`zolab.probe.in_place`). Directions, losses and steps of the two are the same.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.noise import Direction, GivenDirection, Sources, chunks, for_each
from zolab.noise.kernels.threefry import TILE
from zolab.probe.in_place import MomentsUpdate, Update, apply
from zolab.probe.owners import Part, Rooms, owners_of
from zolab.probe.watch import Watch

REMEDY = "call the module that owns it, freeze it, or probe in place"
_busy: set[int] = set()
"""The modules that are looked through at this moment, in any thread."""


class Panes:
    """What looking through a model takes, kept from step to step: the owners of its weights, and their rooms.

    Args:
        model: the module whose weights the tensors are; its modules may be tied, frozen in part, nested, or called twice.
        tensors: the trained ones, contiguous.

    Raises:
        ValueError: a tensor is none of the model's, the model is compiled, or a module has weights on several devices.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[Tensor]):
        self.model, self.tensors = model, list(tensors)
        self.pieces = chunks(self.tensors)
        self.owners, self.names = owners_of(model, self.tensors, self.pieces)
        self.rooms = Rooms()
        self.form = self._form()
        self.watched: set[tuple[int, ...]] = set()
        """Orders of calls that were seen to read no weight elsewhere."""

    def fit(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the model and its trained tensors are still those that this was made for."""
        same = len(tensors) == len(self.tensors) and all(a is b for a, b in zip(tensors, self.tensors, strict=True))
        return same and self.form == self._form()

    def try_out(self, closure: Callable[[], Any]) -> None:
        """Call a closure once, at the weights as they are.

        Raises:
            ValueError: it reads weights in ways in which they cannot be moved.
        """
        probe = Through(self, tuple(range(len(self.tensors))), Direction(0, 0), [0.0] * len(self.tensors))
        try:
            with torch.no_grad():
                probe.plus()
                with probe.evaluated(watch=True):
                    closure()
        finally:
            probe.leave()

    def _form(self) -> list[int]:
        values = [id(value) for module in self.model.modules() for value in module._parameters.values()]
        return values + [tensor.data_ptr() for tensor in self.tensors]


class Through:
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j; it is used as `Perturbation` is.

    Args:
        panes: of the model.
        blocks: the block number of each tensor.
        direction: the direction z.
        scales: one factor for each tensor, eps times sigma_j.
    """

    def __init__(self, panes: Panes, blocks: tuple[int, ...], direction: Direction | GivenDirection, scales: Sequence[float]):
        self.panes, self.scales = panes, scales
        self.sources = Sources([direction], blocks)
        self.side, self.thread = 0, threading.get_ident()
        self.modules: set[int] = set()
        self.handles: list[Any] = []
        self.calls: list[int] = []
        self.watch: Watch | None = None
        self.elsewhere: str | None = None

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self._open()
        self.side = 1

    def minus(self) -> None:
        """Show w - scale z from now on."""
        self._tidy()
        self.side = -1

    @contextmanager
    def evaluated(self, watch: bool = False) -> Iterator[None]:
        """Around each call of a closure: see that every tensor was moved where it was read.

        Args:
            watch: look out for tensors that are read elsewhere; done anyway at the second side, if the first side called
                modules in an order that has not been watched yet.

        Raises:
            ValueError: a tensor was read outside the call of its module, or not at all.
        """
        panes = self.panes
        watch = watch or (self.side < 0 and tuple(self.calls) not in panes.watched)
        self.calls = []
        self.watch = Watch(panes.tensors, panes.names, self._complain) if watch else None
        with self.watch or nullcontext():
            yield
        if self.elsewhere:
            self._complain(self.elsewhere)
        reached = {j for number in set(self.calls) for j in panes.owners[number].parts}
        if missing := [name for j, name in enumerate(panes.names) if j not in reached]:
            more = f" (as none that owns {len(missing) - 1} others)" if len(missing) > 1 else ""
            raise ValueError(f"no module that owns {missing[0]} was called while the closure ran{more}; {REMEDY}.")
        if watch:
            panes.watched.add(tuple(self.calls))

    def leave(self, update: Update | MomentsUpdate | None = None, *, measure: bool = False) -> np.ndarray | None:
        """End the probe and apply the update to the weights; arguments and result as of `Perturbation.leave`."""
        self._close()
        return apply(self.panes.tensors, update, measure=measure, pieces=self.panes.pieces)

    def _open(self) -> None:
        modules = {id(owner.module) for owner in self.panes.owners}
        if not _busy.isdisjoint(modules):
            raise RuntimeError(
                "the model is being looked through already: a step cannot be taken inside another one's closure."
            )
        self.modules = modules
        _busy.update(modules)
        for number, owner in enumerate(self.panes.owners):
            self.handles.append(owner.module.register_forward_pre_hook(partial(self._enter, number), prepend=True))
            self.handles.append(owner.module.register_forward_hook(partial(self._exit, number), always_call=True))

    def _close(self) -> None:
        if not self.modules:
            return
        self._tidy()
        for handle in self.handles:
            handle.remove()
        _busy.difference_update(self.modules)
        self.side, self.handles, self.modules = 0, [], set()

    def _tidy(self) -> None:
        """Put modules right that an interrupt broke off."""
        for owner in self.panes.owners:
            owner.restore()

    def _enter(self, number: int, module: nn.Module, args: Any) -> None:
        owner = self.panes.owners[number]
        if threading.get_ident() != self.thread:
            kind = type(module).__name__
            raise RuntimeError(
                f"a {kind} was called in a thread of its own, where its weights cannot be moved; probe in place."
            )
        self.calls.append(number)
        owner.depth += 1
        if owner.depth > 1:
            return  # it calls itself, and has what it needs
        with self.watch.looking_away() if self.watch else nullcontext():
            owner.room = self.panes.rooms.take(owner.bytes, owner.device)
            start = 0
            for part in owner.parts.values():
                size = part.weight.numel() * part.weight.element_size()
                flat = owner.room[start : start + size].view(part.weight.dtype)
                self._move(part, flat)
                part.fill(flat)
                start += part.bytes

    def _exit(self, number: int, *_: Any) -> None:
        owner = self.panes.owners[number]
        if threading.get_ident() != self.thread or not owner.depth:
            return  # called although `_enter` raised
        owner.depth -= 1
        if not owner.depth and (room := owner.restore()) is not None:
            self.panes.rooms.give(room)

    def _move(self, part: Part, flat: Tensor) -> None:
        """flat = w + side scale z."""
        scale = self.side * self.scales[part.number]
        pieces = part.pieces
        if not pieces:
            return
        data = pieces[0].kernels.view(flat)

        def work(i: int) -> None:
            piece = pieces[i]
            first = piece.tile * TILE
            out = data[first : first + len(piece.data)]
            piece.kernels.perturbed(out, piece.data, piece.tile, self.sources.at(piece), scale)

        for_each(pieces, work, flat.numel())

    def _complain(self, name: str) -> None:
        self.elsewhere = name
        raise ValueError(f"{name} is read outside the call of its module, where this probe cannot move it; {REMEDY}.")
