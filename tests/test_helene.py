"""HELENE: its twin, and the momentum that it is where nothing is clipped."""

import pytest
import torch
from small import loss_of, network
from test_methods import beside
from torch import nn

from zolab import HELENE, MeZOMomentum
from zolab.optim import reference_probes as twins


@pytest.mark.parametrize(("dtype", "annealing"), [(torch.float32, None), (torch.float32, 20.0), (torch.float64, 20.0)])
def test_100_steps_equal_the_reference(dtype, annealing):
    memory, own = {}, {"betas": (0.9, 0.8), "k": 3, "gamma": 0.5, "floor": 0.4, "delta": 1e-4}
    schedule = HELENE(network().parameters(), annealing=annealing, **own)
    beside(
        lambda params: HELENE(params, lr=1e-4, annealing=annealing, **own),
        lambda p, f, t: twins.helene_step(p, f, memory, step=t, lr=1e-4, eps=1e-3, share=schedule.share(t), **own),
        steps=100 if dtype == torch.float32 else 20,
        tolerance=1e-4,
        dtype=dtype,
    )
    h = torch.cat([part.flatten() for part in memory["h"]])
    assert 0.05 < float((h > 0.4).float().mean()) < 0.95  # both sides of the floor


def test_above_every_square_the_floor_makes_it_momentum():
    model, other = network(), network()
    one = HELENE(model.parameters(), lr=1e-3 * 400, annealing=None, gamma=4.0, floor=100.0, delta=0.0)
    two = MeZOMomentum(other.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(20):
        one.step(loss_of(model))
        two.step(loss_of(other))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_the_weight_of_new_estimates_falls_from_one_to_beta1():
    optimizer = HELENE(network().parameters(), annealing=10.0)
    assert optimizer.share(0) == 1.0
    assert optimizer.share(10) == pytest.approx(0.9 + 0.1 / 2.718281828)
    assert optimizer.share(1000) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, "k must be a whole number of at least 1"),
        ({"annealing": 0.0}, "annealing must be a number of steps > 0"),
        ({"floor": -1.0}, "floor must be >= 0"),
        ({"gamma": 0.0, "delta": 0.0}, r"gamma floor \+ delta must be > 0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        HELENE([nn.Parameter(torch.ones(2))], **setting)
