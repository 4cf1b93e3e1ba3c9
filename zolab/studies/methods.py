"""Which method wins at equal forward passes? The plan's own methods, each at its own best learning rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zolab.runs.config import Config, require
from zolab.studies.outcomes import Record
from zolab.studies.plan import Plan, Prepared, check_plan, check_run, forwards

OPTIONS: dict[str, Any] = {}
BEFORE = ""


def check_runs(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task."""
    require(bool(plan.methods), "methods must be one or more names with settings of their own.")
    for task in plan.tasks:
        for own in plan.methods.values():
            check_run(plan, task, own)


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run on every task, with as many forward passes as the others."""
    check_runs(plan)
    for task in plan.tasks:
        configs = {name: check_run(plan, task, own) for name, own in plan.methods.items()}
        passes = {name: forwards(config) for name, config in configs.items()}
        few, many = min(passes, key=passes.__getitem__), max(passes, key=passes.__getitem__)
        require(
            passes[many] - passes[few] < max(map(_a_step, configs.values())),  # the numbers of steps may not divide evenly
            f"on {task}, {many} takes {passes[many]:,} forward passes and {few} {passes[few]:,}: give all of them the same "
            "`forwards` (and `evaluations`) instead of steps, so that they can be compared.",
        )


def _a_step(config: Config) -> int:
    """Forward passes of a run's last step, or of one more if that takes more."""
    before, last, after = (forwards(config, config.steps + more) for more in (-1, 0, 1))
    return max(last - before, after - last)


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The settings of the plan's methods."""
    return Prepared(plan.methods)


def compare(
    methods: Mapping[str, dict[str, Any]],
    task: str,
    model: str,
    out: Path,
    *,
    forwards: int,
    seeds: Sequence[int],
    search_seeds: Sequence[int],
    rates: int = 3,
    extend: int = 3,
    evaluations: int = 20,
    workers: int = 1,
    **base: Any,
) -> Record:
    """Give each method the same forward passes and its own best learning rate, without writing a plan.

    Args:
        methods: for each name its settings, as `zolab finetune` has them: `optimizer`, `lr` (where its search starts), others.
        task, model: their names.
        out: folder of the runs and of record.json; a second call goes on there.
        forwards: forward passes of training, for each run.
        seeds: those that are reported.
        search_seeds: others, on which the rates are chosen.
        rates: learning rates tried a decade, at least 3; a grid whose best rate is at its edge grows, `extend` times at most.
        evaluations: on dev examples, evenly apart.
        workers: as in `zolab.studies.run.run_study`.
        base: further settings that all runs share, such as `batch_size` and `dev`.

    Returns:
        The record; `zolab.studies.compare` has the tables and verdicts that are read from it.

    Raises:
        ValueError: a setting is wrong, or `out` holds another comparison.
        OSError: as from `run_study`.
    """
    from zolab.studies.run import run_study

    require(type(rates) is int and rates >= 3, f"rates must be a whole number of at least 3 a decade, got {rates!r}.")
    content = {
        "about": f"{len(methods)} methods on {task}",
        "base": {"model": model, "forwards": forwards, "evaluations": evaluations, **base},
        "tasks": {task: {"task": task}},
        "methods": {name: dict(own) for name, own in methods.items()},
        "search": {"factor": 10 ** (1 / rates), "extend": extend, "seeds": list(search_seeds)},
        "seeds": list(seeds),
    }
    return run_study(check_plan(content), out, out / "record.json", workers)


def ran(
    methods: Mapping[str, dict[str, Any]],
    base: dict[str, Any],
    seeds: Sequence[int],
    out: Path,
    workers: int = 1,
    tell: bool = False,
) -> Record:
    """A study of methods at given learning rates, without a search, whatever forward passes each takes.

    Args:
        methods: settings of each, as a plan has them, with `lr`.
        base: settings that all share, `task` among them.
        seeds: of the runs.
        out: folder of the runs and of record.json; a second call goes on there.
        workers: runs at once, a core each, as in `zolab.studies.run.run_study`.
        tell: print a line for each run.

    Raises:
        ValueError: a setting is wrong, or `out` holds other runs.
        RuntimeError: a run could not be made; the sentence says which, and why.
    """
    from zolab.studies.run import run_study

    shared = {key: value for key, value in base.items() if key != "task"}
    rates = {name: {**own, "lr": [own["lr"]]} for name, own in methods.items()}
    plan = Plan("methods", shared, {base["task"]: {"task": base["task"]}}, rates, 2.0, 0, (), tuple(seeds), {})
    check_runs(plan)
    record = run_study(plan, out, out / "record.json", workers, tell)
    if record.failed:
        raise RuntimeError("{cell} could not be run: {error}".format(**record.failed[0]))
    return record
