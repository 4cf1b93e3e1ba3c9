"""HiZOO: its twin on both probes, what algebra says of its curvature, and a third forward pass that is counted everywhere."""

import copy
import json
import math

import pytest
import torch
from small import NUMBERS, command, equal, loss_of, maker, network, stop_after, weights
from torch import nn

from zolab import METHODS, HiZOO, MeZO, Trajectory, replay
from zolab.models import load_model
from zolab.noise import Direction, direction
from zolab.optim import reference
from zolab.probe.model_view import SPARE
from zolab.records import load_record
from zolab.runs.config import Config
from zolab.runs.finetune import finetune
from zolab.studies.cost import costs
from zolab.studies.plan import check_plan, check_run
from zolab.tasks import load_task

estimators = pytest.mark.parametrize("estimator", ["published", "unbiased"])
halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
probes = pytest.mark.parametrize("spare", [None, 0, SPARE["cpu"]], ids=["in place", "through", "both sides"])
SETTINGS = {"lr": 1e-3, "eps": 1e-2, "alpha": 1e-3}


def probing(optimizer, model, spare):
    """The optimizer, in place or looking through the model with so much to spare."""
    return optimizer if spare is None else optimizer.look_through(model, spare)


def equal_curvature(one, two):
    return one.curvature.keys() == two.curvature.keys() and all(
        torch.equal(h, two.curvature[block]) for block, h in one.curvature.items()
    )


# --- the twin


@probes
@estimators
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_100_steps_equal_the_reference(estimator, spare, dtype):
    memory, model = {}, network(dtype)
    twin, own = copy.deepcopy(model), {**SETTINGS, "estimator": estimator, "bounds": (0.8, 4.0)}
    optimizer = probing(HiZOO(model.named_parameters(), **own), model, spare)
    for step in range(100):
        ours = optimizer.step(loss_of(model))
        theirs = reference.hizoo_step(list(twin.parameters()), loss_of(twin), memory, step=step, **own)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    for block, h in enumerate(memory["h"]):
        torch.testing.assert_close(optimizer.curvature[block], h.flatten(), rtol=5e-3, atol=5e-3)
    curvature = torch.cat([h.flatten() for h in memory["h"]])
    assert float(curvature.max() - curvature.min()) > 0.01  # or the curvature would not have been tested


# --- what algebra says


@probes
@halves
def test_without_curvature_it_is_mezo_to_the_bit(dtype, spare):
    one, two = network(dtype), network(dtype)
    settings = {"lr": 1e-3, "eps": 1e-2, "seed": 7, "weight_decay": 0.1}
    ours = probing(HiZOO(one.named_parameters(), alpha=0.0, **settings), one, spare)
    mezo = probing(MeZO(two.named_parameters(), **settings), two, spare)
    for _ in range(30):
        assert ours.step(loss_of(one)) == mezo.step(loss_of(two))
    assert equal(weights(one), weights(two))
    for record, other in zip(ours.trajectory.records, mezo.trajectory.records, strict=True):
        assert record._replace(losses=record.losses[:2]) == other


def quadratic(estimator, alpha, steps):
    """h of four weights on a quadratic with a known diagonal, averaged over the last three quarters of the steps."""
    diagonal, x = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64), nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = HiZOO([x], lr=0.0, eps=0.1, alpha=alpha, estimator=estimator)
    total = torch.zeros(4, dtype=torch.float64)
    for step in range(steps):
        optimizer.step(lambda: 0.5 * (diagonal * x.detach() ** 2).sum())
        total += optimizer.curvature[0] * (step >= steps // 4)
    return total / (steps - steps // 4) / diagonal


@pytest.mark.slow
def test_the_unbiased_curvature_tends_to_the_diagonal():
    curvature = quadratic("unbiased", 2e-3, 6000)
    print(curvature)
    assert curvature.tolist() == pytest.approx([1.0] * 4, rel=0.25)


@pytest.mark.slow
def test_the_published_curvature_is_too_large_by_a_factor_that_grows_with_dimension():
    """On a quadratic with a diagonal Hessian h tends to (1 + d / 2) times it."""
    curvature = quadratic("published", 4e-3, 6000)
    print(curvature)
    assert curvature.tolist() == pytest.approx([1 + 4 / 2] * 4, rel=0.25)


@estimators
def test_the_expected_estimate(estimator):
    """A z-test over 2,000 steps that leave h at 1: the mean is C itself, or has half its trace added."""
    diagonal, x = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64), nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer, walked = HiZOO([x], lr=0.0, eps=0.1, alpha=1e-9, estimator=estimator), [torch.ones_like(diagonal)]
    for _ in range(2000):
        optimizer.step(lambda: 0.5 * (diagonal * x.detach() ** 2).sum())
        walked.append(optimizer.curvature[0].clone())
    draws = torch.stack(walked).diff(dim=0) / 1e-9 + 1
    expected = diagonal + (diagonal.sum() / 2 if estimator == "published" else 0)
    scores = (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))
    print(scores)
    assert scores.abs().max() < 4.5


