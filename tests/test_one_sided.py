"""Steps that probe otherwise than on both sides of the weights: FZOO's one-sided probes, MeZO-SVRG's anchor and full batch."""

import copy
import json
import math
from functools import partial

import pytest
import torch
from small import command, equal, loss_of, network, stop_after, weights
from test_methods import fixed_losses
from torch import nn
from torch.nn import functional

from zolab import FZOO, Direction, MeZO, MeZOSVRG, Trajectory, replay
from zolab.models import load_model
from zolab.noise import GivenDirection
from zolab.optim import reference
from zolab.optim import reference_probes as twins
from zolab.probe.model_view import SPARE
from zolab.records import load_record
from zolab.runs.config import Config, forwards
from zolab.runs.finetune import finetune
from zolab.runs.full_batch import full_loss
from zolab.studies.cost import costs
from zolab.studies.plan import check_plan
from zolab.tasks import load_task

halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
probes = pytest.mark.parametrize("spare", [None, 0, SPARE["cpu"]], ids=["in place", "through", "both sides"])
walks = pytest.mark.parametrize(
    ("dtype", "spare"),
    [(torch.float32, None), (torch.float64, None), (torch.float32, 0), (torch.float32, SPARE["cpu"])],
    ids=["in place", "in place, float64", "through", "both sides"],
)
RUN = {
    **{"model": "tiny-random-llama", "task": "reviews_sentence", "lr": 1e-3, "eps": 1e-2},
    **{"steps": 5, "batch_size": 4, "train": 10, "dev": 4, "test": 4, "eval_every": 2},
}


def probing(optimizer, model, spare):
    """The optimizer, in place or looking through the model with so much to spare."""
    return optimizer if spare is None else optimizer.look_through(model, spare)


def counted(loss, calls):
    """A closure that counts how often it is called, and is NaN at the calls that `calls` asks for."""

    def closure():
        calls["at"] = calls.get("at", 0) + 1
        value = loss()
        return math.nan if calls["at"] == calls.get("fail") else value

    return closure


# --- FZOO: its twin, and what algebra says


@walks
def test_100_steps_of_fzoo_equal_the_reference(dtype, spare, monkeypatch):
    family = "gaussian" if dtype == torch.float64 else "rademacher"
    monkeypatch.setattr(reference, "Direction", partial(Direction, family=family))
    model, own = network(dtype), {"lr": 1e-4, "eps": 1e-2, "samples": 3, "weight_decay": 0.1}
    twin = copy.deepcopy(model)
    optimizer = probing(FZOO(model.named_parameters(), **own, directions=family), model, spare)
    for step in range(100 if dtype == torch.float32 else 20):
        ours = optimizer.step(loss_of(model))
        theirs = twins.fzoo_step(list(twin.parameters()), loss_of(twin), step=step, **own)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    assert optimizer.trajectory.records[0].losses[-1] > ours  # or nothing would have been walked


def test_a_step_of_fzoo_by_hand():
    """Losses 1.1, 0.9, 1.3 around 1: their mean is 1.1 and their standard deviation sqrt(0.08 / 3)."""
    weight, losses = nn.Parameter(torch.zeros(2, dtype=torch.float64)), iter([1.0, 1.1, 0.9, 1.3])
    optimizer = FZOO([weight], lr=0.5, eps=0.1, samples=3)
    given = [GivenDirection([torch.tensor(u, dtype=torch.float64)]) for u in ([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0])]
    optimizer.direction = lambda step, sample=0: given[sample]
    assert optimizer.step(lambda: next(losses)) == 1.0  # the loss at the weights, not the mean of those around them
    spread = math.sqrt(0.08 / 3)
    expected = [-0.5 * (0.1 - 0.1 - 0.3) / (3 * spread), -0.5 * (0.1 + 0.1 + 0.3) / (3 * spread)]
    assert weight.tolist() == pytest.approx(expected, rel=1e-6)
    (record,) = optimizer.trajectory.records
    assert record.losses == (1.1, 0.9, 1.3, 1.0)
    assert record.projected_grads == pytest.approx((1.0, -1.0, 3.0))


