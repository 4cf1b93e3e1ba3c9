"""Block statistics of a whole model: minutes and memory; and what the theory's best scales gained, from the run records."""

import argparse
import json
import statistics
import time
from pathlib import Path

from zolab.models import load_model
from zolab.records import environment, load_record, peak_memory, reset_peak_memory
from zolab.tasks import load_task
from zolab.theory.measure import block_statistics

RECORDS = Path(__file__).resolve().parent.parent / "figures" / "records"


def ratios(model):
    """Geometric means over the tasks of forward passes over MeZO's, for each of the scales."""
    tasks = load_record(RECORDS / f"06_{model}.json")["result"].values()
    names = {name for task in tasks for name in task["methods"]} - {"mezo"}
    found = {name: [task["methods"][name]["forwards_over_mezo"] for task in tasks if name in task["methods"]] for name in names}
    return {name: statistics.geometric_mean(values) for name, values in sorted(found.items())}


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
    found = block_statistics(model.eval(), task, tokenizer, examples, options.probes)
    spent = {"block_statistics_minutes": (time.perf_counter() - start) / 60, "block_statistics_gb": peak_memory() / 1e9}
    result, all_ratios = dict(spent), {}
    for name in ("tiny", "smollm2"):
        all_ratios[name] = ratios(name)
        for suffix, method in (("", "bound"), ("_permuted", "bound_permuted")):  # the closed form
            result[f"best_sigma_forwards_ratio_{name}{suffix}"] = all_ratios[name][method]
    print(f"{options.model}, {len(found.names)} blocks, {options.examples} examples, {options.probes} probes")
    for key, value in result.items():
        print(f"  {key:44} {value:.3g}")
    for name, entry in all_ratios.items():
        print(f"  {name}: " + ", ".join(f"{method} {value:.2f}" for method, value in entry.items()))
    if options.json:
        print(json.dumps({**result, "all_ratios": all_ratios, **environment()}))


if __name__ == "__main__":
    main()
