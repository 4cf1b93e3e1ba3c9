"""Exercises of notebook 14."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike

import torch
from torch import Tensor, nn

from zolab.optim import HiZOO, MeZO, Trajectory, replay
from zolab.runs.ranks import Ranks
from zolab.widgets.exercises.entry import Entry, need

COUNT, CASES, PASSES = 3, 8, 4
EXAMPLES, INPUTS, STEPS, RATE = 128, 30, 10, 0.01  # of the least squares on which workers are judged


class Echo(Ranks):
    """Ranks that all say what this one says: bytes are counted, and nothing travels."""

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        return [mine] * self.count


def three_ranks(bytes_a_step: float) -> tuple[bool, str]:
    ranks, weight = Echo(count=COUNT), nn.Parameter(torch.ones(4))
    average = ranks.averaging(terms=8)
    HiZOO([weight], lr=1e-3).step(lambda: average(float(weight.square().sum())))
    return bytes_a_step == ranks.exchanged, f"you say {bytes_a_step:g}, a step of HiZOO exchanges {ranks.exchanged} bytes"


def another_order(base: nn.Module, files: Sequence[str | PathLike], apart: float) -> tuple[bool, str]:
    """`base` and `files` of section 4, and how far apart the weights are, over the way that they have gone."""
    need(len(files) > 1 and len(files) % 2 == 0, f"give the files of both workers, round by round, got {len(files)}.")
    turned = [file for pair in zip(files[1::2], files[::2], strict=True) for file in pair]
    first, second = (_replayed(base, order) for order in (files, turned))
    measured = float((first - second).norm() / (first - _weights(base)).norm())
    same = float((first == second).double().mean())
    now = f"you say {apart:.2g}, the files say {measured:.2g}; {same:.0%} of the weights are the same"
    return abs(apart - measured) < 0.1 * measured, now


def honest_worker(honest: Callable[[nn.Module, Trajectory, Callable[[], float]], bool]) -> tuple[bool, str]:
    """A function of a model, a trajectory and the loss, called without arguments, of the model as it then is on A's data."""
    right, most = 0, 0
    for case in range(CASES):
        source = torch.Generator().manual_seed(case)
        wanted, model = torch.randn(INPUTS, generator=source), nn.Linear(INPUTS, 1, bias=False)
        nn.init.zeros_(model.weight)
        (mine, theirs), calls = (torch.randn(EXAMPLES, INPUTS, generator=source) for _ in range(2)), []
        other = copy.deepcopy(model)
        optimizer = MeZO(other.named_parameters(), lr=RATE, seed=case)
        for _ in range(STEPS):
            optimizer.step(lambda other=other, theirs=theirs, wanted=wanted: _error(other, theirs, wanted))
        lies, given = case % 2 == 1, optimizer.trajectory
        if lies:
            turned = [record._replace(projected_grads=tuple(-p for p in record.projected_grads)) for record in given.records]
            given = replace(given, records=turned)

        def loss(model: nn.Module = model, mine: Tensor = mine, wanted: Tensor = wanted, calls: list = calls) -> float:
            calls.append(1)
            return _error(model, mine, wanted)

        right += bool(honest(model, given, loss)) != lies
        most = max(most, len(calls))
    return (
        right == CASES and most <= PASSES,
        f"{right} of {CASES} workers are judged rightly, with {most} forward passes at most",
    )


@torch.no_grad()
def _error(model: nn.Module, inputs: Tensor, wanted: Tensor) -> float:
    return float((model(inputs).squeeze(1) - inputs @ wanted).square().mean())


def _replayed(base: nn.Module, files: Sequence[str | PathLike]) -> Tensor:
    model = copy.deepcopy(base)
    for file in files:
        replay(model, Trajectory.load(file))
    return _weights(model)


def _weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().double()


MACHINES: dict[str, Sequence[Entry]] = {
    "14": (
        (
            *("Three ranks", 1, 5, f"the bytes that a step of HiZOO exchanges in {COUNT} processes that share a batch"),
            *("each rank sends eight bytes for a loss, and once a step how many terms it is the mean of", three_ranks),
        ),
        (
            *("Another order", 2, 10, "the distance between both orders' weights, over the way they have gone, within 10 %"),
            *("replay onto copies of `base`, compare in float64: norm of the difference over that of the way", another_order),
        ),
        (
            *(
                "A worker that lies",
                3,
                20,
                f"a function that tells honest files from those with turned signs, {CASES} of {CASES}, "
                f"with {PASSES} forward passes at most",
            ),
            *("the model is a copy: replay the file onto it and see what becomes of the loss on your own data", honest_worker),
        ),
    ),
}
