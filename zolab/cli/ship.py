"""Make a shipped fine-tuner again, and put its network and card where the package keeps them."""

import argparse
from pathlib import Path

EXAMPLE = "tiny-reviews --out runs/ship"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="model of the fine-tuner: tiny-reviews, smollm2-135m")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the meta-training")
    text = "of torch; the result may depend on it in the last bits"
    parser.add_argument("--threads", type=int, default=1, metavar="INTEGER", help=text)


def run(options: argparse.Namespace) -> None:
    from zolab.cli.threads import use_threads
    from zolab.studies.shipped import SHIPPED, ship

    if options.name not in SHIPPED:
        raise ValueError(f"no shipped fine-tuner is called {options.name!r}; choose {', '.join(SHIPPED)}.")
    use_threads(options.threads)
    ship(options.name, options.out)
