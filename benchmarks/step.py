"""A MeZO step beside its floor (two forward passes) and beside the published way, on the same batch.

The published way draws each direction four times with `torch.normal` of the whole tensor and adds it out of place. Times are
medians measured in turn, A B C A B C, in one process; memory is the peak, loading left out, of fresh
processes that import and load the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from zolab import MeZO
from zolab.models import load_model
from zolab.noise import Direction
from zolab.probe.in_place import Perturbation, Update, apply
from zolab.records import environment, peak_memory, reset_peak_memory

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


def direction_pass(params, scale):
    blocks = tuple(range(len(params)))
    apply(params, Update(blocks, [Direction(SEED, 0)], [[scale] * len(params)], [1.0] * len(params)))


def setting(model_name, batch, length):
    """Model and a loss of random tokens at the last position, logits only there."""
    model, _ = load_model(model_name)
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)

    @torch.no_grad()
    def loss():
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return torch.nn.functional.cross_entropy(model.get_output_embeddings()(hidden).float(), ids[:, 0])

    return model, loss


def interleaved(repeats, **functions):
    """Median seconds of each function, called in turn."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


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
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--length", type=int, default=32, help="tokens in a row")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser


def peak_of(benchmark, part, options):
    """Peak memory in bytes of a fresh process of a benchmark, which takes three steps of one part."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--memory-of", part]
    command += [f"--{name}={value}" for name, value in vars(options).items() if name not in ("json", "memory_of")]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


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


def memory_of(part, options):
    model, loss = setting(options.model, options.batch, options.length)
    optimizer = MeZO(model.named_parameters(), lr=LR, eps=EPS, seed=SEED)
    MeZO([torch.nn.Parameter(torch.zeros(1))]).step(lambda: 0.0)  # the compiled kernels are in memory in either process
    params = list(model.parameters())
    actions = {
        "forwards": lambda: (loss(), loss()),
        "step": lambda: optimizer.step(loss),
        "published_step": lambda: published_step(params, loss),
    }
    reset_peak_memory()
    for _ in range(3):
        with torch.no_grad():
            actions[part]()
    print(peak_memory())


def main():
    options = arguments(__doc__).parse_args()
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    memory = {part: peak_of("step", part, options) for part in ("forwards", "step", "published_step")}
    model, loss = setting(options.model, options.batch, options.length)
    error = restore_error(model)
    params = list(model.parameters())
    elements = sum(p.numel() for p in params)
    optimizer = MeZO(model.named_parameters(), lr=LR, eps=EPS, seed=SEED)
    with torch.no_grad():
        passes = interleaved(
            options.repeats,
            ours=lambda: direction_pass(params, 1e-6),
            published=lambda: published_pass(params, 1e-6),
            floor=lambda: [p.data.add_(1e-9) for p in params],
        )
        steps = interleaved(
            options.repeats,
            forwards=lambda: (loss(), loss()),
            ours=lambda: optimizer.step(loss),
            published=lambda: published_step(params, loss),
        )
    result = {
        "direction_speedup": passes["published"] / passes["ours"],
        "step_over_forwards": steps["ours"] / steps["forwards"],
        "published_step_over_forwards": steps["published"] / steps["forwards"],
        "memory_over_forwards": memory["step"] / memory["forwards"],
        "published_memory_over_forwards": memory["published_step"] / memory["forwards"],
        "restore_error": error,
        "direction_ns_per_weight": passes["ours"] / elements * 1e9,
        "floor_ns_per_weight": passes["floor"] / elements * 1e9,
        "step_seconds": steps["ours"],
        "memory_bytes": memory,
    }
    print(f"{options.model}, {elements:,} weights, batch {options.batch} x {options.length} tokens, float32")
    report(passes, steps, memory, result, 6, options.json)


if __name__ == "__main__":
    main()
