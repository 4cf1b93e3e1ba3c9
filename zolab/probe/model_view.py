"""What looking through a model takes, kept from step to step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zolab.noise import Direction, GivenDirection, GroupDirection, LowRankDirection, Sources, chunks
from zolab.probe.body import body_of, may_double, owners_inside
from zolab.probe.copies import Copies
from zolab.probe.doubled import DoubledThrough
from zolab.probe.doubled_low_rank import DoubledLowRank, Factors, matrices_apart
from zolab.probe.graphs import Graphs
from zolab.probe.group import ThroughGroup
from zolab.probe.interrupts import DeferInterrupts
from zolab.probe.low_rank import ThroughLowRank
from zolab.probe.owners import Owner, Part, check_free, owners_of
from zolab.probe.scratch import BothSides, ScratchPool
from zolab.probe.through import Through

SPARE = {"cpu": 1 << 25, "cuda": 1 << 31}  # bytes: below that, time goes into Python more than into weights


class ModelView:
    """The owners of a model's trained weights, with scratch memory for moved ones.

    Args:
        model: the module whose weights the tensors are; its modules may be tied, frozen in part, nested, or called twice.
        tensors: the trained ones, contiguous.
        spare: bytes that may be spent on copies, by default 32 MiB of a CPU's memory and 2 GiB of a GPU's. Where two copies of
            the trained weights take less, a step makes both, once it is known that the closure reads nothing but its modules'
            weights; otherwise modules share one piece of scratch.

    Raises:
        ValueError: a tensor is none of the model's, the model is compiled, or a module has weights on several devices.
    """

    def __init__(self, model: nn.Module, tensors: Sequence[Tensor], spare: int | None = None):
        self.model, self.tensors = model, list(tensors)
        self.spare = SPARE.get(self.tensors[0].device.type, 0) if spare is None else spare
        self.pieces = chunks(self.tensors)
        self.owners, self.names = owners_of(model, self.tensors, self.pieces)
        self.numel = sum(tensor.numel() for tensor in self.tensors)
        self.addresses = [tensor.data_ptr() for tensor in tensors]
        self.scratches = ScratchPool()
        self.both_sides: BothSides | None = None
        self.watched: set[tuple[int, ...]] = set()
        """Orders of calls that were seen to read no weight elsewhere."""
        self.passes_over = False
        """Whether it was seen to leave modules alone, see `unread`."""
        self.body = body_of(model)
        """The part whose batch may be doubled."""
        self.inside = owners_inside(self.body, self.owners)
        self.doubles = self.tensors[0].is_cuda  # on a CPU it does not pay: 1.27 beside 1.23 times two forward passes
        """Whether that is wanted, and has not failed yet."""
        self.proven: set[tuple[int, ...]] = set()
        """Orders of calls whose halves were seen to be what each side gives alone."""
        self.graphs = Graphs(self.body, self.scratches) if self.body is not None and self.tensors[0].is_cuda else None
        """Of the body's doubled calls, on a GPU."""
        self.table: Tensor | None = None
        self.rows: list[Tensor] = []
        self.lightened: dict[Owner, Owner] = {}
        """Owners without the weight that a direction of low rank lets them leave where it is."""
        self.factors: dict[tuple[int, ...], Factors] = {}
        """Memory for the factors of such directions, by rank and tensors."""
        self.called: tuple[int, ...] = ()
        """The order of the last evaluation's calls."""

    def fit(self, tensors: Sequence[Tensor]) -> "ModelView":
        """These, or new ones if the tensors or their owners are others than before.

        Raises:
            RuntimeError: the model is being looked through already.
        """
        check_free(self.owners)
        same = len(tensors) == len(self.tensors) and all(a is b for a, b in zip(tensors, self.tensors, strict=True))
        unmoved = same and self.addresses == [tensor.data_ptr() for tensor in tensors]
        if unmoved and all(owner.untouched() for owner in self.owners):
            return self
        return ModelView(self.model, tensors, self.spare)

    def probe(
        self, blocks: tuple[int, ...], direction: Direction | GivenDirection, scales: Sequence[float], both: bool = False
    ) -> Through | Copies:
        """What shows the model at w + scale_j z_j and at w - scale_j z_j; arguments as of `Through`.

        Args:
            both: the closure will be evaluated on both sides.
        """
        if isinstance(direction, GivenDirection):
            direction.check_sizes(blocks, self.tensors)
        if isinstance(direction, GroupDirection):
            return ThroughGroup(self, blocks, direction, scales)
        doubled = both and self.doubles and may_double(self.body, self.inside)
        if isinstance(direction, LowRankDirection):  # in every step, since its losses differ from the others' by rounding
            apart = matrices_apart(self.owners) if doubled and direction.keyed and self.is_uniform else None
            if apart:
                return DoubledLowRank(self, blocks, direction, scales, apart)
            return ThroughLowRank(self, blocks, direction, scales)
        if doubled:
            return DoubledThrough(self, blocks, direction, scales)
        if self.both_sides is None and self.watched and self._copies() <= self.spare:
            self.scratches, self.both_sides = ScratchPool(), BothSides(self.tensors, self.pieces, self.owners)
        return (Through if self.both_sides is None else Copies)(self, blocks, direction, scales)

    def table_of(self, sources: Sources, scales: Sequence[float]) -> list[Tensor] | None:
        """Key and scale of each tensor where kernels look for them on a GPU, so that a graph finds new ones; None elsewhere."""
        kernels = self.pieces[0].kernels
        if sources.given or not hasattr(kernels, "table") or len({tensor.device for tensor in self.tensors}) > 1:
            return None
        table = kernels.table(sources.keys, scales)
        if self.table is None:
            self.table = torch.empty_like(table, device=self.tensors[0].device)
            self.rows = list(self.table)
        self.table.copy_(table, non_blocking=True)
        return self.rows

    @property
    def is_uniform(self) -> bool:
        """Whether all trained tensors are of one type and on one device."""
        return len({(tensor.dtype, tensor.device) for tensor in self.tensors}) == 1

    def without(self, owner: Owner, part: Part) -> Owner:
        """An owner without the part that it leaves where it is; kept for later steps, as its place in scratch is."""
        if owner not in self.lightened:
            self.lightened[owner] = owner.without(part)
        return self.lightened[owner]

    def factors_of(self, weights: tuple[Part, ...], direction: LowRankDirection, blocks: tuple[int, ...]) -> Factors:
        """Those of a direction in some matrices, where those of an earlier step were."""
        key = direction.rank, *(part.number for part in weights)
        if key not in self.factors:
            self.factors[key] = Factors(weights, direction.rank)
        self.factors[key].draw(direction, blocks)
        return self.factors[key]

    def try_out(self, closure: Callable[[], Any]) -> None:
        """Call a closure once, at the weights as they are.

        Raises:
            ValueError: it reads weights in ways in which they cannot be moved.
        """
        probe = Through(self, tuple(range(len(self.tensors))), Direction(0, 0), [0.0] * len(self.tensors))
        with DeferInterrupts() as interrupts, torch.no_grad():
            try:
                probe.plus()
                with probe.evaluated(watch=True):
                    interrupts.allow()
                    closure()
            finally:
                interrupts.hold()
                probe.leave()

    def _copies(self) -> int:
        return 2 * sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)
