"""A MeZO step beside first-order steps: seconds, forward passes and memory, on a task's own batches.

Each method is driven by `finetune`'s optimizer in a process of its own, which begins with a step that is not counted. Memory is
the peak over steps, loading left out: whole, and what lies beyond what the process held when its model had answered once, as a
multiple of the weights.
"""

import argparse
import json
import statistics
import subprocess
import sys

import psutil
import torch

from benchmarks.step import seconds
from zolab.models import load_model, model_bytes
from zolab.records import environment, peak_memory, reset_peak_memory
from zolab.runs.config import Config, forwards, make_optimizer
from zolab.runs.finetune import batch_at
from zolab.tasks import load_task

WAYS = {
    "mezo": {"optimizer": "mezo"},
    "sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "sgd_checkpointed": {"optimizer": "sgd_checkpointed"},
    "sgd_fused": {"optimizer": "sgd_fused"},
    "sgd_fused_checkpointed": {"optimizer": "sgd_fused", "optim_args": "recompute=True"},
}


def measured(way, options):
    """Seconds of each step, and bytes, of one way in this process."""
    where = {"dtype": options.dtype, "device": options.device}
    config = Config(options.model, options.task, lr=1e-6, batch_size=options.batch, **where, **WAYS[way])
    task, (model, tokenizer) = load_task(config.task), load_model(config.model, options.dtype, options.device)
    examples = task.sample(0, options.batch * (options.steps + 1), 1, 1).train
    batches = [
        task.encode(tokenizer, batch_at(examples, options.batch, 0, step)).to(options.device)
        for step in range(options.steps + 1)
    ]
    with torch.no_grad():
        task.loss(model, batches[0])
    on_gpu = torch.device(options.device).type == "cuda"
    before = torch.cuda.memory_allocated(options.device) if on_gpu else psutil.Process().memory_info().rss
    optimizer = make_optimizer(config, model)
    optimizer.step(lambda: task.loss(model, batches[0]))
    reset_peak_memory(options.device)
    times = [seconds(lambda batch=batch: optimizer.step(lambda: task.loss(model, batch))) for batch in batches[1:]]
    weights = model_bytes(model)
    return {
        "step_seconds": statistics.median(times),
        "forwards": forwards(config, 1, config.batch_size),
        "peak_bytes": peak_memory(options.device),
        "beyond_weights": (peak_memory(options.device) - before) / weights,
        "weights_bytes": weights,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="rotten_tomatoes_short")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="examples")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options.way, options)))
        return
    given = [f"--{name}={value}" for name, value in vars(options).items() if name not in ("json", "way")]
    rows = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.first_order", *given, f"--way={way}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows[way] = json.loads(done.stdout.splitlines()[-1])
    where = f"{options.task}, batch {options.batch}, {options.steps} steps, {options.dtype}, {options.device}"
    print(f"{options.model}, weights {rows['mezo']['weights_bytes'] / 1e6:.1f} MB; {where}")
    print(f"  {'':24}{'s a step':>10}{'forwards':>10}{'peak MB':>10}{'beyond the weights':>20}")
    for way, row in rows.items():
        numbers = f"{row['step_seconds']:10.3f}{row['forwards']:10}{row['peak_bytes'] / 1e6:10.0f}{row['beyond_weights']:20.2f}"
        print(f"  {way:24}{numbers}")
    if options.json:
        result = {f"{way}_{name}": value for way, row in rows.items() for name, value in row.items() if name != "weights_bytes"}
        print(json.dumps({**result, "weights_bytes": rows["mezo"]["weights_bytes"], **environment()}))


if __name__ == "__main__":
    main()
