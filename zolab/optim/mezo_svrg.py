"""MeZO-SVRG: two-point estimates on a batch, corrected by one over all data (arXiv 2404.08080)."""

from collections.abc import Iterable

from zolab.optim.anchor import AnchoredOptimizer
from zolab.optim.checks import check_range, whole
from zolab.optim.probing import Measured, Probes
from zolab.optim.trajectory import StepRecord
from zolab.probe.updates import Update


class MeZOSVRG(AnchoredOptimizer):
    """Step against a two-point estimate over the full batch every q steps, and against a corrected one in between.

        p(theta; B) = (L(theta + eps z; B) - L(theta - eps z; B)) / (2 eps)
        every q steps:  anchor <- theta,  theta <- theta - full_lr lr p(theta; all) z'
        otherwise:      theta <- theta - lr [p(theta; B) z - p(anchor; B) z + p(anchor; all) z']

    z is one and the same in both terms on the batch, whose noise they share. z' is the direction of the last full step: its
    estimate is a number and an address, and nothing of it is stored. In the authors' code (github.com/amazon-science/mezo_svrg,
    `training_step_MeZO_SVRG`), as read, the anchor is the live weights under another name and the two terms draw different
    directions, so that they correct nothing, and the full batch is the step's own batch. Its rule that divides both learning
    rates where the training loss rises is left to a scheduler.

    State: the anchor, one tensor set as large as the weights. A full step costs two evaluations of the full batch, another
    four forward passes. Not where the batch is not what makes steps noisy: along random directions it seldom is, and z' stays
    what it was for q steps. With q = 1 every step is MeZO's on the full batch.

    `full_batch` is the loss over the full batch, a closure like the one that `step` takes:

        >>> optimizer = MeZOSVRG(model.named_parameters(), lr=1e-6, q=5)
        >>> optimizer.full_batch = lambda: sum(loss_of(model, batch) for batch in batches) / len(batches)

    Until it is set a step's own closure stands for it, as is right where that evaluates the same data in every step.
    `zolab finetune` sets it to the mean over the run's training examples, a batch at a time; `--train 512` makes them fewer.

    Args:
        params, lr, eps, weight_decay, seed, rounding, directions: as in `MeZO`.
        q: steps from one full batch to the next, >= 1; the paper's is 2.
        full_lr: learning rate of full steps, as a multiple of lr; the paper's is larger than one.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-6,
        eps: float = 1e-3,
        q: int = 2,
        full_lr: float = 1.0,
        weight_decay: float = 0.0,
        seed: int = 0,
        rounding: str | None = None,
        directions: str = "gaussian",
    ):
        self.q = whole("q", q, 1)
        check_range("full_lr", full_lr, full_lr >= 0)
        self.full_lr = float(full_lr)
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            rounding=rounding,
            directions=directions,
            settings={"q": self.q, "full_lr": self.full_lr},
        )

    @classmethod
    def forwards(cls, steps: int = 1, *, full: int = 1, q: int = 2, **settings) -> int:
        fulls = -(-steps // q)
        return 2 * full * fulls + 4 * (steps - fulls)

    def anchor_of(self, step: int) -> int:
        return step - step % self.q

    def measure(self, probes: Probes, eps: float) -> Measured:
        z, full = self.direction(self.steps), self.resumable(self.steps)
        anchor_losses: tuple[float, ...] = ()
        if not full:
            with self.at_anchor(probes):
                anchor_losses = probes.both(z)
        losses = [*probes.both(z, self.full_batch if full else None), *anchor_losses]
        slopes = [(plus - minus) / (2 * eps) for plus, minus in zip(losses[::2], losses[1::2], strict=True)]
        return Measured(slopes, losses, sum(losses[:2]) / 2)

    def update(self, record: StepRecord, blocks: tuple[int, ...], groups: list[int]) -> Update:
        if self.resumable(record.step):
            return self.against(record, blocks, groups, self.full_lr)
        last = self.anchor_of(record.step)
        at_weights, at_anchor = record.projected_grads
        (full,) = self.trajectory.records[last].projected_grads
        slopes, directions = (at_weights - at_anchor, full), [self.direction(record.step), self.direction(last)]
        steps = [[-record.lrs[g] * p for g in groups] for p in slopes]
        return Update(blocks, directions, steps, record.decays(groups))
