"""The probe that never moves the stored weights: the same steps as in place, and an error wherever it could not be exact."""

import copy
import math
import threading

import numpy as np
import pytest
import torch
from small import LOW_RANK, NUMBERS, equal, loss_of, maker, network, weights
from test_methods import SETTINGS
from torch import nn
from torch.nn import functional

from zolab import METHODS, MeZO, replay
from zolab.models import load_model
from zolab.probe.model_view import SPARE, ModelView
from zolab.tasks import load_task

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
WAYS = pytest.mark.parametrize("spare", [0, SPARE["cpu"]], ids=["one scratch", "two copies"])


def through(model, spare=0, **settings):
    return MeZO(model.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, **settings}).look_through(model, spare)


def agree(one, two, loss_of_one, loss_of_two, model_one, model_two, steps):
    """Both optimizers walk to the same bits, and note the same losses."""
    for _ in range(steps):
        assert one.step(loss_of_one) == two.step(loss_of_two)
    assert equal(weights(model_one), weights(model_two))
    assert one.trajectory == two.trajectory


@WAYS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in LOW_RANK])
def test_100_steps_are_those_of_the_probe_in_place(name, dtype, spare):
    model, twin = network(dtype), network(dtype)
    one = METHODS[name](model.named_parameters(), eps=1e-2, seed=7, weight_decay=0.1, **SETTINGS[name])
    two = METHODS[name](twin.named_parameters(), eps=1e-2, seed=7, weight_decay=0.1, **SETTINGS[name])
    agree(
        one.look_through(model, spare), two, loss_of(model), loss_of(twin), model, twin, 100 if dtype == torch.float32 else 10
    )
    again = network(dtype)
    replay(again, one.trajectory)
    assert equal(weights(again), weights(model))


@WAYS
@pytest.mark.parametrize("name", ["mezo", "meazo", "zo_finetuner"])
def test_several_samples_a_step(name, spare):
    model, twin = network(), network()
    one, two = (maker(name)(m.parameters(), lr=1e-3, samples=3) for m in (model, twin))
    agree(one.look_through(model, spare), two, loss_of(model), loss_of(twin), model, twin, 20)


@WAYS
def test_scales_of_the_blocks_and_groups(spare):
    model, twin = network(), network()
    one, two = (MeZO(m.parameters(), lr=1e-3, sigma=[0.0, 0.5, 1.0, 2.0]) for m in (model, twin))
    agree(one.look_through(model, spare), two, loss_of(model), loss_of(twin), model, twin, 20)


@pytest.fixture(scope="module")
def reviews():
    """tiny-reviews and a batch of its task."""
    model, tokenizer = load_model("tiny-reviews")
    task = load_task("rotten_tomatoes")
    examples = task.sample(0, 32, 16, 16)
    return model, task, task.encode(tokenizer, examples.train[:16])


@WAYS
@pytest.mark.parametrize("name", ["mezo", "adamezo", "zo_adamu", "zo_finetuner"])
def test_10_steps_on_a_language_model(reviews, name, spare):
    base, task, batch = reviews
    model, twin = copy.deepcopy(base), copy.deepcopy(base)
    one, two = (maker(name)(m.parameters(), lr=1e-5, seed=1) for m in (model, twin))
    losses = (lambda: task.loss(model, batch)), (lambda: task.loss(twin, batch))
    agree(one.look_through(model, spare), two, *losses, model, twin, 10)


@WAYS
@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_weights_stay_where_they_are_while_the_closure_runs(dtype, spare):
    """Their bytes are read behind torch's back, since reading a weight in the closure is an error."""
    model = network(dtype)
    stored, before, good = list(model.parameters()), weights(model), loss_of(model)
    addresses = [p.data_ptr() for p in stored]
    now = [p.detach().view(-1).view(torch.uint8).numpy() for p in stored]
    then, observations, optimizer = [array.copy() for array in now], [], through(model, spare, lr=0.0)

    def closure():
        observations.append((good().item(), all(map(np.array_equal, now, then)), [p.data_ptr() for p in stored] == addresses))
        return observations[-1][0]

    for _ in range(3):
        optimizer.step(closure)
    assert len({loss for loss, _, _ in observations}) == 6
    assert all(unchanged and unmoved for _, unchanged, unmoved in observations)
    assert equal(weights(model), before)
    assert all(a is b for a, b in zip(model.parameters(), stored, strict=True))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Interrupt(BaseException):
    pass


