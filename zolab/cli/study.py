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
    told = "run only this share of the methods on tasks, such as 3/8, beside other processes with others; the same command "
    told += "without it then writes the record"
    parser.add_argument("--share", type=_share, metavar="K/N", help=told)
    told = "only print a SLURM script, a job array in which each job runs one method on one task"
    parser.add_argument("--print_array", action="store_true", help=told)
    parser.add_argument(
        "--dry_run", action="store_true", help="only print the runs, their forward passes and the hours they take"
    )


def run(options: argparse.Namespace) -> None:
    from zolab.studies.compare import BASE, beside_table, final_table, verdict
    from zolab.studies.cost import costs, written
    from zolab.studies.plan import load_plan
    from zolab.studies.run import run_share, run_study

    plan = load_plan(options.plan)
    if options.print_array:
        from zolab.studies.array import array_script

        print(array_script(plan, options.plan, options.out, options.record, options.workers), end="")
        return
    if options.dry_run:
        print(written(plan, costs(plan), options.workers))
        return
    if options.share:
        failed = run_share(plan, options.out, options.share, options.workers)
        _check_none(failed)
        return
    record = run_study(plan, options.out, options.record, options.workers)
    if record.tasks:
        print(final_table(record))
    others = [name for name in record.methods() if name != BASE]
    if BASE in record.methods() and others:
        print(beside_table(record))
        for name in others:
            print(*verdict(record, name, family=others), sep="\n  ")
    _check_none(record.failed)


def _check_none(failed: list[dict[str, str]]) -> None:
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed; the same command tries them again.")


def _share(word: str) -> tuple[int, int]:
    number, slash, count = word.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"write K/N with K from 0 to N - 1, such as 0/8, not {word!r}")
    return int(number), int(count)
