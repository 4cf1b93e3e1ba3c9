"""Run a plan: cells in this process or in several, a record that grows, a folder that can be taken up again."""

import fcntl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from zolab.models import load_model
from zolab.records import environment, ready_for_record, save_record
from zolab.records.files import read_json, sweep, write_json
from zolab.records.log import PLAN
from zolab.records.sealed import seal, unseal
from zolab.records.shapes import check_shape
from zolab.runs.config import require
from zolab.runs.identity import check_same, identity
from zolab.studies.cells import Cell, final_loss
from zolab.studies.outcomes import FORMAT, Record
from zolab.studies.plan import Plan, Prepared, check_run, differences, lr_of, variants
from zolab.studies.reading import check_named
from zolab.studies.search import Search, SearchResult, best_listed, best_rate, record_of
from zolab.studies.workers import Processes, Workers, check_here, tried
from zolab.tasks import load_task

LOCK = "study.lock"  # is held while a process runs the study in its folder
FAILED = "failed{}.json"  # with a share's number, in a study's folder, for those who watch: the record is elsewhere
Walk = Generator[list[Cell], dict[str, Any], None]
Hire = Callable[[Path], Workers]
"""Makes the workers that run a study's cells in its folder; raises ValueError or OSError if they cannot be had."""


def run_study(plan: Plan, out: Path, record: Path, workers: int = 1, progress: bool = True, hire: Hire | None = None) -> Record:
    """Run all cells of a plan, or those that are not complete in a folder; write the record after each method of a task.

    Args:
        plan: what to run.
        out: folder of the runs.
        record: file of the record.
        workers: 1 runs one cell after another in this process; more run each cell in a process of one thread, so many at once.
        progress: print a line for each cell.
        hire: makes other workers than these, such as `zolab.studies.cluster.hire`; `workers` is left out then.

    Returns:
        The record. Cells that failed are listed in it with their error; the next call tries them again.

    Raises:
        ValueError: the folder holds cells of another plan, or `workers` is out of range.
        OSError: another process runs in the folder, or a file cannot be written.
    """
    check_here(workers)
    ready_for_record(record)
    with holding(out):
        sweep(out)
        sweep(record.parent, record.name)
        for listed in out.glob(FAILED.format("*")):  # they are tried again
            listed.unlink()
        session = _Session(plan, out, hire or _processes(workers), progress)
        session.work(record)
        loaded = Record.load(record)
        if hasattr(plan.kind, "keep"):
            plan.kind.keep(loaded, out, record)
        return loaded


def run_share(plan: Plan, out: Path, share: tuple[int, int], workers: int = 1, progress: bool = True) -> list[dict[str, str]]:
    """Run a share of a plan's cells, beside other processes with other shares in the same folder; no record is written.

    A share is some methods on some tasks, each with its search and its reported runs. What a study does before its runs is
    done by the share that comes first; the others wait for it. When all shares are done, `run_study` only reads.

    Args:
        plan, out, workers, progress: as for `run_study`.
        share: its number, from 0, and how many there are.

    Returns:
        The cells that failed, with their errors.

    Raises:
        ValueError, OSError: as `run_study`.
    """
    number, count = share
    require(0 <= number < count, f"a share is written as one of 0/{count} to {count - 1}/{count}, got {number}/{count}.")
    check_here(workers)
    with holding(out, alone=False):
        (out / FAILED.format(f"-{number}")).unlink(missing_ok=True)
        session = _Session(plan, out, _processes(workers), progress, share)
        session.work()
        return session.failed


def _processes(count: int) -> Hire | None:
    return partial(Processes, count) if count > 1 else None


@contextmanager
def holding(out: Path, alone: bool = True) -> Iterator[None]:
    """A study's folder, for this process alone, or beside others that run a share each."""
    if (out / "log.jsonl").exists():
        raise OSError(f"{out} holds a run; choose another folder for a study.")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another process is running the study in {out}; wait for it or choose another folder.") from error
        yield


