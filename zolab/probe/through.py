"""A probe that never moves the stored weights: each module computes with w + d, then with w - d, in scratch memory.

While a module that owns trained weights runs, it finds scale_j z_j added to them in scratch that the next module uses again;
when it is done it has its own weights back. So there is nothing to undo: the weights are exact in every dtype without a
journal, no interrupt, NaN or kill can leave a moved one behind, and the memory is that of one module's weights.

The price: a weight must be read by its module, while that is called. What a closure reads elsewhere, such as
`F.linear(x, model.head.weight)`, would not be moved; that is an error which names the tensor, before any update. Probe in
place then (`zolab.probe.in_place`). Directions, losses and steps of the two are the same.

A model may pass over modules, as a mixture does over experts that no token is sent to: the loss does not depend on their
weights then, which take the step all the same, as in the published method.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.noise import Chunk, Direction, GivenDirection, Sources, for_each
from zolab.probe.large import banded, is_large, runs_in_bands
from zolab.probe.owners import Owner, claim, let_go, refuse_compiler, unread
from zolab.probe.rows import add_rows, adds_rows, move_tiles, tiles_read
from zolab.probe.updates import AnyUpdate, apply
from zolab.probe.watch import Watch

if TYPE_CHECKING:
    from zolab.probe.model_view import ModelView

ORDERS = 1000  # of calls that are remembered: a mixture of experts may have another one in each step
REMEDY = "call the module that owns it, freeze it, or probe in place"


class ModuleProbe:
    """What the probes that leave the stored weights alone have in common.

    Args:
        viewed: of the model.
        blocks: the block number of each tensor.
        direction: the direction z.
        scales: one factor for each tensor, eps times sigma_j.
    """

    def __init__(
        self, viewed: "ModelView", blocks: tuple[int, ...], direction: Direction | GivenDirection, scales: Sequence[float]
    ):
        self.viewed, self.scales = viewed, scales
        self.sources = Sources([direction], blocks)
        self.busy: set[int] = set()
        self.replaced: list[nn.Module] = []

    def open(self) -> None:
        """Claim the model's modules. Raises RuntimeError if they are looked through already."""
        self.busy = claim(self.viewed.owners)

    def plus(self) -> None:
        """Show w + scale z from now on."""
        raise NotImplementedError

    def minus(self) -> None:
        """Show w - scale z from now on."""
        raise NotImplementedError

    def evaluated(self) -> AbstractContextManager[None]:
        """Around each call of the closure."""
        raise NotImplementedError

    def close(self) -> None:
        """Let every module find its own weights, wherever the probe broke off."""
        for module in self.replaced:
            vars(module).pop("forward", None)
        self.replaced = []
        let_go(self.busy)
        self.busy = set()

    def _replace(self, module: nn.Module, forward: Callable) -> None:
        """Call a module in another way until the probe is closed."""
        self.replaced.append(module)
        vars(module)["forward"] = forward  # torch's own way takes its time

    def leave(self, update: AnyUpdate | None = None, *, measure: bool = False) -> np.ndarray | Tensor | None:
        """End the probe and apply the update to the weights; arguments and result as of `Perturbation.leave`."""
        self.close()
        return apply(self.viewed.tensors, update, measure=measure, pieces=self.viewed.pieces)


