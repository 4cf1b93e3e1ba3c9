"""Which way of meta-training makes scales that help? Each recipe trains a PertNN, and its PertNN is used beside MeZO."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from zolab.l2l import EvolveConfig, MetaConfig, evolve, meta_train
from zolab.l2l.evolution import starting_points
from zolab.models import load_model
from zolab.runs.config import require
from zolab.studies.controls import deployed
from zolab.studies.plan import BASE, Plan, Prepared
from zolab.studies.scales import check_measured, measured_terms, start_of
from zolab.theory.judged import GROUPINGS

OPTIONS: dict[str, Any] = {"recipes": {}, "evolutions": {}, "examples": 64, "groups": 0}
BEFORE = "the meta-training of every recipe"
TRAIN: dict[type, Callable] = {MetaConfig: meta_train, EvolveConfig: evolve}
QUESTIONS = {  # the setting that is asked about, and those that go with it
    "reset": ("period", "reset_below"),
    "normalisation": ("normalise",),
    "what shares a network": ("rule",),
    "tasks": ("tasks",),
    "gradient": ("gradient", "through_budget", "lr_zo"),
    "through the budget": ("through_budget",),
    "step in the meta-loss": ("lr_zo", "outer", "meta_lr", "identity", "input_scaling"),
    "first sigma": ("identity",),
}


def check(plan: Plan) -> None:
    """Raise OSError or ValueError unless every recipe has settings that can be, and every start is a gain map of its tasks."""
    require(not plan.methods, "the recipes are the methods of this study; leave methods out.")
    for recipe in configurations(plan.options).values():
        if isinstance(recipe, EvolveConfig) and recipe.start:
            starting_points(recipe)
    check_measured(plan)
    for task in plan.tasks:
        start_of(plan, task)


def names(plan: Plan) -> list[str]:
    return [BASE, *configurations(plan.options)]


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """Train by every recipe, unless it is done; the settings of the runs that use each PertNN, and its sigma."""
    config, recipes = start_of(plan, task), configurations(plan.options)
    trained = {name: TRAIN[type(recipe)](recipe, out / "meta" / name).record["result"] for name, recipe in recipes.items()}
    model, (terms, measured) = load_model(config.model)[0], measured_terms(plan, task)
    methods = {BASE: {"optimizer": "mezo"}}
    methods |= {name: deployed(out / "meta" / name, model, terms, config.lr) for name in recipes}
    return Prepared(methods, {**measured, "sigma": {name: outcome["sigma"] for name, outcome in trained.items()}})


def sigma_by_tensor(sigma: Mapping[str, float], tensors: Sequence[str]) -> list[float]:
    """Sigma of each tensor from that of blocks, which are tensors, layers or kinds of tensors.

    Args:
        sigma: by the names of blocks, as a record has them.
        tensors: their names.

    Raises:
        ValueError: the blocks are of other tensors.
    """
    for grouping in GROUPINGS.values():
        if all(grouping(tensor) in sigma for tensor in tensors):
            return [sigma[grouping(tensor)] for tensor in tensors]
    raise ValueError(f"sigma of {', '.join(list(sigma)[:3])} are not those of {', '.join(tensors[:3])}: take the model's own.")


def configurations(options: Mapping[str, Any]) -> dict[str, MetaConfig | EvolveConfig]:
    """The recipes of a plan: `recipes` tells where each differs from the one called `base`, or with `after: NAME` from another
    one before it; `base` itself is not run. `evolutions` are whole settings of an `EvolveConfig`.

    Raises:
        ValueError: a recipe has a wrong setting, or follows none.
    """
    recipes, evolutions = options["recipes"], options["evolutions"]
    require(isinstance(recipes, dict) and "base" in recipes, "there must be recipes, one of them called base.")
    for kind, all_settings in (("recipes", recipes), ("evolutions", evolutions)):
        mappings = isinstance(all_settings, dict) and all(isinstance(own, dict) for own in all_settings.values())
        require(mappings, f"{kind} must have names, and settings below each of them; write {{}} for none.")
    ways: list[tuple[type, dict[str, dict[str, Any]]]] = [(MetaConfig, settled(recipes)), (EvolveConfig, evolutions)]
    configs: dict[str, MetaConfig | EvolveConfig] = {}
    for way, name, own in ((way, name, own) for way, settings in ways for name, own in settings.items()):
        require(name not in (*configs, BASE), f"two methods are called {name}; rename one.")
        try:
            configs[name] = way(**own)
        except TypeError as error:
            raise ValueError(f"the settings of the recipe {name} are not a configuration ({error}).") from error
        configs[name].validate()
    return configs


def settled(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """All settings of each recipe, from where it differs from `base` or the one it comes after.

    Raises:
        ValueError: a recipe follows none.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, own in recipes.items():
        after = own.get("after", "base")
        known = name == "base" or (isinstance(after, str) and after in settings)
        require(known, f"the recipe {name} follows {after!r}, which is not one before it.")
        settings[name] = {**settings.get(after, {}), **{key: value for key, value in own.items() if key != "after"}}
    return {name: own for name, own in settings.items() if name != "base"}


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that are not those of `MetaConfig`, the published ones."""
    published = asdict(MetaConfig())
    return {key: value for key, value in settings.items() if value != published.get(key)}


def single_changes(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str, str]]]:
    """For each of `QUESTIONS` the pairs of recipes that differ in its setting, and in none but those beside it; and how."""
    full = {name: asdict(MetaConfig()) | dict(settings) for name, settings in recipes.items()}
    pairs: dict[str, list[tuple[str, str, str]]] = {question: [] for question in QUESTIONS}
    for a, b in combinations(full, 2):
        keys = [key for key in full[a] if full[a][key] != full[b].get(key)]
        how = ", ".join(f"{key} {full[a][key]} -> {full[b].get(key)}" for key in keys)
        for question, (changed, *beside) in QUESTIONS.items():
            if changed in keys and set(keys) <= {changed, *beside}:
                pairs[question].append((a, b, how))
    return pairs
