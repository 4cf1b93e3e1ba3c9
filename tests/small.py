"""What several files of tests use: a small network with its loss and weights, and the command line in this process."""

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from zolab import METHODS
from zolab.__main__ import main
from zolab.pertnn import PertNN
from zolab.probe.blocks import split
from zolab.records.log import RunLog

NUMBERS = [name for name, method in METHODS.items() if not method.per_example]  # methods whose closure returns one number
LOW_RANK = ("lozo", "lozo_m")  # methods whose losses differ by rounding where a module adds what its weight is moved by


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(37, 51), nn.Tanh(), nn.Linear(51, 3)).to(dtype)


def loss_of(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(64, 37, generator=generator), torch.randn(64, 3, generator=generator)
    dtype = next(model.parameters()).dtype
    return lambda: ((model(x.to(dtype)).float() - y) ** 2).mean()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def maker(name):
    """What makes a method's optimizer from parameters, with an untrained PertNN for them where it takes one."""
    if name != "zo_finetuner":
        return METHODS[name]

    def make(params, **settings):
        params = list(params)
        return METHODS[name](params, PertNN(split((str(j), p) for j, p in enumerate(params))), **settings)

    return make


def stop_after(steps, monkeypatch):
    """Ctrl-C after this many steps have been written into a run's log."""
    append, calls = RunLog.append, [0]

    def stop(self, event, **fields):
        append(self, event, **fields)
        calls[0] += event == "step"
        if calls[0] == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "append", stop)


class Shown(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    errors: str


def command(*words):
    """`python -m zolab WORDS`, in this process."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            status = main(list(map(str, words)))
        except SystemExit as ended:
            status = ended.code or 0
    return Shown(status, out.getvalue(), errors.getvalue())


def budgeted(sigma, sizes):
    """Scales that make the squared length of a direction the number of weights, as MeZO's is."""
    sigma, sizes = np.asarray(sigma, float), np.asarray(sizes, float)
    return sigma * (sizes.sum() / (sizes @ sigma**2)) ** 0.5
