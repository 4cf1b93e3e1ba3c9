"""Is the shipped `tiny-reviews` a lucky draw? The same recipe from several seeds, and what MeZO recovers with each model."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zolab.runs.config import require
from zolab.studies import learnability
from zolab.studies.outcomes import Record
from zolab.studies.plan import Plan, Prepared
from zolab.tiny_reviews.make import make_reviews
from zolab.tiny_reviews.pretrain import Recipe

OPTIONS: dict[str, Any] = {"model_seeds": [0, 1, 2, 3], "pretraining_steps": Recipe().steps}
BEFORE = "the pretraining of a model from each seed, about 12 minutes each"

names = learnability.names


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task."""
    learnability.check(plan)
    Recipe(steps=plan.options["pretraining_steps"])


def expand(tasks: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Every task once for each model, as TASK@SEED."""
    seeds = options["model_seeds"]
    fits = isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    require(fits, f"model_seeds must be a list of whole seeds, got {seeds!r}.")
    return {f"{name}@{seed}": own for seed in seeds for name, own in tasks.items()}


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The model of the task's seed, trained unless it is there, takes the place of the plan's.

    Raises:
        ValueError: the folder holds a model of another recipe.
    """
    seed = int(task.rpartition("@")[2])
    own, folder = replace(Recipe(), seed=seed, steps=plan.options["pretraining_steps"]), out / "models" / str(seed)
    if not (folder / "README.md").exists():  # the last file of a model
        make_reviews(own, folder)
    training = json.loads((folder / "training.json").read_text())
    require(training["recipe"] == asdict(own), f"{folder} holds a model of another recipe; choose another folder.")
    methods = {name: {**settings, "model": str(folder)} for name, settings in plan.methods.items()}
    return Prepared(methods, {key: training[key] for key in ("training", "perplexity", "machine")})


def by_model(record: Record) -> dict[int, dict[str, dict[str, Any]]]:
    """`learnability.shares` of each model, by its seed and the task's plain name."""
    by_seed: dict[int, dict[str, dict[str, Any]]] = {}
    for task, entry in learnability.shares(record).items():
        name, _, seed = task.rpartition("@")
        by_seed.setdefault(int(seed), {})[name] = entry
    return by_seed
