"""Meta-training (arXiv 2510.00419, Algorithm 2): PertNN learns on one or several tasks while the model is tuned and put back.

Training goes in periods. A period begins with the base model, without momentum; PertNN, sigma and, as in the published script
for one task, the loss history go on. (The authors' script for several tasks sets the losses to zero in each epoch; the paper
shuffles the tasks, where batches take turns here.) So what has to be remembered between two periods is a few hundred
kilobytes, and a stopped run goes on at the beginning of the period that it was in.

Several processes can hold a part of the weights each (`--shard`): they see their shares of a batch, sum their gradients and the
products of gradients and directions, and so train the same PertNN.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from zolab.l2l.base_weights import BaseWeights
from zolab.l2l.config import MEASURED, EvolveConfig, MetaConfig
from zolab.l2l.parts import Parts
from zolab.l2l.step import History, MetaStep, Outcome
from zolab.models import load_model
from zolab.models.gradients import recomputed
from zolab.pertnn import PertNN
from zolab.probe.blocks import published_weights, split, weights_of
from zolab.records import begun_in, environment, load_record, peak_memory, reset_peak_memory, save_record
from zolab.records.log import RunLog
from zolab.records.sealed import read_tensors, write_tensors
from zolab.records.shapes import NUMBER, check_events
from zolab.runs.batches import batch_at, calibration_examples, check_classes, has_classes
from zolab.runs.config import require
from zolab.runs.evaluations import offsets_for
from zolab.runs.events import IDENTITY
from zolab.runs.identity import check_same, identity
from zolab.runs.joint import check_alike, log_of, take_gpu
from zolab.runs.objectives import LOSS, closure
from zolab.runs.ranks import Ranks
from zolab.runs.shards import Copies, Shards, check_shards
from zolab.tasks import Example, Splits, Task, load_task
from zolab.theory.judged import GROUPINGS
from zolab.theory.measure import gauss_newton_terms
from zolab.theory.terms import StepTerms

OUTER = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
SHARED = ("lr", "momentum", "lr_zo", "eps", "gradient", "through_budget", "exact", "fused", "seed")  # with `MetaStep`
EVENTS = {
    "start": {"config": dict, **IDENTITY},
    "step": {
        "step": int,
        "task": str,
        "meta_loss": NUMBER,
        "loss": NUMBER,
        "losses": [NUMBER],
        "projected_grad": NUMBER,
        "sigma?": [NUMBER],
    },
    "period": {"steps": int, "histories": [{"losses": [NUMBER], "raw": [NUMBER]}], "peak_bytes?": int},
}
LOOK_BACK = 10  # steps whose mean loss ends a period early


@dataclass
class MetaRun:
    """A finished meta-training: PertNN, and its record."""

    pertnn: PertNN
    record: dict[str, Any]


def drawn(task: Task, config: MetaConfig | EvolveConfig, dev: int = 1) -> Splits:
    """A task's examples for learning to learn.

    Raises:
        ValueError: those for training do not fill a batch, or lack classes that balance and calibration need.
    """
    examples = task.sample(config.data_seed, config.train, dev, 1)
    message = (
        f"{task.name} has {len(examples.train)} training examples, fewer than batch_size {config.batch_size}; leave it out."
    )
    require(config.batch_size <= len(examples.train), message)
    if has_classes(task, examples.train):
        check_classes(config, task, examples.train)
    return examples


def fit_to_classes(
    tasks: Sequence[Task], config: MetaConfig | EvolveConfig, model: Any, tokenizer: Any, training: Sequence[Sequence[Example]]
) -> list[bool]:
    """Give tasks the offsets that the settings ask for, and say whose batches are balanced; neither without classes."""
    with_classes = [has_classes(task, examples) for task, examples in zip(tasks, training, strict=True)]
    for task, examples, classes in zip(tasks, training, with_classes, strict=True):
        if config.calibrate and classes:
            chosen = calibration_examples(config, examples)
            task.offsets = tuple(offsets_for(task, model, tokenizer, chosen, config.batch_size))
    return [config.balanced and classes for classes in with_classes]


def meta_train(config: MetaConfig, out: str | Path, *, progress: bool = True, shard: bool = False) -> MetaRun:
    """Train a PertNN in a folder, or go on with it if it was begun there before.

    The folder holds `log.jsonl` (every step), `state-STEP.safetensors` (PertNN between two periods), and at the end PertNN with
    its card and `record.json`.

    Args:
        config: what to do.
        out: the folder.
        progress: show a progress line.
        shard: of several processes each holds a part of the weights (`zolab.runs.shards`); the first one writes the folder.

    Raises:
        ValueError: a setting is wrong, a task has too few examples, a file of the run is damaged, or the folder holds a run of
            another configuration, base model or data.
        OSError: data or model cannot be had, or the folder cannot be written to.
        FloatingPointError: a loss is not finite.
    """
    ranks = Ranks.joined()
    with ranks.agreed():
        config.validate()
        _check_ranks(config, ranks, shard)
        tasks = [load_task(name) for name in config.task_names]
    with log_of(Path(out), ranks, overwrite=False, check=_check_log) as log:
        with ranks.agreed():
            session = _MetaSession(config, tasks, log, ranks, shard, progress and ranks.first)
        check_alike(ranks, config, session.identity, {"shard": shard})
        return session.run()


def _check_log(log: RunLog) -> None:
    check_events(log.events, EVENTS, str(log.path))


def _check_ranks(config: MetaConfig, ranks: Ranks, shard: bool) -> None:
    if not shard:
        message = f"{ranks.count} processes were started, and learning to learn shares nothing among them but a model's weights"
        require(ranks.count == 1, f"{message}: add --shard, or start one.")
        return
    check_shards(ranks, config.fused)
    message = f"gradient {config.gradient} measures a whole model in each process: choose another one, or leave --shard."
    require(config.gradient not in MEASURED, message)
    require(not config.calibrate, "offsets are fitted to a whole model in each process: leave calibrate out, or --shard.")
    message = (
        f"batch_size is {config.batch_size}, and there are {ranks.count} ranks, each of which needs an example of each batch"
    )
    require(config.batch_size >= ranks.count, f"{message}: raise batch_size, or start fewer.")
    take_gpu(config.device, ranks)


class _MetaSession:
    """One process's share of a meta-training."""

    def __init__(self, config: MetaConfig, tasks: list[Task], log: RunLog, ranks: Ranks, shard: bool, progress: bool):
        self.config, self.tasks, self.log, self.ranks, self.progress = config, tasks, log, ranks, progress
        self.out, self.shard, self.copies = log.path.parent, shard, (Shards if shard else Copies)(ranks, config.device)
        started = log.of("start")
        if started and started[0]["config"] != asdict(config):
            raise ValueError(f"{self.out} holds a meta-training with other settings; choose another folder.")
        for task in tasks if config.gradient in MEASURED else []:
            message = f"gradient {config.gradient} needs tasks with options, and {task.name} has none; leave it out."
            require(task.objective == "options", message)
        self.examples = [drawn(task, config).train for task in tasks]
        self.model, self.tokenizer = load_model(config.model, config.dtype, self.copies.loaded_on)
        self.model.eval()
        self.balanced = fit_to_classes(tasks, config, self.model, self.tokenizer, self.examples)
        drawn_from = dict(zip(config.task_names, self.examples, strict=True))
        self.identity = identity(self.model, self.tokenizer, drawn_from)
        for event in started:
            check_same(self.identity, event, self.out, "bring it back, or choose another folder")
        blocks = split(self.model, GROUPINGS[config.rule])
        weights = None
        if config.budget == "code":
            weights = published_weights(blocks, self.model.config.hidden_size, config.batch_size)
        options = {"identity": config.identity, "input_scaling": config.input_scaling, "normalise": config.budget}
        self.pertnn = PertNN(blocks, config.hidden, **options, budget_weights=weights, seed=config.seed).to(config.device)
        self.histories = [History() for _ in tasks]

    def run(self) -> MetaRun:
        self.copies.split(self.model)
        self.parts = Parts(weights_of(self.model), self.ranks)
        done = self.log.of("period")
        if not self.log.of("start"):
            self.log.append("start", config=asdict(self.config), **self.identity, **environment())
        reset_peak_memory(self.config.device)
        outer = OUTER[self.config.outer](self.pertnn.parameters(), lr=self.config.meta_lr)
        step = done[-1]["steps"] if done else 0
        if done:
            self._resume(done[-1], outer)
        bar = tqdm(total=self.config.steps, initial=step, disable=not self.progress, unit="step", mininterval=1, ncols=110)
        base_weights = BaseWeights(self.parts.tensors, self.out / "base.bin")
        with base_weights, bar, recomputed(self.model) if self.config.recompute else nullcontext():
            while step < self.config.steps:
                base_weights.put_back()
                step = self._period(step, outer, bar)
        return self._finish(self.identity["base"])

    def _period(self, first: int, outer: torch.optim.Optimizer, bar: tqdm) -> int:
        """Steps from the base model on; returns the number of the next step."""
        config = self.config
        last = min(first + config.period, config.steps)
        settings = {name: getattr(config, name) for name in SHARED} | {"clip": config.clip or None}
        meta_step = MetaStep(self.parts, self.pertnn, outer, **settings)
        meta_step.steps, losses = first, []
        for step in range(first, last):
            meta_step.lr = config.lr * (1 - (step - first) / config.period if config.decay else 1)
            turn = step % len(self.tasks)
            number = step // len(self.tasks)
            terms = self._terms(turn, number) if config.gradient in MEASURED else None
            outcome = meta_step(self._closure(turn, number), self.histories[turn], terms)
            self._note(step, turn, outcome)
            losses.append(outcome.loss)
            bar.update()
            recent = losses[-LOOK_BACK:]
            if len(recent) == LOOK_BACK and sum(recent) / LOOK_BACK < config.reset_below:
                last = step + 1
                break
        self._keep(last, outer)
        return last

    def _closure(self, turn: int, number: int) -> Callable[[], Any]:
        config, balanced = self.config, self.balanced[turn]
        chosen: list[Example] = batch_at(self.examples[turn], config.batch_size, config.seed, number, balanced)
        data = self.tasks[turn], self.model, self.tokenizer, self.ranks.share(chosen)
        return closure(LOSS, *data, ranks=self.ranks, shard=self.shard)

    def _terms(self, turn: int, number: int) -> StepTerms:
        """Of the present weights, on examples that change from step to step."""
        config, task = self.config, self.tasks[turn]
        measured = min(config.measured, len(self.examples[turn]))
        examples = batch_at(self.examples[turn], measured, config.seed + 1, number, self.balanced[turn])
        settings = {
            "batch": config.batch_size,
            "minibatches": config.minibatches,
            "rule": GROUPINGS[config.rule],
            "seed": number,
            "balanced": self.balanced[turn],
        }
        return gauss_newton_terms(self.model, task, self.tokenizer, examples, **settings)[0]

    def _note(self, step: int, turn: int, outcome: Outcome) -> None:
        entry: dict[str, Any] = {
            "step": step,
            "task": self.tasks[turn].name,
            "meta_loss": outcome.meta_loss,
            "loss": outcome.loss,
        }
        entry |= {"losses": outcome.losses, "projected_grad": outcome.projected_grad}
        if step % max(1, self.config.steps // 100) == 0 or step == self.config.steps - 1:
            entry["sigma"] = [float(f"{s:.5g}") for s in outcome.sigma]
        self.log.append("step", **entry)

    def _keep(self, steps: int, outer: torch.optim.Optimizer) -> None:
        """Remember a period: its state, then the line that says so, then no longer the state before it."""
        state = {f"pertnn.{name}": w for name, w in self.pertnn.named_parameters()}
        for number, values in outer.state_dict()["state"].items():
            state |= {f"outer.{number}.{name}": value for name, value in values.items() if value is not None}
        write_tensors(state, self._state(steps), {"run": self.log.id, "steps": steps})
        about = {"histories": [asdict(history) for history in self.histories], "peak_bytes": peak_memory(self.config.device)}
        self.log.append("period", steps=steps, **about)
        for file in self.out.glob("state*.safetensors"):
            if file != self._state(steps):
                file.unlink()

    def _state(self, steps: int) -> Path:
        return self.out / ("state.safetensors" if self.log.old else f"state-{steps}.safetensors")

    def _resume(self, period: dict[str, Any], outer: torch.optim.Optimizer) -> None:
        path = self._state(period["steps"])
        content = self.ranks.from_first(lambda: path.read_bytes().hex() if self.shard else "")
        if not self.ranks.first:  # whose folder is not the run's
            path.write_bytes(bytes.fromhex(content))
        state, about = read_tensors(path)
        if (about.get("run"), about.get("steps", period["steps"])) != (self.log.id, period["steps"]):
            raise ValueError(f"{path} is of another run than the log beside it; restore it, or choose another folder.")
        self.pertnn.load_state_dict({name[7:]: w for name, w in state.items() if name.startswith("pertnn.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("outer."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = value
        outer.load_state_dict({**outer.state_dict(), "state": moments})
        self.histories = [History(tuple(h["losses"]), h["raw"]) for h in period["histories"]]

    def _finish(self, base: str) -> MetaRun:
        events = {entry["step"]: entry for entry in self.log.of("step")}  # a stopped period's steps were taken again
        steps = [{key: value for key, value in events[step].items() if key != "event"} for step in sorted(events)]
        sigma = dict(zip(self.pertnn.blocks.names, steps[-1]["sigma"], strict=True))
        about = {"base_model": self.config.model, "fingerprint": base, "training_data": self.config.tasks, "licence": "MIT"}
        self.pertnn.save(self.out, **about, metrics={"steps": len(steps), "sigma": sigma, "settings": asdict(self.config)})
        result, begun = {"steps": steps, "sigma": sigma, "base": base}, begun_in(self.log.of("start")[0])
        record = {"config": asdict(self.config), "result": result, **begun}
        if self.shard:
            record["ranks"] = {"count": self.ranks.count, **self.copies.exchange(1)}
        peaks = [period["peak_bytes"] for period in self.log.of("period") if "peak_bytes" in period]  # older logs lack it
        record["timing"] = {"peak_bytes": max(peaks, default=peak_memory(self.config.device))}
        save_record(record, self.out / "record.json")
        return MetaRun(self.pertnn, load_record(self.out / "record.json"))