@WAYS
@pytest.mark.parametrize("where", ["before", "inside", "after"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interrupt])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_step_that_breaks_off_leaves_nothing_behind(error, where, call, spare):
    model, calls = network(), []
    optimizer = through(model, spare, samples=2)
    optimizer.step(loss_of(model))
    stored, before, good, forward = list(model.parameters()), weights(model), loss_of(model), model[2].forward

    def closure():
        calls.append(1)
        if len(calls) == call and where == "before":
            raise error("stop")
        loss = good()
        if len(calls) == call and where == "after":
            raise error("stop")
        return loss

    def failing(x):
        if len(calls) == call:
            raise error("stop")
        return forward(x)

    if where == "inside":
        model[2].forward = failing
    with pytest.raises(error, match="stop"):
        optimizer.step(closure)
    assert all(a is b for a, b in zip(model.parameters(), stored, strict=True))
    assert equal(before, weights(model))
    assert hooks(model) == 0
    assert optimizer.steps == 1
    model[2].__dict__.pop("forward", None)
    optimizer.step(good)


def test_an_interrupt_inside_the_hook_leaves_nothing_behind(monkeypatch):
    from zolab.noise.kernels import cpu

    model = network()
    stored, calls, optimizer = list(model.parameters()), [], through(model)

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt("stop")
        perturbed(*arguments)

    perturbed = cpu.perturbed
    monkeypatch.setattr(cpu, "perturbed", stop)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        optimizer.step(loss_of(model))
    assert all(a is b for a, b in zip(model.parameters(), stored, strict=True))
    assert hooks(model) == 0
    assert equal(weights(model), weights(network()))


def test_an_error_that_the_closure_swallows_does_no_harm():
    """The module that failed has its own weights back at once."""
    model, other = network(), nn.Linear(3, 3)
    model.append(other)
    twin = copy.deepcopy(model)

    def closure_of(m):
        def closure():
            try:
                m[3](torch.ones(7))
            except RuntimeError:
                return loss_of(m)()

        return closure

    agree(through(model), MeZO(twin.parameters(), lr=1e-3, eps=1e-2), closure_of(model), closure_of(twin), model, twin, 3)


# --- weights that are read where they cannot be moved


class Tied(nn.Module):
    """A head that shares the embedding's weight, in one of several ways."""

    def __init__(self, way="module"):
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.embed, self.body, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.last = nn.LayerNorm(8)

    def forward(self, ids):
        x = self.last(self.body(self.body(self.embed(ids)).tanh()))
        if self.way == "module":
            return self.head(x)
        if self.way == "functional":
            return functional.linear(x, self.embed.weight)
        return x @ self.embed.weight.T


IDS = torch.arange(10).view(2, 5)


def tied_loss(model):
    return lambda: functional.cross_entropy(model(IDS).flatten(0, 1).float(), IDS.flatten())


@WAYS
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_ties_and_modules_called_twice(dtype, spare):
    model, twin = Tied().to(dtype), Tied().to(dtype)
    for m in (model, twin):
        m.body.bias.requires_grad_(False)
    one, two = (MeZO(m.named_parameters(), lr=1e-3, eps=1e-2) for m in (model, twin))
    agree(one.look_through(model, spare), two, tied_loss(model), tied_loss(twin), model, twin, 20)


@pytest.mark.parametrize("width", [1, 24, 2047, 2049])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_rows_that_an_embedding_leaves_unread_need_no_numbers(dtype, width):
    def make():
        torch.manual_seed(8)
        return nn.Sequential(nn.Embedding(4000, width, padding_idx=3999), nn.Linear(width, 3)).to(dtype)

    rows = torch.tensor([[0, 1, 7, 3999, 2000], [5, 5, 5, 3998, 17]])
    model, twin = make(), make()
    two = MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
    agree(through(model), two, loss_through(model, rows), loss_through(twin, rows), model, twin, 3)
    with pytest.raises(IndexError):
        through(model).step(loss_through(model, torch.tensor([4000])))


def test_parameters_that_share_memory_without_being_one():
    def make():
        model = Tied()
        model.head.weight = nn.Parameter(model.embed.weight.data)
        return model

    model, twin = make(), make()
    agree(through(model), MeZO(twin.parameters(), lr=1e-3, eps=1e-2), tied_loss(model), tied_loss(twin), model, twin, 5)


