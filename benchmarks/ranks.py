"""A MeZO step of several processes that share each batch, one thread each, beside that of one process with one thread.

Processes start as a launcher would start them, one alone and several together, in turn. A step is that of `zolab finetune`:
batch, tokens, two losses, exchange, update. Its time is the median of all steps but the first of each process, on the first
rank. With a core for each process, only waiting, the update and the memory's speed stand against a speed-up by their number.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys

import torch

from benchmarks.step import seconds
from zolab.models import load_model
from zolab.records import environment
from zolab.runs.batches import batch_at
from zolab.runs.config import Config, make_optimizer
from zolab.runs.objectives import closure
from zolab.runs.ranks import Ranks
from zolab.tasks import load_task


def measured(options):
    """Seconds of each step, and bytes that ranks exchange in one, of this process among those that it was started with."""
    torch.set_num_threads(1)
    ranks = Ranks.joined()
    config = Config(options.model, options.task, lr=1e-6, batch_size=options.batch)
    task, (model, tokenizer) = load_task(config.task), load_model(config.model)
    examples = task.sample(0, options.batch * (options.steps + 1), 1, 1).train
    optimizer = make_optimizer(config, model)

    def step(number):
        batch = ranks.share(batch_at(examples, options.batch, 0, number))
        return optimizer.step(closure("loss", task, model, tokenizer, batch, ranks=ranks))

    step(0)
    ranks.exchanged = 0
    times = [seconds(lambda number=number: step(number)) for number in range(1, options.steps + 1)]
    return {"times": times, "bytes": ranks.exchanged / options.steps}


def together(count, options):
    """What the first of so many processes measured."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1]), "WORLD_SIZE": str(count)}
    given = [f"--{name}={getattr(options, name)}" for name in ("model", "task", "batch", "steps")]
    command = [sys.executable, "-m", "benchmarks.ranks", *given, "--one"]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(number), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a process ended early; see what it printed.")
    return json.loads(printed[0].splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="rotten_tomatoes_short")
    parser.add_argument("--batch", type=int, default=32, help="examples, of all processes together")
    parser.add_argument("--steps", type=int, default=12, help="that are timed in each process")
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options)))
        return
    times, exchanged = {1: [], options.ranks: []}, 0.0
    for _ in range(options.repeats):
        for count in times:
            row = together(count, options)
            times[count] += row["times"]
            exchanged = row["bytes"]
    alone, shared = (statistics.median(times[count]) for count in (1, options.ranks))
    print(f"{options.model}, {options.task}, batch {options.batch}, one thread a process")
    print(f"  1 process    {1 / alone:8.3f} steps a second")
    print(f"  {options.ranks} processes  {1 / shared:8.3f} steps a second, {alone / shared:.2f} times as many")
    print(f"  {exchanged:.0f} bytes exchanged a step")
    if options.json:
        result = {"alone_seconds": alone, "shared_seconds": shared, "speedup": alone / shared, "bytes_a_step": exchanged}
        print(json.dumps({**result, "ranks": options.ranks, **environment()}))


if __name__ == "__main__":
    main()
