"""What `benchmarks.gpu_check` measures, part by part; each part yields rows of its table as they are found."""

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.shapes import shaped
from benchmarks.step import EPS, LR, SEED, interleaved, peaks, published_step, seconds, setting, ways
from zolab import METHODS, MeZO
from zolab.noise import FAMILIES, NOT_GIVEN, Direction, Source
from zolab.optim import StepRecord
from zolab.pertnn import PertNN
from zolab.probe.blocks import split

Row = dict[str, Any]
NOTHING = np.empty(0, np.float32)


class Machine(NamedTuple):
    """Where to measure, and how much.

    Args:
        device: "cuda", or "cpu" for the kernels in Triton's interpreter.
        small: shrink the work to what the interpreter can do.
        kernels: the module of the CUDA kernels.
    """

    device: str
    small: bool
    kernels: ModuleType


def forget() -> None:
    """Free what earlier parts held."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def bits(tensors) -> list[torch.Tensor]:
    kinds = {2: torch.int16, 4: torch.int32}
    return [t.detach().view(kinds[t.element_size()]).clone() for t in tensors]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def optimizer_of(name: str, model: nn.Module, through: bool, **settings) -> Any:
    more = [PertNN(split(model))] if name == "zo_finetuner" else []
    optimizer = METHODS[name](model.named_parameters(), *more, lr=LR, eps=EPS, seed=SEED, **settings)
    if through and hasattr(optimizer, "look_through"):
        optimizer.look_through(model)
    return optimizer


def exactness(machine: Machine) -> Iterator[Row]:
    """A step that breaks off leaves no trace, and steps replay to the same bits: every method and dtype, both probes."""
    names = ("mezo", "adamezo") if machine.small else METHODS
    for dtype in ("bfloat16",) if machine.small else ("float32", "bfloat16", "float16"):
        for name in names:
            families = FAMILIES if name in ("mezo", "adamezo") else FAMILIES[:1]  # they run all kernels of a direction
            for family, through in product(families, (True,) if METHODS[name].per_example else (False, True)):
                entry = exact(machine, name, dtype, through, {} if family == FAMILIES[0] else {"directions": family})
                label = name if family == FAMILIES[0] else f"{name}, {family}"
                yield {"name": f"{label}, {dtype}, {'through' if through else 'in place'}", **entry}


def exact(machine: Machine, name: str, dtype: str, through: bool, settings: dict[str, Any]) -> Row:
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(37, 51), nn.Tanh(), nn.Linear(51, 3, bias=False)).to(machine.device, getattr(torch, dtype))
    x = torch.randn(8, 37, device=machine.device, dtype=getattr(torch, dtype))
    params, calls = list(model.parameters()), []

    last = 1 if name == "forward_gradient" else 2  # which evaluation of the first step breaks off: it has no second one

    def loss():
        calls.append(1)
        if len(calls) == last:
            raise InterruptedError("broken off on purpose")
        losses = model(x).float().square().mean(1)
        return losses if METHODS[name].per_example else losses.mean()

    start = bits(params)
    values = [p.detach().clone() for p in params]
    try:
        optimizer_of(name, model, through, **settings).step(loss)
    except InterruptedError:
        back = same(bits(params), start)
    optimizer = optimizer_of(name, model, through, **settings)
    for _ in range(1 if machine.small else 5):
        optimizer.step(loss)
    there = bits(params)
    for p, value in zip(params, values, strict=True):
        p.data.copy_(value)
    optimizer_of(name, model, False, **settings).replay(optimizer.trajectory.records)
    return {"exact": back, "replay": same(bits(params), there), "moved": not same(there, start)}


def passes(machine: Machine) -> Iterator[Row]:
    """Each kernel alone over one tensor in bfloat16, with the bytes that it must move."""
    size = 2000 if machine.small else 1 << 29
    kernels, horizon = machine.kernels, 2 if machine.small else 10
    w = torch.empty(size, device=machine.device, dtype=torch.bfloat16).normal_(0, 0.02)
    out = torch.empty_like(w)
    keys = Direction(SEED, 1).keys(tuple(range(horizon + 1)))
    one, many, none = (Source(keys[:n], NOT_GIVEN) for n in (1, horizon, 0))
    signs = Source(keys[:1], NOT_GIVEN, True)
    step, tiny = np.zeros(1, np.float32), np.full(horizon, 1e-9, np.float32)
    squares, journal = np.full(horizon, 1e-3, np.float32), []

    def back(scale):
        kernels.restore(w, 0, one, scale, journal[0], False, none, NOTHING, 1.0, np.empty(0))

    def cycle():
        journal[:] = [kernels.perturb(w, 0, one, EPS)]
        kernels.flip(w, 0, one, EPS, journal[0])
        back(-EPS)

    def published():
        z = torch.normal(mean=0, std=1, size=w.size(), device=w.device, dtype=w.dtype)
        w.data = w.data + EPS * z

    ways: dict[str, tuple[float, Callable]] = {
        "copy": (2, lambda: out.copy_(w)),
        "weights moved into scratch": (2, lambda: kernels.perturbed(out, w, 0, one, EPS)),
        "the same along random signs": (2, lambda: kernels.perturbed(out, w, 0, signs, EPS)),
        "update": (2, lambda: kernels.update(w, 0, one, step, 1.0)),
        "update, rounded at random": (2, lambda: kernels.update(w, 0, one, step, 1.0, keys[-1])),
        f"update by moments of {horizon}": (2, lambda: kernels.update_by_moments(w, 0, many, tiny, squares, 1.0, 1e-3, 0.0)),
        "sums of weights and squares": (1, lambda: kernels.moments(w)),
        "in place: there, to the other side, back": (6, cycle),
        "published": (6, published),
    }
    for name, (moves, function) in ways.items():
        time = interleaved(1 if machine.small else 7, it=function)["it"]
        yield {
            "name": name,
            "seconds": time,
            "picoseconds_a_weight": time / size * 1e12,
            "bytes": moves * size * w.element_size(),
        }


def rounds(machine: Machine) -> int:
    return 1 if machine.small else 5


def steps(machine: Machine, shape: str, dtype: str, batch: int, length: int) -> Iterator[Row]:
    """MeZO's step in each way over two forward passes, on random weights of a known shape."""
    model, loss = setting("", batch, length, shape, dtype, machine.device)
    params = list(model.parameters())
    bytes_of_weights = sum(p.numel() * p.element_size() for p in params)
    beyond = all_memory(machine, model, loss)
    with torch.no_grad():
        actions = {**ways(model, loss), "low rank": ways(model, loss, "lozo")["through"]}
        times = interleaved(rounds(machine), **actions)
        memory = peaks(actions, machine.device) if machine.device == "cuda" else {}
        del actions
        last = {"forwards": lambda: (float(loss()), float(loss())), "published": lambda: published_step(params, loss)}
        beside = interleaved(rounds(machine), **last)
        memory |= peaks({"published": last["published"]}, machine.device) if memory else {}
    times["published"] = beside["published"] / beside["forwards"] * times["forwards"]
    moved = {"ours": 8, "through": 6, "low rank": 2, "published": 24}  # passes that read and write the weights, by count
    for name, time in times.items():
        yield {
            "name": f"{shape}, {dtype}, {batch} x {length}: {name}",
            "seconds": time,
            "over_forwards": time / times["forwards"],
            "over_published": time / times["published"],
            "peak_over_weights": memory[name] / bytes_of_weights if memory else None,
            "bytes": moved.get(name, 0) * bytes_of_weights or None,
            **({"memory_over_forwards": beyond} if beyond and name == "through" else {}),
        }