def _check_plan(plan: Plan, out: Path) -> None:
    """Keep the plan in the folder. One with more seeds than there are is taken up: the runs that are there are its runs, too.

    Raises:
        ValueError: the folder holds cells of another plan; the keys are named.
    """
    path, ours = out / PLAN, plan.record()
    if path.exists():
        earlier = unseal(read_json(path), str(path))
        seeds = earlier.get("seeds", [])
        grown = set(seeds) < set(ours["seeds"])
        changed = list(differences({**ours, "seeds": seeds} if grown else ours, earlier))
        require(not changed, f"{out} holds cells of another plan ({'; '.join(changed[:3])}); choose another folder.")
    write_json(path, seal(ours))


class _Session:
    """One process's share of a study."""

    def __init__(self, plan: Plan, out: Path, hire: Hire | None, progress: bool, share: tuple[int, int] | None = None):
        self.plan, self.out, self.hire, self.progress = plan, out, hire, progress
        self.number, self.count = share or (0, 1)
        self.path: Path | None = None
        self.listed = out / FAILED.format("" if share is None else f"-{self.number}")
        self.about = {"format": FORMAT, "workers": 1, "config": plan.record()}
        self.prepared: dict[str, Prepared] = {}
        self.searches: dict[tuple[str, str], dict[str, Any]] = {}
        self.cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.failed: list[dict[str, str]] = []
        self.busy = 0.0  # seconds of cells that ran now

    def work(self, record: Path | None = None) -> None:
        """Run the cells, and write a record after each method of a task, where there is one."""
        began, self.path = time.perf_counter(), record
        with ExitStack() as stack:
            with FileLock(self.out / "prepare.lock"):  # another share may be at it, which may take long
                _check_plan(self.plan, self.out)
                workers = stack.enter_context(self.hire(self.out)) if self.hire else None
                self.about["workers"] = workers.count if workers else 1
                self.prepared = {task: self._prepared(task) for task in self.plan.tasks}
            walks = [self._walk(task, name, own) for task, each in self.prepared.items() for name, own in each.methods.items()]
            mine = walks[self.number :: self.count]
            self._at_once(mine, workers) if workers else self._one_by_one(mine)
        self._save()
        if self.progress:
            self._tell(time.perf_counter() - began)

    def _prepared(self, task: str) -> Prepared:
        """What the study makes for a task; kept in the folder, since it may take long."""
        path, fresh = self.out / f"prepared-{task}.json", None
        if not path.exists():
            fresh = self.plan.kind.prepare(self.plan, task, self.out)
            rests_on = _rests_on(self.plan, task, fresh)
            write_json(path, seal({"methods": fresh.methods, "measured": fresh.measured, "identity": rests_on}))
        content = unseal(read_json(path), str(path))
        check_shape(content, {"methods": {str: dict}, "measured": dict, "identity?": dict}, str(path))
        check_named("methods", content["methods"])
        prepared = Prepared(content["methods"], content["measured"])
        for own in prepared.methods.values():
            check_run(self.plan, task, own)
        if not fresh and "identity" in content:
            check_same(
                _rests_on(self.plan, task, prepared), content["identity"], path, "bring it back, or choose another folder"
            )
        return prepared

    def _walk(self, task: str, name: str, own: dict[str, Any]) -> Walk:
        """The cells of a method on a task: those of its search, for each settings of its grid, then those that are reported."""
        plan, ways, searches = self.plan, variants(own), []

        def cell(number: int, lr: float, seed: int) -> Cell:
            label = f"~{number}" if len(ways) > 1 else ""
            return Cell(task, name, plan.settings(task, ways[number], lr, seed), label)

        for number, way in enumerate(ways):
            lr, seeds = lr_of(plan, task, way), plan.search_seeds
            listed = isinstance(lr, list)
            search = best_listed(lr, seeds, len(ways) == 1) if listed else best_rate(lr, plan.factor, plan.extend, seeds)
            one = yield from _searched(search, partial(cell, number))
            searches.append(one._replace(optim_args=way["optim_args"]) if len(ways) > 1 else one)
        best = min(range(len(ways)), key=lambda number: searches[number].loss)
        reported = [cell(best, searches[best].lr, seed) for seed in plan.seeds]
        outcomes = yield reported
        self.searches[task, name] = record_of(searches, plan.search_seeds)
        self.cells[task, name] = [outcomes[c.name] for c in reported]
        self._save()

    def _one_by_one(self, walks: list[Walk]) -> None:
        for walk in walks:
            cells = next(walk)
            while cells:
                outcomes = {cell.name: self._note(cell, *tried(cell, self.out)) for cell in cells}
                cells = _next_cells(walk, outcomes)

    def _at_once(self, walks: list[Walk], workers: Workers) -> None:
        """Let every walk go on as soon as the cells that it waits for are there."""
        waiting: dict[Future, tuple[Walk, Cell]] = {}
        sizes: dict[Walk, int] = {}
        known: dict[Walk, dict[str, dict[str, Any] | None]] = {}

        def begin(walk: Walk, cells: list[Cell]) -> None:
            sizes[walk], known[walk] = len(cells), {}
            waiting.update({workers.submit(cell): (walk, cell) for cell in cells})

        for walk in walks:
            begin(walk, next(walk))
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                walk, cell = waiting.pop(future)
                known[walk][cell.name] = self._note(cell, *future.result())
                if len(known[walk]) == sizes[walk]:
                    begin(walk, _next_cells(walk, known[walk]))

    def _note(self, cell: Cell, outcome: dict[str, Any] | None, error: str | None, seconds: float) -> dict[str, Any] | None:
        """Count and print what a cell came to; the outcome is handed on."""
        self.busy += seconds
        if outcome is None:
            self.failed.append({"cell": cell.name, "error": str(error)})
            write_json(self.listed, self.failed)
            end = f"failed: {error}"
        else:
            end = outcome.get("diverged") or f"dev loss {final_loss(outcome):.3f}, {seconds:.0f} s"
        if self.progress:
            print(f"{cell.name:48} {end}", flush=True)
        return outcome

    def _save(self) -> None:
        """The record, in the plan's order whatever was ready first."""
        if self.path is None:
            return
        order = [(task, name) for task, prepared in self.prepared.items() for name in prepared.methods]
        done = [pair for pair in order if pair in self.cells]
        result = {
            "search": {task: {n: self.searches[t, n] for t, n in done if t == task} for task in self.prepared},
            "cells": [outcome for pair in done for outcome in self.cells[pair]],
            "measured": {task: prepared.measured for task, prepared in self.prepared.items()},
            "failed": self.failed,
        }
        save_record({**self.about, "result": result, **environment()}, self.path)

    def _tell(self, seconds: float) -> None:
        where = f"record: {self.path}" if self.path else f"share {self.number} of {self.count}"
        print(f"{sum(map(len, self.cells.values()))} reported runs in {seconds / 60:.1f} minutes; {where}")
        if (count := self.about["workers"]) > 1 and self.busy:
            print(f"{count} workers ran {self.busy / 60:.1f} minutes of cells: {self.busy / seconds:.2f} times as fast")
        for entry in self.failed:
            print(f"failed: {entry['cell']}: {entry['error']}", file=sys.stderr)


