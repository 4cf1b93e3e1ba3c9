"""What a study runs: a plan is a grid of cells, task × method × learning rate × seed, written in a YAML file.

study: controls                     # whose methods: a name of STUDIES, "methods" by default
about: Is it learned?               # for people
base: {model: tiny-reviews, steps: 150, batch_size: 16}       # settings that all runs share, as `zolab finetune` has them;
                                    # forwards: 300, evaluations: 10 instead of steps, eval_every: the same budget for all
tasks:                              # for each name the settings that differ; lr is where the search starts, a list all it tries
  sentence: {task: reviews_sentence, lr: 5.0e-4}
  mine: {task: {data: my.jsonl, prompt: "{text} It was", candidates: [" terrible", " great"]}}     # a zolab.tasks.Description
methods:                            # for each name the settings that differ, or a list of names that the study knows
  MeZO: {optimizer: mezo}           # a grid tries each combination of values of the method's own settings, as it tries rates:
  LOZO: {optimizer: lozo, grid: {rank: [2, 4], interval: [50, 100]}}
search: {factor: 2, extend: 2, seeds: [100, 101]}             # rates are a factor apart, chosen by the mean on these seeds
seeds: [0, 1, 2]                    # what is reported
"""

import importlib
import itertools
import json
import math
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

from zolab.runs import config as runs
from zolab.runs.config import COUNT, Config, require, shown
from zolab.studies.reading import check_named, check_option, check_values, read_yaml
from zolab.studies.search import rate_name

