"""Which way of meta-training makes scales that help? Each recipe trains a PertNN, and its PertNN is used beside MeZO."""

from pathlib import Path
from typing import Any

import yaml

from zolab.l2l.evolve import EvolveConfig, evolve
from zolab.l2l.train import MetaConfig, meta_train
from zolab.models import load_model
from zolab.records import environment, save_record
from zolab.runs.config import Config, require
from zolab.studies.controls import deployed
from zolab.studies.scales import terms_of
from zolab.studies.sweep import check_plan, compare

TRAIN = {MetaConfig: meta_train, EvolveConfig: evolve}


def load_recipes(path: Path) -> tuple[dict[str, Any], dict[str, MetaConfig | EvolveConfig]]:
    """A plan of `zolab.studies.sweep`, its methods being tasks, with `recipes` besides: for each name the settings that differ from
    the one called `base`, or with `after: NAME` from another; `base` itself is not run. There may be `evolutions`, too: for
    each name the settings of an `EvolveConfig`.

    Raises:
        ValueError: a recipe has a wrong setting, follows none, or the plan is wrong.
    """
    plan = yaml.safe_load(path.read_text())
    require(isinstance(plan, dict) and "base" in plan.get("recipes", {}), f"{path} must have recipes, one of them called base.")
    told, recipes = {name: plan.pop(name, {}) for name in ("recipes", "evolutions")}, {}
    ways = [(MetaConfig, settled(told["recipes"])), (EvolveConfig, told["evolutions"])]
    for way, name, own in ((way, *entry) for way, settings in ways for entry in settings.items()):
        require(name not in recipes, f"two recipes are called {name}; rename one.")
        try:
            recipes[name] = way(**own)
        except TypeError as error:
            raise ValueError(f"the settings of the recipe {name} are not a configuration ({error}).") from error
        recipes[name].validate()
    check_plan(plan, path)
    return {**plan, **told}, recipes


def settled(told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All settings of each recipe, from a plan or record that tells where it differs from `base` or the one it comes after.

    Raises:
        ValueError: a recipe follows none.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, own in told.items():
        after = own.get("after", "base")
        require(name == "base" or after in settings, f"the recipe {name} follows {after!r}, which is not one before it.")
        settings[name] = {**settings.get(after, {}), **{key: value for key, value in own.items() if key != "after"}}
    return {name: own for name, own in settings.items() if name != "base"}


def study(plan_path: Path, out: Path, record_path: Path) -> dict[str, Any]:
    """Train by every recipe, then use each PertNN on every task of the plan, at its own best learning rate; the record.

    Args:
        plan_path: as `load_recipes` reads it.
        out: folder of the meta-trainings and runs.
        record_path: file of the record, written after each run's method.
    """
    plan, recipes = load_recipes(plan_path)
    result: dict[str, Any] = {}
    trained = {name: TRAIN[type(recipe)](recipe, out / "meta" / name).record["result"] for name, recipe in recipes.items()}
    sigma = {name: found["sigma"] for name, found in trained.items()}
    for task, method in plan["methods"].items():
        config = Config(**{**plan["base"], **method})
        model, (terms, _) = load_model(config.model)[0], terms_of(config, plan["seeds"][0])
        variants = {name: deployed(out / "meta" / name, model, terms, config.lr) for name in recipes}
        entry = result[task] = {}
        for name, found in compare(plan, task, variants, out):
            entry[name] = found
            save_record({"config": plan, "result": result, "sigma": sigma, **environment()}, record_path)
    return result
