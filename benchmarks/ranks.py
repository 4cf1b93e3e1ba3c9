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
from zolab.runs.config import PARALLEL, Config, make_optimizer
from zolab.runs.objectives import closure
from zolab.runs.ranks import ALONE, Ranks
from zolab.tasks import load_task


def measured(options):
    """Seconds of each step, and bytes that ranks exchange in one, of this process among those that it was started with."""
    torch.set_num_threads(1)
    ranks = Ranks.joined()
    config = Config(options.model, options.task, lr=1e-6, batch_size=options.batch)
    task, (model, tokenizer) = load_task(config.task), load_model(config.model)
    examples = task.sample(0, options.batch * (options.steps + 1), 1, 1).train
    optimizer = make_optimizer(config, model)
    sharing = ranks if options.parallel == "batch" else ALONE
    if sharing is not ranks:
        optimizer.spread, optimizer.sides_apart = ranks.map, ranks.count > 1

    def step(number):
        batch = sharing.share(batch_at(examples, options.batch, 0, number))
        return optimizer.step(closure("loss", task, model, tokenizer, batch, ranks=sharing))

    step(0)
    ranks.exchanged = 0
    times = [seconds(lambda number=number: step(number)) for number in range(1, options.steps + 1)]
    return {"times": times, "bytes": ranks.exchanged / options.steps}


def together(count, options):
    """What the first of so many processes measured."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1]), "WORLD_SIZE": str(count)}
    given = [f"--{name}={getattr(options, name)}" for name in ("model", "task", "batch", "steps", "parallel")]
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
    parser.add_argument("--parallel", choices=PARALLEL, help="what they share; both, one after the other, by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options)))
        return
    ways = [options.parallel] if options.parallel else list(PARALLEL)
    times, exchanged = {way: [] for way in ("alone", *ways)}, {}
    for _ in range(options.repeats):
        for way in times:
            options.parallel = ways[0] if way == "alone" else way
            measurement = together(1 if way == "alone" else options.ranks, options)
            times[way] += measurement["times"]
            exchanged[way] = measurement["bytes"]
    alone = statistics.median(times.pop("alone"))
    shared = {way: statistics.median(times[way]) for way in ways}
    print(f"{options.model}, {options.task}, batch {options.batch}, one thread a process")
    print(f"  1 process               {1 / alone:8.3f} steps a second")
    for way, time in shared.items():
        print(
            f"  {options.ranks} processes, {way:10} {1 / time:8.3f} steps a second, {alone / time:.2f} times as many", end=", "
        )
        print(f"{exchanged[way]:.0f} bytes exchanged a step")
    if options.json:
        result = {
            f"{way}_{name}": value
            for way, time in shared.items()
            for name, value in (("seconds", time), ("speedup", alone / time), ("bytes_a_step", exchanged[way]))
        }
        print(json.dumps({"alone_seconds": alone, **result, "ranks": options.ranks, **environment()}))


if __name__ == "__main__":
    main()
