"""Exercises of notebooks 00 to 03."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab.landscapes import LANDSCAPES, Landscape, run
from zolab.noise import Direction, add_
from zolab.optim import MEAZO, MeZO
from zolab.tasks import Example
from zolab.tasks.judgement import auc
from zolab.widgets.exercises.entry import Entry, need

RADII = np.logspace(-6, 0, 61)
PLACES = np.linspace(-0.5, 0.5, 200)


def broken(record: Mapping[str, Any]) -> tuple[bool, str]:
    """A run's record, as `finetune(...).record`."""
    losses = [step["loss"] for step in record["steps"]]
    need(10 <= len(losses) <= 30, f"the run has {len(losses)} steps; take 10 to 30.")
    first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    return bool(
        last > 2 * first
    ), f"at lr {record['config']['lr']:g} the mean of five batches goes from {first:.2f} to {last:.2f}"


def offset(gaps: np.ndarray, truth: np.ndarray, c: float) -> tuple[bool, str]:
    """Score of great minus that of terrible, the labels, and what is added to the former."""

    def right(shift: float) -> float:
        return float(np.mean((gaps + shift > 0) == truth))

    ordered = np.sort(gaps)
    best = max(right(-at) for at in [ordered[0] - 1, *(ordered[1:] + ordered[:-1]) / 2, ordered[-1] + 1])
    now = f"accuracy {right(0.0):.1%} without it, {right(c):.1%} with it, {best:.1%} at best"
    return right(c) >= best - 1e-9, f"{now}; the AUC stays {auc(gaps, truth):.3f}"


def one_word(run: Any, first: str, second: str) -> tuple[bool, str]:
    """A finished run (or anything with task, model, tokenizer), and two sentences."""
    words = [text.split() for text in (first, second)]
    apart = sum(a != b for a, b in zip(*words, strict=False)) + abs(len(words[0]) - len(words[1]))
    need(apart == 1, f"the sentences differ in {apart} words; let it be one.")
    examples = [Example(f"{text} It was", (" terrible", " great"), 1) for text in (first, second)]
    great = run.task.predict(run.model, run.tokenizer, examples)[:, 1].tolist()
    return abs(great[0] - great[1]) > 0.2, f"great with {great[0]:.0%} and with {great[1]:.0%}"


def best_radius(eps: float) -> tuple[bool, str]:
    need(isinstance(eps, int | float) and eps > 0, f"eps must be a number > 0, got {eps!r}.")
    places = torch.tensor(PLACES, dtype=torch.float32)

    def error(radius: float) -> float:
        far = torch.tensor(radius, dtype=torch.float32)
        slope = (torch.exp(places + far) - torch.exp(places - far)) / (2 * far)
        return (slope.double() - torch.exp(places.double())).square().mean().sqrt().item()

    best = min(RADII, key=error)
    return bool(
        best / 3 <= eps <= 3 * best
    ), f"error {error(eps):.1e} at eps {eps:.1e}; the smallest found is {error(best):.1e}"


def coin_flips(formula: Callable[[int], float]) -> tuple[bool, str]:
    generator, messages, met = torch.Generator().manual_seed(0), [], True
    for d in (4, 64):
        z = torch.randint(0, 2, (20_000, d), generator=generator, dtype=torch.float64) * 2 - 1
        slope = torch.full((d,), d**-0.5, dtype=torch.float64)
        measured = ((z @ slope)[:, None] * z - slope).square().sum(1).mean().item()
        met &= abs(formula(d) / measured - 1) < 0.05
        messages.append(f"d = {d}: measured {measured:.2f}, formula {formula(d):.2f}")
    return met, "; ".join(messages)


def several_probes(step: Callable[..., float]) -> tuple[bool, str]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 6, generator=generator)
    targets = torch.sin(inputs.sum(1))
    first = torch.randn(6, generator=generator)
    ours, theirs = (nn.Parameter(first.clone()) for _ in range(2))
    optimizer, settings = MeZO([theirs], lr=1e-2, samples=4), {"lr": 1e-2, "eps": 1e-3, "seed": 0, "samples": 4}
    for k in range(20):
        step([ours], lambda: ((inputs @ ours).double() - targets).square().mean(), k, **settings)
        optimizer.step(lambda: ((inputs @ theirs).double() - targets).square().mean())
    apart, moved = (float((a - b).detach().abs().max()) for a, b in ((ours, theirs), (first, theirs)))
    return apart < 1e-4 * moved, f"after 20 steps the weights moved by {moved:.3f} and differ by {apart:.1e}"


