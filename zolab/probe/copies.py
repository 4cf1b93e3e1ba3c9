"""Both sides of a small model at once: copies of its weights, moved to w + d and to w - d, take turns in its modules.

A direction is made once instead of twice, tied weights are moved once, and modules run as they always do. It takes two copies
of the trained weights: nothing for a small model, too much for a large one. The stored weights never move.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from zolab.noise import for_each, small_ones
from zolab.probe.halves import show
from zolab.probe.scratch import BothSides
from zolab.probe.through import ModuleProbe


class Copies(ModuleProbe):
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j; it is used as `Perturbation` is.

    Not before `Through` has found that the closure reads nothing but its modules' weights: here nobody looks.
    """

    @property
    def sides(self) -> BothSides:
        """The copies."""
        sides = self.viewed.both_sides
        assert sides is not None, "ModelView.probe makes them"
        return sides

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self.open()
        small = [] if self.sources.given else small_ones(self.sides.chunks)
        if small and not self._make_all(small):
            small = []
        made = set(small)
        rest = [i for i in range(len(self.sides.chunks)) if i not in made]
        for_each([self.sides.chunks[i] for i in rest], lambda i: self._make(rest[i]), self.viewed.numel)
        for moved in self.sides.of.values():
            show(moved, 1)

    def minus(self) -> None:
        """Show w - scale z from now on."""
        for moved in self.sides.of.values():
            show(moved, -1)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Around each call of the closure: whatever a module holds is moved, as long as it stays where it is.

        Raises:
            ValueError: the closure gave a weight other memory.
        """
        yield
        if not self.sides.intact():
            raise ValueError("the closure gave a weight other memory, as offloading does; let weights stay where they are.")

    def close(self) -> None:
        if self.busy:
            for owner in self.viewed.owners:
                owner.put_back()
            if not self.sides.intact():
                self.viewed.both_sides = None  # made anew for the next step
        super().close()

    def _make_all(self, small: list[int]) -> bool:
        """Make some pieces in one launch."""
        pieces, plus, minus = zip(*(self.sides.pieces[i] for i in small), strict=True)
        numbers = [piece.tensor for piece in pieces]
        keys, scales = self.sources.keys[numbers], [self.scales[j] for j in numbers]
        return pieces[0].kernels.both_all(plus, minus, [piece.data for piece in pieces], keys, scales, self.sources.signs)

    def _make(self, i: int) -> None:
        piece, plus, minus = self.sides.pieces[i]
        piece.kernels.both(plus, minus, piece.data, piece.tile, self.sources.at(piece), self.scales[piece.tensor])
