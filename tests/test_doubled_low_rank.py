"""Both sides of a direction of low rank in one pass of the model's body: the losses of one side after the other."""

import copy
import math

import pytest
import torch
from small import equal, weights
from test_through import hooks
from torch import nn

from zolab import LOZO, LOZOM
from zolab.models import load_model
from zolab.probe import doubled_low_rank
from zolab.probe.doubled_low_rank import DoubledLowRank
from zolab.probe.low_rank import ThroughLowRank
from zolab.tasks import load_task


@pytest.fixture(scope="module")
def reviews():
    """tiny-reviews and a batch of its task."""
    model, tokenizer = load_model("tiny-reviews")
    task = load_task("rotten_tomatoes")
    return model, task, task.encode(tokenizer, task.sample(0, 32, 16, 16).train[:16])


def optimizer_of(model, doubles, kind=LOZO, **settings):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = kind(named, **{"lr": 0.0, "eps": 1e-2, "seed": 3, **settings}).look_through(model)
    optimizer.viewed.doubles = doubles
    return optimizer


@pytest.fixture
def passes(monkeypatch):
    """How many rows the body was called with."""
    counts, double = [], DoubledLowRank._double
    monkeypatch.setattr(DoubledLowRank, "_double", lambda *a: counts.append(1) or double(*a))
    return counts


@pytest.mark.parametrize("kind", [LOZO, LOZOM])
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_losses_and_slopes_are_those_of_one_side_after_the_other(reviews, passes, kind, dtype, slack):
    first, task, batch = reviews
    model = copy.deepcopy(first).to(dtype)
    losses, slopes = [], []
    for doubles in (False, True):
        optimizer = optimizer_of(model, doubles, kind, interval=2, rank=3)
        losses.append([optimizer.step(lambda: task.loss(model, batch)) for _ in range(4)])
        slopes.append([record.projected_grads[0] for record in optimizer.trajectory.records])
    assert len(passes) == 4
    assert optimizer.viewed.doubles
    for ours, expected in zip(losses[1], losses[0], strict=True):
        assert math.isclose(ours, expected, rel_tol=slack)
    for ours, expected in zip(slopes[1], slopes[0], strict=True):
        assert math.isclose(ours, expected, abs_tol=100 * slack)  # the loss by 2 eps
    assert hooks(model) == 1  # the task's own


def test_with_the_same_losses_the_steps_are_the_same_to_the_bit(reviews):
    first, task, batch = reviews
    models = [copy.deepcopy(first) for _ in range(2)]
    for model, doubles in zip(models, (False, True), strict=True):
        given_losses = iter([0.5, 0.4, 0.1, 0.3])
        optimizer = optimizer_of(model, doubles, lr=1e-3)
        for _ in range(2):
            optimizer.step(lambda model=model, given_losses=given_losses: task.loss(model, batch) * 0 + next(given_losses))
    assert equal(weights(models[0]), weights(models[1]))
    assert not equal(weights(models[0]), weights(first))


class Biased(nn.Module):
    """A body whose layers have biases, which are moved beside their weights; the head is outside it."""

    def __init__(self):
        super().__init__()
        self.config, self.base_model = None, Body()
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.base_model(x))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.first, self.second = nn.Embedding(9, 8), nn.Linear(8, 16), nn.Linear(16, 12, bias=False)
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        return self.norm(self.second(torch.tanh(self.first(self.embed(x)))))


@pytest.mark.parametrize("frozen", [(), ("base_model.first.bias",), ("base_model.embed.weight", "head.weight")])
def test_biases_embeddings_and_heads(passes, frozen):
    torch.manual_seed(0)
    model, x = Biased(), torch.randint(9, (6, 5))
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    both = []
    for doubles in (False, True):
        outputs = []
        optimizer_of(model, doubles, rank=2).step(lambda outputs=outputs: outputs.append(model(x).clone()) or 0.0)
        both.append(outputs)
    assert len(passes) == 1
    for ours, expected in zip(both[1], both[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(*both[1], rtol=1e-5, atol=1e-5)


class Flat(Body):
    """It lays the tokens of all rows one after the other."""

    def forward(self, x):
        return super().forward(x.flatten()).view(*x.shape, -1)


def test_a_body_that_mixes_rows_runs_one_side_after_the_other(passes):
    model, x = Biased(), torch.randint(9, (6, 5))
    model.base_model = Flat()
    optimizer = optimizer_of(model, True)
    other = optimizer_of(model, False)
    for _ in range(2):
        ours, expected = (one.step(lambda: model(x).square().mean()) for one in (optimizer, other))
        assert math.isclose(ours, expected, rel_tol=1e-6)
    assert not optimizer.viewed.doubles
    assert len(passes) == 1


def test_weights_of_two_types_are_left_to_the_other_probe():
    model = Biased()
    model.head.to(torch.bfloat16)
    viewed = optimizer_of(model, True).look_through(model).viewed
    viewed.doubles = True
    probe = viewed.probe(tuple(range(7)), LOZO(model.parameters()).direction(0), [1e-3] * 7, both=True)
    assert type(probe) is ThroughLowRank


@pytest.mark.parametrize(("reads", "kind"), [(True, ThroughLowRank), (False, DoubledLowRank)])
def test_a_matrix_whose_module_has_a_hook(reads, kind):
    """Of somebody else: one that may read the weight must find it moved, along a direction of low rank as well."""
    model, x = Biased(), torch.randint(9, (6, 5))

    def hook(module, args):
        return args

    hook.reads_only_inputs = not reads
    model.head.register_forward_pre_hook(hook)
    optimizer, other = optimizer_of(model, True), optimizer_of(model, False)
    blocks = tuple(range(len(optimizer.viewed.tensors)))
    assert type(optimizer.viewed.probe(blocks, optimizer.direction(0), [1e-3] * len(blocks), both=True)) is kind
    ours, expected = (one.step(lambda: model(x).square().mean()) for one in (optimizer, other))
    assert math.isclose(ours, expected, rel_tol=1e-6)


@pytest.mark.parametrize("call", [1, 2])
def test_a_step_that_breaks_off_leaves_nothing_behind(call):
    model, x, calls = Biased(), torch.randint(9, (6, 5)), []
    optimizer = optimizer_of(model, True, lr=1e-3)
    before = weights(model)

    def closure():
        loss = model(x).square().mean()
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert equal(before, weights(model))
    assert hooks(model) == 0
    assert not any("forward" in vars(module) for module in model.modules())
    optimizer.step(closure)


def test_factors_lie_in_the_same_memory_in_each_step(reviews):
    """So that a graph that reads them there finds those of its step."""
    model, *_ = reviews
    viewed = optimizer_of(model, True).viewed
    blocks = tuple(range(len(viewed.tensors)))
    places, values = [], []
    for step in range(2):
        direction = LOZO(model.named_parameters(), interval=1).direction(step)
        probe = viewed.probe(blocks, direction, [1e-3] * len(blocks), both=True)
        probe.plus()
        places.append([factor.data_ptr() for pair in probe.factors.of.values() for factor in pair])
        values.append([factor.clone() for pair in probe.factors.of.values() for factor in pair])
        for (number, (u, v)), known in zip(probe.factors.of.items(), direction.factors(list(probe.factors.of)), strict=True):
            assert len(viewed.tensors[number]) == u.shape[1]
            assert torch.equal(u.t(), known[0])
            assert torch.equal(v, known[1])
        probe.close()
    assert places[0] == places[1]
    assert all(place % (4 * doubled_low_rank.APART) == 0 for place in places[0])
    assert not any(torch.equal(a, b) for a, b in zip(*values, strict=True))