@WAYS
@pytest.mark.parametrize("way", ["functional", "matrix product"])
def test_a_child_whose_weight_the_parent_reads_is_named(way, spare):
    model = Tied(way)
    before = weights(model)
    with pytest.raises(ValueError, match=r"embed\.weight is read outside the call of its module.*probe in place"):
        through(model, spare).step(tied_loss(model))
    assert equal(before, weights(model))
    assert hooks(model) == 0


READS = {
    "functional": lambda m: functional.linear(torch.ones(2, 51), m[2].weight).sum(),
    "a view": lambda m: m[2].weight.detach()[:1].sum(),
    "data": lambda m: m[2].weight.data.sum(),
    "norm": lambda m: m[2].weight.norm(),
    "list": lambda m: torch.cat([m[2].weight, m[2].weight]).sum(),
    "kept": None,
}


@WAYS
@pytest.mark.parametrize("how", READS)
def test_a_read_in_the_closure_is_named(how, spare):
    model, good = network(), loss_of(network())
    good, row = loss_of(model), model[2].weight.detach()[0]
    read = READS[how] or (lambda m: row.sum())
    optimizer, before = through(model, spare), weights(model)
    with pytest.raises(ValueError, match=r"2\.weight is read outside"):
        optimizer.step(lambda: good() + read(model))
    assert equal(before, weights(model))
    assert optimizer.steps == 0
    assert optimizer.look_through(None).step(lambda: good() + read(model))


def test_a_read_that_begins_with_other_modules_is_noticed_too():
    """What was seen once is not watched again, but another order of calls is."""
    model, long = network(), []
    good, optimizer = loss_of(model), through(model)

    def closure():
        if long:
            model[0](torch.ones(37))
            return good() + model[2].bias.sum()
        return good()

    optimizer.step(closure)
    long.append(1)
    with pytest.raises(ValueError, match=r"2\.bias is read outside"):
        optimizer.step(closure)


def test_asking_for_the_form_of_a_weight_is_no_read():
    model = network()
    good = loss_of(model)

    def closure():
        w = model[2].weight
        assert (w.shape, w.dtype, w.device.type, w.size(0), len(w)) == ((3, 51), torch.float32, "cpu", 3, 3)
        assert w.numel() == 153
        assert w.is_floating_point()
        return good() + torch.zeros_like(w).sum() + torch.ones(1, dtype=w.dtype).sum()

    through(model).step(closure)


@WAYS
def test_a_tensor_that_is_not_read_is_named(spare):
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match=r"no module that owns 2\.weight was called.* \(as none that owns 1 others\)"):
        through(model, spare).step(lambda: model[0](torch.ones(37)).sum())
    with pytest.raises(ValueError, match=r"no module that owns 0\.weight"):
        through(model, spare).step(lambda: 1.0)
    assert equal(before, weights(model))
    model[2].requires_grad_(False)
    through(model, spare).step(lambda: model[0](torch.ones(37)).sum())


def test_models_that_cannot_be_looked_through_are_refused():
    model = network()
    with pytest.raises(ValueError, match=r"trained tensor 2, of shape .3, 51., is none of the model's"):
        MeZO(model.parameters()).look_through(model[0])
    with pytest.raises(ValueError, match="the model is compiled"):
        through(torch.compile(model, backend="eager"))
    part = nn.Sequential(torch.compile(network(), backend="eager"))
    with pytest.raises(ValueError, match="module 0 is compiled"):
        through(part)
    inside = network()
    inside[0].compile(backend="eager")
    with pytest.raises(ValueError, match="module 0 is compiled"):
        through(inside)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_refused():
    with pytest.raises(ValueError, match="the model is compiled"):
        through(torch.jit.script(network()))


@pytest.mark.filterwarnings("ignore:.*was changed by something else")  # by the other optimizer
@WAYS
def test_a_step_inside_a_closure_of_the_same_model_is_refused(spare):
    model, good = network(), loss_of(network())
    good, outer, inner = loss_of(model), through(model, spare), through(model, spare)
    for optimizer in (outer, inner):
        optimizer.step(good)
    before, stored = weights(model), list(model.parameters())
    with pytest.raises(RuntimeError, match="looked through already"):
        outer.step(lambda: inner.step(good))
    assert equal(before, weights(model))
    assert all(a is b for a, b in zip(model.parameters(), stored, strict=True))
    outer.step(good)


def test_a_module_called_in_another_thread_is_refused():
    model, good, errors = network(), None, []
    good = loss_of(model)

    def closure():
        def work():
            try:
                good()
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return good()

    optimizer = through(model)
    optimizer.step(closure)
    assert all("Linear was called in a thread of its own" in error for error in errors)
    assert len(errors) == 2


