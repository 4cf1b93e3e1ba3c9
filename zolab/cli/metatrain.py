"""Train a PertNN for a model; started again in the same folder, it goes on with the period that it was in."""

import argparse
import warnings
from pathlib import Path

from zolab.cli.own_data import add_own_data, describe_tasks
from zolab.cli.parser import add_settings, settings_of
from zolab.l2l.config import MetaConfig

EXAMPLE = "--model tiny-reviews --tasks reviews_sentence --steps 20 --period 10 --out runs/pertnn"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of PertNN, its card and the record")
    text = (
        "let each of the processes that torchrun or accelerate launch started hold a part of the weights (FSDP2), for models "
    )
    text += "that do not fit one GPU with their gradients"
    parser.add_argument("--shard", action="store_true", help=text)
    add_settings(parser, MetaConfig)
    add_own_data(parser)


def run(options: argparse.Namespace) -> None:
    from zolab.cli.sigma import print_largest
    from zolab.l2l.train import meta_train
    from zolab.runs.ranks import Ranks

    describe_tasks(options)
    config = settings_of(options, MetaConfig)
    if not Ranks.joined().first:
        warnings.simplefilter("ignore")  # the first process warns, and tells what came out
        meta_train(config, options.out, shard=options.shard)
        return
    run = meta_train(config, options.out, shard=options.shard)
    steps = run.record["result"]["steps"]
    print(f"{len(steps)} steps on {config.tasks}; meta-loss {steps[0]['meta_loss']:.4f} -> {steps[-1]['meta_loss']:.4f}")
    print_largest(run.record["result"]["sigma"])
    print(f"  peak memory {run.record['timing']['peak_bytes'] / 1e9:.2f} GB; PertNN and its card: {options.out}")
