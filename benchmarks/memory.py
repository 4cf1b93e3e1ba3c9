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
SIZES = {"tiny-reviews": Tokens(64, 128), "smollm2-135m": Tokens(8, 64)}
"""Of each model's batch."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="+", choices=LABELS, default=list(WAYS), metavar="WAY", help="methods to measure")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    rows = {}
    for model in options.models:
        tokens = SIZES[model]
        print(f"{model}, {tokens.rows} texts of {tokens.length} tokens, float32")
        print(f"{'':22}{'peak MB':>10}{'predicted':>12}{'off':>6}")
        peaks = measured(model, options.ways, tokens)
        for way, row in peaks.items():
            estimate = expected(model, way, tokens).total
            print(f"{way:22}{row.peak / 1e6:10.1f}{estimate / 1e6:12.1f}{100 * (estimate / row.peak - 1):+5.0f} %", flush=True)
        size = {"texts": tokens.rows, "length": tokens.length}
        rows[model] = {way: {**size, **asdict(row)} for way, row in peaks.items()}
    if options.json:
        print(json.dumps({**rows, **environment()}))


if __name__ == "__main__":
    main()
