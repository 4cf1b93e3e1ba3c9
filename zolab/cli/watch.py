"""Watch the runs of a folder: how many are done, their live losses, speed and the time that is left; reads their logs only."""

import argparse
from pathlib import Path

EXAMPLE = "runs --once"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a study, of several runs, or of one")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="time between looks")
    parser.add_argument("--once", action="store_true", help="look once; otherwise until all is done, or Ctrl-C")


def run(options: argparse.Namespace) -> None:
    from zolab.studies.watch import watch

    watch(options.folder, options.every, options.once)
