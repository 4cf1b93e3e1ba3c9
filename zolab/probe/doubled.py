"""Both sides of a probe in one pass: the model's body runs once on a batch of twice the rows, one half for each side.

The first evaluation doubles what the body is called with. Every module that owns trained weights runs w + d on the first half
of its rows and w - d on the second; all other modules see one batch. So a direction is made once for both sides, and a small
model spends half the time in Python. The closure gets the first half; the second is kept for the next evaluation, which has
to call the body with the same inputs, and runs it by itself otherwise.

Not every model keeps the rows of a batch apart: an expert sees tokens of both sides, a loss inside the model is a mean over
them. Whatever has not as many rows as the batch ends the attempt, for this model for good. And before an order of modules is
trusted, the halves are compared with what each side gives alone, within rounding.

Making the next module's weights on a second stream meanwhile is not worth it: a matrix product fills an H100, and of the time
that they take 1 to 17 % was hidden beside products of LLaMA-3.1-8B's shapes, under 2 % of a step.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from zolab.noise import for_each
from zolab.probe.halves import (
    PLAIN,
    Moved,
    RowsMixedError,
    alike,
    at_once,
    half_of,
    linear,
    near,
    one_by_one,
    takes_both,
    twice,
)
from zolab.probe.owners import Owner, is_bare
from zolab.probe.rows import add_rows, adds_rows, move_tiles, tiles_read
from zolab.probe.scratch import Slot
from zolab.probe.through import Through

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


class DoubledThrough(Through):
    """`Through`, its body on both sides at once; on a GPU as a graph."""

    def __init__(self, *settings):
        super().__init__(*settings)
        self.rows, self.half = 0, 0
        """Of the doubled batch while the body runs on it, and of one side."""
        self.order: list[int] = []
        self.first = True
        """Whether this is the first side."""
        self.kept: deque[Kept] = deque()
        self.family: tuple[Any, ...] = (self.sources.signs,)
        """What else tells one graph from another."""

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self.table = self.viewed.table_of(self.sources, self.scales)
        super().plus()
        body = self.viewed.body
        assert body is not None, "ModelView.probe asks for it"
        self._replace(body, partial(self._body, body.forward))

    def minus(self) -> None:
        """Show w - scale z from now on."""
        super().minus()
        self.first = False

    def close(self) -> None:
        self.rows = 0
        self.kept.clear()
        super().close()

    def _attach(self, owner: Owner) -> None:
        """An owner with nobody else's hooks needs none of ours, which take time."""
        if not is_bare(owner.module):
            super()._attach(owner)
            return
        self._attach_large(owner)
        self._replace(owner.module, partial(self._forward, owner, owner.module.forward))

    def _body(self, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """The body's call: doubled on the first side, kept for the second."""
        inputs = tree_flatten((args, kwargs))
        if self.rows or threading.get_ident() != self.thread:
            return forward(*args, **kwargs)  # it calls itself, or a thread of its own may not share what is doubled
        if self.first:
            return self._double(forward, inputs, args, kwargs) if self._may_double(inputs[0]) else forward(*args, **kwargs)
        kept = self._kept_of(inputs)
        if kept is None:
            return forward(*args, **kwargs)
        if kept.order not in self.viewed.proven:
            alone = forward(*args, **kwargs)
            if not self._near(kept.output, alone):
                return alone
            self.viewed.proven.add(kept.order)
        else:
            self.calls.extend(kept.order)
        return kept.output

    def _kept_of(self, inputs: tuple[list[Any], Any]) -> Kept | None:
        """The second half of the call with these inputs; calls before it, that the first side alone made, are let go."""
        while self.kept:
            kept = self.kept.popleft()
            if alike(kept.inputs, inputs):
                return kept
            if not self.kept:  # a pass was for nothing, and would be in every step
                self._refuse()
        return None

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
        try:
            with self.watch.looking_away() if self.watch else nullcontext():
                out = self._run_twice(forward, [twice(leaf) for leaf in leaves], structure)
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
            self.calls.extend(order)
        self.kept.append(Kept(inputs, second, order))
        return first

    def _run_twice(self, forward: Callable, leaves: list[Any], structure: Any) -> Any:
        """The body's doubled call, as a graph where there is one."""
        graphs = self.viewed.graphs if self.table else None
        key = graphs.key(leaves, structure, self.family) if graphs else None
        if graphs is None or key is None:
            return _call(forward, structure, leaves)
        if replayed := graphs.replay(key, leaves):
            out, order = replayed
            self.order.extend(order)
            return out
        due = graphs.is_due(key)
        with graphs.timed() if due else nullcontext():
            out = _call(forward, structure, leaves)
        order = tuple(self.order)
        if due and order in self.viewed.proven:
            graphs.capture(key, leaves, order, partial(_call, forward, structure))
            self.order = list(order)  # capturing called them again
        return out

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
            self._enter(owner, owner.module, args)
            out = None
            try:
                out = forward(*args, **kwargs)
                return out
            finally:
                self._exit(owner, owner.module, args, out)
        self._called(owner)
        if kwargs or not adds_rows(owner, args, self.sources):
            return self._sides(owner, forward, args, kwargs)
        first, second = halves(args[0], self.rows)
        out, (number,) = forward(*args), owner.parts
        for (ids, _), part, side in ((first, out[: self.half], 1), (second, out[self.half :], -1)):
            add_rows(owner, ids[0], part, self.sources, self.table[number] if self.table else self.scales[number], side < 0)
        return out

    def _called(self, owner: Owner) -> None:
        """Note the call of an owner inside the body's doubled call."""
        if threading.get_ident() != self.thread:
            raise RuntimeError("a thread of its own has no half of the batch.")  # so the sides take turns
        self.order.append(owner.number)

    def _sides(self, owner: Owner, forward: Callable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Both halves of its output, each from one side of its weights."""
        x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
        first, second = (half_of((args, kwargs), self.rows, k) for k in (False, True)) if x is None else halves(x, self.rows)
        with self._pair(owner, args) as moved:
            if x is not None:
                if type(owner.module) is nn.Linear and (out := linear(owner.module, x, self.half, moved)) is not None:
                    return out
                if owner.at_once is None:
                    owner.at_once = takes_both(forward, x, self.half, moved)
                if owner.at_once and x.is_contiguous():
                    return at_once(forward, x, self.half, moved)
            return one_by_one(forward, first, second, moved)

    @contextmanager
    def _pair(self, owner: Owner, args: Any) -> Iterator[Moved]:
        """Both sides of an owner's weights; it finds its own again afterwards."""
        pool = self.viewed.scratches
        above = pool.take(owner.starts[-1], owner.device)
        below = pool.take(owner.starts[-1], owner.device)
        sides = above.slots_of(owner), below.slots_of(owner)
        owner.scratch = above  # so that an interrupt finds what to put right
        tiles = tiles_read(owner, args)
        for plus, minus in zip(*sides, strict=True):
            scale = self.scales[plus.part.number]
            if tiles is not None:
                move_tiles(plus, tiles, self.sources, scale)
                move_tiles(minus, tiles, self.sources, -scale)
            elif len(plus.pieces) == 1:
                self._make(plus, minus, scale, 0)
            else:
                for_each([piece for piece, _ in plus.pieces], partial(self._make, plus, minus, scale), plus.part.weight.numel())
        try:
            yield [
                (places, name, one, two)
                for plus, minus in zip(*sides, strict=True)
                for (places, name, _), one, two in zip(plus.part.places, plus.views, minus.views, strict=True)
            ]
        finally:
            owner.restore()
            pool.give(above)
            pool.give(below)

    def _make(self, plus: Slot, minus: Slot, scale: float, i: int) -> None:
        (piece, above), (_, below) = plus.pieces[i], minus.pieces[i]
        moved = scale if self.table is None else self.table[piece.tensor]
        piece.kernels.both(above, below, piece.data, piece.tile, self.sources.at(piece), moved)


def _call(forward: Callable, structure: Any, leaves: list[Any]) -> Any:
    """What a module makes of flattened arguments."""
    args, kwargs = tree_unflatten(leaves, structure)
    return forward(*args, **kwargs)


def halves(x: Tensor, rows: int) -> tuple[Any, Any]:
    """What `half_of` gives for a call with one tensor, sooner."""
    if not x.dim() or len(x) != rows:
        raise RowsMixedError(str(tuple(x.shape)))
    return ((x[: rows // 2],), {}), ((x[rows // 2 :],), {})
