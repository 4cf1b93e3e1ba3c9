"""The published step in half precision, taken by hand: how the runs of a plan end with it, and what our cures cost beside it.

Published code moves the weights by eps z, -2 eps z and eps z, and each sum is rounded to the weights' format; the update is
rounded to nearest. No optimizer here drifts so. Data, batches, directions and learning rate are those of the plan's MeZO.

Steps are timed in turn on the random tokens of `benchmarks.step`, all with our kernels: by hand; looking through the modules,
which leaves every bit, to nearest; and with the other cure, too, rounded at random.
"""

import argparse
import json
import statistics
import time
import warnings

import torch

from benchmarks.step import EPS, LR, interleaved, setting
from zolab import MeZO, noise
from zolab.models import load_model
from zolab.noise import Direction
from zolab.records import environment
from zolab.runs.batches import batch_at
from zolab.studies.plan import configuration, load_plan
from zolab.tasks import load_task

PLAN = "notebooks/plans/12_precision.yaml"


@torch.no_grad()
def published(config):
    """Final dev loss of a run by published steps, and the seconds of each step.

    Args:
        config: of the run with MeZO: model, task, sizes, seed, lr, eps, dtype.
    """
    model, tokenizer = load_model(config.model, config.dtype, config.device)
    task, weights = load_task(config.task), list(model.parameters())
    examples, seconds = task.sample(config.data_seed, config.train, config.dev, config.test), []
    for step in range(config.steps):
        batch = task.encode(tokenizer, batch_at(examples.train, config.batch_size, config.seed, step))
        began = time.perf_counter()
        loss, direction = (lambda batch=batch: task.loss(model, batch).item()), Direction(config.seed, step)
        take_step(weights, loss, direction, config.eps, config.lr)
        seconds.append(time.perf_counter() - began)
    return task.evaluate(model, tokenizer, examples.dev).loss, seconds


def take_step(weights, loss, direction, eps, lr):
    """To one side, to the other, back, and the update, each sum rounded to nearest."""

    def move(scale):
        for block, weight in enumerate(weights):
            noise.add_(weight, direction, block, scale)

    move(eps)
    plus = loss()
    move(-2 * eps)
    minus = loss()
    move(eps)
    move(-lr * (plus - minus) / (2 * eps))


@torch.no_grad()
def costs(model_name, dtype, repeats, batch=16, length=32):
    """Seconds of two forward passes and of a step in three ways, and the steps over that by hand."""
    model, loss = setting(model_name, batch, length, dtype=dtype)
    weights, direction = list(model.parameters()), Direction(0, 0)

    def ours(rounding):
        optimizer = MeZO(model.named_parameters(), lr=LR, eps=EPS, rounding=rounding).look_through(model)
        return lambda: optimizer.step(loss)

    ways = {
        "forwards": lambda: (loss().item(), loss().item()),
        "by hand": lambda: take_step(weights, lambda: loss().item(), direction, EPS, LR),
        "through, to nearest": ours("nearest"),
        "through, at random": ours("stochastic"),
    }
    seconds = interleaved(repeats, **ways)
    return {**seconds, **{f"{name} / by hand": seconds[name] / seconds["by hand"] for name in list(ways)[2:]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"], help="float16 takes ten times as long on many CPUs")
    parser.add_argument("--steps", type=int, help="instead of the plan's")
    parser.add_argument("--repeats", type=int, default=9, help="steps of each kind that are timed")
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*was changed by something else")  # all ways step on the same weights
    plan, result = load_plan(options.plan), {}
    (task, own), more = next(iter(plan.tasks.items())), {"steps": options.steps} if options.steps else {}
    for dtype in options.dtypes:
        row, seconds = {}, []
        for seed in plan.seeds:
            settings = plan.settings(task, {"optimizer": "mezo", "dtype": dtype}, own["lr"][0], seed)
            loss, times = published(configuration({**settings, **more}))
            row[f"seed {seed}"] = loss
            seconds += times
            print(f"{dtype}, seed {seed}: dev loss {loss:.3f} after {len(times)} published steps", flush=True)
        result[dtype] = {**row, "step_seconds": statistics.median(seconds)}
    cost = {dtype: costs(plan.base["model"], dtype, options.repeats) for dtype in options.dtypes}
    for dtype, row in cost.items():
        print(dtype, *(f"{name}: {value:.3f}" for name, value in row.items()), sep="\n  ")
    if options.json:
        print(json.dumps({"published": result, "costs": cost, **environment()}))


if __name__ == "__main__":
    main()
