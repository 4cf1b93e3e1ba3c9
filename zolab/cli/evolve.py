"""Evolve a PertNN's sigma from whole runs, by forward passes alone; started again in the same folder, it goes on."""

import argparse
from pathlib import Path

from zolab.cli.own_data import add_own_data, describe_tasks
from zolab.cli.parser import add_settings, settings_of
from zolab.l2l.config import EvolveConfig

EXAMPLE = "--model tiny-reviews --tasks reviews_sentence --pairs 3 --steps 10 --out runs/evolved"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of PertNN, its card and the record")
    add_settings(parser, EvolveConfig)
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    from zolab.cli.sigma import print_largest
    from zolab.l2l.evolution import evolve

    describe_tasks(options)
    config = settings_of(options, EvolveConfig)
    result = evolve(config, options.out).record["result"]
    if config.pairs:
        print(f"{config.pairs} pairs of {config.steps} steps on {config.tasks}; lr {config.lr:.2e} -> {result['lr']:.2e}")
    else:
        print(f"the first sigma of {config.tasks}, as they are: no run has tried them, nor a learning rate")
    print_largest(result["sigma"])
    print(f"  PertNN and its card: {options.out}")
