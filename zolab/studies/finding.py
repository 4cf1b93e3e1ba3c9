"""What a claim of a paper comes to, and how findings are read from studies' records and put into sentences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zolab.studies.compare import Overall, at_edges, beside, overall
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE

Records = Mapping[str, Any]
"""Contents of the kept records, by file name without its end."""
HOLDS, CORRECTED, NOT_SEEN = "holds", "holds with a correction", "not seen"
LATEST, CONTROLS, RECIPES, GPU = "11_reproduction", "09_tiny", "08_recipes", "gpu_nvidia_h100_80gb_hbm3"
REAL, REAL_CONTROLS = "11_smollm2", "09_smollm2"
"""Records of a real language model."""
TUNER = "ZO Fine-tuner"
TRIALS = {"09_trial": "sentence and passage", "09_trial_smollm2": "COPA, SQuAD and DROP"}
"""Records of scales that a gain map chose, and of which tasks."""


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim.

    Args:
        verdict: holds, holds with a correction, or not seen.
        ran: what was run, a phrase.
        numbers: sentences without their full stop.
        records: file names without their end.
    """

    verdict: str
    ran: str
    numbers: Sequence[str]
    records: Sequence[str]


def pair(records: Records, stem: str, ours: str, theirs: str, numbers: Sequence[str]) -> Finding | None:
    """One method beside another in a study, task by task; it is lower if that is decided on more than half of them."""
    record = Record(records[stem]) if stem in records else None
    if record is None or not record.pairs(ours, theirs):
        return None
    rows = beside(record, ours, theirs)
    lower = sum(row.word == "lower" for row in rows)
    message = "; ".join(f"{row.task} {row.final.text(3, sign=True)}" for row in rows)
    line = f"`{stem}`: final dev loss of {ours} minus that of {theirs}, {rows[0].final.n} seeds: {message}"
    return Finding(HOLDS if 2 * lower > len(rows) else NOT_SEEN, f"{ours} beside {theirs}", [*numbers, line], [stem])


def of_tasks(record: Record, tasks: Sequence[str], methods: Sequence[str] | None = None) -> Record:
    """A record of some of its tasks, and methods, alone."""
    result = record.content["result"]
    searches = {
        task: {name: search for name, search in result["search"].get(task, {}).items() if methods is None or name in methods}
        for task in tasks
    }
    cells = [cell for cell in result["cells"] if cell["method"] in searches.get(cell["task"], {})]
    return Record({**record.content, "result": {**result, "search": searches, "cells": cells}})


def tuners(records: Records) -> list[tuple[str, Record, str]]:
    """Studies of a fine-tuner beside MeZO, the one that decides first, and what it is called there."""
    known = ((LATEST, TUNER), (REAL, TUNER), (REAL_CONTROLS, "trained"), (CONTROLS, "trained"))
    return [(stem, Record(records[stem]), name) for stem, name in known if stem in records]


def is_lower(comparison: Overall) -> bool:
    """In the mean over tasks, or decided on more than half of them."""
    return comparison.final.word == "lower" or 2 * len(comparison.lower) > comparison.tasks


def off(record: Record, task: str, method: str) -> float | None:
    """What the rates beside the best one lose to it in the search, infinite if one diverged; None where it has no neighbour."""
    search = record.search(task, method)
    losses = {float(rate): loss for rate, loss in search["rounds"][-1]["losses"].items()}
    ordered = sorted(losses)
    place = min(range(len(ordered)), key=lambda i: abs(ordered[i] - search["lr"]), default=None)
    if place is None or losses[ordered[place]] is None:
        return None
    beside_it = [losses[ordered[i]] for i in (place - 1, place + 1) if 0 <= i < len(ordered)]
    known = [math.inf if loss is None else loss for loss in beside_it]
    return float(np.mean(known)) - losses[ordered[place]] if known else None


def steps_on_gpu(records: Records) -> dict[str, dict[str, Any]]:
    """`method_rows` of the GPU's record."""
    return method_rows(records.get(GPU, {}).get("parts", {}))


