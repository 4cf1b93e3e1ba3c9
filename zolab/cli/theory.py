"""python -m zolab.theory measure | study: block statistics of a model, and whether the theory's best scales help."""

import argparse
import sys
import time
from pathlib import Path

from zolab.cli.errors import reported
from zolab.models import load_model
from zolab.records import environment, peak_memory, reset_peak_memory, save_record
from zolab.studies.scales import study
from zolab.tasks import load_task
from zolab.theory.measure import block_statistics


def measure(options: argparse.Namespace) -> None:
    """Block statistics, as a small file that notebooks and meta-training read."""
    (model, tokenizer), task = load_model(options.model), load_task(options.task)
    examples = task.sample(0, options.examples, 2, 2).train
    reset_peak_memory()
    start = time.perf_counter()
    found = block_statistics(model, task, tokenizer, examples, options.probes)
    spent = {"minutes": (time.perf_counter() - start) / 60, "gigabytes": peak_memory() / 1e9}
    print(found.table())
    print(f"{len(found.names)} blocks in {spent['minutes']:.1f} minutes and {spent['gigabytes']:.2f} GB")
    settings = {name: getattr(options, name) for name in ("model", "task", "examples", "probes")}
    save_record({"config": settings, "result": {"blocks": found.record(), **spent}, **environment()}, options.record)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab.theory", description=__doc__)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure", help="gradient norm, noise and curvature of every block")
    measuring.add_argument("--model", default="smollm2-135m")
    measuring.add_argument("--task", default="rotten_tomatoes_short")
    measuring.add_argument("--examples", type=int, default=64)
    measuring.add_argument("--probes", type=int, default=8, help="Hessian-vector products")
    measuring.set_defaults(run=measure)
    studying = commands.add_parser("study", help="MeZO with the theory's scales against MeZO")
    studying.add_argument("plan", type=Path, help="YAML file; its methods are tasks")
    studying.add_argument("--out", type=Path, required=True, help="folder of the runs")
    studying.add_argument("--scales", nargs="+", default=["best", "bound", "best_permuted", "bound_permuted"])
    studying.set_defaults(run=lambda o: study(o.plan, o.out, o.record, tuple(o.scales)))
    for command in (measuring, studying):
        command.add_argument("--record", type=Path, required=True, help="file of the record")
    options = parser.parse_args()
    return reported(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
