"""AdaMeZO's walks on functions of two variables: the published ones, the same in fresh directions, and MeZO at other rates.

Published walks have two directions in turn, and one learning rate for both methods. `two` and `fresh` are MeZO's gap to the
minimum at the end over AdaMeZO's, with those directions and, as a median over seeds, with fresh ones; `mezo_tuned` is the gap
of MeZO's best rate over that of AdaMeZO's, each of one, three and six times the published one, in fresh directions.
"""

import argparse
import json
from functools import partial

import numpy as np

from zolab.landscapes import LANDSCAPES, run
from zolab.landscapes.walk import optimizers_of
from zolab.records import environment

METHODS = ("MeZO", "AdaMeZO")
MULTIPLES = (3, 6)


def gap(landscape, optimizer, **given):
    """How far f ends above its minimum; infinite where the walk left all bounds."""
    walk = run(optimizer, landscape, landscape.protocol.steps, **given)
    return float("inf") if walk.stopped else walk.losses[-1] - landscape.minimum


def compare(landscape, seeds):
    """A row of the result for one landscape."""
    protocol, makers = landscape.protocol, optimizers_of(landscape.protocol)
    lengths = {
        name: run(maker, landscape, protocol.steps, directions=None if name == "Adam" else protocol.directions).length
        for name, maker in makers.items()
    }
    two = {name: gap(landscape, makers[name], directions=protocol.directions) for name in METHODS}
    fresh = {name: np.array([gap(landscape, partial(makers[name], seed=s)) for s in seeds]) for name in METHODS}
    best = {}
    for name in METHODS:
        rates = [protocol.lr * multiple for multiple in MULTIPLES]
        faster = [np.median([gap(landscape, partial(makers[name], lr=rate, seed=s)) for s in seeds]) for rate in rates]
        best[name] = min(np.median(fresh[name]), *faster)
    return {
        "length_off": max(abs(lengths[name] / protocol.lengths[name] - 1) for name in lengths),
        "two": two["MeZO"] / two["AdaMeZO"],
        "fresh": float(np.median(fresh["MeZO"]) / np.median(fresh["AdaMeZO"])),
        "fresh_seeds_lower": int((fresh["AdaMeZO"] < fresh["MeZO"]).sum()),
        "mezo_tuned": float(best["MeZO"] / best["AdaMeZO"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    rows = {}
    for key, landscape in LANDSCAPES.items():
        if landscape.protocol:
            rows[key] = compare(landscape, range(options.seeds))
            print(f"{landscape.title:14}", *(f"{name} {value:.4g}" for name, value in rows[key].items()))
    if options.json:
        print(json.dumps({"seeds": options.seeds, "walks": rows, **environment()}))


if __name__ == "__main__":
    main()
