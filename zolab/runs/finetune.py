"""Fine-tune a model on a task: batches, evaluations, checkpoints, resume, run record.

A run lives in a folder: `log.jsonl` (every event as it happens), `weights-N.safetensors` (optional checkpoints),
`trajectory.npz` (the fine-tuned weights in a few kilobytes), `adapter` (if one is trained), `offsets.json` (if it was
calibrated) and `record.json` (everything, at the end). Starting the same configuration again in the same folder goes on where
it stopped, to the bit; a finished run is only read. Base model, tokenizer and examples must be what they were, to the bit.

A first-order run has gradients, which are not in its log: it keeps `weights-N.safetensors` of its best step instead of a
trajectory, and begins again when it was stopped. Several processes can make a run: `zolab.runs.ranks`, `zolab.runs.shards`.
"""

import json
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from zolab.models import trained_digest
from zolab.optim import StepRecord, ZeroOrderOptimizer
from zolab.optim.checks import plain
from zolab.records import environment, load_record, peak_memory, reset_peak_memory, save_record
from zolab.records.log import RunLog
from zolab.runs.batches import batch_at, check_classes
from zolab.runs.checkpoints import Checkpoints
from zolab.runs.config import Config, forwards, make_optimizer, require
from zolab.runs.evaluations import announce, calibration, evaluation, keep_offsets, shown
from zolab.runs.events import RECORD, best_of, check_settings, out_of_patience, record_of, same_configuration, step_record
from zolab.runs.full_batch import full_loss
from zolab.runs.guards import Guards
from zolab.runs.identity import check_same, identity
from zolab.runs.joint import check_alike, check_ranks, log_of
from zolab.runs.objectives import LOSS, check_objective, closure
from zolab.runs.probing import choose_probe
from zolab.runs.ranks import ALONE, Ranks
from zolab.runs.schedules import scheduler
from zolab.runs.shards import Copies, Shards
from zolab.runs.tuning import FOLDER, discard, keep_adapter, load_tuned, weight_numbers
from zolab.tasks import Example, Splits, Task, cut, load_task


@dataclass
class Run:
    """A finished run: its record, and the fine-tuned model ready for use."""

    record: dict[str, Any]
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    task: Task
    examples: Splits


def finetune(config: Config, out: str | Path, *, overwrite: bool = False, progress: bool = True, shard: bool = False) -> Run:
    """Run a configuration in a folder, or go on with it if it was started there before.

    Args:
        config: model, task, optimizer and their settings.
        out: the run's folder.
        overwrite: discard an earlier run in the folder.
        progress: show a progress line.
        shard: of several processes each holds a part of the weights, for methods that take gradients (`zolab.runs.shards`).

    Raises:
        ValueError: a setting is wrong, a file of the run is damaged, or the folder holds a run of another configuration, base
            model or data.
        OSError: data or model cannot be had, or the folder cannot be written to or lacks space.
        FloatingPointError: a loss is not finite.
        RuntimeError: another process of the run refused it, or ended.
    """
    ranks = Ranks.joined()
    with ranks.agreed():
        config.validate()
        check_ranks(config, ranks, shard)
        task = load_task(config.task, config.autocast)
        check_objective(config.objective, task, config.differentiates)
    with log_of(Path(out), ranks, overwrite) as log:
        with ranks.agreed():
            session = _Session(config, task, log, ranks, overwrite, progress and ranks.first, shard)
        check_alike(ranks, config, session.identity, {"optimizer": session.settings, "overwrite": overwrite, "shard": shard})
        return session.run()


