"""Directions of low rank: addressed factors, exact probes in place, and modules that add what their weight is moved by."""

import copy
import math

import pytest
import torch
from small import equal, loss_of, network, weights
from test_reversible import DTYPES, bits, same
from test_through import Tied, hooks, tied_loss
from torch import nn
from torch.nn import functional

from zolab import LOZO, Direction, noise
from zolab.noise import GivenDirection, LowRankDirection
from zolab.noise.kernels import cpu, plain
from zolab.noise.kernels.threefry import TILE
from zolab.noise.low_rank import V_SAMPLE
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import MomentsUpdate, Update, apply

SHAPES = [(37, 51), (5, 3000), (3000, 2), (1100, 1001), (7,), (), (4, 3, 5), (1, 1), (0, 4), (2049,)]


def matrices(dtype=torch.float32):
    """Sizes on both sides of every branch; the fourth takes two chunks."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) * 0.2 for shape in SHAPES]
    tensors[0] *= 1e-4  # so small that bits are lost where they are moved
    return [tensor.to(dtype) for tensor in tensors]


def name(step=3, sample=0, rank=2, interval=1, tensors=None):
    return LowRankDirection(Direction(5, step, sample), rank, interval, matrices() if tensors is None else tensors)


def values(direction):
    """All of a direction at once."""
    return [direction.part(j, slice(0, t.numel())).view(t.shape) for j, t in enumerate(direction.tensors)]


# --- the values


def test_they_are_the_products_of_their_factors():
    z = name(step=7, rank=3, interval=5)
    for j, (tensor, part) in enumerate(zip(z.tensors, values(z), strict=True)):
        if not noise.is_matrix(tensor):
            assert torch.equal(part, noise.direction(Direction(5, 7), j, tensor.shape))
            continue
        u = noise.direction(Direction(5, 7), j, (len(tensor), 3))
        v = noise.direction(Direction(5, 5, V_SAMPLE), j, (3, tensor[0].numel()))
        assert torch.equal(z.left(j, slice(0, len(tensor))), u)
        assert torch.equal(z.right(j), v)
        torch.testing.assert_close(part.double(), (u.double() @ v.double()).view(tensor.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_any_slice_is_a_piece_of_the_whole(rank):
    z = name(rank=rank)
    for j, part in enumerate(values(z)):
        flat = part.flatten()
        for start in {0, 1, len(flat) // 3, len(flat) // 2, max(0, len(flat) - 1)}:
            for stop in {start, min(start + 1, len(flat)), min(start + TILE, len(flat)), len(flat)}:
                assert torch.equal(z.part(j, slice(start, stop)), flat[start:stop])


@pytest.mark.parametrize(("rows", "columns", "rank"), [(1, 1, 1), (3, 700, 2), (700, 3, 4), (65, 33, 8)])
def test_plain_kernels_make_the_same_products(rows, columns, rank):
    """To one rounding for each further column of U, since there is no fused multiply-add in plain torch."""
    u, v = torch.randn(rows, rank), torch.randn(rank, columns)
    compiled, readable = torch.empty(rows * columns), torch.empty(rows * columns)
    cpu.product(compiled, u, v, 0)
    plain.product(readable, u, v, 0)
    assert float((compiled - readable).abs().max()) <= rank * 2.0**-23 * float((u.abs() @ v.abs()).max())
    part = torch.empty(rows * columns // 2)
    plain.product(part, u, v, columns // 3)
    assert torch.equal(part, readable[columns // 3 :][: len(part)])


def test_u_is_fresh_and_v_stays_for_the_interval():
    first, v = name(step=0, interval=3), [name(step=step, interval=3).right(0) for step in range(7)]
    assert torch.equal(v[0], v[1])
    assert torch.equal(v[0], v[2])
    assert torch.equal(v[3], v[5])
    assert not torch.equal(v[2], v[3])
    assert not torch.equal(v[5], v[6])
    other = name(step=1, interval=3)
    assert not torch.equal(first.left(0, slice(0, 37)), other.left(0, slice(0, 37)))
    assert torch.equal(name(sample=1, interval=3).right(0), name(sample=0, interval=3).right(0))
    assert not torch.equal(name(sample=1).left(0, slice(0, 37)), name(sample=0).left(0, slice(0, 37)))


def test_the_factors_of_a_step_are_uncorrelated_normals():
    big = [torch.empty(500_000, 2), torch.empty(2, 500_000)]
    z = name(step=0, tensors=big)
    u, v = z.left(0, slice(0, 500_000)).flatten().double(), z.right(1).flatten().double()
    fresh, lazy = (noise.direction(named, 0, 1_000_000).double() for named in (Direction(5, 0, 1), z.drawn))
    for x in (u, v):
        assert abs(float(x.mean())) * 1000 < 4.5
        assert abs(float(x.square().mean()) - 1) * 1000 / math.sqrt(2) < 4.5
    for x, y in ((u, v), (u, lazy), (u, fresh), (v, fresh)):
        assert abs(float((x * y).mean())) * 1000 < 4.5


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_an_entry_has_the_variance_rank_and_tends_to_a_normal(rank):
    """E z^2 = r, and E z^4 = (3 + 6 / r) r^2, which is a normal's as r grows: 3 r^2."""
    n = 200_000
    z = name(rank=rank, tensors=[])
    u, v = (noise.direction(direction, 0, (n, rank)).double() for direction in (z.name, z.drawn))
    entries = (u * v).sum(1)  # the diagonal of U V^T for another V: entries that share no factor
    for power, expected in ((2, rank), (4, (3 + 6 / rank) * rank**2)):
        draws = entries**power
        assert abs(float(draws.mean()) - expected) < 4.5 * float(draws.std()) / math.sqrt(n)


