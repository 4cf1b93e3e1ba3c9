"""A paper's tables: its methods, its grids and its ways of stopping, after its fine-tuners have been trained.

A plan of this kind names a `paper` of `zolab.studies.papers`. Its methods may have, besides settings of runs:

  only: [sst2, squad]       # the tasks that they run on, all by default
  row: adamezo:0.7,0        # what the paper calls them, the optimizer's name by default
  finetuner: copa           # of `finetuners`, each a meta-training (`zolab.l2l.MetaConfig`) on the plan's model, made first

The papers compare at equal steps, not at equal forward passes, so plans of this kind may too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zolab.l2l import MetaConfig, meta_train
from zolab.runs.config import require, shown
from zolab.runs.names import FIRST_ORDER_NAMES, METHOD_NAMES
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.papers import PAPERS
from zolab.studies.plan import Plan, Prepared, check_run

OPTIONS: dict[str, Any] = {"paper": None, "finetuners": {}}
BEFORE = "the meta-training of the fine-tuners"
OWN = ("only", "row", "finetuner")


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run on its tasks, and every fine-tuner can be trained."""
    paper, known = plan.options["paper"], (*METHOD_NAMES, *FIRST_ORDER_NAMES)
    require(paper in PAPERS, f"paper must be one of {', '.join(PAPERS)}, as a text in quotes, got {shown(paper)}.")
    require(bool(plan.methods), "methods must be one or more names with settings of their own.")
    trained = configurations(plan)
    for name, own in plan.methods.items():
        only, finetuner, row = own.get("only", list(plan.tasks)), own.get("finetuner"), own.get("row", "mezo")
        fits = isinstance(only, list) and bool(only) and all(task in plan.tasks for task in only)
        require(fits, f"{name}: only must be a list of the plan's tasks, {', '.join(plan.tasks)}; got {shown(only)}.")
        fits = isinstance(row, str) and row.partition(":")[0] in known
        require(fits, f"{name}: row must be METHOD or METHOD:VARIANT, with a METHOD of {', '.join(known)}; got {shown(row)}.")
        if finetuner is not None:
            require(finetuner in trained, f"{name}: no fine-tuner is called {shown(finetuner)}; add it to finetuners.")
            fits = own.get("optimizer") == "zo_finetuner" and not {"optim_args", "grid"} & set(own)
            require(fits, f"{name}: a finetuner goes with the optimizer zo_finetuner, without optim_args and grid.")
    for task in plan.tasks:
        require(bool(planned(plan, task)), f"no method runs on {task}; leave it out.")
        for own in planned(plan, task).values():
            check_run(plan, task, own)


def configurations(plan: Plan) -> dict[str, MetaConfig]:
    """The meta-training of each fine-tuner, on the plan's model, device and number format unless it says otherwise.

    Raises:
        ValueError: one has a wrong setting.
    """
    shared = {key: plan.base[key] for key in ("model", "device", "dtype") if key in plan.base}
    configs = {}
    for name, own in plan.options["finetuners"].items():
        try:
            configs[name] = MetaConfig(**{**shared, **own})
        except TypeError as error:
            raise ValueError(f"the settings of the fine-tuner {name} are not a configuration ({error}).") from error
        configs[name].validate()
    return configs


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def planned(plan: Plan, task: str) -> dict[str, dict[str, Any]]:
    """Settings of the runs of a task's methods; MeZO stands for a fine-tuner that is still to be trained."""
    settings = {}
    for name, own in plan.methods.items():
        if task in own.get("only", plan.tasks):
            stand_in = {"optimizer": "mezo"} if "finetuner" in own else {}
            settings[name] = {key: value for key, value in own.items() if key not in OWN} | stand_in
    return settings


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """Train the fine-tuners that the task's methods use, unless that is done; the settings of all its runs."""
    trained, methods, measured = configurations(plan), planned(plan, task), {}
    for name, own in methods.items():
        finetuner = plan.methods[name].get("finetuner")
        if finetuner is not None:
            folder = out / "finetuners" / finetuner
            run = meta_train(trained[finetuner], folder)
            own |= {"optimizer": "zo_finetuner", "optim_args": f"pertnn={str(folder)!r}"}
            measured[finetuner] = {"sigma": run.record["result"]["sigma"], "peak_bytes": run.record["timing"]["peak_bytes"]}
    return Prepared(methods, {"finetuners": measured} if measured else {})


def narrowed(
    content: Mapping[str, Any],
    *,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    rates: Sequence[float] = (),
    meta_steps: int = 0,
    **base: Any,
) -> dict[str, Any]:
    """A plan's content, as its file has it, with less work in it; what is empty or 0 stays as it is.

    Args:
        content: of the plan.
        tasks, methods: those that are kept.
        seeds: those that are reported.
        rates: all learning rates that are tried, by every method on every task.
        meta_steps: of each fine-tuner; periods shrink with them.
        base: settings of all runs, such as `forwards`, that no task has otherwise.

    Raises:
        ValueError: the plan has no task or method of a name that is to be kept.
    """
    chosen = {"tasks": tasks or list(content["tasks"]), "methods": methods or list(content["methods"])}
    for group, names in chosen.items():
        unknown = [name for name in names if name not in content[group]]
        require(not unknown, f"the plan has no {group} called {', '.join(unknown)}; it has {', '.join(content[group])}.")
    new = {key: value for key, value in base.items() if value} | ({"lr": list(rates)} if rates else {})
    plain = {task: {k: v for k, v in (content["tasks"][task] or {}).items() if k not in new} for task in chosen["tasks"]}
    ways = {name: {k: v for k, v in content["methods"][name].items() if k not in new} for name in chosen["methods"]}
    for own in ways.values():
        if "only" in own:
            own["only"] = [task for task in own["only"] if task in plain]
    ways = {name: own for name, own in ways.items() if own.get("only", True)}
    used = {own["finetuner"] for own in ways.values() if "finetuner" in own}
    tuners = {name: own for name, own in content.get("finetuners", {}).items() if name in used}
    if meta_steps:
        tuners = {name: _shorter(own, meta_steps) for name, own in tuners.items()}
    changed = {"base": {**content["base"], **new}, "tasks": plain, "methods": ways, "finetuners": tuners}
    return {**content, **changed, "seeds": list(seeds) or content["seeds"]}


def _shorter(own: Mapping[str, Any], steps: int) -> dict[str, Any]:
    full = MetaConfig(**own)
    return {**own, "steps": steps, "period": max(1, full.period * steps // full.steps)}


def unrun(plan: Plan) -> Record:
    """The record of a plan of which nothing was run."""
    result: dict[str, Any] = {"search": {}, "cells": [], "measured": {}, "failed": []}
    return Record({"format": FORMAT, "config": plan.record(), "result": result})


def digest(plan: Plan) -> str:
    """Eight hex digits that tell a plan from others: a name for the folder of its runs."""
    return hashlib.sha256(json.dumps(plan.record(), sort_keys=True).encode()).hexdigest()[:8]
