"""Both sides of a small model at once: copies of its weights, moved to w + d and to w - d, take turns in its modules.

A direction is made once instead of twice, tied weights are moved once, and modules run as they always do. It takes two copies
of the trained weights: nothing for a small model, too much for a large one. The stored weights never move.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from zolab.noise import for_each
from zolab.probe.scratch import BothSides
from zolab.probe.through import ModuleProbe


class Copies(ModuleProbe):
    """A model that can be seen at w + scale_j z_j and at w - scale_j z_j; it is used as `Perturbation` is.

    Not before `Through` has found that the closure reads nothing but its modules' weights: here nobody looks.
    """

    @property
    def sides(self) -> BothSides:
        """The copies."""
        found = self.viewed.both_sides
        assert found is not None, "ModelView.probe makes them"
        return found

    def plus(self) -> None:
        """Show w + scale z from now on."""
        self.open()
        if not self.sides.make_all(self.sources, self.scales):
            for_each(self.sides.chunks, self._make, self.viewed.numel)
        for places, name, _, plus, _ in self.sides.places:
            places[name] = plus

    def minus(self) -> None:
        """Show w - scale z from now on."""
        for places, name, _, _, minus in self.sides.places:
            places[name] = minus

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
            for places, name, own, _, _ in self.sides.places:
                places[name] = own
            if not self.sides.intact():
                self.viewed.both_sides = None  # made anew for the next step
        super().close()

    def _make(self, i: int) -> None:
        piece, plus, minus = self.sides.pieces[i]
        piece.kernels.both(plus, minus, piece.data, piece.tile, self.sources.at(piece), self.scales[piece.tensor])
