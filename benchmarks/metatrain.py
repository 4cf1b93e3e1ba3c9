"""Meta-training beside plain SGD on the same batch, and a ZO Fine-tuner step beside MeZO's.

Times are medians measured in turn in one process; memory is the peak, loading left out, of fresh processes that import and
load the same. SGD has the published momentum, which takes as much memory as the weights; the fused steps, which make no
gradient of the whole model, are set beside SGD without it, and have none themselves; with `recomputed` activations, beside
SGD that keeps its own.
"""

from functools import partial

import torch
from torch import nn

from benchmarks.step import EPS, LR, SEED, arguments, interleaved, peak_of, report, setting
from zolab import MeZO, ZOFineTuner
from zolab.l2l import GRADIENTS, MEASURED, History, MetaStep
from zolab.models.gradients import recomputed
from zolab.pertnn import PertNN
from zolab.probe.blocks import split
from zolab.records import peak_memory, reset_peak_memory

MOMENTUM, META = 0.8, [name for name in GRADIENTS if name not in MEASURED]


def graph_setting(options):
    """Model and a loss whose graph is kept where gradients are enabled, on the same tokens as `benchmarks.step`."""
    model, loss = setting(options.model, options.batch, options.length)
    return model, loss.__wrapped__


def sgd_step(model, loss, momentum=MOMENTUM):
    """Plain fine-tuning, gradients clipped as in the published loop."""
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=LR, momentum=momentum, foreach=False)

    def step():
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


def meta_step(model, loss, gradient, fused, exact=False):
    """One of Algorithm 2."""
    params, pertnn = list(model.parameters()), PertNN(split(model))
    outer = torch.optim.SGD(pertnn.parameters(), lr=0.1)
    settings = {"lr_zo": LR, "gradient": gradient, "exact": exact, "fused": fused, "clip": None if fused else 1.0, "seed": SEED}
    step = MetaStep(params, pertnn, outer, lr=LR, momentum=0.0 if fused else MOMENTUM, **settings)
    return partial(step, loss, History())


def recomputed_step(model, loss):
    """The fused one, activations made again."""
    step = meta_step(model, loss, "sample", True)

    def taken():
        with recomputed(model):
            step()

    return taken


def deployed(model, loss, name):
    """A step of MeZO or of ZO Fine-tuner."""
    settings = {"lr": LR, "eps": EPS, "seed": SEED}
    if name == "mezo":
        return partial(MeZO(model.named_parameters(), **settings).step, loss)
    return partial(ZOFineTuner(model.named_parameters(), PertNN(split(model)), **settings).step, loss)


def actions(model, loss):
    """Every measured step by name, made when it is asked for."""
    return {
        "sgd": lambda: sgd_step(model, loss),
        "sgd_without_momentum": lambda: sgd_step(model, loss, 0.0),
        **{name: partial(meta_step, model, loss, name, False) for name in META},
        **{f"{name}_fused": partial(meta_step, model, loss, name, True) for name in META},
        "fused_recomputed": partial(recomputed_step, model, loss),
        "exact": partial(meta_step, model, loss, "sample", False, True),
        "mezo": lambda: deployed(model, loss, "mezo"),
        "finetuner": lambda: deployed(model, loss, "zo_finetuner"),
    }


def memory_of(part, options):
    """Print the peak memory of three steps; the compiled kernels are in memory in either process."""
    model, loss = graph_setting(options)
    small = nn.Sequential(nn.Linear(1, 1))
    for name in ("mezo", "finetuner", "sample", "complete"):
        actions(small, lambda: small(torch.ones(1)).sum())[name]()()
    step = actions(model, loss)[part]()
    reset_peak_memory()
    for _ in range(3):
        step()
    print(peak_memory())


def main():
    options = arguments(__doc__).parse_args()
    if options.memory_of:
        memory_of(options.memory_of, options)
        return
    meta = ("sample", "exact", "sample_fused", "fused_recomputed", "expected", "expected_fused")
    parts = ("sgd", "sgd_without_momentum", *meta, "mezo", "finetuner")
    memory = {part: peak_of("metatrain", part, options) for part in parts}
    model, loss = graph_setting(options)
    steps = {}
    fused = ("sample_fused", "fused_recomputed", "expected_fused")
    for names in (("sgd", "sample", "exact", "expected"), ("sgd_without_momentum", *fused), ("mezo", "finetuner")):
        made = {name: actions(model, loss)[name]() for name in names}  # momentum of one at a time, or of four
        steps |= interleaved(options.repeats, **made)
    result = {
        "memory_over_sgd": memory["exact"] / memory["sgd"],
        "fused_memory_over_sgd": memory["fused_recomputed"] / memory["sgd_without_momentum"],
        "fused_kept_memory_over_sgd": memory["sample_fused"] / memory["sgd_without_momentum"],
        "fused_time_over_sgd": steps["fused_recomputed"] / steps["sgd_without_momentum"],
        "fused_kept_time_over_sgd": steps["sample_fused"] / steps["sgd_without_momentum"],
        "time_over_sgd": steps["exact"] / steps["sgd"],
        "probed_memory_over_sgd": memory["sample"] / memory["sgd"],
        "probed_time_over_sgd": steps["sample"] / steps["sgd"],
        "expected_time_over_sgd": steps["expected"] / steps["sgd"],
        "finetuner_step_over_mezo": steps["finetuner"] / steps["mezo"],
        "finetuner_memory_over_mezo": memory["finetuner"] / memory["mezo"],
        "expected_memory_over_sgd": memory["expected"] / memory["sgd"],
        "expected_fused_memory_over_sgd": memory["expected_fused"] / memory["sgd_without_momentum"],
        "memory_bytes": memory,
    }
    print(f"{options.model}, batch {options.batch} x {options.length} tokens, float32, SGD with momentum {MOMENTUM}")
    report({}, steps, memory, result, 11, options.json)


if __name__ == "__main__":
    main()
