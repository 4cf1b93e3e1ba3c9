"""Train a PertNN for a model; started again in the same folder, it goes on with the period that it was in."""

import argparse
from pathlib import Path

from zolab.cli.own_data import add_own_data, describe_tasks
from zolab.cli.parser import add_settings, settings_of
from zolab.l2l.config import MetaConfig

EXAMPLE = "--model tiny-reviews --tasks reviews_sentence --steps 20 --period 10 --out runs/pertnn"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of PertNN, its card and the record")
    add_settings(parser, MetaConfig)
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    from zolab.cli.sigma import print_largest
    from zolab.l2l.train import meta_train

    describe_tasks(options)
    config = settings_of(options, MetaConfig)
    run = meta_train(config, options.out)
    steps = run.record["result"]["steps"]
    print(f"{len(steps)} steps on {config.tasks}; meta-loss {steps[0]['meta_loss']:.4f} -> {steps[-1]['meta_loss']:.4f}")
    print_largest(run.record["result"]["sigma"])
    print(f"  peak memory {run.record['timing']['peak_bytes'] / 1e9:.2f} GB; PertNN and its card: {options.out}")
