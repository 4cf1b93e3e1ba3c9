"""Measure the gradient norm, the noise and the curvature of every block of a model, for the theory's best scales."""

import argparse
import time
from pathlib import Path

from zolab.cli.own_data import add_own_data, described
from zolab.runs.names import OWN_TASKS, TASK_NAMES

EXAMPLE = "--model tiny-reviews --task reviews_sentence --examples 16 --probes 2 --record runs/blocks.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2-135m", help="embedded name, local folder or Hub id of the model")
    tasks = f"name of the task: {', '.join(TASK_NAMES)}; or {OWN_TASKS}"
    parser.add_argument("--task", default="rotten_tomatoes_short", help=tasks)
    parser.add_argument("--examples", type=int, default=64, metavar="INTEGER", help="examples behind each number")
    parser.add_argument("--probes", type=int, default=8, metavar="INTEGER", help="Hessian-vector products")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="file of the record (JSON)")
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    for name in ("examples", "probes"):
        if getattr(options, name) < 2:
            raise ValueError(f"{name} must be at least 2, for a spread; got {getattr(options, name)}.")
    from zolab.models import load_model
    from zolab.records import environment, peak_memory, ready_for_record, reset_peak_memory, save_record
    from zolab.runs.identity import identity
    from zolab.tasks import load_task
    from zolab.theory.measure import block_statistics

    (options.task,) = described(options, [options.task])
    task = load_task(options.task)
    ready_for_record(options.record)
    examples = task.sample(0, options.examples, 2, 2).train
    model, tokenizer = load_model(options.model)
    reset_peak_memory()
    start = time.perf_counter()
    statistics = block_statistics(model, task, tokenizer, examples, options.probes)
    cost = {"minutes": (time.perf_counter() - start) / 60, "gigabytes": peak_memory() / 1e9}
    print(statistics.table())
    print(f"{len(statistics.names)} blocks in {cost['minutes']:.1f} minutes and {cost['gigabytes']:.2f} GB")
    settings = {name: getattr(options, name) for name in ("model", "task", "examples", "probes")}
    known = identity(model, tokenizer, {"train": examples})
    save_record(
        {"config": settings, "result": {"blocks": statistics.record(), **cost}, **known, **environment()}, options.record
    )