@pytest.mark.parametrize("family", ["gaussian", "rademacher"])
def test_multiplying_the_loss_leaves_fzoos_steps(family):
    walks = {}
    for scale in (1.0, 1024.0, 2.0**-10, 1000.0):
        model = network()
        optimizer, loss = FZOO(model.parameters(), lr=1e-3, directions=family), loss_of(model)
        for _ in range(5):
            optimizer.step(lambda scale=scale, loss=loss: scale * float(loss()))
        walks[scale] = weights(model)
    assert not equal(walks[1.0], weights(network()))
    assert equal(walks[1.0], walks[1024.0])  # a power of two rounds nothing
    assert equal(walks[1.0], walks[2.0**-10])
    for p, q in zip(walks[1.0], walks[1000.0], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_steps_of_fzoo_are_as_long_on_a_slope_ten_times_as_steep():
    """On a linear loss s is eps times the length of the gradient, up to chance, so that the step has one length for all."""
    lengths = []
    for steepness in (1.0, 10.0):
        weight = nn.Parameter(torch.zeros(1000, dtype=torch.float64))
        FZOO([weight], lr=1e-2, samples=16).step(lambda w=weight, s=steepness: s * float(w.detach().sum()))
        lengths.append(float(weight.detach().norm()))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)
    assert lengths[0] == pytest.approx(1e-2 * math.sqrt(1000 / 16), rel=0.5)


def test_equal_losses_are_no_step():
    """Whether or not they differ from the loss at the weights; weight decay goes on."""
    for centre in (1.0, 0.5):
        model = network()
        before, losses = weights(model), iter([centre, 1.0, 1.0])
        FZOO(model.parameters(), lr=1e-2, samples=2, weight_decay=0.5).step(lambda losses=losses: next(losses))
        for p, start in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(p.detach(), start * (1 - 1e-2 * 0.5))


@pytest.mark.parametrize("samples", [0, 1, 1.5, None])
def test_too_few_probes_are_refused(samples):
    with pytest.raises(ValueError, match=r"samples must be a whole number|FZOO needs at least 2 samples, since one loss has"):
        FZOO(network().parameters(), samples=samples)


def test_forward_passes_are_counted():
    assert FZOO.forwards() == 9
    assert FZOO.forwards(10, samples=3) == 40
    assert forwards(Config(optimizer="fzoo"), 2, train=100) == 18
    assert forwards(Config(optimizer="fzoo", samples=2), 2, train=100) == 6
    assert MeZOSVRG.forwards(1, full=7) == 14
    assert [MeZOSVRG.forwards(steps, full=7, q=3) for steps in range(5)] == [0, 14, 18, 22, 36]
    assert forwards(Config(optimizer="mezo_svrg", batch_size=4, optim_args="q=3"), 4, train=25) == 36


@probes
@halves
@pytest.mark.parametrize("call", [1, 4])
def test_a_loss_of_fzoo_that_fails_leaves_the_weights(dtype, spare, call):
    model, other = network(dtype), network(dtype)
    one, two = (probing(FZOO(m.parameters(), lr=1e-3, eps=1e-2, samples=3), m, spare) for m in (model, other))
    for optimizer, of in ((one, model), (two, other)):
        optimizer.step(loss_of(of))
    with pytest.raises(FloatingPointError):
        one.step(counted(loss_of(model), {"fail": call}))
    assert equal(weights(model), weights(other))
    for optimizer, of in ((one, model), (two, other)):
        optimizer.step(loss_of(of))
    assert equal(weights(model), weights(other))


def test_fzoo_replays_from_its_losses(tmp_path):
    model, base = network(), network()
    optimizer = FZOO(model.parameters(), lr=1e-3, directions="gaussian", seed=3)
    for _ in range(5):
        optimizer.step(loss_of(model))
    optimizer.trajectory.save(tmp_path / "t.npz")
    again = replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert again.directions == "gaussian"  # although it is not the method's default
    assert equal(weights(base), weights(model))
    lost = [record._replace(losses=()) for record in optimizer.trajectory.records]
    with pytest.raises(ValueError, match="step 0 was recorded without its losses, which FZOO needs"):
        FZOO(network().parameters()).replay(lost)


