"""Is the shipped `tiny-reviews` a lucky draw? The same recipe from several seeds, and what MeZO learns with each model."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zolab.records import environment, load_record, save_record
from zolab.records.files import ready
from zolab.runs.config import require
from zolab.studies.learnability import halved, study
from zolab.tiny_reviews.make import make_reviews
from zolab.tiny_reviews.pretrain import Recipe


def seeds(
    plan: dict[str, Any], numbers: list[int], out: Path, record_path: Path, command: str, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Train a model from each seed, study each by the plan, and record both; what is finished already is read.

    Args:
        plan: of `study`, from `load_plan`; the trained models take the place of its model.
        numbers: seeds of weights and texts.
        out: folder of the models and runs, one for each seed.
        record_path: file of the record.
        command: what the record says it was made by.
        recipe: another one than that of the shipped model; its seed does not count.

    Returns:
        For each seed its training, held-out perplexity and machine, and for each task what `study` found, seeds as lists.

    Raises:
        ValueError: `out` holds a model of another recipe, or a study by another plan.
        OSError: a file cannot be written.
    """
    ready(record_path)
    result: dict[str, Any] = {}
    for seed in numbers:
        own, folder = replace(recipe or Recipe(), seed=seed), out / str(seed)
        if not (folder / "model" / "README.md").exists():  # the last file of a model
            make_reviews(own, folder / "model")
        made = json.loads((folder / "model" / "training.json").read_text())
        require(made["recipe"] == asdict(own), f"{folder} holds a model of another recipe; choose another folder.")
        found = _studied({**plan, "base": {**plan["base"], "model": str(folder / "model")}}, folder)
        kept = {key: made[key] for key in ("training", "perplexity", "machine")}
        result[str(seed)] = {**kept, "effective_rank": found["effective_rank"], "tasks": _brief(found["result"])}
        save_record({"command": command, "config": plan, "result": result, **environment()}, record_path)
        token, halves = made["perplexity"]["model"]["token"], halved(found["result"])
        print(f"seed {seed}: perplexity a token {token:.1f}, half of the gap on {len(halves)} tasks: {', '.join(halves)}")
    return result


def _studied(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record of the study of one model; made unless it is there, whole."""
    path = folder / "study.json"
    if path.exists():
        found = load_record(path)
        require(found["config"] == plan, f"{folder} holds a study by another plan; choose another folder.")
        if found["result"].keys() == plan["methods"].keys():
            return found
    study(plan, folder / "runs", path, "zolab.studies.seeds")
    return load_record(path)


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
