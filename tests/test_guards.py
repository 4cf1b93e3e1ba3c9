"""Steps that do nothing: what arrives is measured without moving a weight; they are counted, told, and stopped for."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from small import NUMBERS, equal, loss_of, maker, network, stop_after, weights
from torch import nn

from zolab import AdaMeZO, Direction, MeZO
from zolab.noise import direction
from zolab.optim.arrival import Tiles
from zolab.optim.changes import MEASURED
from zolab.runs import finetune as finetune_module
from zolab.runs.finetune import Config, finetune
from zolab.runs.guards import guard_summary

HALVES = [torch.bfloat16, torch.float16]
CONFIG = Config(model="tiny-random-llama", lr=1e-3, steps=25, eval_every=25, batch_size=4, train=12, dev=4, test=4)
NEAREST = replace(CONFIG, dtype="bfloat16", optim_args="rounding='nearest'")


def run(config, out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return finetune(config, out, progress=False).record


def stepped(optimizer, closure, count=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            optimizer.step(closure)


# --- what arrives


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("lr", [1e-6, 3e-5, 1e-2])
def test_the_share_is_that_of_the_step_written_out(dtype, lr):
    model = network(dtype)
    before, optimizer = weights(model), MeZO(model.parameters(), lr=lr, eps=1e-2, rounding="nearest", weight_decay=0.1)
    stepped(optimizer, loss_of(model))
    (p,), decay, parts = optimizer.trajectory.records[0].projected_grads, 1 - lr * 0.1, []
    for block, (w, now) in enumerate(zip(before, weights(model), strict=True)):
        meant = (decay - 1) * w.double() - lr * p * direction(Direction(0, 0), block, w.shape).double()
        parts.append(((now.double() - w.double()).flatten(), meant.flatten()))
    came, meant = (torch.cat(each) for each in zip(*parts, strict=True))
    assert optimizer.arrived.share == pytest.approx(float(came @ meant / (meant @ meant)), abs=1e-4)
    assert optimizer.arrived.moved == pytest.approx(float((came != 0).double().mean()), abs=1e-9)
    assert (optimizer.arrived.share < 0.5) == (lr < 1e-2)


def test_large_tensors_are_sampled_at_even_distances():
    tiles = Tiles([torch.zeros(100_000, dtype=torch.float16), torch.zeros(10), torch.zeros(2048 * 64, dtype=torch.bfloat16)])
    assert len(tiles.places) == 16
    assert {j for j, _ in tiles.places} == {0, 2}
    assert all(len(w) == 2048 for w in tiles.weights)
    assert Tiles([torch.zeros(100)]).places == []


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_measured_changes_nothing(name, monkeypatch):
    ways = []
    for sampled in (True, False):
        if not sampled:
            monkeypatch.setattr(Tiles, "copied", lambda tiles: None)
        model = network(torch.bfloat16)
        optimizer = maker(name)(model.parameters(), lr=1e-3, eps=1e-2, rounding="nearest")
        stepped(optimizer, loss_of(model), MEASURED + 3)
        ways.append((weights(model), optimizer.trajectory.records))
    assert equal(ways[0][0], ways[1][0])
    assert ways[0][1] == ways[1][1]


def test_moments_made_again_are_measured_too():
    model = network(torch.bfloat16)
    optimizer = AdaMeZO(model.parameters(), lr=1e-2, eps=1e-2, horizon=4, rounding="nearest")
    stepped(optimizer, loss_of(model), MEASURED + 1)
    assert 0.9 < optimizer.arrived.share < 1.1


@pytest.mark.parametrize(("dtype", "name", "settings"), [(torch.float32, "mezo", {}), (torch.bfloat16, "mezo", {}),
                                                         (torch.bfloat16, "mezo_adam", {"rounding": "nearest"})])  # fmt: skip
def test_nothing_is_measured_where_nothing_is_lost_or_known(dtype, name, settings):
    model = network(dtype)
    optimizer = maker(name)(model.parameters(), lr=1e-3, eps=1e-2, **settings)
    stepped(optimizer, loss_of(model))
    assert optimizer.arrived is None


def test_it_is_measured_every_tenth_step():
    model = network(torch.bfloat16)
    optimizer, measured_at = MeZO(model.parameters(), lr=1e-3, eps=1e-2, rounding="nearest"), []
    for _ in range(2 * MEASURED + 1):
        stepped(optimizer, loss_of(model))
        measured_at.append(optimizer.arrived is not None)
    assert [step for step, measured in enumerate(measured_at) if measured] == [0, MEASURED, 2 * MEASURED]


# --- a run


def test_equal_losses_are_counted_and_stopped_for(tmp_path):
    flat = replace(CONFIG, eps=1e-30, steps=6, eval_every=6)
    record = run(flat, tmp_path / "counted")
    assert record["guards"] == {"flat": 6, "overflowed": 0, "measured": 0, "short": 0, "arrived": None}
    assert guard_summary(record).startswith("6 steps measured the same loss on both sides")
    for _ in range(2):  # started again, it stops at once
        with pytest.raises(FloatingPointError, match="equal in 4 steps in a row, and the run is stopped: raise eps"):
            run(replace(flat, stuck=4), tmp_path / "stopped")
        assert (tmp_path / "stopped" / "log.jsonl").read_text().count('"event": "step"') == 4


def test_equal_metrics_are_no_reason_to_stop(tmp_path):
    assert run(replace(CONFIG, eps=1e-30, steps=6, objective="accuracy", stuck=2), tmp_path)["guards"]["flat"] == 6


def test_steps_that_do_not_arrive_are_counted_and_stopped_for(tmp_path):
    lost = replace(NEAREST, lr=1e-7)
    record = run(replace(lost, stuck=0), tmp_path / "counted")
    assert record["guards"]["measured"] == record["guards"]["short"] == 3
    assert record["guards"]["arrived"] < 0.5
    assert "3 arrived in the weights by less than half" in guard_summary(record)
    assert [step["step"] for step in record["steps"] if "arrived" in step] == [0, 10, 20]
    with pytest.raises(FloatingPointError, match=r"arrived in the weights in 20 steps in a row.*rounding='stochastic'"):
        run(lost, tmp_path / "stopped")
    record = run(replace(lost, optim_args="", steps=2, eval_every=2), tmp_path / "cured")
    assert record["guards"]["measured"] == 0
    assert guard_summary(record) == ""


@pytest.fixture
def overflowing(monkeypatch):
    """A loss that is infinite on the batches of these numbers."""
    closure, batches = finetune_module.closure, {}

    def set_to(*numbers):
        batches["infinite"] = numbers

    def broken(objective, task, model, tokenizer, batch, **settings):
        numbers = [n for n in range(40) if batch == finetune_module.batch_at(EXAMPLES, 4, 0, n, False)]
        measure = closure(objective, task, model, tokenizer, batch, **settings)
        return lambda: float("inf") if set(numbers) & set(batches["infinite"]) else measure()

    EXAMPLES = finetune_module.load_task(CONFIG.task).sample(0, 12, 4, 4).train
    monkeypatch.setattr(finetune_module, "closure", broken)
    return set_to


def test_a_batch_that_overflows_is_passed_over(tmp_path, monkeypatch, overflowing):
    overflowing(2, 5)
    config = replace(CONFIG, steps=8, eval_every=8, train=12)
    whole = run(config, tmp_path / "whole")
    assert whole["guards"]["overflowed"] == 2
    assert whole["result"]["forwards"] == 2 * (8 + 2)
    assert "2 batches were passed over" in guard_summary(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(4, patch)
        run(config, tmp_path / "parts")
    parts = run(config, tmp_path / "parts")
    for key in ("steps", "evaluations", "result", "guards"):
        assert parts[key] == whole[key], key


def test_a_loss_that_always_overflows_ends_the_run(tmp_path, overflowing):
    overflowing(*range(40))
    with pytest.raises(FloatingPointError, match=r"step 0: the closure returned inf.*5 batches in a row were so: lower lr"):
        run(replace(CONFIG, stuck=5), tmp_path / "guarded")
    events = [json.loads(line) for line in (tmp_path / "guarded" / "log.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "overflow" for event in events) == 5
    with pytest.raises(FloatingPointError, match=r"step 0: the closure returned inf[^:]*$"):
        run(replace(CONFIG, stuck=0), tmp_path / "bare")


def test_gradients_are_not_flat(tmp_path):
    first = Config(model="tiny-random-llama", optimizer="sgd", lr=1e-3, steps=3, eval_every=3, batch_size=4, train=12, dev=4,
                   test=4, stuck=1)  # fmt: skip
    assert run(first, tmp_path)["guards"]["flat"] == 0


def test_weights_of_mixed_precision_are_measured_where_they_are_half():
    model = nn.Sequential(nn.Linear(37, 51), nn.Linear(51, 3, dtype=torch.bfloat16))
    x = torch.randn(8, 37, generator=torch.Generator().manual_seed(0))
    optimizer = MeZO(model.parameters(), lr=1e-9, eps=1e-2, rounding="nearest")
    stepped(optimizer, lambda: model[1](model[0](x).bfloat16()).float().square().mean())
    assert optimizer.arrived.share < 0.01
    assert {j for j, _ in optimizer.changes.tiles.places} == {2, 3}
