"""The one shape that every study's record has, read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from zolab.records import load_record
from zolab.records.shapes import NUMBER, check_shape
from zolab.runs.events import JUDGEMENT
from zolab.runs.guards import COUNTS
from zolab.studies.plan import BASE
from zolab.studies.statistics import Runs

FORMAT = "zolab study 1"


def _is_curve(value: Any) -> bool:
    """One or more pairs of forward passes, ever more of them, and dev loss."""
    pairs = value if isinstance(value, list) else []
    if not pairs or not all(isinstance(p, list) and len(p) == 2 and all(type(n) in NUMBER for n in p) for p in pairs):
        return False
    return all(one[0] < next_[0] for one, next_ in pairwise(pairs))


CELL = {
    **{"task": str, "method": str, "lr": NUMBER, "seed": int, "curve?": _is_curve, "diverged?": str},
    **{"test_before?": (*NUMBER, type(None)), "test_after?": NUMBER, "train_loss_last?": NUMBER},
    **{"forwards?": int, "seconds?": NUMBER, "peak_bytes?": (int, type(None))},
    **{"judged_before?": JUDGEMENT, "judged_after?": JUDGEMENT, "judged_curve?": [[(*NUMBER, type(None))]]},
    "guards?": COUNTS,
}
ROUND = {"seeds": [int], "losses": {str: (*NUMBER, type(None))}, "optim_args?": str}
FOUND = {"lr": NUMBER, "edge": bool, "rounds": [ROUND]}
STUDY = {
    "config": {"seeds": [int], "search": {"seeds": [int]}, "tasks": {str: dict}},
    "result": {"search": {str: {str: FOUND}}, "cells": [CELL], "measured": dict, "failed": [{"cell": str, "error": str}]},
}


@dataclass(frozen=True)
class Record:
    """A study's record.

    Args:
        content: of the file: `format`, `config` (the plan), and a `result` with `search` ({task: {method: rounds of the search,
            the rate and whether it lies at the edge}}), `cells` (the outcome of each reported run, as `Cell.run` gives it),
            `measured` ({task: what the study measured beside its runs}) and `failed` (runs that could not be made, and why);
            then command, commit, versions and machine.
    """

    content: dict[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Record":
        """Read a record. Raises ValueError if the file is damaged, or the record of something else."""
        content = load_record(path)
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} is not the record of a study; `zolab study PLAN --record FILE` writes one.")
        check_shape(content, STUDY, str(path))
        search = content["result"]["search"]
        for cell in content["result"]["cells"]:
            if cell["method"] not in search.get(cell["task"], {}):
                raise ValueError(
                    f"{path} is damaged: it has a run of {cell['method'][:80]}, for which no rate was searched; restore it."
                )
        return cls(content)

    @property
    def plan(self) -> dict[str, Any]:
        return self.content["config"]

    @property
    def measured(self) -> dict[str, Any]:
        return self.content["result"]["measured"]

    @property
    def failed(self) -> list[dict[str, Any]]:
        return self.content["result"]["failed"]

    @property
    def tasks(self) -> list[str]:
        """Those with runs, in the plan's order."""
        ran = {task for task, _ in self._cells}
        return [task for task in self.content["result"]["search"] if task in ran]

    def methods(self, task: str | None = None) -> list[str]:
        """The methods that ran on a task, or on any, in order; the base method first where it ran."""
        search = self.content["result"]["search"]
        names = dict.fromkeys(name for each in ([task] if task else search) for name in search.get(each, {}))
        return sorted(names, key=lambda name: name != BASE)

    def search(self, task: str, method: str) -> dict[str, Any]:
        """`lr`, `edge`, and `rounds`: the seeds and mean final dev losses of the rates that were tried."""
        return self.content["result"]["search"][task][method]

    def cells(self, task: str, method: str) -> list[dict[str, Any]]:
        """The outcome of each reported run, in the order of their seeds."""
        return self._cells.get((task, method), [])

    def runs(self, task: str, method: str) -> Runs:
        """Curves and metrics of the reported runs.

        Raises:
            ValueError: there are none.
        """
        cells = self.cells(task, method)
        if not cells:
            raise ValueError(f"the record has no runs of {method} on {task}; it has {', '.join(self.methods(task)) or 'none'}.")
        curves = [cell.get("curve") for cell in cells]
        forwards: list[Any] = max((curve for curve in curves if curve), key=len, default=[[1, None]])
        losses = [_as_long(curve, len(forwards)) if curve else [np.inf] * len(forwards) for curve in curves]
        metrics = [cell.get("test_after", np.nan) for cell in cells]
        return Runs(
            np.array([at for at, _ in forwards], float),
            np.array(losses, float),
            np.array(metrics, float),
            tuple(cell["seed"] for cell in cells),
            any("curve" in cell or "diverged" in cell for cell in cells),
        )

    def renamed(self, names: Mapping[str, str]) -> "Record":
        """The record with some of its methods called otherwise."""
        result = self.content["result"]
        search = {task: {names.get(name, name): each for name, each in of.items()} for task, of in result["search"].items()}
        cells = [cell | {"method": names.get(cell["method"], cell["method"])} for cell in result["cells"]]
        return Record(self.content | {"result": result | {"search": search, "cells": cells}})

    def judged(self, task: str, method: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """A number of `zolab.tasks.judgement.Judgement` of the test examples, before and after each reported run that has it.

        Args:
            task, method: names in the record.
            key: such as "auc" or "calibrated_accuracy".
        """
        cells = [cell for cell in self.cells(task, method) if "judged_before" in cell and "judged_after" in cell]
        before, after = (np.array([cell[when][key] for cell in cells], float) for when in ("judged_before", "judged_after"))
        return before, after

    def pairs(self, method: str, base: str = BASE, tasks: list[str] | None = None) -> dict[str, tuple[Runs, Runs]]:
        """Runs of a method and of another one, of each task that both ran on, with the same seeds in the same order.

        Where every run of one diverged, nothing says how many forward passes they would have had: they count with the other's.
        """
        pairs = {}
        for task in self.tasks if tasks is None else tasks:
            if self.cells(task, method) and self.cells(task, base):
                ours, theirs = self.runs(task, method), self.runs(task, base)
                if not (ours.kept and theirs.kept):
                    continue
                common = [seed for seed in theirs.seeds if seed in ours.seeds]
                ours, theirs = _of(ours, common), _of(theirs, common)
                pairs[task] = _as_long_as(ours, theirs), _as_long_as(theirs, ours)
        return pairs

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for cell in self.content["result"]["cells"]:
            groups.setdefault((cell["task"], cell["method"]), []).append(cell)
        return {key: sorted(cells, key=lambda cell: cell["seed"]) for key, cells in groups.items()}


def joined(*records: Record) -> Record:
    """Studies of different tasks, or of different methods on the same tasks, read as one; what occurs twice is the last's."""
    result: dict[str, Any] = {"search": {}, "cells": [], "measured": {}, "failed": []}
    for record in records:
        own = record.content["result"]
        for task, methods in own["search"].items():
            result["search"].setdefault(task, {}).update(methods)
        again = {(cell["task"], cell["method"]) for cell in own["cells"]}
        result["cells"] = [c for c in result["cells"] if (c["task"], c["method"]) not in again] + own["cells"]
        for task, measured in own["measured"].items():
            result["measured"].setdefault(task, {}).update(measured)
        result["failed"] += own["failed"]
    return Record({**records[-1].content, "result": result})


def _of(runs: Runs, seeds: list[int]) -> Runs:
    order = [runs.seeds.index(seed) for seed in seeds]
    return replace(runs, losses=runs.losses[order], metrics=runs.metrics[order], seeds=tuple(seeds))


def _as_long_as(runs: Runs, others: Runs) -> Runs:
    """Runs with a curve as they are; those that all diverged, and have none, with the forward passes of others."""
    if np.isfinite(runs.losses).any():
        return runs
    return replace(runs, forwards=others.forwards, losses=np.full((len(runs.seeds), len(others.forwards)), np.inf))


def _as_long(curve: list[list[float]], evaluations: int) -> list[float]:
    """Losses of a curve; those of a run that stopped early stay, to the end of the others, where they were."""
    losses = [loss for _, loss in curve]
    return losses + losses[-1:] * (evaluations - len(losses))