def all_memory(machine: Machine, model: nn.Module, loss: Callable) -> float | None:
    """Peak of four steps through the modules over that of a forward pass, weights included, and what is kept between steps."""
    if machine.device != "cuda":
        return None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def peak(call: Callable, times: int) -> int:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(times):
            call()
        return weights + torch.cuda.max_memory_allocated() - before

    alone = peak(loss, 1)
    ratio = peak(partial(optimizer_of("mezo", model, True).step, loss), 4) / alone
    forget()
    return ratio


def methods(machine: Machine, shape: str, dtype: str, batch: int, length: int, names=tuple(METHODS)) -> Iterator[Row]:
    """A step of some methods, MeZO first, past their warm-up, beside MeZO's."""
    model, loss = setting("", batch, length, shape, dtype, machine.device)
    bytes_of_weights = sum(p.numel() * p.element_size() for p in model.parameters())
    mezo = None
    for name in ("mezo", "zo_finetuner") if machine.small else names:
        forget()  # or memory of the last one, such as a graph's, would be given back while this one is measured
        optimizer = optimizer_of(name, model, True)
        if name in ("adamezo", "mezo_switch"):
            optimizer.skip([StepRecord(step, (1.0 + step,), (LR,), (0.0,)) for step in range(3 if machine.small else 11)])
        if machine.device == "cuda":
            before = torch.cuda.memory_allocated()
        closure = partial(loss, "none") if optimizer.per_example else loss
        time = interleaved(rounds(machine), it=partial(optimizer.step, closure))["it"]
        peak = None
        if machine.device == "cuda":  # state that a method keeps counts, so what was there before it is what is taken off
            torch.cuda.reset_peak_memory_stats()
            optimizer.step(closure)
            peak = (torch.cuda.max_memory_allocated() - before) / bytes_of_weights
        mezo = mezo or time
        graphs = getattr(optimizer.viewed, "graphs", None)
        row = {"name": f"{name}, {shape}, {dtype}", "seconds": time, "over_mezo": time / mezo, "peak_over_weights": peak}
        yield {**row, "graph": bool(graphs and graphs.captured)}
        del optimizer