class Reading(nn.Module):
    """A layer whose weight its owner's caller reads."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return functional.linear(self.body(x), self.head.weight) + self.head(x)


@pytest.mark.parametrize("spare", [0, SPARE["cpu"]])
def test_a_weight_read_elsewhere_is_noticed_by_one_sided_probes_too(spare):
    model = Reading()
    before, x = weights(model), torch.ones(2, 3)
    optimizer = FZOO(model.parameters(), lr=1e-3, samples=2).look_through(model, spare)
    with pytest.raises(ValueError, match=r"head\.weight is read outside the call of its module"):
        optimizer.step(lambda: model(x).square().mean())
    assert equal(weights(model), before)


# --- MeZO-SVRG: its twin, and what algebra says


def batches(model, count=4):
    """Losses on batches, and the loss on all of them."""
    parts = [loss_of(model, seed) for seed in range(count)]
    return parts, lambda: sum(part() for part in parts) / count


def svrg(model, **settings):
    optimizer = MeZOSVRG(model.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, "q": 3, **settings})
    parts, optimizer.full_batch = batches(model)
    return optimizer, parts


@walks
def test_100_steps_of_svrg_equal_the_reference(dtype, spare):
    model, memory = network(dtype), {}
    twin = copy.deepcopy(model)
    optimizer, parts = svrg(model, full_lr=2.0)
    theirs, full = batches(twin)
    probing(optimizer, model, spare)
    own = {"lr": 1e-3, "eps": 1e-2, "q": 3, "full_lr": 2.0}
    for step in range(100 if dtype == torch.float32 else 20):
        loss = optimizer.step(parts[step % 4])
        expected = twins.svrg_step(list(twin.parameters()), theirs[step % 4], full, memory, step=step, **own)
        assert math.isclose(loss, expected, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    for anchor, reference_anchor in zip(optimizer.anchor, memory["anchor"], strict=True):
        torch.testing.assert_close(anchor, reference_anchor, rtol=1e-4, atol=1e-4)


@halves
def test_with_q_1_svrg_is_mezo_on_the_full_batch_to_the_bit(dtype):
    model, other = network(dtype), network(dtype)
    optimizer, parts = svrg(model, q=1, weight_decay=0.1)
    mezo = MeZO(other.named_parameters(), lr=1e-3, eps=1e-2, weight_decay=0.1)
    _, full = batches(other)
    for step in range(10):
        assert optimizer.step(parts[step % 4]) == mezo.step(full)
    assert equal(weights(model), weights(other))


def test_at_the_anchor_the_batch_cancels():
    """With lr 0 the weights stay at the anchor, where both terms on a batch are the same number: what is left is p_full z'."""
    model = network()
    optimizer, parts = svrg(model, lr=0.0)
    for step in range(6):
        optimizer.step(parts[step % 4])
    slopes = [record.projected_grads for record in optimizer.trajectory.records]
    assert [len(row) for row in slopes] == [1, 2, 2, 1, 2, 2]
    assert all(here == there for here, there in (row for row in slopes if len(row) == 2))


