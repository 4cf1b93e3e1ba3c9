"""A step of MeZO, or of another method, beside its floor (two forward passes) and beside the published way, on the same batch.

The published way draws each direction four times with `torch.normal` of the whole tensor and adds it out of place. Ours moves
the weights in place, or looks at moved ones through the modules. Times are medians measured in turn, A B C A B C, in one
process. Memory is a peak: on a CPU of fresh processes that import and load the same, loading left out; on a GPU what was
allocated beyond the weights. With `--shape` the weights are random and nothing is loaded.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings

import torch

from benchmarks.shapes import SHAPES, shaped
from zolab import METHODS, MeZO
from zolab.models import load_model
from zolab.noise import Direction
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import Update, apply
from zolab.records import FREED, environment, peak_memory, reset_peak_memory

LR, EPS, SEED = 1e-6, 1e-3, 0


def published_pass(params, scale):
    """One pass over all weights as published code makes it."""
    torch.manual_seed(SEED)
    for p in params:
        z = torch.normal(mean=0, std=1, size=p.data.size(), device=p.data.device, dtype=p.data.dtype)
        p.data = p.data + scale * z


def published_step(params, loss):
    published_pass(params, EPS)
    plus = float(loss())
    published_pass(params, -2 * EPS)
    minus = float(loss())
    published_pass(params, EPS)
    published_pass(params, -LR * (plus - minus) / (2 * EPS))


def direction_pass(params, scale, **family):
    blocks = tuple(range(len(params)))
    apply(params, Update(blocks, [Direction(SEED, 0, **family)], [[scale] * len(params)], [1.0] * len(params)))


def setting(model_name, batch, length, shape=None, dtype="float32", device="cpu"):
    """Model and a loss of random tokens at the last position, logits only there; of each example with "none"."""
    model = shaped(shape, dtype, device) if shape else load_model(model_name, dtype, device)[0]
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=generator).to(device)

    @torch.no_grad()
    def loss(reduction="mean"):
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        logits = model.get_output_embeddings()(hidden).float()
        return torch.nn.functional.cross_entropy(logits, ids[:, 0], reduction=reduction)

    return model, loss


def synchronize():
    """Wait for the GPU, if there is one that has been used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds(function):
    """How long a call takes, its work on a GPU included."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def interleaved(repeats, **functions):
    """Median seconds of each function, called in turn."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def ways(model, loss, method="mezo", **settings):
    """The ways to take a step, and its floor: two losses as numbers. The settings are the optimizer's."""

    def ours(through):
        optimizer = METHODS[method](model.named_parameters(), lr=LR, eps=EPS, seed=SEED, **settings)
        if hasattr(optimizer, "look_through"):
            optimizer.look_through(model if through else None)
        return lambda: optimizer.step(loss)

    steps = {"forwards": lambda: (float(loss()), float(loss())), "ours": ours(False)}
    if hasattr(MeZO, "look_through"):
        steps["through"] = ours(True)
    return steps


def restore_error(model):
    """||w' - w|| / ||w|| over all weights after +eps, -2 eps, +eps."""
    params = [p.data for p in model.parameters()]
    before = [p.clone() for p in params]
    moved = Perturbation(params, tuple(range(len(params))), Direction(SEED, 0), [EPS] * len(params))
    moved.plus()
    moved.minus()
    moved.leave()
    squared = sum(float(((a - b).double() ** 2).sum()) for a, b in zip(params, before, strict=True))
    return (squared / sum(float((b.double() ** 2).sum()) for b in before)) ** 0.5


def arguments(description):
    """The options of benchmarks that measure steps, memory in fresh processes included."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape instead of a model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--length", type=int, default=32, help="tokens in a row")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser


def peak_of(benchmark, part, options):
    """Peak memory in bytes of a fresh process of a benchmark, which takes three steps of one part."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--memory-of", part]
    command += [
        f"--{name}={value}" for name, value in vars(options).items() if name not in ("json", "memory_of", "methods") and value
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **FREED})
    return int(done.stdout.split()[-1])


def report(passes, steps, memory, result, ratios, as_json):
    """Print times and peak memory, then the first few results; with --json all of them on the last line."""
    for label, times in (("pass", passes), ("step", steps)):
        for name, seconds in times.items():
            print(f"  {label:12} {name:15} {seconds * 1e3:9.1f} ms")
    for name, size in memory.items():
        print(f"  peak memory  {name:15} {size / 1e6:9.1f} MB")
    for name in list(result)[:ratios]:
        print(f"  {name:32} {result[name]:.4g}")
    if as_json:
        print(json.dumps({**result, **environment()}))