# --- all kinds of modules


def loss_through(model, x):
    return lambda: model(x).square().mean()


class Nested(nn.Module):
    """Weights of its own around a child, in a list, in a dictionary, and a call of itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.scale, self.child = nn.Parameter(torch.randn(8)), nn.Linear(8, 8)
        self.rows = nn.ParameterList([nn.Parameter(torch.randn(8)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.randn(8))})
        self.scalar = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, depth=1):
        x = self.child(x * self.scale) * self.scale + self.rows[0] * self.rows[1] + self.named["shift"] * self.scalar
        return self(x.tanh(), depth - 1) * self.scale if depth else x


class Passing(nn.Module):
    """A module that returns a view of its weights, which is used when the next module has taken its turn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.prompt, self.first, self.second = Prompt(), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        prompt = self.prompt()
        return self.second(self.first(x)) + prompt


class Prompt(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(8, 8))

    def forward(self):
        return self.rows[:5]


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank one beside it, as peft makes them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})

    def forward(self, x):
        return self.base(x) + 2.0 * self.lora_B["default"](self.lora_A["default"](x))


def normed():
    torch.manual_seed(4)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Tanh())


def attention():
    torch.manual_seed(5)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False)


@WAYS
@pytest.mark.parametrize("make", [Nested, Passing, Adapted, normed, Checkpointed])
def test_modules_of_all_kinds(make, spare):
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    model, twin = make(), make()
    two = MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
    agree(through(model, spare), two, loss_through(model, x), loss_through(twin, x), model, twin, 10)


@WAYS
def test_torchs_own_attention(spare):
    """Hooks turn its fast path off, so the losses agree within rounding."""
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    model, twin = attention(), attention()
    one, two = through(model, spare), MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
    for _ in range(10):
        assert math.isclose(one.step(loss_through(model, x)), two.step(loss_through(twin, x)), rel_tol=1e-5)


def test_a_closure_that_differentiates_keeps_what_its_backward_pass_needs():
    """A scratch that a graph looks into is not used again."""
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    x, optimizer, slopes = torch.randn(3, 8), through(model, lr=0.0), []

    def closure():
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            loss = model(point).square().sum()
            slopes.append(torch.autograd.grad(loss, point)[0])
        return loss.detach()

    optimizer.step(closure)
    optimizer.look_through(None)
    optimizer.steps = 0
    optimizer.step(closure)
    assert equal(slopes[:2], slopes[2:])


def test_sizes_on_both_sides_of_a_chunk():
    def make():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(1100, 1001), nn.LayerNorm(1001), nn.Linear(1001, 1), nn.Flatten(0))

    x = torch.randn(2, 1100, generator=torch.Generator().manual_seed(0))
    for spare in (0, SPARE["cpu"]):
        model, twin = make(), make()
        two = MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
        agree(through(model, spare), two, loss_through(model, x), loss_through(twin, x), model, twin, 3)


@WAYS
def test_weights_that_were_given_new_memory_are_found(spare):
    model, twin = network(), network()
    one, two = through(model, spare), MeZO(twin.named_parameters(), lr=1e-3, eps=1e-2)
    agree(one, two, loss_of(model), loss_of(twin), model, twin, 3)
    for m in (model, twin):
        m[0].weight.data = m[0].weight.data.clone()
    agree(one, two, loss_of(model), loss_of(twin), model, twin, 3)


def test_looking_through_twice_changes_nothing():
    model = network()
    optimizer = through(model)
    viewed = optimizer.viewed
    assert optimizer.look_through(model, 0).viewed is viewed
    assert optimizer.look_through(None).viewed is None


def test_the_room_is_that_of_the_largest_module():
    model = network()
    optimizer = through(model)
    optimizer.step(loss_of(model))
    (scratch,) = optimizer.viewed.scratches.free
    assert scratch.memory.numel() <= 4 * (37 * 51 + 51) + 64


@WAYS
def test_global_generators_are_left_alone(spare):
    model = network()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    optimizer = through(model, spare)
    for _ in range(3):
        optimizer.step(loss_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_closure_can_be_tried_out():
    model = network()
    before, viewed = weights(model), ModelView(model, list(model.parameters()))
    viewed.try_out(loss_of(model))
    with pytest.raises(ValueError, match=r"2\.bias is read outside"):
        viewed.try_out(lambda: loss_of(model)() + model[2].bias.sum())
    assert equal(before, weights(model))
    assert hooks(model) == 0