def apart(steps: Mapping[str, Mapping[str, Any]]) -> str:
    """That MeZO's step was a CUDA graph, which keeps memory of its own, and ZO Fine-tuner's was not; if so."""
    peaks = [steps[name]["peak_over_weights"] for name in ("zo_finetuner", "mezo")]
    if None in peaks or peaks[0] >= 0.9 * peaks[1]:
        return ""
    return ", whose step is a CUDA graph here and keeps memory of its own, while this one is launched kernel by kernel"


def rows_of(parts: Mapping[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The rows of a part by their method; none if it was not measured."""
    return {row["name"].partition(",")[0]: dict(row) for row in parts.get(part, {}).get("rows", [])}


def method_rows(parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of the methods' steps on the 1B shape, from the parts of a GPU's record.

    Whether a step is launched as a graph, which keeps memory of its own, is decided while it is timed. MeZO's peak is the
    greater one of two parts of the record, in one of which it is a graph as other methods' are. A peak below that of a forward
    pass is none: what an earlier method held was given back meanwhile.
    """
    rows = rows_of(parts, "methods 1b")
    ways = {row["name"].partition(": ")[2]: row for row in parts.get("steps 1b", {}).get("rows", [])}
    forward = ways.get("forwards", {}).get("peak_over_weights") or 0.0
    for row in rows.values():
        row["peak_over_weights"] = row["peak_over_weights"] if row["peak_over_weights"] >= 0.99 * forward else None
    if "mezo" in rows and "memory_over_forwards" in ways.get("through", {}):
        graph = ways["through"]["memory_over_forwards"] * (1 + forward) - 1
        rows["mezo"]["peak_over_weights"] = max(rows["mezo"]["peak_over_weights"] or 0.0, graph)
    return rows


def in_study(record: Record, method: str) -> Overall:
    """A method beside MeZO, what is decided being corrected for all methods of the study, as in RESULTS."""
    return overall(record, method, family=[name for name in record.methods() if name != BASE])


def sentence(comparison: Overall) -> str:
    """A method beside MeZO over all tasks."""
    few = " (too few to decide)" if comparison.forwards.n < comparison.forwards.least else ""
    passes = f"{comparison.forwards.text()} times MeZO's forward passes to its mean final loss{few}"
    if comparison.forwards.text() == "–":
        passes = "forward passes to MeZO's mean final loss cannot be compared"
    decided = f"decided lower on {len(comparison.lower)} of {comparison.tasks} tasks, higher on {len(comparison.higher)} (Holm)"
    return f"{passes}; final dev loss {comparison.final.text(3, sign=True)} nats, {comparison.seeds} seeds, {decided}"


def with_trials(finding: Finding | None, records: Records, tasks: Mapping[str, Sequence[str]]) -> Finding | None:
    """The finding with what the trials say: scales of the gain map in place of a network, with offsets fitted first.

    They are no fine-tuner by the published recipe, so that the verdict stays.

    Args:
        finding: of other records.
        records: all of them.
        tasks: of each of `TRIALS` those that are meant.
    """
    if finding is None:
        return finding
    lines, used = [], [stem for stem in tasks if stem in records]
    for stem in used:
        part = of_tasks(Record(records[stem]), tasks[stem])
        ours, others = "trained", [name for name in part.methods() if name not in (BASE, "trained")]
        against = "; ".join(f"{name} {overall(part, ours, name).final.text(3, sign=True)}" for name in others)
        lines += [
            f"`{stem}`, where the gain map of {TRIALS[stem]} chose scales and offsets are fitted first, on "
            f"{', '.join(part.tasks)}: {sentence(in_study(part, ours))}",
            f"Its final loss minus that of each control: {against}",
            *at_edges(part, (BASE, ours)),
        ]
    return Finding(finding.verdict, finding.ran, [*finding.numbers, *lines], [*finding.records, *used])