@estimators
def test_the_curvature_stays_within_its_bounds(estimator):
    model, losses = network(), iter([0.0, 1e6, 1e6] * 5)
    optimizer = HiZOO(model.parameters(), lr=0.0, alpha=0.5, estimator=estimator, bounds=(0.25, 8.0))
    for _ in range(5):
        optimizer.step(lambda: next(losses))
    h = torch.cat(list(optimizer.curvature.values()))
    assert float(h.max()) == pytest.approx(8.0)
    assert float(h.min()) >= 0.25 * (1 - 1e-6)
    assert estimator == "published" or float(h.min()) == pytest.approx(0.25)


def test_negative_curvature_lowers_the_unbiased_one_where_z_is_large():
    """The published estimate takes its absolute value instead."""
    z = direction(Direction(0, 0), 0, 1000)
    for estimator, lower in (("unbiased", z.abs() > 1), ("published", torch.zeros(1000, dtype=torch.bool))):
        losses = iter([1.0, 0.9, 0.9])
        optimizer = HiZOO([nn.Parameter(torch.zeros(1000))], lr=0.0, eps=0.1, alpha=1e-2, estimator=estimator)
        optimizer.step(lambda losses=losses: next(losses))
        expected = 10 * 1e-2 * (z.square() - 1 if estimator == "unbiased" else z.square())
        expected = 1 - 1e-2 + (-expected if estimator == "unbiased" else expected)
        torch.testing.assert_close(optimizer.curvature[0], expected.clamp(1e-6, 1e6))
        assert torch.equal(lower & (optimizer.curvature[0] < 0.99), lower)


def test_a_curvature_of_infinite_size_is_refused():
    model = network()
    before, losses = weights(model), iter([0.0, 1e300, 1e300])
    optimizer = HiZOO(model.parameters(), lr=1e-3, alpha=0.5)
    with pytest.raises(FloatingPointError, match="the curvature has no finite size"):
        optimizer.step(lambda: next(losses))
    assert equal(weights(model), before)
    assert optimizer.steps == 0
    optimizer.step(loss_of(model))


# --- the third forward pass


@pytest.mark.parametrize("name", NUMBERS)
def test_every_method_takes_the_forward_passes_that_it_is_counted_with(name):
    model, calls = network(), []
    optimizer, loss = maker(name)(model.parameters(), lr=1e-4), loss_of(model)
    for _ in range(3):
        optimizer.step(lambda: calls.append(1) or loss())
    assert len(calls) * (2 if name == "forward_gradient" else 1) == METHODS[name].forwards(3)
    assert METHODS[name].forwards() == {"hizoo": 3, "fzoo": 9}.get(name, 2)
    assert MeZO.forwards(samples=5) == 10


@probes
@halves
def test_the_third_loss_is_that_of_the_weights_themselves(dtype, spare):
    model = network(dtype)
    optimizer = probing(HiZOO(model.parameters(), **SETTINGS), model, spare)
    for _ in range(3):
        before, here, losses = weights(model), loss_of(model)().item(), []
        loss = loss_of(model)
        optimizer.step(lambda loss=loss, losses=losses: losses.append(loss()) or losses[-1])
        centre, plus, minus = (loss.item() for loss in losses)
        assert optimizer.trajectory.records[-1].losses == (plus, minus, centre)
        assert centre == here
        assert not equal(before, weights(model))