STUDIES = {
    "methods": "methods as the plan has them",
    "scales": "MeZO with the theory's scales",
    "predicted": "MeZO with the gain map's scales, beside what it predicts of them",
    "controls": "a trained PertNN beside everything that might do as well",
    "recipes": "ways of meta-training, each PertNN in use",
    "learnability": "what MeZO recovers of Adam's gain",
    "track": "forward passes to a fixed dev loss, by fixed rules",
    "reproduction": "a paper's tables, its fine-tuners trained first",
    "draws": "the same, with models trained from several seeds",
}
BASE = "MeZO"
"""The method that every other one is compared with."""
COMMON = ("study", "about", "base", "tasks", "methods", "search", "seeds")
SEARCH = ("factor", "extend", "seeds")


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Args:
        study: name of the study, a key of `STUDIES`.
        base, tasks, methods: settings of runs, as in the file; a list of methods has become a mapping to nothing.
        factor, extend, search_seeds: of the search for each method's learning rate on each task.
        seeds: those that are reported, none of them a search seed.
        options: what the study asks for besides.
        about: for people.
    """

    study: str
    base: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    factor: float
    extend: int
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    options: dict[str, Any]
    about: str = ""

    @property
    def kind(self) -> ModuleType:
        """The file that asks the study's question.

        It has `OPTIONS` (its own keys of a plan, with defaults), `BEFORE` (what it does before its runs, for people),
        `check(plan)` (raises ValueError), `names(plan)` (its methods) and `prepare(plan, task, out)` (their settings); some
        have `expand(tasks, options)` (further tasks), and `keep(record, out, path)` (what of the runs stays beside the record).
        """
        return importlib.import_module(f"zolab.studies.{self.study}")

    def settings(self, task: str, own: dict[str, Any], lr: float, seed: int) -> dict[str, Any]:
        """Of one run; directions, batches and data all follow the seed."""
        shared = {**self.base, **self.tasks[task], **own, "lr": lr}
        return {**in_steps(shared), "seed": seed, "data_seed": seed}

    def record(self) -> dict[str, Any]:
        """As it stands in a file."""
        search = {"factor": self.factor, "extend": self.extend, "seeds": list(self.search_seeds)}
        plain = {"study": self.study, "about": self.about, "base": self.base, "tasks": self.tasks, "methods": self.methods}
        return {**plain, "search": search, "seeds": list(self.seeds), **self.options}


@dataclass
class Prepared:
    """What a study makes before its runs of a task.

    Args:
        methods: for each name the settings that differ from the plan's; `lr` is where the search starts.
        measured: what goes into the record beside the runs.
    """

    methods: dict[str, dict[str, Any]]
    measured: dict[str, Any] = field(default_factory=dict)


def load_plan(path: str | os.PathLike) -> Plan:
    """Read and check a plan; every configuration in it is validated before anything runs.

    Raises:
        OSError: there is no such file.
        ValueError: a key is missing or unknown, or a setting is wrong.
    """
    content = read_yaml(path)
    try:
        return check_plan(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_plan(content: Any) -> Plan:
    """A plan from what its file holds. Raises ValueError unless all of it makes sense."""
    require(isinstance(content, dict), "a plan is a mapping with the keys base, tasks, search and seeds.")
    check_values(content)
    study = content.get("study", "methods")
    require(isinstance(study, str) and study in STUDIES, f"unknown study {shown(study)}; choose {', '.join(STUDIES)}.")
    kind = importlib.import_module(f"zolab.studies.{study}")
    defaults = kind.OPTIONS
    known = [*COMMON, *defaults]
    unknown = [key for key in content if key not in known]
    require(not unknown, f"unknown key {', '.join(unknown[:3])[:200]}; a plan of {study} may have {', '.join(known)}.")
    missing = [key for key in ("base", "tasks", "search", "seeds") if key not in content]
    require(not missing, f"the key {', '.join(missing)} is missing.")
    base, tasks, methods = content["base"], content["tasks"], content.get("methods", {})
    require(isinstance(base, dict), "base must be settings that all runs share.")
    listed = isinstance(methods, list) and all(isinstance(name, str) for name in methods)
    methods = dict.fromkeys(methods) if listed else methods
    for name, group in (("tasks", tasks), ("methods", methods)):
        require(
            isinstance(group, dict) and (name != "tasks" or bool(group)), f"{name} must be names with settings of their own."
        )
        check_named(name, group)
    search, seeds = content["search"], content["seeds"]
    require(isinstance(search, dict) and set(search) == set(SEARCH), f"search must have exactly the keys {', '.join(SEARCH)}.")
    factor, extend = search["factor"], search["extend"]
    limits = type(factor) in (int, float) and factor > 1 and type(extend) is int and extend >= 0
    require(limits, f"search needs a factor > 1 and a whole extend >= 0, got {shown(factor)} and {shown(extend)}.")
    require((extend + 1) * math.log10(factor) < 300, f"search goes too far: {extend + 1:,} times a factor of {factor:g}.")
    for name, listed in (("search.seeds", search["seeds"]), ("seeds", seeds)):
        whole = isinstance(listed, list) and bool(listed) and all(type(seed) is int and 0 <= seed < 2**32 for seed in listed)
        require(
            whole and len(set(listed)) == len(listed),
            f"{name} must be a list of different whole seeds less than 2**32, got {shown(listed)}.",
        )
    common = sorted(set(search["seeds"]) & set(seeds))
    require(not common, f"seeds {shown(common)} are reported and searched on; choose rates on other seeds than those reported.")
    options = {key: content.get(key, default) for key, default in defaults.items()}
    for key, default in defaults.items():
        check_option(key, options[key], default)
    options = {key: _filled(value) if isinstance(value, dict) else value for key, value in options.items()}
    tasks = kind.expand(tasks, options) if hasattr(kind, "expand") else tasks
    tasks, methods = _filled(tasks), _filled(methods)
    searched = (float(factor), extend, tuple(search["seeds"]), tuple(seeds))
    plan = Plan(study, base, tasks, methods, *searched, options, str(content.get("about", "")))
    plan.kind.check(plan)
    folders = Counter(f"{task}-{method}" for task in plan.tasks for method in plan.kind.names(plan))
    shared = [name for name, count in folders.items() if count > 1]
    require(not shared, f"two runs would be called {', '.join(shared)}, task and method together; give one another name.")
    return plan


def _filled(group: dict[str, Any]) -> dict[str, Any]:
    return {name: own or {} for name, own in group.items()}


def check_run(plan: Plan, task: str, own: dict[str, Any]) -> Config:
    """The configuration of a task's run at the learning rate where its search starts, the middle one of a list.

    Args:
        plan: the plan.
        task: its name.
        own: settings of the method; of a `grid`, every combination is checked, and the first one's configuration returned.

    Raises:
        ValueError: a setting is wrong; the sentence names it.
    """
    lr = lr_of(plan, task, own)
    middle = lr[len(lr) // 2] if isinstance(lr, list) else lr
    first, *_ = [configuration(plan.settings(task, way, middle, plan.seeds[0])) for way in variants(own)]  # all are checked
    return first


def lr_of(plan: Plan, task: str, own: dict[str, Any]) -> float | list[float]:
    """The learning rate where a method's search starts on a task, or the list of all that it tries, in order.

    Raises:
        ValueError: it is neither a number nor a list of different ones.
    """
    lr = own.get("lr", plan.tasks[task].get("lr", plan.base.get("lr")))
    listed = lr if isinstance(lr, list) else [lr]
    fits = all(isinstance(rate, int | float) and type(rate) is not bool and rate > 0 for rate in listed)
    message = (
        f"{task} needs an lr > 0 where its search starts, got {shown(lr)}; of a rate three digits count "
        "(write 1.0e-4, or a list of different ones)."
    )
    require(fits and 0 < len(listed) == len({rate_name(rate) for rate in listed}), message)
    return sorted(map(float, listed)) if isinstance(lr, list) else float(listed[0])


def variants(own: dict[str, Any]) -> list[dict[str, Any]]:
    """A method's settings with each combination of the values in its `grid`; without one, its settings alone.

    Raises:
        ValueError: the grid has something else than lists of values.
    """
    if "grid" not in own:
        return [own]
    grid, rest = own["grid"], {key: value for key, value in own.items() if key != "grid"}
    fits = isinstance(grid, dict) and bool(grid) and all(isinstance(values, list) and values for values in grid.values())
    require(fits, f"grid must be names of a method's own settings, each with a list of values, got {shown(grid)}.")
    known = [rest["optim_args"]] if rest.get("optim_args") else []
    ways = itertools.product(*([f"{name}={value!r}" for value in values] for name, values in grid.items()))
    return [{**rest, "optim_args": ", ".join([*known, *way])} for way in ways]


def in_steps(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run whose budget may be given as `forwards`, passes of training, and `evaluations`, evenly apart.

    A method that takes three forward passes a step has two thirds of the steps that one with two has. Raises ValueError if the
    budget is too small for a step, or given in steps too.
    """
    settings = dict(settings)
    budget, evaluations = settings.pop("forwards", None), settings.pop("evaluations", None)
    if budget is None:
        require(evaluations is None, "evaluations goes with forwards; give eval_every beside steps.")
        return settings
    both = [name for name in ("steps", "eval_every") if name in settings]
    require(not both, f"forwards and {' and '.join(both)} are both given; leave out one of the two ways.")
    for name, value in (("forwards", budget), ("evaluations", evaluations)):
        require(type(value) is int and 1 <= value <= COUNT, f"{name} must be a whole number of at least 1, got {shown(value)}.")
    config = configuration(settings)
    passes = partial(runs.forwards, config, train=_training_examples(config))
    steps = bisect_right(range(budget + 1), budget, key=passes) - 1
    require(steps > 0, f"forwards is {budget:,}, and the first step takes {passes(1):,}; give more.")
    return {**settings, "steps": steps, "eval_every": max(1, steps // evaluations)}


def forwards(config: Config, steps: int | None = None) -> int:
    """Forward passes of a run's training, or of its first steps; a backward pass counts as two.

    Args:
        config: of the run, valid.
        steps: how many, all by default.
    """
    return runs.forwards(config, config.steps if steps is None else steps, _training_examples(config))


def _training_examples(config: Config) -> int:
    """How many a run asks for; where the configuration leaves that to the task, the task has to be loaded."""
    from zolab.tasks import load_task

    return config.train or load_task(config.task).train


def configuration(settings: dict[str, Any]) -> Config:
    """A checked configuration from settings. Raises ValueError if one is wrong."""
    from zolab.runs.batches import check_classes
    from zolab.runs.objectives import check_objective
    from zolab.tasks import Description, load_task

    if isinstance(settings.get("task"), dict):
        settings = settings | {"task": str(Description.of(settings["task"]))}
    try:
        config = Config(**settings)
    except TypeError as error:
        raise ValueError(f"{shown(settings.get('task'))}: these settings are not a configuration ({error}).") from error
    config.validate()
    task = load_task(config.task)
    check_objective(config.objective, task, config.differentiates)
    check_classes(config, task)
    return config


def differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Where two plans differ: the key, and both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**theirs, **ours}:
            yield from differences(ours.get(key), theirs.get(key), f"{place}.{key}" if place else str(key))
    elif json.loads(json.dumps(ours)) != json.loads(json.dumps(theirs)):
        yield f"{place[:200]} is {shown(theirs)} there, {shown(ours)} here"