class Through(ModuleProbe):
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j; it is used as `Perturbation` is."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.owners = self.viewed.owners
        self.side, self.thread = 0, threading.get_ident()
        self.handles: list[Any] = []
        self.calls: list[int] = []
        self.watch: Watch | None = None
        self.elsewhere: str | None = None
        self.added: Tensor | None = None
        """The rows of the embedding that is being called, where they are moved in its output."""
        self.large: set[int] = set()
        """The numbers of linear layers that may move their weights in bands."""
        self.in_bands = False
        """Whether the linear layer that is being called moves its weight in bands."""

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self.open()
        for owner in self.owners:
            self._attach(owner)
        self.side = 1

    def _attach(self, owner: Owner) -> None:
        """Be told of each call of a module."""
        self._attach_large(owner)
        self.handles.append(owner.module.register_forward_pre_hook(partial(self._enter, owner), prepend=True))
        self.handles.append(owner.module.register_forward_hook(partial(self._exit, owner), always_call=True))

    def _attach_large(self, owner: Owner) -> None:
        if is_large(owner):
            self.large.add(owner.number)
            self._replace(owner.module, partial(self._in_bands, owner, owner.module.forward))

    def minus(self) -> None:
        """Show w - scale z from now on."""
        self._tidy()
        self.side = -1

    def close(self) -> None:
        self.added, self.in_bands = None, False
        if self.busy:
            self._tidy()
            for handle in self.handles:
                handle.remove()
            self.side, self.handles = 0, []
        super().close()

    @contextmanager
    def evaluated(self, watch: bool = False) -> Iterator[None]:
        """Around each call of a closure: see that every tensor was moved where it was read.

        Args:
            watch: look out for tensors that are read elsewhere; done anyway if the evaluation before this one called modules
                in an order that has not been watched yet. So a step that evaluates twice is watched before its update.

        Raises:
            ValueError: a tensor was read outside the call of its module, or not at all (but see `unread`).
        """
        viewed = self.viewed
        watch = watch or viewed.passes_over or (bool(viewed.called) and viewed.called not in viewed.watched)
        self.calls = []
        self.watch = Watch(viewed.tensors, viewed.names, self._complain) if watch else None
        with self.watch or nullcontext():
            yield
        if self.elsewhere:
            self._complain(self.elsewhere)
        over, missing = unread(viewed.owners, self.calls)
        viewed.passes_over |= bool(over)  # then nothing but the watch tells whether their weights were read elsewhere
        if missing:
            name, more = viewed.names[missing[0]], f" (as none that owns {len(missing) - 1} others)" if len(missing) > 1 else ""
            raise ValueError(f"no module that owns {name} was called while the closure ran{more}; {REMEDY}.")
        viewed.called = tuple(self.calls)
        if watch:
            if len(viewed.watched) >= ORDERS:
                viewed.watched.clear()
            viewed.watched.add(viewed.called)

    def _tidy(self) -> None:
        """Put modules right that an interrupt broke off."""
        for owner in self.owners:
            owner.restore()

    def _enter(self, owner: Owner, module: nn.Module, args: Any) -> None:
        refuse_compiler(module)
        if threading.get_ident() != self.thread:
            kind = type(module).__name__
            raise RuntimeError(
                f"a {kind} was called in a thread of its own, where its weights cannot be moved; probe in place."
            )
        self.calls.append(owner.number)
        owner.depth += 1
        if owner.depth > 1:
            return  # it calls itself, and has what it needs
        if adds_rows(owner, args, self.sources):
            self.added = args[0]
            if self.watch:
                self.watch.allowed = {self.viewed.names[j] for j in owner.parts}
        elif owner.number in self.large and runs_in_bands(owner, args):
            self.in_bands = True
        elif not self.watch:
            self._move(owner, args)
        else:
            with self.watch.looking_away():
                self._move(owner, args)

    def _exit(self, owner: Owner, module: nn.Module, args: Any, output: Any = None) -> None:
        if threading.get_ident() != self.thread or not owner.depth:
            return  # called although `_enter` raised
        owner.depth -= 1
        ids, self.added = self.added, None
        if ids is not None:
            if self.watch:
                self.watch.allowed = set()
            if isinstance(output, Tensor):  # or it raised
                add_rows(owner, ids, output, self.sources, self.side * self.scales[next(iter(owner.parts))])
        if not owner.depth and (scratch := owner.restore()) is not None:
            self.viewed.scratches.give(scratch)

    def _move(self, owner: Owner, args: Any) -> None:
        """Let a module find w + side scale z in place of w."""
        owner.scratch = scratch = self.viewed.scratches.take(owner.starts[-1], owner.device)
        tiles = tiles_read(owner, args)
        for slot in scratch.slots_of(owner):
            part, pieces, views = slot
            scale = self.side * self.scales[part.number]
            if tiles is not None:
                move_tiles(slot, tiles, self.sources, scale)
            elif len(pieces) == 1:
                ((piece, out),) = pieces
                piece.kernels.perturbed(out, piece.data, piece.tile, self.sources.at(piece), scale)
            else:
                for_each([piece for piece, _ in pieces], partial(self._fill, pieces, scale), part.weight.numel())
            for (places, name, own), view in zip(part.places, views, strict=True):
                if places[name] is not own:
                    raise RuntimeError(f"{name} was replaced while the closure ran; only a model's own weights can be moved.")
                # a graph may keep the very tensor that it was given, which only one of its own lets the memory know
                places[name] = view.detach() if torch.is_grad_enabled() else view

    def _in_bands(self, owner: Owner, forward: Callable, *args: Any) -> Any:
        """The call of a large linear layer."""
        if not self.in_bands:
            return forward(*args)
        self.in_bands = False
        (number,) = owner.parts
        with self.watch.looking_away() if self.watch else nullcontext():
            return banded(owner, args[0], self.sources, self.side * self.scales[number], self.viewed.scratches)

    def _fill(self, pieces: Sequence[tuple[Chunk, Any]], scale: float, i: int) -> None:
        piece, out = pieces[i]
        piece.kernels.perturbed(out, piece.data, piece.tile, self.sources.at(piece), scale)

    def _complain(self, name: str) -> None:
        self.elsewhere = name
        raise ValueError(f"{name} is read outside the call of its module, where this probe cannot move it; {REMEDY}.")