@probes
@halves
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_loss_that_fails_leaves_weights_and_curvature(dtype, spare, call):
    model, other = network(dtype), network(dtype)
    one, two = (probing(HiZOO(m.parameters(), **SETTINGS), m, spare) for m in (model, other))
    for optimizer, of in ((one, model), (two, other)):
        for _ in range(2):
            optimizer.step(loss_of(of))
    calls, good = [], loss_of(model)

    def failing():
        calls.append(good())
        return math.nan if len(calls) == call else calls[-1]

    with pytest.raises(FloatingPointError):
        one.step(failing)
    assert equal(weights(model), weights(other))
    assert equal_curvature(one, two)
    for optimizer, of in ((one, model), (two, other)):
        optimizer.step(loss_of(of))
    assert equal(weights(model), weights(other))


@estimators
@halves
def test_replay_and_resume_need_no_forward_pass_and_find_the_same_curvature(estimator, dtype, tmp_path):
    model, base = network(dtype), network(dtype)
    optimizer = HiZOO(model.named_parameters(), **SETTINGS, estimator=estimator, seed=3, weight_decay=0.1)
    for _ in range(12):
        optimizer.step(loss_of(model))
    optimizer.trajectory.save(tmp_path / "t.npz")
    again = replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))
    assert equal_curvature(again, optimizer)
    resumed = HiZOO(copy.deepcopy(model).named_parameters(), **SETTINGS, estimator=estimator, weight_decay=0.1)
    resumed.load_state_dict(optimizer.state_dict())
    assert equal_curvature(resumed, optimizer)
    assert all(h.dtype == torch.float32 for h in resumed.curvature.values())


def test_tensors_of_several_chunks():
    """Probe, step, replay and resume cut them differently; the bits are the same."""
    model = nn.Linear(1500, 1000)
    base, x = copy.deepcopy(model), torch.randn(4, 1500, generator=torch.Generator().manual_seed(0))
    optimizer = HiZOO(model.named_parameters(), **{**SETTINGS, "lr": 1e-6})
    for _ in range(3):
        optimizer.step(lambda: model(x).square().mean())
    again = replay(base, optimizer.trajectory)
    resumed = HiZOO(model.named_parameters(), **SETTINGS)
    resumed.load_state_dict(optimizer.state_dict())
    assert equal(weights(base), weights(model))
    assert equal_curvature(again, optimizer)
    assert equal_curvature(resumed, optimizer)


@pytest.mark.parametrize("spare", [0, SPARE["cpu"]])
def test_10_steps_on_a_language_model_are_those_in_place(spare):
    """Its embedding moves only the tiles that a batch reads."""
    base, tokenizer = load_model("tiny-reviews")
    task = load_task("rotten_tomatoes")
    batch = task.encode(tokenizer, task.sample(0, 32, 16, 16).train[:16])
    model, twin = copy.deepcopy(base), copy.deepcopy(base)
    one, two = (HiZOO(m.parameters(), lr=1e-5, alpha=1e-3, seed=1) for m in (model, twin))
    one.look_through(model, spare)
    for _ in range(10):
        assert one.step(lambda: task.loss(model, batch)) == two.step(lambda: task.loss(twin, batch))
    assert equal(weights(model), weights(twin))
    assert equal_curvature(one, two)
    assert max(float(h.max()) for h in one.curvature.values()) > 1.01


def test_what_would_change_the_curvature_is_refused():
    model = network()
    optimizer = HiZOO(model.parameters(), **SETTINGS)
    optimizer.step(loss_of(model))
    before = weights(model)
    optimizer.param_groups[0]["eps"] = 1e-1
    with pytest.raises(ValueError, match=r"eps must stay 0\.01"):
        optimizer.step(loss_of(model))
    assert equal(weights(model), before)
    lost = [record._replace(losses=record.losses[:2]) for record in optimizer.trajectory.records]
    with pytest.raises(ValueError, match="step 0 was recorded without the loss at the weights"):
        HiZOO(network().parameters(), **SETTINGS).replay(lost)


# --- where forward passes are counted

