"""What a run of several ranks needs before it begins: a log for each of them, and settings that they can share."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from zolab.optim import METHODS
from zolab.optim.method import Method
from zolab.records.log import RunLog
from zolab.runs.config import Config, require
from zolab.runs.events import check_log
from zolab.runs.first_order import FIRST_ORDER
from zolab.runs.identity import PARTS
from zolab.runs.literals import own_settings
from zolab.runs.ranks import Ranks
from zolab.runs.shards import check_shards

LOG = "log.jsonl"


@contextmanager
def log_of(out: Path, ranks: Ranks, overwrite: bool, check: Callable[[RunLog], None] = check_log) -> Iterator[RunLog]:
    """The log of a run: the first rank's in the run's folder, and a copy of it in a folder of their own for the others.

    Args:
        out: the run's folder.
        ranks: those who make it.
        overwrite: what the log holds will be cleared.
        check: raises ValueError unless a log has the events of such a run.

    Raises:
        OSError, ValueError: as `RunLog` and `check`.
    """
    with ExitStack() as stack:
        if not ranks.first:
            out = Path(stack.enter_context(TemporaryDirectory(prefix="zolab-rank-")))
        logs: list[RunLog] = []

        def hold() -> str:
            logs.append(RunLog(out / LOG, unread=overwrite))
            stack.callback(logs[0].close)
            check(logs[0])
            return "" if overwrite else logs[0].path.read_text()

        content = ranks.from_first(hold)
        if not ranks.first:
            (out / LOG).write_text(content)
            hold()
        yield logs[0]


def check_alike(ranks: Ranks, config: Any, known: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Raise ValueError, on every rank, unless all of them make the same run; the sentence names what differs.

    Args:
        ranks: those who make it.
        config: of the run, a dataclass.
        known: what its result rests on besides, of `zolab.runs.identity.identity`.
        more: what else must be the same.
    """
    parts = {PARTS[name].rsplit(" ", 1)[0].removesuffix(" of {}"): value for name, value in known.items()}
    ranks.check_same({**asdict(config), **parts, **more, "version of torch": torch.__version__})


def check_ranks(config: Config, ranks: Ranks, shard: bool = False) -> None:
    """Raise ValueError unless a configuration's run can be made by several ranks; each takes a GPU of its own, if any.

    Args:
        config: of the run, valid.
        ranks: those who make it.
        shard: each would hold a part of the weights.
    """
    name, count = config.optimizer, ranks.count
    if shard:
        _check_shards(config, ranks)
    if count == 1:
        return
    alone = f"{name} {{}}, and ranks exchange losses alone: start it in one process, {{}}or choose another method."
    way = "add --shard, " if config.first_order else ""
    require(shard or not config.differentiates, alone.format("takes derivatives", way))
    require(not config.per_example, alone.format("probes each example in a direction of its own", ""))
    if config.parallel == "batch":
        message = (
            f"batch_size is {config.batch_size}, and there are {count} ranks, each of which needs an example of each batch"
        )
        require(config.batch_size >= count, f"{message}: raise batch_size, or start fewer.")
    else:
        own = inspect.signature(METHODS[name]).parameters.get("samples")
        spread = METHODS[name].measure is Method.measure
        require(spread, f"{name} measures its losses in an order of its own, which ranks cannot share: use --parallel batch.")
        samples = own.default if own and config.samples == 1 else config.samples
        losses = METHODS[name].forwards(samples=samples)
        message = f"a step of {name} measures {losses} losses with samples at {samples}, and each of {count} ranks needs one"
        require(losses >= count, f"{message}: raise samples, start fewer ranks, or leave --parallel at batch.")
    take_gpu(config.device, ranks)


def take_gpu(name: str, ranks: Ranks) -> None:
    """Let each rank take a GPU of its own, if the device is one. Raises ValueError where there are too few.

    Args:
        name: of the device.
        ranks: those who make a run, several.
    """
    device, count = torch.device(name), ranks.count
    if device.type == "cuda":
        require(device.index is None, f"all {count} ranks would share {device}: write --device cuda, and each takes its own.")
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", count)), torch.cuda.device_count()
        message = f"{processes} ranks were started on this machine, which has {gpus} GPUs for them"
        require(processes <= gpus, f"{message}: start at most as many.")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", ranks.number)))


def _check_shards(config: Config, ranks: Ranks) -> None:
    message = f"shard splits the weights of methods that take gradients, and {config.optimizer} takes none"
    require(config.first_order, f"{message}: leave --shard, or choose sgd or adam.")
    require(config.parallel == "batch", f"parallel {config.parallel} is for whole models: leave --parallel at batch.")
    require(
        config.tuning == "full",
        f"shard splits the weights that are trained, and tuning {config.tuning} trains few: leave --shard.",
    )
    check_shards(ranks, bool({**FIRST_ORDER[config.optimizer], **own_settings(config.optim_args)}.get("fused")))