def half_precision(weights: Tensor, float16: float, bfloat16: float) -> tuple[bool, str]:
    """A matrix of the model, and the steps after which each format would have moved it by a tenth of its length."""
    met, messages = True, []
    for dtype, answer in ((torch.float16, float16), (torch.bfloat16, bfloat16)):
        start, steps = weights.detach().to(dtype), 60
        moving = start.clone()
        for step in range(steps):
            for scale in (1e-3, -2e-3, 1e-3):
                add_(moving, Direction(0, step), block=0, scale=scale)
        far = float((moving - start).float().norm() / start.float().norm())
        walked = steps * (0.1 / far) ** 2
        met &= bool(1 / 1.5 < answer / walked < 1.5)
        messages.append(f"{str(dtype).removeprefix('torch.')} moves by {far:.1e} in {steps} steps, you say {answer:.2g}")
    return met, "; ".join(messages)


def stable_rate(lr: float) -> tuple[bool, str]:
    need(isinstance(lr, float) and lr > 0, f"lr must be a number > 0, got {lr!r}.")
    place = LANDSCAPES["two_blocks"]
    directions = LANDSCAPES["sophia"].protocol.directions  # type: ignore[union-attr]

    def stands(rate: float) -> bool:
        walk = run(partial(MeZO, lr=rate), place, 300, directions=directions)
        return walk.stopped is None and bool(walk.losses[-1] - place.minimum <= walk.losses[0] - place.minimum)

    return stands(lr / 1.1) and not stands(1.1 * lr), (
        f"at {lr / 1.1:.3g} the walk {'stays' if stands(lr / 1.1) else 'diverges'}, "
        f"at {1.1 * lr:.3g} it {'stays' if stands(1.1 * lr) else 'diverges'}"
    )


def falling_rate(optimizer: Callable[..., Any], constant: Callable[..., Any]) -> tuple[bool, str]:
    """What makes each from parameters and a seed."""
    place = LANDSCAPES["sophia"]

    def above(make: Callable[..., Any]) -> tuple[float, float]:
        """Median of three seeds, and the last rate over the first one."""
        ends, made = [], []
        for seed in range(3):
            walk = run(lambda params, seed=seed: made.append(make(params, seed=seed)) or made[-1], place, 1000)
            ends.append(np.inf if walk.stopped else walk.losses[-1] - place.minimum)
        need(isinstance(made[-1], MEAZO), f"this is {type(made[-1]).__name__}; both are MEAZO, or made from it.")
        rates = [record.lrs[0] for record in made[-1].trajectory.records]
        need(bool(rates) and rates[0] > 0, "the walk has no first step with a rate above 0; begin with the largest one.")
        return float(np.median(ends)), rates[-1] / rates[0]

    (ours, falls), (theirs, stays) = above(optimizer), above(constant)
    need(theirs < place(*place.start), "the constant rate does not descend; lower it.")
    message = f"{ours:.1e} above the minimum, median of three seeds, {theirs:.1e} with the constant rate; the last rate is "
    return ours < theirs / 10 and falls <= 0.01 and stays == 1, f"{message}{falls:.3g} times the first, and {stays:.3g} times"


def own_map(place: Landscape, lr: float) -> tuple[bool, str]:
    need(len(place.minima) == 2, f"the landscape has {len(place.minima)} minima; it takes two, the deeper one first.")
    depths = [float(place(*minimum)) for minimum in place.minima]
    need(depths[0] < depths[1], "the first minimum must be the deeper one.")
    radius, turns = 0.005 * (place.window[0][1] - place.window[0][0]), 2 * np.pi * np.arange(16) / 16
    for (x, y), depth in zip(place.minima, depths, strict=True):
        around = min(float(place(x + radius * np.cos(turn), y + radius * np.sin(turn))) for turn in turns)
        need(depth < around, f"({x:.3g}, {y:.3g}) is no minimum: the landscape is lower {radius:.3g} beside it.")
    start = np.linalg.norm(np.array(place.minima) - np.array(place.start), axis=1)
    need(start[1] < start[0], "begin nearer to the shallow minimum.")
    walks = [run(partial(MeZO, lr=lr, seed=seed), place, 200) for seed in range(10)]
    deep = sum(walk.stopped is None and walk.losses[-1] < depths[1] for walk in walks)
    return deep >= 9, f"{deep} of 10 seeds end below the shallow minimum"


