"""Peak memory of a step of every method beside what is predicted of it, in a fresh process for each.

See `zolab.studies.step_memory` for what is measured, and `zolab.runs.memory` for how it is predicted.
"""

import argparse
import json
from dataclasses import asdict

from zolab.records import environment
from zolab.runs.memory import Tokens
from zolab.studies.step_memory import LABELS, META, expected, measured

WAYS = (
    *("mezo", "adamezo", "zo_finetuner", "hizoo", "lozo", "mezo_adam", "dizo", "grzo", "forward_gradient"),
    *("sgd", "sgd_checkpointed", "sgd_fused", "adam", *META),
)
"""One of each kind of method."""
SIZES = {"tiny-reviews": (64, 128), "smollm2-135m": (8, 64)}
"""Texts of each model's batch, and tokens of each."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="+", choices=LABELS, default=list(WAYS), metavar="WAY", help="methods to measure")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    found = {}
    for model in options.models:
        rows, length = SIZES[model]
        found[model] = {"rows": rows, "length": length, "ways": {}}
        print(
            f"{model}, {rows} texts of {length} tokens, float32\n{'':22}{'peak MB':>10}{'predicted':>12}{'off':>6}{'s a step':>10}"
        )
        for way in options.ways:
            row, told = measured(model, way, Tokens(rows, length)), expected(model, way, Tokens(rows, length)).total
            found[model]["ways"][way] = asdict(row)
            off = f"{100 * (told / row.peak - 1):+.0f} %"
            print(f"{way:22}{row.peak / 1e6:10.1f}{told / 1e6:12.1f}{off:>6}{row.seconds:10.3f}", flush=True)
    if options.json:
        print(json.dumps({"models": found, **environment()}))


if __name__ == "__main__":
    main()
