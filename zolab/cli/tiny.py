"""Command line: `python -m zolab.tiny_reviews train`, `derive`, `study` and `seeds`; --help explains every option."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from zolab.cli.errors import reported
from zolab.models import SHIPPED
from zolab.studies.learnability import study
from zolab.studies.seeds import seeds
from zolab.studies.sweep import load_plan
from zolab.tiny_reviews.make import make_critic, make_reviews
from zolab.tiny_reviews.pretrain import Recipe

DERIVED = {"steps": 400, "lr": 1e-3, "seed": 1}


def train_command(options: argparse.Namespace) -> None:
    """Pretrain tiny-reviews: its tokenizer, its weights, its card."""
    make_reviews(replace(Recipe(), steps=options.steps, seed=options.seed), options.out)


def derive_command(options: argparse.Namespace) -> None:
    """Train tiny-reviews on in the spelling of critics' sentences: tiny-reviews-critic."""
    make_critic(replace(Recipe(), **{**DERIVED, "steps": options.steps, "seed": options.seed}), options.out)


def study_command(options: argparse.Namespace) -> None:
    """Zero-shot, Adam and MeZO on the tasks of a plan; started again with the same folder, it goes on."""
    study(load_plan(options.plan), options.out, options.record, options.command)


def seeds_command(options: argparse.Namespace) -> None:
    """Is the shipped model a lucky draw? Train it from several seeds, and study each; started again, it goes on."""
    seeds(load_plan(options.plan), options.seeds, options.out, options.record, options.command)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab.tiny", description="Make and study the shipped small models.")
    commands = parser.add_subparsers(required=True)
    for command, name, default in (
        (train_command, "tiny-reviews", {"steps": Recipe().steps, "seed": Recipe().seed}),
        (derive_command, "tiny-reviews-critic", DERIVED),
    ):
        formatter = argparse.ArgumentDefaultsHelpFormatter
        making = commands.add_parser(command.__name__.split("_")[0], help=command.__doc__, formatter_class=formatter)
        making.add_argument("--out", type=Path, default=SHIPPED[name], help="folder of the model")
        making.add_argument("--steps", type=int, default=default["steps"], help="batches")
        making.add_argument("--seed", type=int, default=default["seed"], help="of weights and texts")
        making.add_argument("--threads", type=int, default=1, help="of torch; the shipped weights were made on one")
        making.set_defaults(run=command)
    for command, threads in ((study_command, torch.get_num_threads()), (seeds_command, 1)):
        studying = commands.add_parser(command.__name__.split("_")[0], help=command.__doc__)
        studying.add_argument("plan", type=Path, help="YAML file of the plan; see zolab/sweep.py")
        studying.add_argument("--out", type=Path, required=True, help="folder of the runs")
        studying.add_argument("--record", type=Path, required=True, help="file of the record")
        studying.set_defaults(run=command, threads=threads)
    studying.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the models")
    options = parser.parse_args()
    options.command = " ".join(["python -m zolab.tiny", *sys.argv[1:]])
    return reported(lambda: (torch.set_num_threads(options.threads), options.run(options)))


if __name__ == "__main__":
    sys.exit(main())
