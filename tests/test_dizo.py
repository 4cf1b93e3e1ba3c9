"""DiZO: its twin on both probes, the bounds of its ratios, and scalings that are steps like others."""

import copy
import json
import math

import pytest
import torch
from small import equal, loss_of, network, stop_after, weights
from test_one_sided import walks
from torch import nn

from zolab import DiZO, MeZO, Trajectory, replay
from zolab.optim import reference_probes as twins
from zolab.probe.model_view import SPARE
from zolab.runs.config import Config
from zolab.runs.finetune import finetune

probes = pytest.mark.parametrize("spare", [None, 0, SPARE["cpu"]], ids=["in place", "through", "both sides"])
halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
OWN = {"period": 4, "iterations": 3, "radius": 0.01, "rate": 0.5, "tau": 0.2}


def dizo(model, spare=None, **settings):
    optimizer = DiZO(model.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, **OWN, **settings})
    return optimizer if spare is None else optimizer.look_through(model, spare)


@walks
def test_100_steps_equal_the_reference(dtype, spare):
    model, memory = network(dtype), {}
    twin = copy.deepcopy(model)
    optimizer = dizo(model, spare)
    for step in range(100 if dtype == torch.float32 else 20):
        ours = optimizer.step(loss_of(model))
        theirs = twins.dizo_step(list(twin.parameters()), loss_of(twin), memory, step=step, lr=1e-3, eps=1e-2, **OWN)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    ratios = [record.sigmas for record in optimizer.trajectory.records if record.sigmas]
    assert [record.step for record in optimizer.trajectory.records if record.sigmas] == list(range(4, step + 1, 4))
    assert max(max(row) - min(row) for row in ratios) > 0.01  # or the scalings would not have been tested


def test_ratios_stay_within_their_bounds_and_a_scaling_multiplies_the_walk():
    model = network()
    start, optimizer = weights(model), dizo(model, rate=1e6)
    for _ in range(4):
        optimizer.step(loss_of(model))
    before = weights(model)
    optimizer.step(loss_of(model))
    ratios = optimizer.trajectory.records[-1].sigmas
    assert all(0.8 <= ratio <= 1.2 for ratio in ratios)
    assert {0.8, 1.2} & set(ratios)
    for p, theta0, theta, ratio in zip(model.parameters(), start, before, ratios, strict=True):
        torch.testing.assert_close(p.detach(), theta0 + ratio * (theta - theta0))


def test_scalings_find_the_tensor_that_walked_too_far():
    """On |x - a|^2 + |y - b|^2 from zero: x is beyond its minimum, y has not reached it."""
    x, y = nn.Parameter(torch.zeros(5, dtype=torch.float64)), nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = DiZO([x, y], lr=0.0, period=1, iterations=200, radius=0.1, rate=0.02, tau=0.5)

    def loss():
        return float((x.detach() - 1).square().sum() + (y.detach() - 1).square().sum())

    optimizer.step(loss)
    with torch.no_grad():
        x.fill_(1.25)
        y.fill_(0.8)
    with pytest.warns(UserWarning, match="was changed by something else"):
        optimizer.step(loss)
    assert optimizer.trajectory.records[-1].sigmas == pytest.approx((0.8, 1.25), abs=0.02)
    assert loss() < 1e-2


@halves
def test_without_room_for_ratios_only_mezos_steps_move(dtype):
    model, other = network(dtype), network(dtype)
    one, two = dizo(model, tau=0.0), MeZO(other.parameters(), lr=1e-3, eps=1e-2)
    for step in range(9):
        before = weights(model)
        one.step(loss_of(model))
        if step and step % 4 == 0:
            assert equal(weights(model), before)
            two.steps += 1  # the scaling's place
        else:
            two.step(loss_of(other))
    assert equal(weights(model), weights(other))


@probes
@halves
@pytest.mark.parametrize("call", [1, 2, 6])
def test_a_loss_that_fails_leaves_the_weights(dtype, spare, call):
    model, other = network(dtype), network(dtype)
    one, two = dizo(model, spare), dizo(other, spare)
    for optimizer, of in ((one, model), (two, other)):
        for _ in range(4):
            optimizer.step(loss_of(of))
    calls, good = [], loss_of(model)

    def failing():
        calls.append(good())
        return math.nan if len(calls) == call else calls[-1]

    with pytest.raises(FloatingPointError):
        one.step(failing)
    assert equal(weights(model), weights(other))
    for optimizer, of in ((one, model), (two, other)):
        for _ in range(2):
            optimizer.step(loss_of(of))
    assert equal(weights(model), weights(other))


@halves
def test_replay_and_resume_to_the_bit(dtype, tmp_path):
    model, base = network(dtype), network(dtype)
    optimizer = dizo(model, weight_decay=0.1)
    for _ in range(10):
        optimizer.step(loss_of(model))
    optimizer.trajectory.save(tmp_path / "t.npz")
    again = replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    assert equal(again.anchor, weights(network(dtype)))
    resumed = dizo(base, weight_decay=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(4):
        resumed.step(loss_of(base))
        optimizer.step(loss_of(model))
    assert equal(weights(base), weights(model))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"period": 0}, "period must be a whole number of at least 1"),
        ({"iterations": 0}, "iterations must be a whole number"),
        ({"radius": 0.0}, "radius must be > 0"),
        ({"rate": -1.0}, "rate must be >= 0"),
        ({"tau": 1.0}, r"tau must lie in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DiZO(network().parameters(), **setting)


@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, checkpoint_every):
    settings = {"model": "tiny-random-llama", "task": "reviews_sentence", "optimizer": "dizo", "lr": 1e-3, "eps": 1e-2}
    sizes = {"steps": 5, "batch_size": 4, "train": 8, "dev": 4, "test": 4, "eval_every": 5}
    own = {"optim_args": "period=2, iterations=2", "checkpoint_every": checkpoint_every}
    config = Config(**settings, **sizes, **own)
    whole = finetune(config, tmp_path / "whole", progress=False)
    assert whole.record["result"]["forwards"] == 3 * 2 + 2 * 4
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "halves", progress=False)
    halves = finetune(config, tmp_path / "halves", progress=False)
    assert equal(weights(whole.model), weights(halves.model))
    for part in ("steps", "evaluations", "result"):
        assert json.dumps(whole.record[part]) == json.dumps(halves.record[part])
