"""LOZO: MeZO along directions of low rank (Chen et al., arXiv 2410.07698, Algorithm 1)."""

from collections.abc import Iterable

from zolab.noise import Direction, LowRankDirection, is_matrix
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.checks import whole
from zolab.optim.parameters import Trainable, named
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class LOZO(ZeroOrderOptimizer):
    """Probe each weight matrix along U V^T and step along it, theta <- theta - lr p U V^T / rank.

    p = (L(theta + eps U V^T) - L(theta - eps U V^T)) / (2 eps). U (m x rank) is drawn anew in each step, V (n x rank) stays for
    `interval` steps, both normal. E[p U V^T] is rank times the gradient, and the division takes that back. Tensors that are
    no matrices take MeZO's step. Several samples share V, and their steps are averaged.

    The authors' code leaves the division out, so that its lr is the paper's over rank: `published_scaling`. In the steps that
    draw V it also steps along another U than it has measured; here the two are always one. Tensors of more than two
    dimensions are matrices of the first by all others; that code fails at them.

    State: none. `look_through` moves neither linear layers nor embeddings: they add (x V) U^T to their output
    (`zolab.probe.low_rank`), and losses differ from those in place by rounding. It is the way to run LOZO, and that of
    `finetune`: in place U V^T is made before each pass over the weights, and a step costs more than MeZO's. Not for small
    matrices: of a direction in m x n weights only (m + n) rank numbers are free, and a rank near min(m, n) makes it no
    better than MeZO's.

    Args:
        params, lr, eps, weight_decay, seed, samples, rounding: as in `MeZO`; a probe is sqrt(rank) times as long as MeZO's.
        rank: r, columns of U and V; from 1 to the least dimension of all trained matrices.
        interval: nu, steps for which V stays, at least 1.
        published_scaling: step along p U V^T without the division by rank.

    Raises:
        ValueError: an argument is out of range, or `rank` is more than a matrix has rows or columns, which is named.
    """

    always_through = True
    along = LowRankDirection

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        rank: int = 2,
        interval: int = 50,
        published_scaling: bool = False,
        weight_decay: float = 0.0,
        seed: int = 0,
        samples: int = 1,
        rounding: str | None = None,
    ):
        if not isinstance(published_scaling, bool):
            raise ValueError(f"published_scaling must be True or False, got {published_scaling!r}.")
        self.rank, self.interval = whole("rank", rank, 1), whole("interval", interval, 1)
        self.published_scaling = published_scaling
        settings = {"rank": self.rank, "interval": self.interval, "published_scaling": published_scaling}
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            samples=samples,
            rounding=rounding,
            settings=settings,
        )

    def fits(self) -> None:
        check_rank(self.trained(), self.rank)

    def direction(self, step: int, sample: int = 0) -> LowRankDirection:
        tensors = [tensor for _, _, tensor in named(self.param_groups)]
        return LowRankDirection(Direction(self.trajectory.seed, step, sample), self.rank, self.interval, tensors)

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        directions = [self.direction(record.step, sample) for sample in range(len(record.projected_grads))]
        rows = [self.coefficients(record, groups, p / len(directions)) for p in record.projected_grads]
        return Update(blocks, directions, rows, record.decays(groups))

    def coefficients(self, record: StepRecord, groups: list[int], slope: float) -> list[float]:
        """-lr p / rank of each matrix, -lr p of each other tensor."""
        divisors = [1 if self.published_scaling or not is_matrix(tensor) else self.rank for tensor in self.trained().tensors]
        return [-record.lrs[g] * slope / divisor for g, divisor in zip(groups, divisors, strict=True)]


def check_rank(trained: Trainable, rank: int) -> None:
    """Raise ValueError, naming it, if a trained matrix has fewer rows or columns than a direction of this rank needs."""
    for tensor, name in zip(trained.tensors, trained.names, strict=True):
        if is_matrix(tensor) and rank > min(size := (len(tensor), tensor.numel() // len(tensor))):
            raise ValueError(
                f"rank is {rank}, but {name} is a matrix of {size[0]} x {size[1]}, whose rank is at most {min(size)}: "
                "lower rank, or freeze this parameter."
            )
