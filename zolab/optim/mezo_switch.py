"""MeZO-switch: MeZO that walks exactly as far as another method, the control of AdaMeZO's paper (arXiv 2605.00650)."""

from collections.abc import Iterable, Sequence

from zolab.noise import squared_length
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import check_range
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class MeZOSwitch(ZeroOrderOptimizer):
    """MeZO with each step rescaled to a recorded length, so that only the direction of the steps is compared.

    Where no length is recorded, and after the last one, a step is MeZO's. The paper tunes one learning rate by hand until the
    paths are equally long; its code can also follow recorded lengths, as here. A control, not a method to train with.

    Args:
        params, lr, eps, weight_decay, seed, rounding, directions: as in `MeZO`.
        lengths: Euclidean length of each step, or None for MeZO's own; `AdaMeZO.lengths` has them.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        lengths: Sequence[float | None] = (),
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        for length in lengths:
            check_range("lengths", length or 0.0, (length or 0.0) >= 0)
        self.lengths = [None if length is None else float(length) for length in lengths]
        settings = {"lengths": self.lengths}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            rounding=rounding,
            directions=directions,
            settings=settings,
        )

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        length = self.lengths[record.step] if record.step < len(self.lengths) else None
        if length is None or not record.projected_grads[0]:
            return self.against(record, blocks, groups)
        tensors = self.trained().tensors
        squares = squared_length(tensors, self.direction(record.step), blocks)
        walked = sum((record.lrs[g] * record.projected_grads[0]) ** 2 * s for g, s in zip(groups, squares, strict=True)) ** 0.5
        return self.against(record, blocks, groups, length / walked if walked else 1.0)
