"""AdaMeZO beside MeZO: what moments without memory cost in time and memory.

Times are medians measured in turn, A B A B, in one process; memory is the peak, loading left out, of fresh processes that
import and load the same. The published way makes both moments of a tensor from whole directions drawn one after the other.
"""

import torch

from benchmarks.step import EPS, LR, SEED, arguments, direction_pass, interleaved, peak_of, report, setting
from zolab import AdaMeZO, MeZO
from zolab.optim import StepRecord
from zolab.probe.updates import apply
from zolab.records import peak_memory, reset_peak_memory

BETAS = (0.7, 0.9)


def past_warm_up(optimizer, horizon):
    """The optimizer as it is after its warm-up, without the forward passes."""
    optimizer.skip([StepRecord(step, (1.0 + step,), (LR,), (0.0,)) for step in range(horizon + 1)])
    return optimizer


def adamezo(model, horizon):
    return past_warm_up(AdaMeZO(model.named_parameters(), lr=LR, eps=EPS, betas=BETAS, horizon=horizon, seed=SEED), horizon)


def moments_pass(params, optimizer):
    blocks = tuple(range(len(params)))
    record = StepRecord(optimizer.steps, (1.0,), (LR,), (0.0,))
    apply(params, optimizer.update(record, blocks, [0] * len(params)))


def published_pass(params, horizon):
    generator = torch.Generator()
    for p in params:
        m, v = torch.zeros_like(p), torch.zeros_like(p)
        for k in range(horizon):
            generator.manual_seed(k)
            z = torch.normal(0, 1, size=p.size(), generator=generator, dtype=p.dtype)
            m += BETAS[0] ** k * z
            v += BETAS[1] ** k * z**2
        p.data = p.data - LR * m / (v.sqrt() + 1e-5)


def memory_of(part, options):
    """Print the peak memory of three steps; the compiled kernels of both methods are in memory in either process."""
    model, loss = setting(options.model, options.batch, options.length)
    small = torch.nn.Sequential(torch.nn.Linear(1, 1))
    for optimizer in (adamezo(small, 2), MeZO(small.parameters())):
        optimizer.step(lambda: 0.0)
    mezo = past_warm_up(MeZO(model.named_parameters(), lr=LR, eps=EPS, seed=SEED), options.horizon)
    optimizer = {"mezo": mezo, "adamezo": adamezo(model, options.horizon)}[part]
    reset_peak_memory()
    for _ in range(3):
        optimizer.step(loss)
    print(peak_memory())


def main():
    parser = arguments(__doc__)
    parser.add_argument("--horizon", type=int, default=10, help="steps that the moments remember")
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    memory = {part: peak_of("adamezo", part, options) for part in ("mezo", "adamezo")}
    model, loss = setting(options.model, options.batch, options.length)
    params = list(model.parameters())
    elements = sum(p.numel() for p in params)
    ours, mezo = adamezo(model, options.horizon), MeZO(model.named_parameters(), lr=LR, eps=EPS, seed=SEED)
    with torch.no_grad():
        passes = interleaved(
            options.repeats, direction=lambda: direction_pass(params, 1e-9), moments=lambda: moments_pass(params, ours)
        )
        published = interleaved(1, published=lambda: published_pass(params, options.horizon))
        steps = interleaved(options.repeats, mezo=lambda: mezo.step(loss), adamezo=lambda: ours.step(loss))
    result = {
        "memory_over_mezo": memory["adamezo"] / memory["mezo"],
        "step_over_mezo": steps["adamezo"] / steps["mezo"],
        "pass_over_direction": passes["moments"] / passes["direction"],
        "pass_ns_per_weight": passes["moments"] / elements * 1e9,
        "direction_ns_per_weight": passes["direction"] / elements * 1e9,
        "published_pass_over_ours": published["published"] / passes["moments"],
        "step_seconds": steps["adamezo"],
        "memory_bytes": memory,
    }
    print(f"{options.model}, {elements:,} weights, h = {options.horizon}, batch {options.batch} x {options.length}, float32")
    report({**passes, **published}, steps, memory, result, 6, options.json)


if __name__ == "__main__":
    main()
