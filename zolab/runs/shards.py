"""What ranks do otherwise that hold a part of the weights each (`--shard`, FSDP2) instead of all of them.

    torchrun --nproc_per_node 2 -m zolab finetune --optimizer adam --shard ...

Methods that take gradients can be shared so, and learning to learn. Each rank sees its share of a batch; gradients are summed
over the ranks, so that a step is that of one process up to rounding. Every call of the model gathers weights from all ranks.
So they call it equally often: evaluations are made by all of them, of which the first one's count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, distributed
from transformers import PreTrainedModel

from zolab.models.shards import gathered, scatter, shard
from zolab.runs.checkpoints import Checkpoints, trained
from zolab.runs.config import require
from zolab.runs.ranks import LACKING, Made, Ranks
from zolab.tasks import Task
from zolab.tasks.logits import autocasting, causal_logits
from zolab.tasks.scoring import Batch


def check_shards(ranks: Ranks, fused: bool) -> None:
    """Raise ValueError unless processes can share the weights of a model.

    Args:
        ranks: those who would.
        fused: a tensor would take its step inside the backward pass.
    """
    require(distributed.is_available(), f"shard splits the weights among processes, and {LACKING}")
    message = "shard splits the weights among processes, and this one is alone: start several by torchrun --nproc_per_node N"
    require(ranks.count > 1, f"{message}, or leave --shard.")
    message = "the fused step takes gradients one by one, and ranks that share the weights sum them after the backward pass"
    require(not fused, f"{message}: choose another method, or leave --shard.")


def shared_loss(task: Task, model: PreTrainedModel, batch: Batch, ranks: Ranks) -> Callable[[], Tensor]:
    """The mean loss over the shares of all ranks, whose gradient is this rank's part of it; their sum is the whole gradient.

    Args:
        task: of the batch.
        model: sharded.
        batch: this rank's share.
        ranks: all of them ask for the loss together.
    """
    counts = ranks.gathered([task.terms(batch), len(batch.packs)])
    share, calls = task.terms(batch) / sum(terms for terms, _ in counts), int(max(packs for _, packs in counts))

    def loss() -> Tensor:
        own = task.loss(model, batch) * share
        for _ in range(calls - len(batch.packs)):
            with autocasting(task.autocast, batch.targets.device):
                own = own + 0.0 * causal_logits(model, batch.packs[-1]).sum()
        (mean,) = ranks.total([own.item()])
        return own - own.detach() + own.new_tensor(mean)  # the same bits in each rank

    return loss


@dataclass
class Copies:
    """A run's model, all of it in each rank.

    Args:
        ranks: those who make the run.
        device: of the run.
    """

    ranks: Ranks
    device: str

    @property
    def loaded_on(self) -> str:
        """The device that a model is loaded on before it is split."""
        return self.device

    def split(self, model: PreTrainedModel) -> None:
        """Leave this rank what it holds."""

    def evaluated(self, make: Callable[[], Made]) -> Made:
        """What the first rank makes by calls of the model; the others wait."""
        return self.ranks.from_first(make)

    def save(self, model: PreTrainedModel, checkpoints: Checkpoints, step: int, best: int) -> None:
        """Write the weights of a step; the first rank does. Raises OSError as `Checkpoints.save`."""
        if self.ranks.first:
            checkpoints.save(trained(model), step, best)

    def load(self, model: PreTrainedModel, checkpoints: Checkpoints, fits: Callable[[int], bool]) -> int:
        """Put the weights of the last fitting step that is kept into the model. Returns which, 0 for none."""
        saved = self._last(checkpoints, fits)
        if saved:
            checkpoints.load(model, saved)
        return saved

    def exchange(self, steps: int) -> dict[str, Any]:
        """What a record says of the exchange: bytes of all ranks' numbers in a step."""
        return {"bytes_a_step": self.ranks.exchanged / steps}

    @staticmethod
    def _last(checkpoints: Checkpoints, fits: Callable[[int], bool]) -> int:
        return max((step for step in checkpoints.steps() if fits(step)), default=0)


class Shards(Copies):
    """A run's model, a part of each tensor in each rank. All ranks call all of this together."""

    @property
    def loaded_on(self) -> str:
        return "cpu"

    def split(self, model: PreTrainedModel) -> None:
        """Leave this rank its part. Raises ValueError as `shard`."""
        shard(model, self.device, self.ranks.group)

    def evaluated(self, make: Callable[[], Made]) -> Made:
        return self.ranks.all_make(make)

    def save(self, model: PreTrainedModel, checkpoints: Checkpoints, step: int, best: int) -> None:
        weights = gathered(trained(model), self.ranks.first)
        with self.ranks.agreed():
            if self.ranks.first:
                checkpoints.save(weights, step, best)

    def load(self, model: PreTrainedModel, checkpoints: Checkpoints, fits: Callable[[int], bool]) -> int:
        saved = self.ranks.from_first(lambda: self._last(checkpoints, fits))
        if saved:
            with self.ranks.agreed():
                values = checkpoints.read(model, saved) if self.ranks.first else None
            scatter(trained(model), values)
        return saved

    def exchange(self, steps: int) -> dict[str, Any]:
        return {"parallel": "shards"}  # weights go other ways, which nobody counts
