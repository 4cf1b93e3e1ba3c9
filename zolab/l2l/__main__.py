"""python -m zolab.l2l PLAN: a trained PertNN beside its controls, each at its own best learning rate."""

import argparse
import sys
from pathlib import Path

from zolab.commands import reported
from zolab.l2l.controls import CONTROLS, study


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m zolab.l2l", description=__doc__)
    parser.add_argument("plan", type=Path, help="YAML file; its methods are tasks")
    parser.add_argument("--pertnn", required=True, help="folder of a PertNN, or the name of a shipped one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--record", type=Path, required=True, help="file of the record")
    told = "; ".join(f"{name}: {text}" for name, text in CONTROLS.items())
    parser.add_argument("--controls", nargs="+", default=list(CONTROLS), help=told)
    options = parser.parse_args()
    return reported(lambda: study(options.plan, options.pertnn, options.out, options.record, tuple(options.controls)))


if __name__ == "__main__":
    sys.exit(main())
