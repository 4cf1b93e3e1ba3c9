"""`python -m tests.fuzz --seconds 60`: change inputs and load them, until the time is over or something is found."""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

KEPT = HERE.parents[1] / "runs" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, metavar="NUMBER", help="how long (default: 60)")
    parser.add_argument("--count", type=int, metavar="INTEGER", help="inputs of each loader, instead of a time")
    parser.add_argument("--seed", type=int, default=0, metavar="INTEGER", help="of the changes (default: 0)")
    parser.add_argument("--loader", action="append", metavar="NAME", help="one of the loaders; all by default")
    parser.add_argument("--number", type=int, metavar="INTEGER", help="try one input of a loader again, and tell what it does")
    options = parser.parse_args()

    from .campaign import LOADERS, Campaign

    unknown = set(options.loader or []) - set(LOADERS)
    if unknown:
        parser.error(f"there is no loader {', '.join(unknown)}; they are {', '.join(LOADERS)}")
    began = time.monotonic()
    campaign = Campaign(options.loader or list(LOADERS), options.seed, KEPT)
    if options.number is not None:
        return campaign.again(options.number)
    campaign.run(options.seconds, options.count)
    for name, kinds in campaign.kinds.items():
        print(f"{name:13} {sum(kinds.values()):6}  {summary(kinds)}")
    total = sum((kinds for kinds in campaign.kinds.values()), Counter())
    spent = time.monotonic() - began
    print(
        f"{sum(total.values())} inputs in {spent:.0f} s, seed {options.seed}: {summary(total)}; "
        f"{len(campaign.findings)} findings"
    )
    return 1 if campaign.findings else 0


def summary(kinds: Counter) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


if __name__ == "__main__":
    sys.exit(main())
