"""The two probes of modules, their body on both sides at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from zolab.noise import for_each
from zolab.probe.copies import Copies
from zolab.probe.doubling import Doubling, halves
from zolab.probe.halves import Moved, show
from zolab.probe.owners import Owner
from zolab.probe.rows import add_rows, adds_rows, move_tiles, tiles_read
from zolab.probe.scratch import Slot
from zolab.probe.through import Through


class DoubledThrough(Doubling, Through):
    """`Through`, its body on both sides at once; on a GPU as a graph."""

    def plus(self) -> None:
        self.table = self.viewed.table_of(self.sources, self.scales)
        super().plus()

    def _attach(self, owner: Owner) -> None:
        """An owner with nobody else's hooks needs none of ours, which take time."""
        module = owner.module
        if "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks:
            super()._attach(owner)
            return
        self._attach_large(owner)
        self._replace(module, partial(self._forward, owner, module.forward))

    def _called(self, order: tuple[int, ...]) -> None:
        self.calls.extend(order)

    def _forward(self, owner: Owner, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        if not self.rows:
            self._enter(owner, owner.module, args)
            out = None
            try:
                out = forward(*args, **kwargs)
                return out
            finally:
                self._exit(owner, owner.module, args, out)
        if kwargs or not adds_rows(owner, args, self.sources):
            return super()._forward(owner, forward, *args, **kwargs)
        self.order.append(owner.number)
        first, second = halves(args[0], self.rows)
        out, (number,) = forward(*args), owner.parts
        for (ids, _), part, side in ((first, out[: self.half], 1), (second, out[self.half :], -1)):
            add_rows(owner, ids[0], part, self.sources, self.table[number] if self.table else self.scales[number], side < 0)
        return out

    @contextmanager
    def _pair(self, owner: Owner, args: Any) -> Iterator[Moved]:
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

    def _run_twice(self, forward: Callable, leaves: list[Any], structure: Any) -> Any:
        graphs = self.viewed.graphs if self.table else None
        key = graphs.key(leaves, structure, self.sources.signs) if graphs else None
        if graphs is None or key is None:
            return super()._run_twice(forward, leaves, structure)
        if found := graphs.replay(key, leaves):
            out, order = found
            self.order.extend(order)
            return out
        out = super()._run_twice(forward, leaves, structure)
        order = tuple(self.order)
        if order in self.viewed.proven:
            graphs.capture(key, leaves, order, partial(super()._run_twice, forward, structure=structure))
            self.order = list(order)  # capturing called them again
        return out


class DoubledCopies(Doubling, Copies):
    """`Copies`, its body on both sides at once."""

    def plus(self) -> None:
        super().plus()
        for owner in self.viewed.owners:
            self._replace(owner.module, partial(self._forward, owner, owner.module.forward))

    def _forward(self, owner: Owner, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        return super()._forward(owner, forward, *args, **kwargs) if self.rows else forward(*args, **kwargs)

    @contextmanager
    def _pair(self, owner: Owner, args: Any) -> Iterator[Moved]:
        moved = self.sides.of[owner]
        try:
            yield moved
        finally:
            show(moved, 1 if self.first else -1)