def _searched(search: Search, cell: Callable[[float, int], Cell]) -> Generator[list[Cell], dict[str, Any], SearchResult]:
    """The cells that a search of a learning rate asks for."""
    try:
        pairs = next(search)
        while True:
            cells = {pair: cell(*pair) for pair in pairs}
            outcomes = yield list(cells.values())
            pairs = search.send({pair: final_loss(outcomes[c.name]) for pair, c in cells.items()})
    except StopIteration as done:
        return done.value


def _rests_on(plan: Plan, task: str, prepared: Prepared) -> dict[str, Any]:
    """What the numbers that a study measured before its runs are of; the runs themselves see to it that nothing changes."""
    if not prepared.measured or not prepared.methods:
        return {}
    config = check_run(plan, task, next(iter(prepared.methods.values())))
    examples = load_task(config.task).sample(config.data_seed, config.train, config.dev, config.test)
    return identity(*load_model(config.model, config.dtype, config.device), examples._asdict())


def _next_cells(walk: Walk, outcomes: dict[str, dict[str, Any] | None]) -> list[Cell]:
    """What a walk wants next: nothing at its end, and nothing where one of its cells failed."""
    if None in outcomes.values():
        walk.close()
        return []
    try:
        return walk.send(outcomes)
    except StopIteration:
        return []
