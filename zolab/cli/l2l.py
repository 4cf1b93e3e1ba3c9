"""Command line: `python -m zolab.l2l controls`, `recipes` and `ship`; --help explains every option."""

import argparse
import sys
from pathlib import Path

import torch

from zolab.cli.errors import reported
from zolab.l2l import controls, recipes
from zolab.studies.shipped import SHIPPED, ship


def controls_command(options: argparse.Namespace) -> None:
    """A trained PertNN beside its controls, each at its own best learning rate."""
    controls.study(options.plan, options.pertnn, options.out, options.record, tuple(options.controls))


def recipes_command(options: argparse.Namespace) -> None:
    """Train a PertNN by each recipe of a plan, and use each beside MeZO."""
    recipes.study(options.plan, options.out, options.record)


def ship_command(options: argparse.Namespace) -> None:
    """Make a shipped fine-tuner again."""
    torch.set_num_threads(options.threads)
    ship(options.name, options.out)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab.l2l", description="Study and make fine-tuners.")
    commands = parser.add_subparsers(required=True)
    for command in (controls_command, recipes_command):
        study = commands.add_parser(command.__name__.split("_")[0], help=command.__doc__)
        study.add_argument("plan", type=Path, help="YAML file; its methods are tasks")
        study.add_argument("--out", type=Path, required=True, help="folder of the runs")
        study.add_argument("--record", type=Path, required=True, help="file of the record")
        study.set_defaults(run=command)
        if command is controls_command:
            study.add_argument("--pertnn", required=True, help="folder of a PertNN, or the name of a shipped one")
            told = "; ".join(f"{name}: {text}" for name, text in controls.CONTROLS.items())
            study.add_argument("--controls", nargs="+", default=list(controls.CONTROLS), help=told)
    shipping = commands.add_parser("ship", help=ship_command.__doc__)
    shipping.add_argument("name", choices=list(SHIPPED))
    shipping.add_argument("--out", type=Path, required=True, help="folder of the meta-training")
    shipping.add_argument("--threads", type=int, default=1, help="of torch; the result may depend on it in the last bits")
    shipping.set_defaults(run=ship_command)
    options = parser.parse_args()
    return reported(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
