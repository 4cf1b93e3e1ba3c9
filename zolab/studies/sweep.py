"""Fair comparisons: each method searches its own learning rate on one seed, then runs on several seeds at its best.

A plan is a YAML file: `base` (settings that all runs share), `methods` (for each name the settings that differ, `lr` being
where the search starts), `factor` (between neighbouring learning rates), `extend` (how often the search may go on past its
edge) and `seeds`. With `search: 3`, the rate that was best on the first seed gives way to a neighbour as long as that is
better on average over the first three seeds: the best rate of one seed may be one at which another breaks. Every run has its
own folder, so a stopped sweep goes on where it stopped.
"""

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from zolab.records import environment, save_record
from zolab.runs.config import Config, require
from zolab.runs.finetune import finetune
from zolab.tasks import load_task

PLAN = ("base", "methods", "factor", "extend", "seeds")


def load_plan(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check a plan; every configuration in it is validated before anything runs.

    Raises:
        ValueError: a key is missing or unknown, or a setting is wrong.
    """
    try:
        plan = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file ({' '.join(str(error).split())}); correct it.") from error
    check_plan(plan, path)
    return plan


def check_plan(plan: Any, path: str | os.PathLike) -> None:
    """Raise ValueError unless a plan, read from a path, has all that `load_plan` asks for."""
    keys = f"{path} must have exactly the keys {', '.join(PLAN)}, and may have search."
    require(isinstance(plan, dict) and set(plan) - {"search"} == set(PLAN), keys)
    factor, extend, seeds, search = plan["factor"], plan["extend"], plan["seeds"], plan.get("search", 1)
    listed = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    limits = isinstance(factor, int | float) and factor > 1 and type(extend) is int and extend >= 0 and listed
    require(limits, f"{path}: factor > 1, a whole extend >= 0 and a list of one or more whole seeds, please.")
    named = isinstance(plan["base"], dict) and isinstance(plan["methods"], dict) and plan["methods"]
    require(named, f"{path}: base must be settings, and methods one or more names with settings of their own.")
    told = f"search must be a number of the {len(plan['seeds'])} seeds, got {search!r}."
    require(type(search) is int and 1 <= search <= len(plan["seeds"]), told)
    for name, own in plan["methods"].items():
        rate = own.get("lr") if isinstance(own, dict) else None
        require(isinstance(rate, int | float) and rate > 0, f"{path}: {name} needs an lr > 0, got {rate!r} (write 1.0e-4).")
        config = configuration(plan, name, float(rate), seeds[0])
        config.validate()
        load_task(config.task)


def configuration(plan: dict[str, Any], name: str, lr: float, seed: int) -> Config:
    """One run of a plan. Directions, batches and data all follow the seed."""
    settings = {**plan["base"], **plan["methods"][name], "lr": lr, "seed": seed, "data_seed": seed}
    try:
        return Config(**settings)
    except TypeError as error:
        raise ValueError(f"the plan's settings for {name} are not a configuration ({error}).") from error


def sweep(plan: dict[str, Any], out: str | os.PathLike, progress: bool = True) -> dict[str, Any]:
    """Run a plan and write `out/record.json`.

    Args:
        plan: from `load_plan`.
        out: folder for the runs.
        progress: show progress lines.

    Returns:
        The record: for each method the searched learning rates with their final dev loss on the first seed (None where the
        run diverged), those compared on several seeds with the mean, the chosen one, and the outcome of each seed.
    """
    out, record = Path(out), {}
    for name in plan["methods"]:
        record[name] = _method(plan, name, out, progress)
        save_record({"config": plan, "result": record, **environment()}, out / "record.json")
    return record


def _method(plan: dict[str, Any], name: str, out: Path, progress: bool) -> dict[str, Any]:
    """A method's search and its outcome on every seed at the best learning rate."""
    start, factor, (first, *others) = float(plan["methods"][name]["lr"]), plan["factor"], plan["seeds"]

    def rate(place: int) -> float:
        return float(f"{start * factor**place:.3g}")

    @cache
    def outcome_at(place: int, seed: int = first) -> dict[str, Any]:
        return _outcome(plan, name, rate(place), seed, out, progress)

    judges = plan["seeds"][: plan.get("search", 1)]

    @cache
    def mean_at(place: int) -> float:
        return sum(_loss(outcome_at(place, seed)) for seed in judges) / len(judges)

    def told(losses: dict[int, float]) -> dict[str, float | None]:
        return {f"{rate(place):.3g}": losses[place] if math.isfinite(losses[place]) else None for place in sorted(losses)}

    tried = {place: _loss(outcome_at(place)) for place in (-1, 0, 1)}
    for _ in range(plan["extend"]):
        best = min(tried, key=tried.__getitem__)
        if min(tried) < best < max(tried):
            break
        place = best - 1 if best == min(tried) else best + 1
        tried[place] = _loss(outcome_at(place))
    best, found = min(tried, key=tried.__getitem__), {"searched": told(tried)}
    if len(judges) > 1:
        means: dict[int, float] = {}
        while not means or best != min(means, key=means.__getitem__):
            best = min(means, key=means.__getitem__) if means else best
            means |= {place: mean_at(place) for place in (best, best - 1, best + 1)}
        found["searched_all"] = told(means)
    seeds = {str(seed): outcome_at(best, seed) for seed in (first, *others)}
    return {"lr": rate(best), **found, "seeds": seeds}


def _loss(outcome: dict[str, Any]) -> float:
    """Final dev loss; that of a run that diverged is worse than any other, NaN too."""
    loss = outcome["dev_loss"]
    return loss if loss is not None and math.isfinite(loss) else math.inf


def _outcome(plan: dict[str, Any], name: str, lr: float, seed: int, out: Path, progress: bool) -> dict[str, Any]:
    """What one run came to after its last step."""
    folder = out / f"{name}-lr{lr:.3g}-seed{seed}"
    if progress:
        print(folder.name, flush=True)
    config = configuration(plan, name, lr, seed)
    try:
        run = finetune(config, folder, progress=progress).record
    except FloatingPointError:
        return {"dev_loss": None}
    dev = [entry for entry in run["evaluations"] if entry["split"] == "dev"]
    last = [step["loss"] for step in run["steps"]][-25:]
    return {
        "dev_loss_before": dev[0]["loss"],
        "dev_loss": dev[-1]["loss"],
        "dev_curve": [[2 * config.samples * entry["step"], entry["loss"]] for entry in dev],
        "train_loss_last": sum(last) / len(last),
        "test_before": run["result"]["test"]["before"]["metric"],
        "test_after": run["result"]["test"]["after"]["metric"],
        "forwards": run["result"]["forwards"],
        "seconds": run["timing"]["wall_seconds"],
        "peak_bytes": run["timing"]["peak_bytes"],
    }


def compare(
    plan: dict[str, Any], task: str, variants: dict[str, dict[str, Any]], out: str | os.PathLike
) -> Iterator[tuple[str, dict[str, Any]]]:
    """One method of a plan, and variants of it, each at its own best learning rate.

    Args:
        plan: from `load_plan`.
        task: the method, called "mezo" beside its variants.
        variants: for each name the settings that differ.
        out: folder for the runs.

    Yields:
        Name and outcome, as `sweep` has it, with `forwards_over_mezo`, the `forwards_ratio` to the method itself.
    """
    method, base = plan["methods"][task], None
    for name, settings in {"mezo": {}, **variants}.items():
        run = f"{task}-{name}"
        found = sweep({**plan, "methods": {run: {**method, **settings}}}, out)[run]
        base = base or found
        ratio = forwards_ratio(found, base)
        print(f"{task:12} {name:18} lr {found['lr']:.2e}   forward passes over MeZO's {ratio:.2f}", flush=True)
        yield name, {**found, "forwards_over_mezo": ratio}


def forwards_ratio(method: dict[str, Any], base: dict[str, Any]) -> float:
    """Forward passes that a method takes over those that a base method takes, to the lowest dev loss that both reach.

    Of loss curves averaged over the seeds, the lowest so far, linear in between. Infinite if the method never goes below the
    loss before training, or if one of its runs diverged.

    Args:
        method, base: what `sweep` found for them, with the same seeds and equal runs.
    """
    (forwards, ours), (_, theirs) = _curves(method), _curves(base)
    return _ratio(forwards, ours, theirs)


def resampled_ratios(method: dict[str, Any], base: dict[str, Any], draws: int = 200, seed: int = 0) -> np.ndarray:
    """`forwards_ratio` with the seeds drawn again, with replacement and the same for both: how far it rests on single runs.

    Args:
        method, base: as `forwards_ratio` takes them.
        draws: length of the result.
        seed: of the draws.
    """
    (forwards, ours), (_, theirs) = _curves(method), _curves(base)
    orders = np.random.default_rng(seed).integers(len(ours), size=(draws, len(ours)))
    return np.array([_ratio(forwards, ours[order], theirs[order]) for order in orders])


def _curves(found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Forward passes, shape (evaluations,), and dev losses, shape (seeds, evaluations), infinite for a run that diverged."""
    curves = [outcome.get("dev_curve") for outcome in found["seeds"].values()]
    forwards = [at for at, _ in max((curve for curve in curves if curve), key=len, default=[(0, None)])]
    losses = [[loss for _, loss in curve] if curve else [math.inf] * len(forwards) for curve in curves]
    return np.array(forwards), np.array(losses)


def _ratio(forwards: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    ours, theirs = (np.minimum.accumulate(losses.mean(0)) for losses in (ours, theirs))
    goal = max(ours[-1], theirs[-1])
    needed = _reached(forwards, theirs, goal)
    return _reached(forwards, ours, goal) / needed if needed else math.inf


def _reached(forwards: np.ndarray, losses: np.ndarray, goal: float) -> float:
    """Where a falling curve meets a loss."""
    after = int(np.argmax(losses <= goal))
    if after == 0:
        return float(forwards[0])
    share = (losses[after - 1] - goal) / (losses[after - 1] - losses[after])
    return float(forwards[after - 1] + share * (forwards[after] - forwards[after - 1]))