def test_equal_names_are_equal():
    assert name() == name()
    assert hash(name()) == hash(name())
    assert len({name(), name(step=4), name(sample=1), name(rank=1), name(interval=2)}) == 5


# --- probes and updates


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-9, 1e-3, 100.0])
def test_weights_come_back_to_the_bit(dtype, eps):
    tensors = matrices(dtype)
    before = [t.clone() for t in tensors]
    moved = Perturbation(tensors, tuple(range(len(tensors))), name(tensors=tensors), [eps] * len(tensors))
    moved.plus()
    assert eps < 1e-3 or not same(tensors, before)
    moved.minus()
    moved.leave()
    assert same(tensors, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2])
def test_an_update_while_leaving_is_that_alone_and_that_of_the_values(dtype, count):
    tensors = matrices(dtype)
    alone, by_values = ([t.clone() for t in tensors] for _ in range(2))
    blocks, names = tuple(range(len(tensors))), [name(sample=sample, tensors=tensors) for sample in range(count)]
    rows, decays = [[-1e-3] * len(tensors), [2e-3] * len(tensors)][:count], [0.99] * len(tensors)

    def update(directions):
        made = Update(blocks, directions, rows, decays)
        made.rounding = Direction(5, 3).keys(blocks)
        return made

    moved = Perturbation(tensors, blocks, names[0], [1e-3] * len(tensors))
    moved.plus()
    moved.minus()
    moved.leave(update(names))
    apply(alone, update(names))
    assert same(tensors, alone)
    given = [GivenDirection(values(z)) for z in names]
    apply(by_values, update(given))
    assert same(tensors, by_values)
    for directions, there in ((names, alone), (given, by_values)):
        apply(there, MomentsUpdate(blocks, directions, rows, [[0.5] * len(tensors)] * count, decays, inside=1e-8))
    assert same(alone, by_values)


def test_long_tensors_are_cut_where_values_are_made(monkeypatch):
    """On a GPU a piece is a whole tensor, and its values would take as much memory in float32."""
    monkeypatch.setattr(noise.pieces, "MADE", 4 * TILE)
    tensors, lengths = matrices(), []
    by_values = [t.clone() for t in tensors]
    z = name(tensors=tensors)
    blocks, one = tuple(range(len(tensors))), [1e-3] * len(tensors)
    part = LowRankDirection.part
    monkeypatch.setattr(
        LowRankDirection, "part", lambda self, block, span: lengths.append(span.stop - span.start) or part(self, block, span)
    )
    moved = Perturbation(tensors, blocks, z, one)
    moved.plus()
    moved.minus()
    moved.leave(Update(blocks, [z], [one], one))
    assert max(lengths) == 4 * TILE
    monkeypatch.undo()
    apply(by_values, Update(blocks, [z], [one], one))
    assert same(tensors, by_values)


# --- modules that add what their weight is moved by


