"""Forward gradient: the slope that backpropagation would give, in one pass, on every model that torch can carry it through."""

import copy
import math

import pytest
import torch
from small import command, equal, loss_of, network, weights
from test_one_sided import walks
from torch import nn

from zolab import ForwardGradient, Trajectory, replay
from zolab.models import load_model
from zolab.noise import Direction, direction
from zolab.optim import reference_probes as twins
from zolab.records import load_record
from zolab.tasks import load_task


def gradient(model, loss):
    with torch.enable_grad():
        return torch.autograd.grad(loss(), list(model.parameters()))


@walks
def test_100_steps_equal_the_reference(dtype, spare):
    model = network(dtype)
    twin = copy.deepcopy(model)
    optimizer = ForwardGradient(model.named_parameters(), lr=1e-3)
    if spare is not None:
        optimizer.look_through(model, spare)
    for step in range(100 if dtype == torch.float32 else 20):
        here = loss_of(model)().item()
        assert optimizer.step(loss_of(model)) == pytest.approx(here, rel=1e-6)
        twins.forward_step(list(twin.parameters()), gradient(twin, loss_of(twin)), step=step, lr=1e-3)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny-reviews", "tiny-random-llama"])
def test_the_slope_on_a_language_model_is_exact(name):
    """Embeddings, normalisation, attention and the task's loss, whose gradient backpropagation gives."""
    model, tokenizer = load_model(name)
    task = load_task("reviews_sentence")
    batch = task.encode(tokenizer, task.sample(0, 4, 4, 4).train)
    before = weights(model)
    expected = gradient(model, lambda: task.loss(model, batch))
    optimizer = ForwardGradient(model.named_parameters(), lr=0.0)
    optimizer.step(lambda: task.loss(model, batch))
    z = [direction(Direction(0, 0), j, p.shape) for j, p in enumerate(model.parameters())]
    p = float(sum((g.double() * z_j).sum() for g, z_j in zip(expected, z, strict=True)))
    assert optimizer.trajectory.records[0].projected_grads == (pytest.approx(p, rel=1e-3, abs=1e-4),)
    assert equal(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_replay_needs_no_pass_and_nothing_of_the_derivative_stays(dtype, tmp_path):
    model, base = network(dtype), network(dtype)
    optimizer = ForwardGradient(model.parameters(), lr=1e-3, samples=2, weight_decay=0.1)
    for _ in range(4):
        optimizer.step(loss_of(model))
    assert all(torch.autograd.forward_ad.unpack_dual(p).tangent is None for p in model.parameters())
    assert [len(record.losses) for record in optimizer.trajectory.records] == [2] * 4
    assert ForwardGradient.forwards(4, samples=2) == 16
    optimizer.trajectory.save(tmp_path / "t.npz")
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(base), weights(model))


class Fused(torch.autograd.Function):
    """A kernel of one's own, as libraries have them, that has a backward and no forward derivative."""

    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda loss: loss.item(), ValueError, "the loss has no forward-mode derivative; the closure must return a tensor"),
        (lambda loss: loss.detach(), ValueError, "the loss has no forward-mode derivative"),
        (Fused.apply, ValueError, "an operation of the model has no forward-mode derivative"),
        (lambda loss: loss * math.nan, FloatingPointError, "the closure returned nan"),
        (lambda loss: [loss][1], IndexError, "list index out of range"),
    ],
    ids=["number", "detached", "fused", "nan", "error"],
)
def test_what_has_no_derivative_is_refused_and_the_weights_stay(spoil, error, message):
    model, other = network(), network()
    one, two = (ForwardGradient(m.parameters(), lr=1e-3) for m in (model, other))
    good = loss_of(model)
    one.step(good)
    two.step(loss_of(other))
    with pytest.raises(error, match=message):
        one.step(lambda: spoil(good()))
    assert equal(weights(model), weights(other))
    one.step(good)  # no warning: nothing else changed the weights
    two.step(loss_of(other))
    assert equal(weights(model), weights(other))


def test_a_tied_and_a_frozen_weight():
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7, bias=False))
    model[1].weight = model[0].weight
    model.register_parameter("scale", nn.Parameter(torch.ones(7), requires_grad=False))
    ids = torch.tensor([[1, 2, 3]])

    def loss():
        return (model(ids) * model.scale).logsumexp(-1).mean()

    with torch.enable_grad():
        (expected,) = torch.autograd.grad(loss(), [model[0].weight])
    optimizer = ForwardGradient(model.named_parameters(), lr=0.0)
    optimizer.step(loss)
    (_, block), *_ = zip(optimizer.trained().names, optimizer.trained().blocks, strict=True)
    z = direction(Direction(0, 0), block, (7, 5))
    assert optimizer.trajectory.records[0].projected_grads[0] == pytest.approx(float((expected * z).sum()), rel=1e-4)


def test_the_command_line_counts_two_forward_passes_a_step(tmp_path):
    words = ["--model=tiny-random-llama", "--task=reviews_sentence", "--train=12", "--dev=4", "--test=4", "--batch_size=4"]
    words += ["--eval_every=2", "--lr=1e-3", "--steps=3", "--optimizer=forward_gradient"]
    completed = command("finetune", *words, "--out", tmp_path / "run")
    assert (completed.status, completed.errors) == (0, "")
    record = load_record(tmp_path / "run" / "record.json")
    assert record["result"]["forwards"] == 6
    assert all(len(step["losses"]) == 1 for step in record["steps"])
