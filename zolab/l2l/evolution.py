"""Learning to learn from whole runs, by forward passes alone.

Algorithm 2's gradients judge a zeroth-order step by what comes right after it. Here whole runs are judged by their final loss.
Two runs with the same batches and directions, but with log sigma and the log of the learning rate moved up in one and down in
the other along a random direction, tell which way along it is better: MeZO's two-point slope, one level higher, in the memory
of inference (evolution strategies with antithetic pairs, arXiv 1703.03864). Not for scales that change during a run: what
comes out is a number for each block.

The search begins at sigma = 1, or at a closed form from a gain map. Without any pair that closed form is what comes out.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from zolab.l2l.base_weights import BaseWeights
from zolab.l2l.config import EvolveConfig
from zolab.l2l.train import MetaRun, drawn, fit_to_classes
from zolab.models import load_model
from zolab.optim import ZOFineTuner
from zolab.pertnn import PertNN
from zolab.probe.blocks import split, weights_of
from zolab.records import begun_in, environment, load_record, save_record
from zolab.records.log import RunLog
from zolab.records.sealed import digest_of
from zolab.records.shapes import NUMBER, check_events, check_shape
from zolab.runs.batches import batch_at
from zolab.runs.config import require
from zolab.runs.events import IDENTITY
from zolab.runs.identity import check_same, identity
from zolab.tasks import load_task
from zolab.theory.judged import GROUPINGS, all_of, shared_best, shared_signal, shrunk

ROW = {"size": int, "G": [NUMBER], "V": [NUMBER], "t": [NUMBER]}
POINT = {"task": str, "step": int, "base": str, "blocks": [str], "sizes": [int], "halves": [[[NUMBER]]]}  # of a gain map
POINT |= {key: {str: ROW} for key in ("layer", "kind")}
EVENTS = {
    "start": {"config": dict, "first?": [NUMBER], "map?": str, **IDENTITY},
    "pair": {"losses": lambda pair: _is_pair(pair)},
}
WAYS = {"signal": shared_signal, "best": shared_best}  # of `zolab.l2l.config.SCALES`
LARGEST = 2.0  # of a pair's difference, in typical ones: a run that broke must not decide alone


def evolve(config: EvolveConfig, out: str | Path, *, progress: bool = True) -> MetaRun:
    """Evolve a PertNN of constant sigma in a folder, or go on with it if it was begun there before.

    The folder holds `log.jsonl` (two losses a pair, None for a run that broke: all that has to be remembered), and at the end
    PertNN with its card and `record.json`.

    Args:
        config: what to do.
        out: the folder.
        progress: show a progress line.

    Raises:
        ValueError: a setting is wrong, a task has too few examples, or the folder holds an evolution of another configuration,
            base model or data.
        OSError: data or model cannot be had, or the folder cannot be written to.
    """
    config.validate()
    runs, log = _Runs(config), RunLog(Path(out) / "log.jsonl")
    try:
        check_events(log.events, EVENTS, str(log.path))
        started = log.of("start")
        if started and started[0]["config"] != asdict(config):
            raise ValueError(f"{out} holds an evolution with other settings; choose another folder.")
        for event in started:
            check_same(runs.identity, event, out, "bring it back, or choose another folder")
            runs.go_on(event, out)
        if not started:
            own = {"first": runs.first.tolist(), "map": runs.map}
            log.append("start", config=asdict(config), **own, **runs.identity, **environment())
        search = Evolution(len(runs.pertnn.blocks) + 1, config.spread, config.rate, config.seed)
        known = [entry["losses"] for entry in log.of("pair")]
        with BaseWeights(weights_of(runs.model), Path(out) / "base.bin") as base:
            for number in tqdm(range(config.pairs), disable=not progress, unit="pair", mininterval=1, ncols=110):
                if number == len(known):
                    losses = [runs.final_loss(number, values, base) for values in search.pair()]
                    known.append([loss if math.isfinite(loss) else None for loss in losses])
                    log.append("pair", losses=known[number])
                search.tell(*(math.inf if loss is None else loss for loss in known[number]), group=number % len(runs.tasks))
        return _finish(Path(out), log.of("start")[0], runs, search, known)
    finally:
        log.close()


def _is_pair(losses: Any) -> bool:
    """Two losses, None for a run that broke."""
    return isinstance(losses, list) and len(losses) == 2 and all(isinstance(loss, (*NUMBER, type(None))) for loss in losses)


class Evolution:
    """Two-point search for the smallest value of a noisy function of a vector, which begins at zero.

    Args:
        size: of the vector.
        spread: distance of both points from the present vector, along each coordinate, in standard deviations.
        rate: step for a typical difference.
        seed: of the directions.

    Attributes:
        center: the present vector.
        path: all vectors so far; the mean of its later half is less noisy than the last.
    """

    def __init__(self, size: int, spread: float, rate: float, seed: int):
        self.spread, self.rate, self.seed = spread, rate, seed
        self.center, self.path = np.zeros(size), [np.zeros(size)]
        self.differences: dict[int, list[float]] = {}

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """The two vectors that are to be tried next."""
        move = self.spread * self._direction()
        return self.center + move, self.center - move

    def tell(self, plus: float, minus: float, group: int = 0) -> None:
        """Step along the last pair's direction.

        Args:
            plus, minus: the values of `pair`'s vectors; what is not finite is worse than any other.
            group: of values that can be compared with each other, such as a task.
        """
        if math.isfinite(plus) and math.isfinite(minus):
            differences = self.differences.setdefault(group, [])
            differences.append(abs(plus - minus))
            typical = float(np.median(differences))
            slope = float(np.clip((plus - minus) / typical, -LARGEST, LARGEST)) if typical else 0.0
        else:
            slope = LARGEST * (math.isfinite(minus) - math.isfinite(plus))
        self.center = self.center - self.rate * slope * self._direction()
        self.path.append(self.center)

    def mean(self) -> np.ndarray:
        """Of the later half of the path."""
        return np.mean(self.path[len(self.path) // 2 :], axis=0)

    def _direction(self) -> np.ndarray:
        return np.random.default_rng((self.seed, len(self.path))).standard_normal(len(self.center))


def starting_points(config: EvolveConfig) -> list[dict[str, Any]]:
    """What the gain map with which an evolution starts says of each of its tasks at the base model.

    Raises:
        ValueError: it is damaged, or lacks a task.
        OSError: it cannot be read.
    """
    result = load_record(config.start).get("result")
    if not (isinstance(result, dict) and "points" in result):
        raise ValueError(f"{config.start} is no record of a gain map; make one (python -m zolab map).")
    check_shape(result, {"points": [POINT]}, config.start)
    known = {point["task"]: point for point in result["points"] if not point["step"]}
    missing = ", ".join(name for name in config.task_names if name not in known)
    require(not missing, f"{config.start} has no {missing}; measure it there (python -m zolab map), or leave it out.")
    return [known[name] for name in config.task_names]


class _Runs:
    """Short runs of ZO Fine-tuner with constant sigma, each from the base model."""

    def __init__(self, config: EvolveConfig):
        self.config, self.tasks = config, [load_task(name) for name in config.task_names]
        self.examples = [drawn(task, config, config.dev) for task in self.tasks]
        self.model, self.tokenizer = load_model(config.model, config.dtype, config.device)
        self.model.eval()
        names = zip(config.task_names, self.examples, strict=True)
        drawn_from = {f"{name}, {part}": getattr(splits, part) for name, splits in names for part in ("train", "dev")}
        self.identity = identity(self.model, self.tokenizer, drawn_from)
        self.pertnn = PertNN(split(self.model, GROUPINGS[config.rule]), 1, identity=True)
        self.first, self.map = self._first() if config.start else (np.ones(len(self.pertnn.blocks)), "")
        training = [splits.train for splits in self.examples]
        self.balanced = fit_to_classes(self.tasks, config, self.model, self.tokenizer, training)

    def go_on(self, event: dict[str, Any], out: str | Path) -> None:
        """Begin where a search began before, to the bit: a closed form's last digits depend on the number of threads.

        Args:
            event: of its log.
            out: its folder.

        Raises:
            ValueError: the gain map is another one now.
        """
        first = self.first.tolist()
        same = event["map"] == self.map if "map" in event else event.get("first") == first  # older logs have no map
        require(same, f"the gain map {self.config.start} is no longer what {out} was started with.")
        self.first = np.array(event.get("first", first))

    def _first(self) -> tuple[np.ndarray, str]:
        """Sigma of the blocks where the search begins, from the gain map; and a digest of what the map says of these tasks.

        Raises:
            ValueError: it is damaged, of another model, or lacks a task.
            OSError: it cannot be read.
        """
        config, base = self.config, self.identity["base"]
        points = starting_points(config)
        ours, held = all(point["base"] == base for point in points), f"{config.model} in {config.dtype}"
        require(ours, f"{config.start} is of another model than {held}; measure this one (python -m zolab map).")
        try:
            statistics = [all_of(point, config.rule).ordered(self.pertnn.blocks.names) for point in points]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{config.start} is damaged: its numbers are not those of each block; restore it.") from error
        content = [[list(of.names), of.sizes.tolist(), of.estimates.tolist()] for of in statistics]
        return shrunk(WAYS[config.scales](statistics, config.batch_size), config.weight), digest_of(content)

    def final_loss(self, number: int, values: np.ndarray, base: BaseWeights) -> float:
        """Mean loss on the dev examples after the run of a pair; infinite if it breaks.

        Args:
            number: of the pair; it decides the task, the batches and the directions.
            values: log of each block's sigma over the first one, then of the learning rate over `config.lr`.
            base: of the model.
        """
        config, seed = self.config, self.config.seed + number
        turn = number % len(self.tasks)
        task, examples, balanced = self.tasks[turn], self.examples[turn], self.balanced[turn]
        base.put_back()
        self.propose(values)
        lr = config.lr * math.exp(values[-1])
        optimizer = ZOFineTuner(self.model.named_parameters(), self.pertnn, lr=lr, eps=config.eps, seed=seed, freeze=True)
        try:
            for step in range(config.steps):
                chosen = batch_at(examples.train, config.batch_size, seed, step, balanced)
                batch = task.encode(self.tokenizer, chosen).to(config.device)
                optimizer.step(lambda batch=batch: task.loss(self.model, batch))
            return task.evaluate(self.model, self.tokenizer, examples.dev).loss
        except FloatingPointError:
            return math.inf

    @torch.no_grad()
    def propose(self, values: np.ndarray) -> None:
        """Let the PertNN propose the sigma of these values."""
        self.pertnn.b2.copy_(torch.from_numpy(self.first * np.exp(values[:-1])))


def _finish(out: Path, start: dict[str, Any], runs: _Runs, search: Evolution, known: list[list[float | None]]) -> MetaRun:
    config = runs.config
    values, names = search.mean(), runs.pertnn.blocks.names
    runs.propose(values)
    sigma = runs.pertnn.normalised(runs.pertnn.b2.detach()).tolist()
    result = {
        "sigma": dict(zip(names, sigma, strict=True)),
        "lr": config.lr * math.exp(values[-1]) if known else None,  # without pairs no run has tried one
        "base": runs.identity["base"],
    }
    about = {"base_model": config.model, "fingerprint": runs.identity["base"], "training_data": config.tasks, "licence": "MIT"}
    runs.pertnn.save(out, **about, metrics={**result, "settings": asdict(config)})
    record = {"config": asdict(config), "result": {**result, "pairs": known}, **begun_in(start)}
    save_record(record, out / "record.json")
    return MetaRun(runs.pertnn, load_record(out / "record.json"))