def through(model, **settings):
    return LOZO(model.named_parameters(), **{"lr": 1e-3, "eps": 1e-2, **settings}).look_through(model)


def on_both_sides(model, function, **settings):
    """What a function of a model is on both sides of a step that does not move it."""
    outputs = []
    through(model, lr=0.0, **settings).step(lambda: outputs.append(function().clone()) or 0.0)
    return outputs


UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_outputs_are_those_of_moved_weights_within_the_stated_bound(dtype, rank):
    torch.manual_seed(0)
    linear, embedding = nn.Linear(300, 40).to(dtype), nn.Embedding(50, 30).to(dtype)
    x, rows = torch.randn(6, 4, 300).to(dtype), torch.tensor([[0, 3, 49], [7, 7, 1]])
    for model, argument, n in ((linear, x, 300), (embedding, rows, 1)):
        outputs = on_both_sides(model, lambda model=model, argument=argument: model(argument), rank=rank, eps=1e-2)
        z = LOZO(model.parameters(), rank=rank).direction(0)
        w, bias = model.weight.double(), z.part(1, slice(0, 40)).double() if n > 1 else 0.0
        u, v = z.left(0, slice(0, len(w))).double(), z.right(0).double()
        for side, output in zip((1e-2, -1e-2), outputs, strict=True):
            moved, sizes = w + side * u @ v, w.abs() + abs(side) * u.abs() @ v.abs()
            if n > 1:
                b = model.bias.double()
                expected = functional.linear(x.double(), moved, b + side * bias)
                bound = functional.linear(x.double().abs(), sizes, b.abs() + abs(side * bias))
            else:
                expected, bound = functional.embedding(rows, moved), functional.embedding(rows, sizes)
            assert bool(((output.double() - expected).abs() <= (n + rank + 6) * UNITS[dtype] * bound).all())
        assert not torch.equal(*outputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_but_vectors_takes_scratch_and_nothing_stored_moves(dtype):
    model = network(dtype)
    optimizer, good = through(model), loss_of(model)
    before, addresses = weights(model), [p.data_ptr() for p in model.parameters()]
    stored, states = [p.detach().view(-1).view(torch.uint8).numpy() for p in model.parameters()], []
    bytes_before = [array.tobytes() for array in stored]

    def closure():
        states.append([array.tobytes() for array in stored] == bytes_before)
        return good()

    optimizer.step(closure)
    assert states == [True, True]
    (scratch,) = optimizer.viewed.scratches.free
    assert scratch.memory.numel() <= 51 * before[0].element_size() + 64
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert not equal(weights(model), before)
    assert hooks(model) == 0


@pytest.mark.parametrize("spare", [0, None])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_ties_and_modules_called_twice(dtype, spare):
    """The losses agree within rounding, and where they are told, the steps are the same to the bit."""
    model, twin = Tied().to(dtype), Tied().to(dtype)
    one = LOZO(model.named_parameters(), lr=0.0, eps=1e-2).look_through(model, spare)
    two = LOZO(twin.named_parameters(), lr=0.0, eps=1e-2)
    slack = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for _ in range(3):
        assert math.isclose(one.step(tied_loss(model)), two.step(tied_loss(twin)), rel_tol=slack)
    for optimizer, of in ((one, model), (two, twin)):
        optimizer.param_groups[0]["lr"] = 1e-3
        given_losses = iter([0.5, 0.4, 0.1, 0.3])
        for _ in range(2):
            optimizer.step(lambda of=of, given_losses=given_losses: tied_loss(of)() * 0 + next(given_losses))
    assert equal(weights(model), weights(twin))


def test_a_gradient_sees_the_moved_weights_and_reaches_what_is_before_them():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    x, slopes, optimizer = torch.randn(3, 8), [], through(model, lr=0.0)

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
    for ours, expected in zip(slopes[:2], slopes[2:], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


class Doubled(nn.Linear):
    """A module of the user's own, whose weight is used in another way."""

    def forward(self, x):
        return functional.linear(x, 2 * self.weight, self.bias)


def read_again(module, args, output):
    """A hook that reads the weight of its module."""
    return output + functional.linear(args[0], module.weight)


def with_hook():
    model = nn.Linear(8, 8)
    model.register_forward_hook(read_again)
    return model


def with_own_forward():
    model = nn.Linear(8, 8)
    model.forward = lambda x: functional.linear(x, model.weight + 1)
    return model


def limited():
    return nn.Sequential(nn.Embedding(9, 8, max_norm=50.0), nn.Flatten())


@pytest.mark.parametrize("make", [lambda: Doubled(8, 8), with_hook, with_own_forward, limited])
def test_what_is_not_plain_sees_moved_weights_in_scratch(make):
    """To the bit, as along any other direction; the vectors beside them too."""
    torch.manual_seed(0)
    model, in_place = make(), []
    x = torch.tensor([[1, 2, 3]]) if isinstance(model, nn.Sequential) else torch.randn(3, 8)
    LOZO(model.named_parameters(), lr=0.0, eps=1e-2).step(lambda: in_place.append(model(x).clone()) or 0.0)
    assert equal(on_both_sides(model, lambda: model(x)), in_place)
    assert not torch.equal(*in_place)


def test_autocast_and_arguments_by_name():
    model, x = nn.Linear(64, 32), torch.randn(5, 64)
    plain_outputs = on_both_sides(model, lambda: model(x))
    named = on_both_sides(model, lambda: model(input=x))
    assert equal(plain_outputs, named)
    with torch.autocast("cpu", torch.bfloat16):
        half = on_both_sides(model, lambda: model(x))
    assert half[0].dtype == torch.bfloat16
    for ours, expected in zip(half, plain_outputs, strict=True):
        torch.testing.assert_close(ours.float(), expected, rtol=0.05, atol=0.05)
    with torch.inference_mode():
        assert equal(on_both_sides(model, lambda: model(x)), plain_outputs)


@pytest.mark.parametrize("way", ["functional", "matrix product"])
def test_a_weight_that_is_read_elsewhere_is_named(way):
    model = Tied(way)
    before = weights(model)
    with pytest.raises(ValueError, match=r"embed\.weight is read outside the call of its module.*probe in place"):
        through(model).step(tied_loss(model))
    assert equal(before, weights(model))
    assert hooks(model) == 0
    other, good = network(), loss_of(network())
    good = loss_of(other)
    with pytest.raises(ValueError, match=r"2\.weight is read outside"):
        through(other).step(lambda: good() + other[2].weight.sum())
    with pytest.raises(ValueError, match=r"no module that owns 2\.weight was called"):
        through(other).step(lambda: other[0](torch.ones(37)).sum())


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_breaks_off_leaves_nothing_behind(error, call):
    model, calls = network(), []
    optimizer, good = through(model), loss_of(model)
    before, stored = weights(model), list(model.parameters())

    def stop(*_):
        calls.append(1)
        if len(calls) == call:
            raise error("stop")

    handle = model[1].register_forward_hook(stop)  # in the middle of the model
    with pytest.raises(error, match="stop"):
        optimizer.step(good)
    handle.remove()
    assert equal(before, weights(model))
    assert all(a is b for a, b in zip(model.parameters(), stored, strict=True))
    assert hooks(model) == 0
    assert optimizer.steps == 0
    optimizer.step(good)


def test_a_hook_that_comes_between_two_steps_is_respected():
    model = network()
    good, optimizer, in_place = loss_of(model), through(model, lr=0.0), LOZO(model.parameters(), lr=0.0, eps=1e-2)
    for hook in (None, read_again, None):
        handle = model[2].register_forward_hook(hook) if hook else None
        ours, expected = (o.step(good) for o in (optimizer, in_place))
        assert math.isclose(ours, expected, rel_tol=1e-5)
        slopes = [o.trajectory.records[-1].projected_grads[0] for o in (optimizer, in_place)]
        assert math.isclose(*slopes, rel_tol=1e-2)
        if handle:
            handle.remove()


def test_frozen_weights_and_trained_biases():
    model, x = network(), torch.randn(4, 37)
    model[0].weight.requires_grad_(False)
    twin = copy.deepcopy(model)
    one, two = (LOZO(m.named_parameters(), lr=1e-3, eps=1e-2) for m in (model, twin))
    one.look_through(model)
    for _ in range(5):
        ours, theirs = (o.step(lambda m=m: m(x).square().mean()) for o, m in ((one, model), (two, twin)))
        assert math.isclose(ours, theirs, rel_tol=1e-5)
    assert torch.equal(bits(model[0].weight.detach()), bits(network()[0].weight.detach()))
