"""Block statistics of a whole model: minutes and memory."""

import argparse
import json
import time

from zolab.models import load_model
from zolab.records import environment, peak_memory, reset_peak_memory
from zolab.tasks import load_task
from zolab.theory.measure import block_statistics


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="rotten_tomatoes_short")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    (model, tokenizer), task = load_model(options.model), load_task(options.task)
    examples = task.sample(0, options.examples, 2, 2).train
    reset_peak_memory()
    start = time.perf_counter()
    statistics = block_statistics(model.eval(), task, tokenizer, examples, options.probes)
    spent = {"block_statistics_minutes": (time.perf_counter() - start) / 60, "block_statistics_gb": peak_memory() / 1e9}
    print(f"{options.model}, {len(statistics.names)} blocks, {options.examples} examples, {options.probes} probes")
    for key, value in spent.items():
        print(f"  {key:44} {value:.3g}")
    if options.json:
        print(json.dumps({**spent, **environment()}))


if __name__ == "__main__":
    main()