def long_horizon(h: int) -> tuple[bool, str]:
    need(type(h) is int and h > 0, f"h must be a whole number > 0, got {h!r}.")
    mass, fewer = (sum(0.99**k for k in range(n)) * 0.01 for n in (h, h - 1))
    return mass >= 0.9 > fewer, f"h = {h} keeps {mass:.2%}, one less {fewer:.2%}"


def small_error(h: int) -> tuple[bool, str]:
    need(type(h) is int and h > 0, f"h must be a whole number > 0, got {h!r}.")
    squares = 0.9 ** (2 * np.arange(2000.0))
    error, before = (float(np.sqrt(squares[n:].sum() / squares.sum())) for n in (h, h - 1))
    return (
        error <= 0.01 < before,
        f"with h = {h} the part left out is {error:.2%} as long as the moment, with one less {before:.2%}",
    )


def steepest_coordinate(ratio: float) -> tuple[bool, str]:
    z = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square = (z[:, :1] * z).square().mean(0)  # the gradient lies along the first axis
    measured = float(square[0] / square[1:].mean())
    return abs(ratio / measured - 1) < 0.05, f"you say {ratio:g}, 400,000 draws say {measured:.2f}"


FIRST: dict[str, Sequence[Entry]] = {
    "00": (
        (
            *(
                "Too fast",
                1,
                10,
                "a run of 10 to 30 steps whose last five batches have more than twice the loss of the first five",
            ),
            *("multiply lr by three until it happens: the rate before that is the largest that is safe", broken),
        ),
        (
            *("An offset by hand", 2, 10, "the accuracy that the best offset of all would give"),
            *("sort the gaps: between which two of them should the answer change?", offset),
        ),
        (
            *(
                "One word",
                1,
                5,
                "two sentences that differ in one word, and probabilities of great that differ by over 20 points",
            ),
            *("take a word that judges by itself, such as wonderful, and its opposite", one_word),
        ),
    ),
    "01": (
        (
            *("Best radius", 2, 10, "an eps for exp between -0.5 and 0.5 in float32 within a factor of 3 of the best"),
            *("the two branches meet near (3 u |f| / |f'''|)^(1/3), and u is 6e-8 in float32", best_radius),
        ),
        (
            *("Coin flips", 2, 15, "a formula of d for the squared error of a probe along random signs, within 5 %"),
            *("|p z|² = p² |z|²; what is |z|² of d signs, and how much of it is the gradient itself?", coin_flips),
        ),
        (
            *("Several probes a step", 3, 20, "20 steps with samples=4 that agree with MeZO(samples=4) to 1e-4 of the way"),
            *(
                "all four slopes are measured at the same weights, along Direction(seed, step, k), before any update",
                several_probes,
            ),
        ),
        (
            *(
                "Where half precision breaks",
                2,
                15,
                "the steps to a drift of 10 % in float16 and in bfloat16, each within a half",
            ),
            *("a random walk is four times as far after sixteen times the steps", half_precision),
        ),
    ),
    "02": (
        (
            *("Stability", 3, 20, "the largest stable rate of MeZO on two_blocks in the published directions, within 10 %"),
            *(
                "a step multiplies the way to the minimum by I - lr z zᵀH; take the product of two, and its largest eigenvalue",
                stable_rate,
            ),
        ),
        (
            *(
                "Shrinking steps",
                2,
                15,
                "a tenth of the distance above sophia's minimum that the same method has at a constant rate",
            ),
            *("let the rate of step t of 1000 be lr (1 - t / 1000), in `param_groups`, before the step", falling_rate),
        ),
        (
            *("A map of your own", 3, 30, "a landscape on which MeZO leaves the shallow minimum with 9 of 10 seeds"),
            *(
                "make the shallow basin narrow: a rate that is too large for it and not for the other one throws a walk out",
                own_map,
            ),
        ),
    ),
    "03": (
        (
            *("A horizon for 0.99", 1, 5, "the least horizon that keeps 90 % of a moment with beta 0.99"),
            *("the first h weights keep 1 - beta^h", long_horizon),
        ),
        (
            *("Error instead of mass", 2, 10, "the least horizon whose first moment, beta 0.9, is within 1 % of the whole one"),
            *(
                "directions are as good as orthogonal, so their squared lengths add up: weights count by their squares",
                small_error,
            ),
        ),
        (
            *(
                "The steepest coordinate",
                2,
                10,
                "its second moment over that of a flat one, if all of the gradient lies along it",
            ),
            *("E[g_i²] = |∇L|² + 2 (∇_i L)²", steepest_coordinate),
        ),
    ),
}