def test_the_correction_is_worth_it_where_the_batch_is_the_noise():
    """Linear losses whose slopes nearly cancel over all data: MeZO walks at random, and the correction takes that away."""
    slopes = torch.randn(8, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes += 1e-3 - slopes.mean(0)
    walked = {}
    for q in (1000, 0):
        weight = nn.Parameter(torch.zeros(50, dtype=torch.float64))
        optimizer = MeZOSVRG([weight], lr=1e-2, q=q) if q else MeZO([weight], lr=1e-2)
        optimizer.full_batch = lambda weight=weight: float(slopes.mean(0) @ weight.detach())
        for step in range(40):
            optimizer.step(lambda weight=weight, step=step: float(slopes[step % 8] @ weight.detach()))
        walked[q] = float(weight.detach().norm())
    print(walked)
    assert walked[1000] < 0.1 < 1 < walked[0]


@probes
@halves
@pytest.mark.parametrize("call", [1, 4])
def test_a_loss_of_svrg_that_fails_leaves_weights_and_anchor(dtype, spare, call):
    """At the anchor, at the weights, and on the full batch; the exchange of both is taken back, and raises no warning."""
    model, other = network(dtype), network(dtype)
    (one, parts), (two, their_parts) = svrg(model), svrg(other)
    probing(one, model, spare)
    probing(two, other, spare)
    for step in range(7):
        if step in (2, 3, 5):
            before = weights(model)
            full, one.full_batch = one.full_batch, counted(one.full_batch, {"fail": min(call, 2)})
            with pytest.raises(FloatingPointError):
                one.step(counted(parts[step % 4], {"fail": call}))
            one.full_batch = full
            assert equal(weights(model), before)
        assert one.step(parts[step % 4]) == two.step(their_parts[step % 4])
        assert equal(weights(model), weights(other))
        assert equal(one.anchor, two.anchor)
        assert all(anchor.dtype == dtype for anchor in one.anchor)


@halves
def test_svrg_replays_and_goes_on_to_the_bit(dtype, tmp_path):
    model, base = network(dtype), network(dtype)
    optimizer, parts = svrg(model, weight_decay=0.1)
    for step in range(8):
        optimizer.step(parts[step % 4])
    optimizer.trajectory.save(tmp_path / "t.npz")
    loaded = Trajectory.load(tmp_path / "t.npz")
    assert loaded == optimizer.trajectory  # steps of one slope and of two
    again = replay(base, loaded)
    assert equal(weights(base), weights(model))
    assert equal(again.anchor, optimizer.anchor)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed, their_parts = svrg(base, weight_decay=0.1)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(8, 12):
        assert optimizer.step(parts[step % 4]) == resumed.step(their_parts[step % 4])
    assert equal(weights(base), weights(model))


def test_skipped_steps_do_not_tell_the_anchor():
    model = network()
    optimizer, parts = svrg(model)
    for step in range(4):
        optimizer.step(parts[step])
    before, fresh = weights(model), svrg(model)[0]
    assert [fresh.resumable(step) for step in range(5)] == [True, False, False, True, False]
    fresh.skip(optimizer.trajectory.records)
    with pytest.raises(ValueError, match="step 4 needs the weights as they were before step 3, which skipped steps do not"):
        fresh.step(parts[0])
    assert equal(weights(model), before)
    whole = svrg(model)[0]
    whole.skip(optimizer.trajectory.records[:3])
    whole.step(parts[0])


def test_without_a_full_batch_the_closure_is_the_full_batch():
    model, other = network(), network()
    one, two = (MeZOSVRG(m.parameters(), lr=1e-3, q=2) for m in (model, other))
    two.full_batch = loss_of(other)
    for _ in range(6):
        one.step(loss_of(model))
        two.step(loss_of(other))
    assert equal(weights(model), weights(other))
    with pytest.raises(ValueError, match="q must be a whole number of at least 1, got 0"):
        MeZOSVRG(model.parameters(), q=0)
    with pytest.raises(ValueError, match="full_lr must be >= 0"):
        MeZOSVRG(model.parameters(), full_lr=-1.0)


def test_slopes_from_outside_replay_in_files_with_rows_of_two_lengths(tmp_path):
    model = network()
    optimizer, losses = MeZOSVRG(model.parameters(), lr=1e-3, q=2), fixed_losses(model)
    for _ in range(5):
        optimizer.step(losses)
    optimizer.trajectory.save(tmp_path / "t.npz")
    assert Trajectory.load(tmp_path / "t.npz").records == optimizer.trajectory.records
    assert [len(record.losses) for record in optimizer.trajectory.records] == [2, 4, 2, 4, 2]


# --- in a run


@pytest.mark.parametrize("name", ["fzoo", "mezo_svrg"])
@pytest.mark.parametrize("checkpoint_every", [0, 1])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, name, checkpoint_every):
    own = {"optim_args": "q=3", "checkpoint_every": checkpoint_every} if name == "mezo_svrg" else {"samples": 2}
    config = Config(**{**RUN, "optimizer": name, **own})
    whole = finetune(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "halves", progress=False)
    halves = finetune(config, tmp_path / "halves", progress=False)
    assert equal(weights(whole.model), weights(halves.model))
    for part in ("steps", "evaluations", "result"):
        assert json.dumps(whole.record[part]) == json.dumps(halves.record[part])
    base, _ = load_model(config.model)
    replay(base, Trajectory.load(tmp_path / "whole" / "trajectory.npz"))
    assert equal(weights(base), weights(whole.model))