def setting_of(options):
    return setting(options.model, options.batch, options.length, options.shape, options.dtype, options.device)


def peaks(steps, device):
    """Bytes that each step takes beyond what was allocated before it, on a GPU."""
    bytes_of = {}
    for name, step in steps.items():
        step()
        synchronize()
        before = torch.cuda.memory_allocated(device)
        reset_peak_memory(device)
        step()
        bytes_of[name] = peak_memory(device) - before
    return bytes_of


def family_of(options):
    """The settings of an optimizer, its name included, and those of a direction that choose a family: none for normal ones."""
    family, method = options.directions, {"method": options.method}
    return (method, {}) if family == "gaussian" else ({**method, "directions": family}, {"family": family})


def memory_of(part, options):
    model, loss = setting_of(options)
    settings, _ = family_of(options)
    small = torch.nn.Linear(3, 3)
    for way in ways(small, lambda: small(torch.zeros(3)).sum(), **settings).values():
        way()  # the compiled kernels are in memory in any process
    params = list(model.parameters())
    actions = {**ways(model, loss, **settings), "published": lambda: published_step(params, loss)}
    reset_peak_memory()
    for _ in range(3):
        with torch.no_grad():
            actions[part]()
    print(peak_memory())


def measured(options):
    """Seconds of passes and steps, bytes of memory, and the number of weights."""
    on_gpu = torch.device(options.device).type == "cuda"
    parts = ["forwards", "ours", "published", *(["through"] if hasattr(MeZO, "look_through") else [])]
    memory = {} if on_gpu else {part: peak_of("step", part, options) for part in parts}
    model, loss = setting_of(options)
    settings, family = family_of(options)
    error = restore_error(model)
    params = list(model.parameters())
    with torch.no_grad():
        passes = interleaved(
            options.repeats,
            ours=lambda: direction_pass(params, 1e-6, **family),
            floor=lambda: [p.data.add_(1e-9) for p in params],
        )
        steps = interleaved(options.repeats, **ways(model, loss, **settings))
        memory |= peaks(ways(model, loss, **settings), options.device) if on_gpu else {}
        # Last, since it gives the weights new places, which ours would have to find in each step.
        passes |= interleaved(options.repeats, published=lambda: published_pass(params, 1e-6))
        last = {"forwards": ways(model, loss)["forwards"], "published": lambda: published_step(params, loss)}
        beside = interleaved(options.repeats, **last)
        steps["published"] = beside["published"] / beside["forwards"] * steps["forwards"]
        memory |= peaks({"published": last["published"]}, options.device) if on_gpu else {}
    return passes, steps, memory, error, sum(p.numel() for p in params)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--directions", choices=("gaussian", "rademacher"), default="gaussian", help="family of the directions")
    parser.add_argument("--method", choices=METHODS, default="mezo", help="whose step; the published way is always MeZO's")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*was changed by something else")  # all ways step on the same weights
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    passes, steps, memory, error, elements = measured(options)
    through = {"through_over_forwards": steps["through"] / steps["forwards"]} if "through" in steps else {}
    result = {
        "direction_speedup": passes["published"] / passes["ours"],
        "step_over_forwards": steps["ours"] / steps["forwards"],
        **through,
        "published_step_over_forwards": steps["published"] / steps["forwards"],
        "memory_over_forwards": memory["ours"] / memory["forwards"],
        **({"through_memory_over_forwards": memory["through"] / memory["forwards"]} if through else {}),
        "published_memory_over_forwards": memory["published"] / memory["forwards"],
        "restore_error": error,
        "direction_ns_per_weight": passes["ours"] / elements * 1e9,
        "floor_ns_per_weight": passes["floor"] / elements * 1e9,
        "step_seconds": steps["ours"],
        "memory_bytes": memory,
    }
    name, where = options.shape or options.model, f"{options.dtype}, {options.device}, {options.directions} directions"
    print(f"{options.method} on {name}, {elements:,} weights, batch {options.batch} x {options.length} tokens, {where}")
    report(passes, steps, memory, result, 8, options.json)


if __name__ == "__main__":
    main()
