"""Both sides of a probe in one pass: the model's body runs once on a batch of twice the rows, one half for each side.

The first evaluation doubles what the body is called with. Every module that owns trained weights runs w + d on the first half
of its rows and w - d on the second; all other modules see one batch. So a direction is made once for both sides, and a small
model spends half the time in Python. The closure gets the first half; the second is kept for the next evaluation, which has
to call the body with the same inputs, and runs it by itself otherwise.

Not every model keeps the rows of a batch apart: an expert sees tokens of both sides, a loss inside the model is a mean over
them. Whatever has not as many rows as the batch ends the attempt, for this model for good. And before an order of modules is
trusted, the halves are compared with what each side gives alone, within rounding.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from zolab.noise import for_each
from zolab.probe.copies import Copies
from zolab.probe.halves import PLAIN, Show, alike, half_of, is_plain, joined, linear, near
from zolab.probe.owners import Owner
from zolab.probe.rows import add_rows, adds_rows, move_tiles, tiles_read
from zolab.probe.scratch import Slot
from zolab.probe.through import ModuleProbe, Through

if TYPE_CHECKING:
    from zolab.probe.model_view import ModelView

TOKENS = 8192  # of a batch: one side of a longer one takes so much time and memory that doubling it gains nothing


class Kept(NamedTuple):
    """The second half of a call of the body.

    Args:
        inputs: what the body was called with, leaves and structure.
        output: of the second half.
        order: the numbers of the owners that were called.
    """

    inputs: tuple[list[Any], Any]
    output: Any
    order: tuple[int, ...]


class Doubling(ModuleProbe):
    """What `Through` and `Copies` do in addition where the body's batch is doubled."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.rows, self.half = 0, 0
        """Of the doubled batch while the body runs on it, and of one side."""
        self.order: list[int] = []
        self.first = True
        """Whether this is the first side."""
        self.kept: deque[Kept] = deque()

    def plus(self) -> None:
        """Show w + scale z from now on."""
        super().plus()
        body = self.viewed.body
        assert body is not None, "ModelView.probe asks for it"
        for owner in self.viewed.owners:
            self._replace(owner.module, partial(self._forward, owner, owner.module.forward))
        self._replace(body, partial(self._body, body.forward))

    def minus(self) -> None:
        """Show w - scale z from now on."""
        super().minus()
        self.first = False

    def close(self) -> None:
        self.rows = 0
        self.kept.clear()
        super().close()

    def _pair(self, owner: Owner, args: Any) -> AbstractContextManager[Show]:
        """A context in which a module can be shown either side; gives what shows it."""
        raise NotImplementedError

    def _called(self, order: tuple[int, ...]) -> None:
        """Take note of owners that were called for this side by a doubled call."""

    def _body(self, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """The body's call: doubled on the first side, kept for the second."""
        inputs = tree_flatten((args, kwargs))
        if self.rows:
            return forward(*args, **kwargs)  # it calls itself
        if self.first:
            return self._double(forward, inputs, args, kwargs) if self._may_double(inputs[0]) else forward(*args, **kwargs)
        if not self.kept or not alike(self.kept[0].inputs, inputs):
            self.kept.clear()
            return forward(*args, **kwargs)
        kept = self.kept.popleft()
        if kept.order not in self.viewed.proven:
            alone = forward(*args, **kwargs)
            if not self._near(kept.output, alone):
                return alone
            self.viewed.proven.add(kept.order)
        else:
            self._called(kept.order)
        return kept.output

    def _may_double(self, leaves: list[Any]) -> bool:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        plain = all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves)  # a cache, say, would be changed by the call
        if not tensors or not plain or torch.is_grad_enabled() or not self.viewed.doubles:
            return False
        rows = {len(tensor) if tensor.dim() else -1 for tensor in tensors}
        return len(rows) == 1 and min(rows) > 0 and min(tensor.numel() for tensor in tensors) <= TOKENS

    def _double(self, forward: Callable, inputs: tuple[list[Any], Any], args: Any, kwargs: Any) -> Any:
        leaves, structure = inputs
        self.half = next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        self.rows, self.order = 2 * self.half, []
        twice = tree_unflatten([torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
        try:
            with self._unwatched():
                out = forward(*twice[0], **twice[1])
            first, second = half_of(out, self.rows, False), half_of(out, self.rows, True)
        except Exception:  # alone it may do, or it fails again, and says why
            first = second = None
            self._refuse()
        finally:
            self.rows = 0
        if first is None:
            return forward(*args, **kwargs)
        order = tuple(self.order)
        if order not in self.viewed.proven:
            alone = forward(*args, **kwargs)
            if not self._near(first, alone):
                return alone
        else:
            self._called(order)
        self.kept.append(Kept(inputs, second, order))
        return first

    def _unwatched(self) -> AbstractContextManager:
        watch = getattr(self, "watch", None)
        return watch.looking_away() if watch else nullcontext()

    def _refuse(self) -> None:
        self.viewed.doubles = False
        self.kept.clear()

    def _near(self, half: Any, alone: Any) -> bool:
        """Whether a half is what its side gives alone, within rounding; if not, nothing is doubled any more."""
        if not near(half, alone):
            self._refuse()
            return False
        return True

    def _forward(self, owner: Owner, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """An owner's call, inside the body's doubled call or outside it."""
        if not self.rows:
            return forward(*args, **kwargs)
        self.order.append(owner.number)
        both = [half_of((args, kwargs), self.rows, second) for second in (False, True)]
        if not kwargs and adds_rows(owner, args, self.sources):
            out = forward(*args)
            for (ids, _), part, side in zip(both, (out[: self.half], out[self.half :]), (1, -1), strict=True):
                add_rows(owner, ids[0], part, self.sources, side * self.scales[next(iter(owner.parts))])
            return out
        with self._pair(owner, args) as show:
            if isinstance(owner.module, nn.Linear) and is_plain(owner.module, args, kwargs):
                return linear(owner.module, args[0], self.half, show)
            outs = []
            for side, (its_args, its_kwargs) in zip((1, -1), both, strict=True):
                show(side)
                outs.append(forward(*its_args, **its_kwargs))
            return joined(*outs)


class DoubledThrough(Doubling, Through):
    """`Through`, its body on both sides at once."""

    def _enter(self, owner: Owner, module: nn.Module, args: Any) -> None:
        if not self.rows:
            super()._enter(owner, module, args)

    def _exit(self, owner: Owner, *more: Any) -> None:
        if not self.rows:
            super()._exit(owner, *more)

    def _called(self, order: tuple[int, ...]) -> None:
        self.calls.extend(order)

    @contextmanager
    def _pair(self, owner: Owner, args: Any) -> Iterator[Show]:
        pool = self.viewed.scratches
        above = pool.take(owner.starts[-1], owner.device)
        below = pool.take(owner.starts[-1], owner.device)
        sides = above.slots_of(owner), below.slots_of(owner)
        owner.scratch = above  # so that an interrupt finds what to put right
        tiles = tiles_read(owner, args)
        for plus, minus in zip(*sides, strict=True):
            scale = self.scales[plus.part.number]
            if tiles is None:
                for_each([piece for piece, _ in plus.pieces], partial(self._make, plus, minus, scale), plus.part.weight.numel())
            else:
                move_tiles(plus, tiles, self.sources, scale)
                move_tiles(minus, tiles, self.sources, -scale)
        try:
            yield partial(_show, sides)
        finally:
            owner.restore()
            pool.give(above)
            pool.give(below)

    def _make(self, plus: Slot, minus: Slot, scale: float, i: int) -> None:
        (piece, above), (_, below) = plus.pieces[i], minus.pieces[i]
        piece.kernels.both(above, below, piece.data, piece.tile, self.sources.at(piece), scale)


class DoubledCopies(Doubling, Copies):
    """`Copies`, its body on both sides at once."""

    @contextmanager
    def _pair(self, owner: Owner, args: Any) -> Iterator[Show]:
        places = self.sides.of[owner]

        def show(side: int) -> None:
            for holder, name, _, plus, minus in places:
                holder[name] = plus if side > 0 else minus

        try:
            yield show
        finally:
            show(1 if self.first else -1)


def _show(sides: tuple[list[Slot], list[Slot]], side: int) -> None:
    for slot in sides[0] if side > 0 else sides[1]:
        for (places, name, _), view in zip(slot.part.places, slot.views, strict=True):
            places[name] = view


def may_double(viewed: "ModelView") -> bool:
    """Whether a model has a body whose batch may be doubled: it and its owners are called as torch calls a module."""
    body = viewed.body
    if body is None or "forward" in vars(body):
        return False
    inside = set(body.modules())
    owned = [owner.module for owner in viewed.owners if owner.module in inside]
    plain = all(not (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)) for m in owned)
    return bool(owned) and body not in owned and plain


def body_of(model: nn.Module) -> nn.Module | None:
    """The part of a transformers model, or of one around it, that makes hidden states from tokens; None if there is none."""
    body: nn.Module = model
    while isinstance(inner := getattr(body, "base_model", None), nn.Module) and inner is not body:
        body = inner
    return None if body is model and not hasattr(model, "config") else body