def test_a_run_counts_what_every_step_takes(tmp_path, monkeypatch):
    """10 examples in batches of 4 are three forward passes; steps 0 and 3 are full."""
    from zolab.tasks import Task

    calls, loss, passes = [0], Task.loss, []

    def counting(self, *arguments):
        calls[0] += 1
        return loss(self, *arguments)

    monkeypatch.setattr(Task, "loss", counting)
    step = MeZOSVRG.step

    def telling(self, closure):
        before = calls[0]
        step_loss = step(self, closure)
        passes.append(calls[0] - before)
        return step_loss

    monkeypatch.setattr(MeZOSVRG, "step", telling)
    words = [word for name, value in RUN.items() for word in (f"--{name}", value)]
    completed = command("finetune", *words, "--optimizer", "mezo_svrg", "--optim_args", "q=3", "--out", tmp_path / "run")
    assert (completed.status, completed.errors) == (0, "")
    assert passes == [6, 4, 4, 6, 4]
    record = load_record(tmp_path / "run" / "record.json")
    assert record["result"]["forwards"] == 24
    assert [entry["forwards"] for entry in record["evaluations"] if entry["split"] == "dev"] == [0, 10, 20, 24]
    assert "24 forward passes" in completed.out


def test_the_full_batch_is_the_mean_over_all_examples():
    model, tokenizer = load_model("tiny-random-llama")
    task = load_task("reviews_sentence")
    train = task.sample(0, 10, 4, 4).train
    with torch.no_grad():
        parts = [float(task.loss(model, task.encode(tokenizer, [example]))) for example in train]
        mean = full_loss(task, model, tokenizer, train, Config(batch_size=4))
        missed = full_loss(task, model, tokenizer, train, Config(batch_size=4, objective="accuracy"))
    assert mean == pytest.approx(sum(parts) / 10, rel=1e-5)
    assert missed == pytest.approx(1 - task.evaluate(model, tokenizer, train).metric)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optimizer=mezo_svrg", "--optim_args=q=0"], "q must be a whole number of at least 1, got 0"),
        (["--optimizer=mezo_svrg", "--samples=2"], "do not fit mezo_svrg"),
        (["--optimizer=fzoo", "--optim_args=samples=1"], "FZOO needs at least 2 samples"),
    ],
)
def test_the_command_line_refuses_before_any_work(tmp_path, words, sentence):
    refused = command("finetune", "--out", tmp_path / "run", *words)
    assert refused.status != 0
    assert sentence in refused.errors
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_study_gives_them_the_same_forward_passes():
    base = {name: value for name, value in RUN.items() if name not in ("task", "steps")} | {"steps": 90}
    content = {
        "base": base,
        "tasks": {"sentence": {"task": "reviews_sentence"}},
        "methods": {
            "MeZO": {"optimizer": "mezo"},
            "FZOO": {"optimizer": "fzoo", "steps": 20},
            "SVRG": {"optimizer": "mezo_svrg", "optim_args": "q=3"},
        },
        "search": {"factor": 3, "extend": 0, "seeds": [9]},
        "seeds": [0],
    }
    with pytest.raises(ValueError, match="SVRG takes 420 forward passes and MeZO 180: give all of them the same"):
        check_plan(content)
    content["methods"]["SVRG"]["steps"] = 38
    assert [cost.forwards for cost in costs(check_plan(content))] == [180, 180, 178]
    for settings in (content["base"], *content["methods"].values()):
        settings.pop("steps", None)
    content["base"] = {name: value for name, value in base.items() if name not in ("steps", "eval_every")}
    content["base"] |= {"forwards": 180, "evaluations": 3}
    assert [cost.forwards for cost in costs(check_plan(content))] == [180, 180, 178]
