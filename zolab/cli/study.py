"""Run a study: the runs of a plan, each method at its own best learning rate; started again in the same folder, it goes on."""

import argparse
from pathlib import Path

EXAMPLE = "notebooks/plans/08_recipes.yaml --out runs/08 --record runs/08.json --dry_run"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="YAML file of the plan; zolab/studies/plan.py shows one")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the runs")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="file of the record (JSON)")
    told = "runs at a time, each in a process of one thread; 1 runs them in this process, with all threads of torch"
    parser.add_argument("--workers", type=int, default=1, metavar="INTEGER", help=told)
    parser.add_argument(
        "--dry_run", action="store_true", help="only print the runs, their forward passes and the hours they take"
    )


def run(options: argparse.Namespace) -> None:
    from zolab.studies.compare import BASE, beside_table, final_table, verdict
    from zolab.studies.cost import costs, written
    from zolab.studies.plan import load_plan
    from zolab.studies.run import run_study

    plan = load_plan(options.plan)
    if options.dry_run:
        print(written(plan, costs(plan), options.workers))
        return
    record = run_study(plan, options.out, options.record, options.workers)
    if record.tasks:
        print(final_table(record))
    others = [name for name in record.methods() if name != BASE]
    if BASE in record.methods() and others:
        print(beside_table(record))
        for name in others:
            print(*verdict(record, name, family=others), sep="\n  ")
    if record.failed:
        raise RuntimeError(f"{len(record.failed)} runs failed; the same command tries them again.")
