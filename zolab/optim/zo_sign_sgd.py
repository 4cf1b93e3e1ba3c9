"""ZO-signSGD: MeZO's step without the size of the slope (Liu et al., ICLR 2019; "ZO-SGD-Sign" in arXiv 2402.11592)."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from zolab.noise import MadeDirection, materialise
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update

SIGNS = ("slope", "estimate")


class ZOSignSGD(ZeroOrderOptimizer):
    """Step where the loss falls, however steep it is.

        "slope":     theta <- theta - lr sign(p) z,  as the benchmark's code has it (arXiv 2402.11592)
        "estimate":  theta <- theta - lr sign(p z),  signSGD itself: every weight moves by lr

    With several samples "slope" averages sign(p) z, where that code keeps the last sample alone, and "estimate" takes the sign
    of the averaged p z. State: none. Not for long runs at a constant lr: steps do not become shorter near a minimum.

    Args:
        params, eps, weight_decay, seed, samples, rounding, directions: as in `MeZO`.
        lr: learning rate; a step moves a weight by about lr, whatever the slopes are.
        sign: "slope" or "estimate".

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        sign: str = "slope",
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        if sign not in SIGNS:
            raise ValueError(f"sign must be one of {', '.join(SIGNS)}, got {sign!r}.")
        self.sign, own = sign, {"sign": sign}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            directions=directions,
            settings=own,
        )

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        if self.sign == "slope":
            signs = tuple(float((p > 0) - (p < 0)) for p in record.projected_grads)
            return self.against(record._replace(projected_grads=signs), blocks, groups)
        tensors = dict(zip(blocks, self.trained().tensors, strict=True))

        def signs(block: int, span: slice) -> Tensor:
            like = tensors[block].detach().view(-1)[span]
            parts = enumerate(record.projected_grads)
            gradient: Any = sum(p * materialise(self.direction(record.step, k), block, like, span.start) for k, p in parts)
            return gradient.sign()

        return Update(blocks, [MadeDirection(signs)], [[-record.lrs[g] for g in groups]], record.decays(groups))
