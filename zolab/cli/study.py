"""Run a study: the runs of a plan, each method at its own best learning rate; started again in the same folder, it goes on."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help must not load torch
    from zolab.studies.plan import Plan
    from zolab.studies.run import Hire

RAY = ("address", "cpus", "gpus", "memory")  # options of its alone
EXAMPLE = "notebooks/plans/08_recipes.yaml --out runs/08 --record runs/08.json --dry_run"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, metavar="PLAN", help="YAML file of the plan; zolab/studies/plan.py shows one")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the runs")
    parser.add_argument("--record", type=Path, required=True, metavar="FILE", help="file of the record (JSON)")
    text = "runs at a time, each in a process of one thread; by default 1, in this process, with all threads of torch, and on "
    text += "Ray as many as have room"
    parser.add_argument("--workers", type=int, metavar="INTEGER", help=text)
    text = "who runs them: local is this machine, ray a Ray of this machine or, with --address, of a cluster; there a run that "
    text += "fails is tried twice more, and one whose worker ends goes on from its log"
    parser.add_argument("--runner", choices=("local", "ray"), default="local", help=text)
    text = "where a Ray cluster is: HOST:PORT, as `ray start --head` prints it, or auto for the one of this machine; all its "
    text += "machines must see FOLDER"
    parser.add_argument("--address", metavar="TEXT", help=text)
    text = "cores that a run declares to Ray, and its threads (default: 1)"
    parser.add_argument("--cpus", type=int, metavar="INTEGER", help=text)
    text = "GPUs that a run declares to Ray, such as 0.5 (default: 1 where the plan's device is cuda, or none)"
    parser.add_argument("--gpus", type=float, metavar="NUMBER", help=text)
    text = "GB of main memory that a run declares to Ray; predicted by default"
    parser.add_argument("--memory", type=float, metavar="NUMBER", help=text)
    instead = parser.add_mutually_exclusive_group()
    text = "run only this share of the methods on tasks, such as 3/8, beside other processes with others; the same command "
    text += "without it then writes the record"
    instead.add_argument("--share", type=_share, metavar="K/N", help=text)
    text = "only print a SLURM script, a job array in which each job runs one method on one task"
    instead.add_argument("--print_array", action="store_true", help=text)
    instead.add_argument(
        "--dry_run", action="store_true", help="only print the runs, their forward passes and the hours they take"
    )


def run(options: argparse.Namespace) -> None:
    from zolab.studies.compare import BASE, beside_table, final_table, verdict
    from zolab.studies.cost import costs, written
    from zolab.studies.plan import load_plan
    from zolab.studies.run import run_share, run_study
    from zolab.studies.workers import check_workers

    plan, workers = load_plan(options.plan), 1 if options.workers is None else options.workers
    check_workers(workers)
    hire = _hire(options, plan)
    if options.print_array:
        from zolab.studies.array import array_script

        print(array_script(plan, options.plan, options.out, options.record, workers), end="")
        return
    if options.dry_run:
        print(written(plan, costs(plan), workers))
        return
    if options.share:
        failed = run_share(plan, options.out, options.share, workers)
        _check_none(failed)
        return
    record = run_study(plan, options.out, options.record, workers, hire=hire)
    if record.tasks:
        print(final_table(record))
    others = [name for name in record.methods() if name != BASE]
    if BASE in record.methods() and others:
        print(beside_table(record))
        for name in others:
            print(*verdict(record, name, family=others), sep="\n  ")
    _check_none(record.failed)


def _hire(options: argparse.Namespace, plan: "Plan") -> "Hire | None":
    """What makes workers on Ray, if they are asked for; it prints what each of them declares."""
    from zolab.runs.config import require

    if options.runner == "local":
        ray_options = [f"--{name}" for name in RAY if getattr(options, name) is not None]
        require(not ray_options, f"{' and '.join(ray_options)} is for runs on Ray: add --runner ray, or leave it out.")
        return None
    alone = not options.share and not options.print_array
    require(alone, "Ray itself shares out the runs: leave out --share and --print_array, or --runner ray.")
    from zolab.studies.cluster import hire
    from zolab.studies.needs import needs_of

    cpus = 1 if options.cpus is None else options.cpus
    needs = needs_of(plan, cpus, options.gpus, None if options.memory is None else options.memory * 1e9)
    workers = hire(needs, options.address, options.workers)
    print(f"a run declares {needs}", flush=True)
    return workers


def _check_none(failed: list[dict[str, str]]) -> None:
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed; the same command tries them again.")


def _share(word: str) -> tuple[int, int]:
    number, slash, count = word.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"write K/N with K from 0 to N - 1, such as 0/8, not {word!r}")
    return int(number), int(count)
