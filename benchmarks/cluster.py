"""A study of 60 cells on a local Ray of two workers, beside the same study one cell after another; one thread a run.

Both are timed as `zolab study` runs them, from plan to record: on Ray with its start and that of the workers. What a cell takes
beyond its run is the time from a thread that wants a worker for it until its outcome is here, less the seconds in the run's own
record: waiting for a worker, the way there and back, the model, the examples and the folder. The import of torch in this
process is in neither.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from zolab.records import environment
from zolab.studies.cluster import hire
from zolab.studies.needs import needs_of
from zolab.studies.plan import check_plan
from zolab.studies.run import run_study

METHODS = {"MeZO": {"optimizer": "mezo"}, "AdaMeZO": {"optimizer": "adamezo"}, "FZOO": {"optimizer": "fzoo", "samples": 2}}


def plan_of(options):
    """Cells that are all alike, but for the method and the seed."""
    budget = {"forwards": options.forwards, "evaluations": 4, "batch_size": 16, "train": 400, "dev": 100, "test": 100}
    return check_plan(
        {
            "base": {"model": options.model, "task": options.task, "lr": [1e-4], **budget},
            "tasks": {"reviews": {}},
            "methods": METHODS,
            "search": {"factor": 10, "extend": 0, "seeds": [10**6]},
            "seeds": list(range(options.cells // len(METHODS))),
        }
    )


def timed(plan, count=None):
    """Seconds of a study, of each of its runs, and of each of its cells on Ray with so many workers; without them, serially."""
    cells = []

    def clocked(out):
        workers = hire(needs_of(plan), count=count)(out)
        run = workers.run

        def on_clock(cell):
            began = time.perf_counter()
            outcome = run(cell)
            cells.append(time.perf_counter() - began)
            return outcome

        workers.run = on_clock
        return workers

    with tempfile.TemporaryDirectory(prefix="zolab-cluster-") as folder:
        began = time.perf_counter()
        hirer = clocked if count else None
        record = run_study(plan, Path(folder) / "out", Path(folder) / "record.json", 1, progress=False, hire=hirer)
        seconds = time.perf_counter() - began
    if record.failed:
        raise RuntimeError(f"{record.failed[0]['cell']} failed: {record.failed[0]['error']}")
    return seconds, [cell["seconds"] for cell in record.content["result"]["cells"]], cells


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-reviews")
    parser.add_argument("--task", default="reviews_sentence")
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--forwards", type=int, default=800, help="passes of a run's training")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = plan_of(options)
    serial, alone, _ = timed(plan)
    on_ray, runs, cells = timed(plan, options.workers)
    beyond = (sum(cells) - sum(runs)) / len(cells)
    where = f"on Ray, {options.workers} workers"
    print(f"{len(runs)} cells of {options.model}, {options.forwards} forward passes each")
    print(f"  one after another     {serial:7.1f} s, {statistics.median(alone):.2f} s a run")
    print(f"  {where:20}  {on_ray:7.1f} s, {on_ray / serial:.2f} of that; {statistics.median(runs):.2f} s a run")
    print(f"  a cell beyond its run {beyond:7.2f} s, the workers' start included")
    if options.json:
        result = {"serial_seconds": serial, "ray_seconds": on_ray, "ratio": on_ray / serial, "beyond_a_run_seconds": beyond}
        print(json.dumps({**result, "cells": len(runs), "workers": options.workers, **environment()}))


if __name__ == "__main__":
    main()
