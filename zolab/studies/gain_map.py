"""The gain map: on each task what one sigma per block may gain over one for all, at the base model and along a run."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from zolab.models import load_model
from zolab.records import environment, ready_for_record, save_record
from zolab.records.files import read_json, sweep, write_json
from zolab.records.sealed import seal, unseal
from zolab.runs.batches import batch_at, check_classes, has_classes
from zolab.runs.config import Config, make_optimizer, require
from zolab.runs.evaluations import calibration, offsets_for
from zolab.runs.identity import identity
from zolab.runs.objectives import LOSS, closure
from zolab.runs.schedules import scheduler
from zolab.studies.gain_transfer import gain_text
from zolab.studies.run import holding
from zolab.tasks import Example, Splits, Task, by_class, load_task
from zolab.theory.judged import ESTIMATES, FEWEST_GROUPS, GROUPINGS, agreement, judged, noise_rank
from zolab.theory.signal import Signal, in_turns, signal


def gain_map(
    config: Config, tasks: Sequence[str], examples: Sequence[int], steps: Sequence[int], groups: int, out: Path, record: Path
) -> dict[str, Any]:
    """Measure on each task after so many steps of a run, or take up where an earlier call stopped; write the record.

    Args:
        config: model, optimizer, rate, batches and calibration (left out on tasks without common candidates); `balanced`
            holds for tasks with enough examples of each class; task, steps and number of training examples are not looked at.
        tasks: names of tasks, each once.
        examples: how many of each task are measured; a single number holds for all.
        steps: of the run, 0 being the base model.
        groups: of examples, at least 6; memory is needed for `groups` + 1 times the weights besides the model.
        out: folder of what is done.
        record: file of the record.

    Returns:
        The record.

    Raises:
        ValueError: a setting is wrong, or the folder holds points of other settings. Nothing was measured then.
        OSError: another process measures in the folder, data or model cannot be had, or a file cannot be written.
    """
    at_steps = sorted(set(steps))
    require(bool(tasks) and len(set(tasks)) == len(tasks), f"tasks must name at least one task, each once, got {list(tasks)}.")
    require(bool(at_steps) and at_steps[0] >= 0, f"steps must be 0 or more, got {list(steps)}.")
    sentence = f"give one number of examples, or one for each of the {len(tasks)} tasks; got {len(examples)}."
    require(len(examples) in (1, len(tasks)), sentence)
    check_groups(groups, min(examples))
    counts = dict(zip(tasks, [*examples] * (len(tasks) // len(examples)), strict=True))
    config = replace(config, steps=max(at_steps[-1], 1))
    replace(config, task=tasks[0], calibrate=0, balanced=False).validate()
    begun = {task: _start(replace(config, task=task, train=count), groups) for task, count in counts.items()}
    ready_for_record(record)
    with holding(out):
        sweep(out)
        files = {(task, step): out / f"{_slug(task)}-{step}.json" for task in begun for step in at_steps}
        known = {key: _known(path, _settings(begun[key[0]][0], groups)) for key, path in files.items() if path.exists()}
        for task, start in begun.items():
            missing = [step for step in at_steps if (task, step) not in known]
            for step, point in _points(*start, missing, groups):
                known[task, step] = point
                write_json(files[task, step], seal({"settings": _settings(start[0], groups), "point": point}))
                print(line_of(point), flush=True)
    shared = {name: value for name, value in _settings(config, groups).items() if name not in ("task", "train")}
    settings, points = {**shared, "tasks": list(begun), "steps": at_steps}, [known[key] for key in files]
    content = {"config": settings, "result": {"points": points}, **environment()}
    save_record(content, record)
    return content


def check_groups(groups: Any, examples: Any, *, or_none: bool = False) -> None:
    """Raise ValueError unless examples can be parted into so many groups that their halves have error bars.

    Args:
        groups, examples: their numbers, as a plan has them.
        or_none: 0 groups will do.
    """
    require(type(examples) is int and examples >= 1, f"examples must be a whole number of at least 1, got {examples!r}.")
    fits = type(groups) is int and (FEWEST_GROUPS <= groups <= examples or (or_none and groups == 0))
    allowed = f"{'0, or ' * or_none}between {FEWEST_GROUPS} and the {examples} examples"
    require(fits, f"groups must be {allowed}, got {groups!r}.")


def _start(config: Config, groups: int, apart: Set[Example] = frozenset()) -> tuple[Config, Task, Splits]:
    """A task with its examples, and the configuration without what it cannot have: calibration and balance want classes.

    None of the training examples is one of those that are kept apart.
    """
    task = load_task(config.task)
    count = config.train or task.train
    examples = task.sample(config.data_seed, count + len(apart), config.dev, config.test)
    if apart:
        train = [example for example in examples.train if example not in apart][:count]
        sentence = (
            f"{len(train)} examples of {config.task} are not kept apart, too few for {groups} groups: lower dev or groups."
        )
        require(len(train) >= groups, sentence)
        examples = examples._replace(train=train)
    if not has_classes(task, examples.train):
        config = replace(config, calibrate=0, balanced=False)
    elif config.balanced and (least := min(map(len, by_class(examples.train)))) < groups:
        print(f"{config.task}: {least} examples of a class cannot be dealt to {groups} groups; its batches are not balanced")
        config = replace(config, balanced=False)
    config.validate()
    check_classes(config, task, examples.train)
    return config, task, examples


def _points(
    config: Config, task: Task, examples: Splits, steps: Sequence[int], groups: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What is measured after each number of steps of one run."""
    if not steps:
        return
    model, tokenizer = load_model(config.model, config.dtype, config.device)
    known = identity(model, tokenizer, examples._asdict())
    if config.calibrate:
        task.offsets = tuple(calibration(config, task, model, tokenizer, examples.train)["offsets"])
    optimizer = make_optimizer(config, model)
    rates = scheduler(config.schedule, optimizer, config.steps)
    for step in range(steps[-1] + 1):
        if step in steps:
            began, running = time.perf_counter(), task.offsets
            statistics = _measured(config, task, model, tokenizer, examples, groups)
            more = {"dev": task.evaluate(model, tokenizer, examples.dev).loss, "offsets": list(task.offsets)}
            point = {"task": config.task, "step": step, **known, **more, **_point(statistics, config)}
            task.offsets = running
            yield step, {**point, "seconds": time.perf_counter() - began}
        if step < steps[-1]:
            batch = batch_at(examples.train, config.batch_size, config.seed, step, config.balanced)
            optimizer.step(closure(LOSS, task, model, tokenizer, batch, each=config.per_example))
            rates.step()