def without_datasets() -> None:
    """`zolab.l2l` knows the tasks, which ask for the package `datasets`; what is measured here needs none."""
    if "datasets" not in sys.modules and importlib.util.find_spec("datasets") is None:
        stand_in = ModuleType("datasets")
        stand_in.Dataset = object
        sys.modules["datasets"] = stand_in


def meta(machine: Machine, shape: str, dtype: str, batch: int, length: int) -> Iterator[Row]:
    """A meta-step of a PertNN's training: gradients fused with the steps, activations made again."""
    without_datasets()
    from benchmarks.metatrain import recomputed_step

    model, loss = setting("", batch, length, shape, dtype, machine.device)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    step = recomputed_step(model, loss.__wrapped__)
    time = interleaved(1 if machine.small else 3, it=step)["it"]
    peak = None
    if machine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    name = f"meta-step, {shape}, {dtype}, {batch} x {length}"
    yield {"name": name, "seconds": time, "peak_bytes": peak, "peak_over_weights": peak and (peak - weights) / weights}


def reviews(machine: Machine) -> Iterator[Row]:
    """Steps of a real model, the shipped one, on text that is drawn by lot from its vocabulary."""
    from zolab.models import load_model

    model = (
        shaped("small", "float32", machine.device) if machine.small else load_model("tiny-reviews", device=machine.device)[0]
    )
    count = 1 if machine.small else 100
    generator = torch.Generator().manual_seed(SEED)
    rows = (2, 4) if machine.small else (16, 32)
    ids = torch.randint(0, model.config.vocab_size, rows, generator=generator).to(machine.device)

    @torch.no_grad()
    def loss():
        logits = model(input_ids=ids).logits[:, :-1].float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    for through in (False, True):
        optimizer = MeZO(model.named_parameters(), lr=1e-5, eps=EPS, seed=SEED)
        if through and hasattr(optimizer, "look_through"):
            optimizer.look_through(model)
        before = float(loss())
        step = partial(optimizer.step, loss)
        step()
        time = seconds(lambda step=step: [step() for _ in range(count)])
        yield {
            "name": f"tiny-reviews, {count} steps, {'through' if through else 'in place'}",
            "seconds": time,
            "steps_a_second": count / time,
            "loss": [before, float(loss())],
        }