RUN = {
    **{"model": "tiny-reviews", "task": "reviews_sentence", "optimizer": "hizoo", "lr": 1e-4, "eps": 1e-2},
    **{"steps": 4, "batch_size": 4, "train": 16, "dev": 8, "test": 8, "eval_every": 2},
}
OWN = "alpha=1e-3, estimator='unbiased', bounds=(0.1, 10)"


def test_the_command_line_runs_it_and_counts_three_forward_passes_a_step(tmp_path):
    words = [word for name, value in RUN.items() for word in (f"--{name}", value)]
    completed = command("finetune", *words, "--optim_args", OWN, "--out", tmp_path / "run")
    assert (completed.status, completed.errors) == (0, "")
    assert "12 forward passes" in completed.out
    record = load_record(tmp_path / "run" / "record.json")
    assert record["result"]["forwards"] == 12
    assert [entry["forwards"] for entry in record["evaluations"] if entry["split"] == "dev"] == [0, 6, 12]
    assert all(len(step["losses"]) == 3 for step in record["steps"])
    assert command("replay", tmp_path / "run", "--out", tmp_path / "model").status == 0
    refused = command("finetune", *words, "--optim_args", "alpha=1", "--out", tmp_path / "other")
    assert refused.status != 0
    assert "alpha must lie in [0, 1), got 1" in refused.errors
    assert not (tmp_path / "other" / "log.jsonl").exists()


@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, checkpoint_every):
    config = Config(**RUN, optim_args=OWN, checkpoint_every=checkpoint_every)
    whole = finetune(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "halves", progress=False)
    halves = finetune(config, tmp_path / "halves", progress=False)
    assert equal(weights(whole.model), weights(halves.model))
    for part in ("steps", "evaluations", "result"):
        assert json.dumps(whole.record[part]) == json.dumps(halves.record[part])


def test_a_study_of_methods_gives_each_the_same_forward_passes():
    base = {name: value for name, value in RUN.items() if name not in ("optimizer", "task")} | {"steps": 150}
    content = {
        "base": base,
        "tasks": {"sentence": {"task": "reviews_sentence"}},
        "methods": {"MeZO": {"optimizer": "mezo"}, "HiZOO": {"optimizer": "hizoo"}},
        "search": {"factor": 3, "extend": 0, "seeds": [9]},
        "seeds": [0],
    }
    with pytest.raises(ValueError, match="on sentence, HiZOO takes 450 forward passes and MeZO 300: give all of them"):
        check_plan(content)
    content["methods"]["HiZOO"]["steps"] = 100
    assert [cost.forwards for cost in costs(check_plan(content))] == [300, 300]
    content["base"]["steps"], content["methods"]["HiZOO"]["steps"] = 100, 66
    assert [cost.forwards for cost in costs(check_plan(content))] == [200, 198]
    del content["base"]["steps"], content["methods"]["HiZOO"]["steps"], content["base"]["eval_every"]
    content["base"] |= {"forwards": 301, "evaluations": 5}
    plan = check_plan(content)
    runs = [check_run(plan, "sentence", own) for own in plan.methods.values()]
    assert [(config.steps, config.eval_every) for config in runs] == [(150, 30), (100, 20)]
    assert [cost.forwards for cost in costs(plan)] == [300, 300]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"forwards": 300}, "evaluations must be a whole number of at least 1, got None"),
        ({"forwards": 1, "evaluations": 1}, "forwards is 1, and the first step takes 2; give more"),
        ({"forwards": 2.5, "evaluations": 1}, "forwards must be a whole number of at least 1, got 2.5"),
        ({"forwards": 300, "evaluations": 5, "steps": 3}, "forwards and steps are both given"),
        ({"evaluations": 5, "steps": 3}, "evaluations goes with forwards"),
        ({"forwards": 300, "evaluations": 5, "optimizer": "luck"}, "unknown optimizer 'luck'"),
        ({"forwards": 300, "evaluations": 5, "samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(more, sentence):
    base = {name: value for name, value in RUN.items() if name not in ("task", "optimizer", "steps", "eval_every")}
    content = {"base": {**base, **more}, "tasks": {"sentence": {"task": "reviews_sentence"}}, "methods": {"MeZO": None}}
    with pytest.raises(ValueError, match=sentence):
        check_plan({**content, "search": {"factor": 3, "extend": 0, "seeds": [9]}, "seeds": [0]})
