"""Is the shipped `tiny-reviews` a lucky draw? The same recipe from several seeds, and what MeZO learns with each model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from zolab.records import environment, load_record, save_record
from zolab.sweep import load_plan
from zolab.tiny.make import make_reviews
from zolab.tiny.pretrain import Recipe
from zolab.tiny.study import halved, study

COMMAND = (
    "python -m zolab.tiny seeds notebooks/grids/05_tiny.yaml --out runs/05_seeds --record figures/records/05_tiny_seeds.json"
)


def seeds(plan_path: Path, numbers: list[int], out: Path, record_path: Path, recipe: Recipe | None = None) -> dict[str, Any]:
    """Train a model from each seed, study each by the plan, and record both; what is finished already is read.

    Args:
        plan_path: a plan of `study`; the trained models take the place of its model.
        numbers: seeds of weights and texts.
        out: folder of the models and runs, one for each seed.
        record_path: file of the record.
        recipe: another one than that of the shipped model; its seed does not count.

    Returns:
        For each seed its training, held-out perplexity and machine, and for each task what `study` found, seeds as lists.
    """
    plan, recipe, result = load_plan(plan_path), recipe or Recipe(), {}
    for seed in numbers:
        folder, studied = out / str(seed) / "model", out / str(seed) / "study.json"
        if not (folder / "README.md").exists():  # the last file of a model
            make_reviews(replace(recipe, seed=seed), folder)
        made = json.loads((folder / "training.json").read_text())
        own = {**plan, "base": {**plan["base"], "model": str(folder)}}
        if not (studied.exists() and load_record(studied)["result"].keys() == plan["methods"].keys()):
            study(own, out / str(seed) / "runs", studied)
        found = load_record(studied)
        kept = {key: made[key] for key in ("training", "perplexity", "machine")}
        result[str(seed)] = {**kept, "effective_rank": found["effective_rank"], "tasks": _brief(found["result"])}
        save_record({"command": COMMAND, "config": plan, "result": result, **environment()}, record_path)
        halves = halved(found["result"])
        token = made["perplexity"]["model"]["token"]
        print(f"seed {seed}: perplexity a token {token:.1f}, half of the gap on {len(halves)} tasks: {', '.join(halves)}")
    return result


def _brief(tasks: dict[str, Any]) -> dict[str, Any]:
    """Of each task the scores and rates; a run that diverged has nothing right."""
    return {
        name: {
            **{key: task[key] for key in ("zero_shot", "closed")},
            **{
                way: {"lr": task[way]["lr"], "test": [run.get("test_after", 0.0) for run in task[way]["seeds"].values()]}
                for way in ("adam", "mezo")
            },
        }
        for name, task in tasks.items()
    }