def base_signal(config: Config, groups: int, apart: Set[Example] = frozenset()) -> Signal:
    """Signal and noise of a task's training examples at the base model, with the offsets that fit them.

    Args:
        config: of a run, with as many training examples as are measured, or fewer where there are no more; `balanced` and
            `calibrate` hold where the task has classes, as in `gain_map`.
        groups: of examples.
        apart: examples that are not measured, such as those that will judge.

    Raises:
        ValueError: there are too few examples.
    """
    config, task, examples = _start(config, groups, apart)
    model, tokenizer = load_model(config.model, config.dtype, config.device)
    return _measured(config, task, model, tokenizer, examples, groups)


def _measured(config: Config, task: Task, model: Any, tokenizer: Any, examples: Splits, groups: int) -> Signal:
    """Statistics at the weights as they are. The task keeps offsets that fit the examples, so that they have no part in G."""
    if config.calibrate:
        chosen = in_turns(examples.train, groups) if config.balanced else examples.train
        task.offsets = tuple(offsets_for(task, model, tokenizer, chosen))
    return signal(model, task, tokenizer, examples.train, groups, seed=config.seed, balanced=config.balanced)


def _point(statistics: Signal, config: Config) -> dict[str, Any]:
    """Numbers of one point, as JSON takes them."""
    return {
        "examples": int(statistics.counts.sum()),
        "balanced": statistics.balanced,
        "noise_rank": noise_rank(statistics),
        "agreement": finite(agreement(statistics)),
        "gains": {way: finite(asdict(one)) for way, one in judged(statistics, config.batch_size, config.seed).items()},
        "total": _rows(statistics.merged(lambda name: "all"))["all"],
        **{name: _rows(statistics.merged(GROUPINGS[name])) for name in ("layer", "kind")},
        "blocks": list(statistics.names),
        "sizes": [int(size) for size in statistics.sizes],
        "halves": [_short(half.estimates) for half in statistics.halves()],
    }


def _rows(statistics: Signal) -> dict[str, dict[str, Any]]:
    """Of each block its size, and G, V and t with their standard errors."""
    values, errors = statistics.estimates.T, statistics.errors.T
    rows = zip(statistics.names, statistics.sizes, values, errors, strict=True)
    return {name: {"size": int(size), **_pairs(value, error)} for name, size, value, error in rows}


def _pairs(values: np.ndarray, errors: np.ndarray) -> dict[str, list[float]]:
    return {name: _short([value, error]) for name, value, error in zip(ESTIMATES, values, errors, strict=True)}


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """None for what too few examples leave without a number: JSON has no NaN."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _short(values: Any) -> Any:
    """To five digits: their errors are larger by far."""
    return np.vectorize(lambda value: float(f"{value:.5g}"))(values).tolist()


def line_of(point: dict[str, Any]) -> str:
    """A line for each point: signal, noise and what the ways gain on the other half."""
    g, v = point["total"]["G"], point["total"]["V"]
    gains = ", ".join(f"{way} {gain_text(point, way)}" for way in point["gains"])
    head = f"{point['task']} after {point['step']} steps: G {g[0]:.3g} ± {g[1]:.2g}, V/G {v[0] / g[0]:.3g}"
    return f"{head}; gains on the other half: {gains} ({point['seconds']:.0f} s)"


def _settings(config: Config, groups: int) -> dict[str, Any]:
    """What a point depends on; the number of steps matters only where the learning rate follows a schedule of them."""
    names = ("model", "task", "dtype", "optimizer", "optim_args", "lr", "eps", "batch_size", "balanced", "calibrate", "seed")
    names += ("data_seed", "train", "dev", "test", "schedule")
    own = {name: getattr(config, name) for name in names}
    return {**own, "groups": groups, **({} if config.schedule == "constant" else {"steps": config.steps})}


def _known(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    content = unseal(read_json(path), str(path))
    other = [name for name, value in settings.items() if content.get("settings", {}).get(name) != value]
    require(not other, f"{path} was measured with other settings ({', '.join(other)}); choose another folder.")
    return content["point"]


def _slug(task: str) -> str:
    return re.sub(r"\W+", "-", task)[:80]
