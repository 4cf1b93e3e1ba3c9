"""Both sides of a probe in one pass of the model's body: the same steps as one after the other."""

import copy

import pytest
import torch
from small import equal, maker, weights
from torch import nn

from zolab import MeZO
from zolab.models import load_model
from zolab.models.adapters import LoRA
from zolab.probe import doubled
from zolab.probe.body import body_of, may_double
from zolab.probe.model_view import SPARE, ModelView
from zolab.tasks import load_task

WAYS = pytest.mark.parametrize("spare", [0, SPARE["cpu"]], ids=["scratch", "copies"])


@pytest.fixture(scope="module")
def reviews():
    """tiny-reviews and a batch of its task."""
    model, tokenizer = load_model("tiny-reviews")
    task = load_task("rotten_tomatoes")
    examples = task.sample(0, 32, 16, 16)
    return model, task, task.encode(tokenizer, examples.train[:16])


def loss_of(reviews, model):
    _, task, batch = reviews
    return lambda: task.loss(model, batch)


def test_adapters_take_the_steps_of_the_probe_in_place(reviews):
    one, two = copy.deepcopy(reviews[0]), copy.deepcopy(reviews[0])
    for model in (one, two):
        LoRA(r=2).attach(model)
    optimizers = [MeZO((p for p in model.parameters() if p.requires_grad), lr=1e-3, seed=1) for model in (one, two)]
    optimizers[0].look_through(one, 0).viewed.doubles = True
    for _ in range(3):
        a, b = (optimizer.step(loss_of(reviews, model)) for optimizer, model in zip(optimizers, (one, two), strict=True))
        assert a == b
    assert optimizers[0].viewed.doubles
    assert equal(weights(one), weights(two))


class Body(nn.Module):
    """A body around layers, as transformers' models have one."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return self.layers(x)


class Model(nn.Module):
    """A body and a head."""

    def __init__(self, *layers):
        super().__init__()
        torch.manual_seed(0)
        self.base_model = Body(*layers or (nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 7, bias=False)))
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.base_model(x))


def batch(rows=6):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))


def walk(model, loss, spare, steps=5, through=True, **settings):
    optimizer = MeZO(model.named_parameters(), **{"lr": 1e-2, "eps": 1e-2, **settings})
    if through:
        optimizer.look_through(model, spare).viewed.doubles = True  # as on a GPU
    losses = [optimizer.step(loss) for _ in range(steps)]
    return losses, optimizer


@WAYS
@pytest.mark.parametrize("name", ["mezo", "adamezo", "zo_finetuner", "hizoo"])
def test_a_language_model_takes_the_steps_of_the_probe_in_place(reviews, name, spare):
    one, two = copy.deepcopy(reviews[0]), copy.deepcopy(reviews[0])
    optimizers = [maker(name)(model.parameters(), lr=1e-5, seed=1) for model in (one, two)]
    optimizers[0].look_through(one, spare).viewed.doubles = True
    for _ in range(4):
        a, b = (optimizer.step(loss_of(reviews, model)) for optimizer, model in zip(optimizers, (one, two), strict=True))
        assert a == b
    viewed = optimizers[0].viewed
    assert viewed.doubles
    assert viewed.proven
    assert equal(weights(one), weights(two))
    assert "forward" not in vars(viewed.body)


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_body_runs_once_on_twice_the_rows(dtype, spare):
    one, two, x = Model().to(dtype), Model().to(dtype), batch().to(dtype)
    ours, _ = walk(one, lambda: one(x).float().square().mean(), spare)
    theirs, _ = walk(two, lambda: two(x).float().square().mean(), spare, through=False)
    assert close(ours, theirs, one, two)
    # The first step runs each side alone, too; from then on the body is called once a step.
    assert one.base_model.calls == [12, 6, 6] + [12] * 4


def test_other_inputs_on_the_second_side_are_run_by_themselves():
    model, calls = Model(), []

    def loss():
        calls.append(1)
        return model(batch() + len(calls) % 2).square().mean()

    twin, again = Model(), []

    def plain():
        again.append(1)
        return twin(batch() + len(again) % 2).square().mean()

    ours, _ = walk(model, loss, 0)
    theirs, _ = walk(twin, plain, 0, through=False)
    assert close(ours, theirs, model, twin)
    assert model.base_model.calls == [12, 6, 6] + [6, 6] * 4


def test_several_calls_of_the_body_in_a_closure():
    model, twin = Model(), Model()
    ours, _ = walk(model, lambda: sum(model(x).square().mean() for x in batch(8).split(2)), 0)
    theirs, _ = walk(twin, lambda: sum(twin(x).square().mean() for x in batch(8).split(2)), 0, through=False)
    assert close(ours, theirs, model, twin)
    assert model.base_model.calls[-4:] == [4] * 4


def close(ours, theirs, model, twin):
    """Halves of so few rows lie at other addresses than a batch, where a product may round otherwise."""
    near = all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(weights(model), weights(twin), strict=True))
    return near and ours == pytest.approx(theirs, rel=2e-2 if model.head.weight.dtype == torch.bfloat16 else 1e-5)


class MeanOfRows(nn.Module):
    """Mixes the rows of a batch without a sign of it in any shape."""

    def forward(self, x):
        return x - x.mean(0)


class Tokens(nn.Module):
    """Drops the rows' own dimension, as the gate of a mixture of experts does."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(7, 7)

    def forward(self, x):
        return self.gate(torch.cat([x, x[:1]]))[:-1]


@pytest.mark.parametrize("layer", [MeanOfRows, Tokens])
def test_a_body_that_mixes_rows_runs_on_one_side_after_the_other(layer):
    model = Model(nn.Linear(5, 7), layer(), nn.Linear(7, 7))
    twin = copy.deepcopy(model)
    ours, optimizer = walk(model, lambda: model(batch()).square().mean(), 0, eps=0.5)
    theirs, _ = walk(twin, lambda: twin(batch()).square().mean(), 0, eps=0.5, through=False)
    assert not optimizer.viewed.doubles
    assert close(ours, theirs, model, twin)
    assert model.base_model.calls[-2:] == [6, 6]


@WAYS
def test_an_interrupt_inside_the_body_leaves_the_model_as_it_was(spare):
    model = Model()
    before = weights(model)

    class Stops(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model.base_model.layers.append(Stops())
    optimizer = MeZO(model.named_parameters(), lr=1e-2, eps=1e-2).look_through(model, spare)
    optimizer.viewed.doubles = True
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(lambda: model(batch()).square().mean())
    assert equal(weights(model), before)
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


def may(model):
    viewed = ModelView(model, list(model.parameters()), 0)
    return may_double(viewed.body, viewed.inside)


def test_long_batches_foreign_hooks_and_gradients_are_not_doubled(monkeypatch):
    model = Model()
    hook = model.base_model.layers[0].register_forward_pre_hook(lambda module, args: None)
    assert not may(model)
    hook.remove()
    assert may(model)
    monkeypatch.setattr(doubled, "TOKENS", 29)
    walk(model, lambda: model(batch()).square().mean(), 0)
    assert set(model.base_model.calls) == {6}
    monkeypatch.undo()
    model.base_model.calls.clear()

    def with_gradient():
        with torch.enable_grad():
            return model(batch()).square().mean()

    walk(model, with_gradient, 0)
    assert set(model.base_model.calls) == {6}


def test_a_model_without_a_body_is_looked_at_as_before():
    assert body_of(nn.Sequential(nn.Linear(2, 2))) is None
    model, _ = load_model("tiny-reviews")
    assert body_of(model) is model.base_model
    assert body_of(model.base_model) is model.base_model