class _Session:
    """One process's share of a run."""

    def __init__(self, config: Config, task: Task, log: RunLog, ranks: Ranks, overwrite: bool, progress: bool, shard: bool):
        self.out, self.task, self.log, self.ranks, self.progress = log.path.parent, task, log, ranks, progress
        self.config = config = config if overwrite else same_configuration(config, log)
        self.shard, self.parts = shard, (Shards if shard else Copies)(ranks, config.device)
        self.overwrite, self.sharing, self.taken = overwrite, ranks if config.parallel == "batch" else ALONE, 0
        self.examples = task.sample(config.data_seed, config.train, config.dev, config.test)
        require(
            config.batch_size <= len(self.examples.train),
            f"batch_size {config.batch_size} exceeds the {len(self.examples.train)} training examples of {task.name}.",
        )
        check_classes(config, task, self.examples.train)
        self.model, self.tokenizer = load_tuned(replace(config, device=self.parts.loaded_on))
        optimizer = make_optimizer(config, self.model)  # refused here, what does not fit this model costs nothing
        if config.per_example and isinstance(optimizer, ZeroOrderOptimizer):
            optimizer.look_through(self.model)
        if (config.checkpoint_every or config.first_order) and ranks.first:
            self.checkpoints.check_space(self.model)
        self.identity = identity(self.model, self.tokenizer, self.examples._asdict())
        self.weight_numbers, self.settings = weight_numbers(self.model), plain(optimizer.trajectory.settings)
        for started in self.log.of("start"):
            check_same(self.identity, started, self.out, "bring it back, or use --overwrite")

    def run(self) -> Run:
        self.parts.split(self.model)
        if self.overwrite:  # only now: a misspelt setting must not cost the earlier run
            self.log.clear()
        if not self.log.of("end"):
            self._start()
            self._train()
            self._finish()
        else:
            self._calibrate()
            self._rebuild(self.log.of("end")[0]["best_step"])
        if not (self.out / "trajectory.npz").exists():
            self._save_trajectory()
        keep_adapter(self.model, self.out, self.config.model)
        record = self.out / "record.json"
        content = self._record() if self.shard or not record.exists() else {}  # all ranks put sharded weights together for it
        if not record.exists():
            save_record(content, record)
        found = load_record(record, RECORD)
        keep_offsets(found.get("calibration"), self.out, self.out / FOLDER)
        return Run(found, self.model, self.tokenizer, self.task, self.examples)

    def _start(self) -> None:
        with self.ranks.agreed():
            self._warm_up()  # before the log says that a run began: it may refuse
        if self.config.first_order and self.log.of("step"):
            if self.progress:
                print("a first-order run was stopped here; its gradients are not in the log, so that it begins again")
            self.log.clear()
        if not self.log.of("start"):
            shortened = {split: cut(self.task, self.tokenizer, drawn) for split, drawn in self.examples._asdict().items()}
            known = {**self.identity, **self.weight_numbers, "cut": shortened}
            self.log.append("start", config=asdict(self.config), **known, **environment())
            if self.progress:
                announce(self.config, self.task, self.examples)
            self.checkpoints.discard()
            discard(self.out)
        reset_peak_memory(self.config.device)
        previous = self.log.of("time")
        self.clock = time.perf_counter() - (previous[-1]["seconds"] if previous else 0.0)
        self.log.append("time", seconds=self._seconds(), peak_bytes=peak_memory(self.config.device))
        self._calibrate()
        self._evaluate(0, "train")
        self._evaluate(0, "test")

    def _calibrate(self) -> None:
        """Fit the offsets, or take those that the log has; from here on losses and answers are with them."""
        if self.config.calibrate and not self.log.of("calibration"):
            data = self.task, self.model, self.tokenizer, self.examples.train
            self.log.append("calibration", **self.parts.evaluated(partial(calibration, self.config, *data)))
        for entry in self.log.of("calibration"):
            self.task.offsets = tuple(entry["offsets"])

    def _warm_up(self) -> None:
        """One forward pass that nobody sees: the first of a process may differ in the last bit while libraries set up."""
        with torch.no_grad():
            self._first_loss()

    def _first_loss(self) -> Tensor:
        return self._closure(0, LOSS, self.ranks if self.shard else ALONE)()

    def _train(self) -> None:
        config, steps = self.config, [step_record(entry) for entry in self.log.of("step")]
        self._weights_at(len(steps), steps)
        check_settings(self.log, self.optimizer.trajectory.settings, self.config.optim_args)
        self.guards = Guards(self.log, config.stuck, config.objective != LOSS)
        if len(steps) < config.steps:
            choose_probe(config, self.optimizer, self.model, self._first_loss)
        line = {"file": sys.stdout, "disable": not self.progress, "unit": "step", "mininterval": 1, "ncols": 110}
        bar = tqdm(total=config.steps, initial=len(steps), **line)
        with bar:
            for step in range(len(steps), config.steps + 1):
                if step % config.eval_every == 0 or step == config.steps:
                    bar.set_postfix_str(shown(self._evaluate(step, "dev"), self.task.metric))
                    if config.first_order and step and best_of(self.log)["step"] == step:
                        self.parts.save(self.model, self.checkpoints, step, best_of(self.log)["step"])  # it cannot be replayed
                if step == config.steps or out_of_patience(self.log, config.patience, step):
                    break
                if config.checkpoint_every and step and step % config.checkpoint_every == 0:
                    self.parts.save(self.model, self.checkpoints, step, best_of(self.log)["step"])
                self._step(step)
                bar.update()

    def _step(self, step: int) -> None:
        loss = self.guards.stepped(step, self._on_batch)
        self.taken += 1
        self.scheduler.step()
        self.guards.took(loss, self.optimizer)
        self.log.append("time", seconds=self._seconds(), peak_bytes=peak_memory(self.config.device))

    def _on_batch(self, number: int) -> float:
        """Take a step on the batch of this number."""
        return self.optimizer.step(self._closure(number, self.config.objective, self.sharing))

    def _closure(self, number: int, objective: str, ranks: Ranks) -> Callable[[], Any]:
        data, each = (self.task, self.model, self.tokenizer, self._batch(number)), self.config.per_example
        return closure(objective, *data, each=each and ranks is self.sharing, ranks=ranks, shard=self.shard)

    def _finish(self) -> None:
        best_step, peak, ranks = best_of(self.log)["step"], peak_memory(self.config.device), self.ranks
        if ranks.count > 1 and self.taken:
            self.log.append(
                "ranks", **{"count": ranks.count, "parallel": self.config.parallel, **self.parts.exchange(self.taken)}
            )
        if best_step != self.optimizer.steps:
            self._rebuild(best_step)
        self._evaluate(best_step, "train")
        self._evaluate(best_step, "test")
        self._save_trajectory()
        self.log.append("time", seconds=self._seconds(), peak_bytes=peak)
        save_record(self._record(), self.out / "record.json")
        self.log.append("end", best_step=best_step)

    def _record(self) -> dict[str, Any]:
        return record_of(self.log, self._forwards(len(self.log.of("step"))), trained_digest(self.model))

    def _save_trajectory(self) -> None:
        if not self.config.first_order:
            self.optimizer.trajectory.save(self.out / "trajectory.npz")

    def _weights_at(self, step: int, records: list[StepRecord]) -> None:
        """Bring the base model to a step: from the last checkpoint before it, then by replay."""
        self.optimizer = make_optimizer(self.config, self.model)
        data = self.tokenizer, self.examples.train, self.config
        if isinstance(self.optimizer, ZeroOrderOptimizer):
            self.optimizer.full_batch = partial(full_loss, self.task, self.model, *data, self.sharing)
            if self.ranks is not self.sharing:
                self.optimizer.spread = self.ranks.map
                self.optimizer.sides_apart = self.optimizer.trajectory.samples % self.ranks.count > 0
        for known in self.log.of("optimizer") or ([{"settings": {}}] if records else []):
            self.optimizer.rounding = known["settings"].get("rounding", "nearest")  # as runs did that are older than it
        self.scheduler = scheduler(self.config.schedule, self.optimizer, self.config.steps)
        saved = self.parts.load(self.model, self.checkpoints, lambda at: at <= step and self.optimizer.resumable(at))
        self.optimizer.skip(records[:saved])
        self.optimizer.replay(records[saved:step])
        self.optimizer.zero_grad()
        for _ in range(step):
            vars(self.optimizer)["_opt_called"] = True  # else torch warns of a scheduler that is ahead
            self.scheduler.step()

    def _rebuild(self, step: int) -> None:
        """Fresh base weights, brought to a step."""
        del self.model
        for name in ("optimizer", "scheduler"):  # their memory goes before the next ones' comes
            vars(self).pop(name, None)
        self.model, _ = load_tuned(replace(self.config, device=self.parts.loaded_on))
        self.parts.split(self.model)
        self._weights_at(step, [step_record(entry) for entry in self.log.of("step")])

    def _batch(self, step: int) -> list[Example]:
        """What this process sees of a step's batch."""
        config = self.config
        return self.sharing.share(batch_at(self.examples.train, config.batch_size, config.seed, step, config.balanced))

    def _evaluate(self, step: int, split: str) -> dict[str, Any]:
        known = {entry["split"]: entry for entry in self.log.of("evaluation") if entry["step"] == step}
        if split in known:
            return known[split]
        examples = getattr(self.examples, split)[: len(self.examples.dev) if split == "train" else None]
        trained = known.get("train", {}).get("judgement")
        if self.ranks.count > 1:  # the same steps make the same weights
            self.ranks.check_same({"the steps so far": zlib.crc32(json.dumps(self.log.of("step")).encode())})
        try:
            data = self.task, self.model, self.tokenizer, examples, split, trained
            measured = self.parts.evaluated(partial(evaluation, *data))
        except FloatingPointError as error:
            raise FloatingPointError(f"evaluation on {split} at step {step}: {error}") from error
        self.log.append("evaluation", step=step, split=split, forwards=self._forwards(step), **measured)
        return measured

    def _forwards(self, step: int) -> int:
        return forwards(self.config, step + len(self.log.of("overflow")), len(self.examples.train))

    def _seconds(self) -> float:
        return time.perf_counter() - self.clock

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.out, self.log.id)
