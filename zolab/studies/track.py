"""The track: which method needs the fewest forward passes to a fixed dev loss? Anybody's plan, under the same rules.

A plan of this kind runs its own methods, as one of kind "methods" does, on the tasks of `TARGETS`. A zeroth-order run of each
method is kept beside the record, with its trajectory, so that `python -m zolab verify` can make its evaluations again anywhere.
"""

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from zolab.records.files import read_bytes, read_json, write_atomically, write_json
from zolab.runs.config import require
from zolab.studies import methods
from zolab.studies.cells import Cell
from zolab.studies.outcomes import Record
from zolab.studies.plan import Plan, check_run
from zolab.studies.statistics import FEWEST, forwards_to, median

OPTIONS: dict[str, Any] = {}
BEFORE = ""
RULES = {"model": "tiny-reviews", "batch_size": 16, "train": 1000, "dev": 200}
"""What every run has."""
TARGETS = {"reviews_sentence": 0.65, "reviews_writer": 0.64}
"""For each task the dev loss, in nats, that ends the race: 0.69 takes no knowledge, MeZO's 600 passes end a little below."""
HEAD = f"""# Track: forward passes to a fixed dev loss

Written by `python -m zolab results` from the records of plans with `study: track`.

- A run arrives when the median of its last three evaluations on dev is at or below the target; a backward pass counts as two
  forward passes. Each method has its own best learning rate, searched on other seeds than those that count. An asterisk marks
  one at the edge of its grid: another rate may be better.
- *Median (a to b)*: over seeds, with the 95 % interval that order statistics give, which takes at least {FEWEST} runs. A run
  that never arrives counts as later than any other.
- *replay* is the zeroth-order run with the first seed: its record, and its trajectory, a few kilobytes that hold all that the
  weights went through. `python -m zolab verify FOLDER --curve` makes its losses again, to the bit on a machine like that of
  the record.
"""
RECORD, TRAJECTORY = "record.json", "trajectory.npz"
"""What is kept of a run."""

names, prepare = methods.names, methods.prepare


def check(plan: Plan) -> None:
    """Raise ValueError unless every method can run at equal forward passes, on the track's tasks and by its rules."""
    methods.check(plan)
    tasks = set()
    for task in plan.tasks:
        for own in plan.methods.values():
            config = check_run(plan, task, own)
            tasks.add(config.task)
            wrong = [f"{name} {getattr(config, name)}" for name, value in RULES.items() if getattr(config, name) != value]
            rules = ", ".join(f"{name} {value}" for name, value in RULES.items())
            require(not wrong, f"{task} has {', '.join(wrong)}; runs on the track have {rules}.")
    require(tasks == set(TARGETS), f"the track's tasks are {', '.join(TARGETS)}, each once; this plan has {', '.join(tasks)}.")
    require(len(plan.tasks) == len(TARGETS), f"the track's tasks are {', '.join(TARGETS)}, each once.")


def keep(record: Record, out: Path, path: Path) -> None:
    """Keep the first seed's run of each method with its trajectory, if it has one.

    Args:
        record: of the plan's runs.
        out: folder of the runs.
        path: file of the record; the runs are kept in a folder beside it that has its name.
    """
    for task in record.tasks:
        for method in record.methods(task):
            first = record.cells(task, method)[0]
            names = [Cell(escape(task), escape(method), first, label).name for label in ("", "~*")]  # alone, or best of a grid
            for folder in (folder for name in names for folder in out.glob(name)):
                if (folder / RECORD).exists() and (folder / TRAJECTORY).exists():
                    destination = path.with_suffix("") / f"{task}-{method}"
                    destination.mkdir(parents=True, exist_ok=True)
                    write_json(destination / RECORD, read_json(folder / RECORD), indent=None)
                    write_atomically(destination / TRAJECTORY, read_bytes(folder / TRAJECTORY))


def track(records: Mapping[str, Record], folder: Path) -> str:
    """The page of the track, Markdown: a table for each task, methods in the order of their medians.

    Args:
        records: of plans of this kind, by the plan's name.
        folder: of their files, and of the runs that were kept.
    """
    lines = [HEAD]
    for task, target in TARGETS.items():
        rows = sorted(
            (row for name, record in records.items() for row in _rows(name, record, task, folder)), key=lambda row: row[0]
        )
        lines += [f"## {task}: dev loss {target}", "", "| method | median (95 % interval) | arrived | n | plan | replay |"]
        lines += ["| --- | --- | --- | --- | --- | --- |", *(row for _, row in rows), ""]
    return "\n".join(lines)


def _rows(plan: str, record: Record, task: str, folder: Path) -> list[tuple[float, str]]:
    """A row of a table, and what it is sorted by, for each method of a record."""
    rows = []
    for name in record.plan["tasks"]:
        if {**record.plan["base"], **record.plan["tasks"][name]}.get("task") != task or name not in record.tasks:
            continue
        for method in record.methods(name):
            runs = record.runs(name, method)
            times = forwards_to(runs, TARGETS[task])
            middle, arrived = median(times), int(np.isfinite(times).sum())
            interval = _written([middle.value, middle.low, middle.high], runs.forwards[-1])
            seed, place = record.cells(name, method)[0]["seed"], f"{plan}/{name}-{method}"
            replay = f"[seed {seed}](records/{quote(place)}/{RECORD})" if (folder / place).is_dir() else "–"
            mark = "*" if record.search(name, method)["edge"] else ""
            cells = (method + mark, interval, arrived, len(times), f"[`{plan}`](records/{plan}.json)", replay)
            rows.append((middle.value, "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"))
    return rows


def _written(numbers: list[float], budget: float) -> str:
    """Median and interval; what lies beyond the runs' end is only known to be more."""
    value, *ends = (f"{number:,.0f}" if np.isfinite(number) else f"> {budget:,.0f}" for number in numbers)
    return value if np.isnan(numbers[1]) else f"{value} ({' to '.join(ends)})"
