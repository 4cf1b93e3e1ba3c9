"""What a step of every method costs beyond its forward passes: time in passes along a direction, and memory in weights.

A pass along a direction reads and writes every weight once and makes its z; MeZO's step has three. Times are medians measured
in turn in one process, forward passes and steps; memory is the peak of a fresh process for each method, loading left out,
beyond that of forward passes alone, so that what a method stores shows. Each method looks at moved weights in the way that
`zolab finetune` chooses for it, unless --probe says otherwise. Steps are those after the warm-up of AdaMeZO's moments;
where they differ in cost, so many are timed together as come round again.
"""

import warnings
from functools import partial

import torch

from benchmarks.gpu_parts import optimizer_of
from benchmarks.step import arguments, direction_pass, interleaved, peak_of, report, setting_of
from zolab import METHODS
from zolab.optim import StepRecord
from zolab.records import peak_memory, reset_peak_memory
from zolab.runs.config import PROBES

LR, HORIZON = 1e-6, 10
ROUND = {"mezo_svrg": 2}  # steps: one on the full batch, one on a batch


def stepping(name, model, options):
    """A method's optimizer, its moments full where they are made again from the last steps."""
    auto = METHODS[name].faster_through(options.dtype, options.device)
    through = {"auto": auto, "in_place": False, "through": True}[options.probe]
    optimizer = optimizer_of(name, model, through or METHODS[name].per_example)
    if name in ("adamezo", "mezo_switch"):
        optimizer.skip([StepRecord(step, (1.0 + step,), (LR,), (0.0,)) for step in range(HORIZON + 1)])
    return optimizer


def repeated(optimizer, loss, several):
    """So many steps."""
    for _ in range(several):
        optimizer.step(partial(loss, "none") if optimizer.per_example else loss)


def tiny_loss(model, reduction="mean"):
    losses = model(torch.arange(4)).square().mean(1)
    return losses if reduction == "none" else losses.mean()


def load_kernels(options):
    """Step a tiny model by every method: kernels that were never compiled on this machine are, and all are in memory then."""
    small = torch.nn.Sequential(torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4))
    for name in METHODS:
        repeated(stepping(name, small, options), partial(tiny_loss, small), 1)


def memory_of(part, options):
    """Print the peak memory of three steps of a method, or of as many forward passes."""
    model, loss = setting_of(options)
    load_kernels(options)  # in any process, so that no method is charged with them
    action = loss if part == "forwards" else partial(repeated, stepping(part, model, options), loss, 1)
    reset_peak_memory()
    for _ in range(3):
        action()
    print(peak_memory())


def main():
    parser = arguments(__doc__)
    parser.add_argument("--probe", choices=PROBES, default="auto", help="as of `zolab finetune`")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="those to measure")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*was changed by something else")  # all methods step on the same weights
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    load_kernels(options)  # compiling them takes memory, which the first process would be charged with
    memory = {part: peak_of("methods", part, options) for part in ("forwards", *options.methods)}
    model, loss = setting_of(options)
    params = list(model.parameters())
    weights = sum(p.numel() * p.element_size() for p in params)
    steps, over = {}, {}
    with torch.no_grad():
        for name in options.methods:  # one method's state at a time, beside forward passes of the same minute
            optimizer, several = stepping(name, model, options), ROUND.get(name, 1)
            actions = {"direction": partial(direction_pass, params, 1e-9), "round": partial(repeated, optimizer, loss, several)}
            seconds = interleaved(options.repeats, forward=loss, **actions)
            count = METHODS[name].forwards(several, samples=optimizer.trajectory.samples) / several
            steps[name] = seconds["round"] / several
            over[name] = {
                "forwards": count,
                "step_over_forwards": steps[name] / (count * seconds["forward"]),
                "direction_passes": (steps[name] - count * seconds["forward"]) / seconds["direction"],
                "stored_weights": (memory[name] - memory["forwards"]) / weights,
                "memory_over_forwards": memory[name] / memory["forwards"],
            }
            del optimizer, actions
    print(f"{options.shape or options.model}, batch {options.batch} x {options.length} tokens, {options.dtype}")
    print(f"  {'':16}" + "".join(f"{column.replace('_', ' '):>22}" for column in next(iter(over.values()))))
    for name, row in over.items():
        print(f"  {name:16}" + "".join(f"{value:22.3g}" for value in row.values()))
    report({}, steps, memory, {"methods": over, "step_seconds": steps, "memory_bytes": memory}, 0, options.json)


if __name__ == "__main__":
    main()
