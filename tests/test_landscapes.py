"""Landscapes: minima where they are said to be, published path lengths, honest counts, and an end at NaN."""

import math
import re
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from small import NUMBERS, maker
from torch import nn

import zolab.optim
from zolab import MeZO
from zolab.landscapes import LANDSCAPES, Landscape, magnitude, numbers, run, run_protocol

PUBLISHED = {key: landscape for key, landscape in LANDSCAPES.items() if landscape.protocol}
each = pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)
NAMES = [name for name in NUMBERS if name != "forward_gradient"]  # landscapes are evaluated at plain numbers
WALKERS = {
    **{name: partial(maker(name), lr=1e-3) for name in NAMES},
    "Adam": partial(torch.optim.Adam, lr=1e-2),
    "SGD": partial(torch.optim.SGD, lr=1e-3),
}
walkers = pytest.mark.parametrize("walker", WALKERS.values(), ids=WALKERS)


def on(function, start=(1.0, 1.0)):
    return Landscape("Toy", "f", function, minima=((0, 0),), minimum=0, start=start, window=((-2, 2), (-2, 2)))


@each
def test_the_minima_are_lowest(landscape):
    (left, right), (bottom, top) = landscape.window
    random = np.random.default_rng(0)
    values = landscape(random.uniform(left, right, 20_000), random.uniform(bottom, top, 20_000))
    assert values.shape == (20_000,)
    assert values.min() > landscape.minimum
    for x, y in landscape.minima:
        assert landscape(x, y) == pytest.approx(landscape.minimum, abs=1e-12)
        near = landscape(x + random.normal(0, 1e-3, 1000), y + random.normal(0, 1e-3, 1000))
        assert near.min() > landscape.minimum
        if "|" not in landscape.formula:
            assert landscape.gradient(x, y) == pytest.approx((0, 0), abs=1e-12)


@each
def test_gradient_equals_autograd(landscape):
    random = np.random.default_rng(1)
    (left, right), (bottom, top) = landscape.window
    for x, y in zip(random.uniform(left, right, 20), random.uniform(bottom, top, 20), strict=True):
        point = torch.tensor([x, y], requires_grad=True)
        landscape(*point).backward()
        assert landscape.gradient(x, y) == pytest.approx(point.grad.tolist(), rel=1e-10, abs=1e-12)


@each
def test_numbers_arrays_and_tensors_agree(landscape):
    x, y = landscape.start
    number = landscape(x, y)
    assert isinstance(number, (int, float))
    assert landscape(np.array([x]), np.array([y]))[0] == pytest.approx(number, rel=1e-12)
    assert landscape(*torch.tensor([x, y], dtype=torch.float64)).item() == pytest.approx(number, rel=1e-12)


@cache
def published_walks(key):
    return run_protocol(LANDSCAPES[key])


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_path_lengths_come_out(key):
    landscape, walks = PUBLISHED[key], published_walks(key)
    assert set(walks) == set(landscape.protocol.lengths) == {"Adam", "MeZO", "AdaMeZO"}
    for method, walk in walks.items():
        print(method, walk.length, landscape.protocol.lengths[method], walk.losses[-1])
        assert walk.stopped is None
        assert len(walk.positions) == landscape.protocol.steps + 1
        tolerance = {"abs": 1e-3} if method != "AdaMeZO" else {"rel": 1e-2}
        assert walk.length == pytest.approx(landscape.protocol.lengths[method], **tolerance)


def test_published_finals_on_beale():
    walks = published_walks("beale")
    finals = [walks[method].losses[-1] for method in ("Adam", "MeZO", "AdaMeZO")]
    assert finals[:2] == pytest.approx([2.49e-3, 0.587], rel=1e-2)
    assert finals[2] == pytest.approx(1.00e-3, abs=1e-4)


def test_only_published_walks_have_a_protocol():
    with pytest.raises(ValueError, match=r"Rosenbrock is not among .* Sophia's toy, Beale, Long ellipse"):
        run_protocol(LANDSCAPES["rosenbrock"])


@walkers
@pytest.mark.parametrize("key", ["beale", "two_blocks"])
def test_a_walk_is_the_optimizers_own(walker, key):
    """`run` adds nothing: the same positions come out of a plain training loop."""
    landscape = LANDSCAPES[key]
    walk = run(walker, landscape, 25)
    params = [nn.Parameter(part.clone()) for part in torch.tensor(landscape.start, dtype=torch.float32).split(landscape.blocks)]
    optimizer = walker(params)

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = landscape(*torch.cat(params).double())
        if not isinstance(optimizer, zolab.optim.ZeroOrderOptimizer):
            loss.backward()
        return loss

    for position in walk.positions:
        torch.testing.assert_close(torch.cat(params).detach().double(), torch.tensor(position), rtol=1e-5, atol=1e-6)
        optimizer.step(closure)


@walkers
def test_same_seed_same_walk(walker):
    first, second = (run(walker, LANDSCAPES["sophia"], 20) for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    assert np.array_equal(first.losses, second.losses)
    assert not np.array_equal(first.positions[0], first.positions[-1])


def test_seeds_differ_and_the_global_stream_is_untouched():
    before = torch.get_rng_state()
    ends = {tuple(run(partial(MeZO, lr=1e-3, seed=seed), LANDSCAPES["beale"], 10).positions[-1]) for seed in range(3)}
    assert len(ends) == 3
    assert torch.equal(before, torch.get_rng_state())


def test_losses_and_counts():
    landscape = LANDSCAPES["beale"]
    mezo = run(partial(MeZO, lr=1e-3), landscape, 10)
    assert mezo.forwards.tolist() == list(range(0, 22, 2))
    assert not mezo.backwards.any()
    three = run(partial(MeZO, lr=1e-3, samples=3), landscape, 10)
    assert three.forwards[-1] == 60
    adam = run(partial(torch.optim.Adam, lr=1e-2), landscape, 10)
    assert adam.forwards.tolist() == adam.backwards.tolist() == list(range(11))
    many = run(partial(torch.optim.LBFGS, lr=1e-2), landscape, 2)
    assert many.forwards[-1] == many.backwards[-1] > 2
    for walk in (mezo, three, adam):
        assert np.array_equal(walk.positions[0], landscape.start)
        assert np.array_equal(walk.losses, [landscape(x, y) for x, y in walk.positions.tolist()])
        assert walk.length == pytest.approx(sum(map(math.dist, walk.positions[1:], walk.positions[:-1])))


def test_given_directions_are_used_in_turn():
    landscape, axes = LANDSCAPES["two_blocks"], [(1.0, 0.0), (0.0, 1.0)]
    walk = run(partial(MeZO, lr=1e-2), landscape, 10, directions=axes)
    moved = np.diff(walk.positions, axis=0) != 0
    assert np.array_equal(moved, np.tile([[True, False], [False, True]], (5, 1)))
    both = run(partial(MeZO, lr=1e-2, samples=2), landscape, 5, directions=axes)
    assert (np.diff(both.positions, axis=0) != 0).all()
    assert not np.array_equal(walk.positions, run(partial(MeZO, lr=1e-2), landscape, 10).positions)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("key", ["beale", "two_blocks"])
def test_every_method_takes_given_directions(method, key):
    first, second = (
        run(partial(maker(method), lr=1e-3, seed=seed), LANDSCAPES[key], 10, directions=[(1.0, 0.5), (-0.5, 1.0)])
        for seed in (0, 1)
    )
    assert np.array_equal(first.positions, second.positions)
    assert (np.diff(first.positions, axis=0) != 0).any(axis=1).all()


def test_noise_leaves_the_saddle_where_the_gradient_does_not():
    adam = run(partial(torch.optim.Adam, lr=1e-2), LANDSCAPES["saddle"], 500)
    mezo = run(partial(MeZO, lr=5e-2), LANDSCAPES["saddle"], 500)
    assert adam.losses[-1] == pytest.approx(0, abs=1e-6)
    assert mezo.losses[-1] < -0.2


@walkers
def test_a_walk_ends_at_nan_and_says_so(walker):
    cliff = on(lambda x, y: x * x + y * y if x.real + y.real > 1.99 else math.nan)
    walk = run(walker, cliff, 400)
    assert re.match(r"stopped in step \d+ of 400: f\(.*\) is nan; ", walk.stopped)
    assert len(walk.positions) == len(walk.losses) == len(walk.forwards) < 401
    assert np.isfinite(walk.losses).all()


@walkers
def test_a_walk_that_cannot_begin_has_one_point(walker):
    walk = run(walker, on(lambda x, y: x * math.nan), 5)
    assert walk.stopped.startswith("stopped in step 1 of 5: f(")
    assert walk.positions.tolist() == [[1, 1]]
    assert walk.forwards.tolist() == [0]
    assert walk.length == 0


def test_divergence_ends_the_walk():
    walk = run(partial(torch.optim.SGD, lr=1.0), LANDSCAPES["ellipse"], 200)
    assert re.fullmatch(r"stopped in step \d+ of 200: f\(.*inf.*\) is inf; lower the learning rate .*", walk.stopped)
    assert np.isfinite(walk.positions).all()


def test_overflow_and_division_by_zero_count_as_nan():
    assert math.isnan(on(lambda x, y: x**400)(1e10, 0.0))
    assert math.isnan(on(lambda x, y: 1 / x)(0.0, 0.0))
    assert np.isnan(on(lambda x, y: 1 / x).gradient(0.0, 0.0)).all()
    root = on(lambda x, y: x**0.5 + y * y, start=(1.0, 0.0))
    assert math.isnan(root(-1.0, 0.0))
    assert "stopped in step" in run(partial(MeZO, lr=3.0), root, 20).stopped


def test_functions_that_lose_their_gradient_are_refused():
    sgd = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"comes out as 2, but .* measure 3 to 3; .* magnitude"):
        run(sgd, on(lambda x, y: abs(x) + x * x + y * y), 3)
    with pytest.raises(ValueError, match="Toy has no gradient here"):
        run(sgd, on(lambda x, y: x * x if x > 0 else y), 3)
    assert run(sgd, on(lambda x, y: magnitude(x) + y * y, start=(0.0, 1.0)), 3).stopped is None
    assert run(MeZO, on(lambda x, y: abs(x) if x > 0 else y), 3).stopped is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be"),
        ({"start": (1, 2, 3)}, "start must be two finite numbers"),
        ({"start": (math.nan, 0)}, "start must be two finite numbers"),
        ({"directions": []}, "directions must be pairs"),
        ({"directions": [(1, 2, 3)]}, "directions must be pairs"),
        ({"directions": [(math.inf, 0)]}, "directions must be pairs"),
        ({"directions": [(1, 0)], "optimizer": partial(torch.optim.SGD, lr=1)}, "SGD sees the exact gradient"),
        ({"optimizer": partial(MeZO, lr=-1)}, "lr must be >= 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**{"optimizer": MeZO, "landscape": LANDSCAPES["beale"], "steps": 3, **arguments})


def test_a_walk_in_numbers_has_steps():
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        numbers.take(numbers.mezo(0.1, numbers.draws(0, (2,))), LANDSCAPES["beale"], 0)


def test_bad_landscapes():
    with pytest.raises(ValueError, match=r"blocks must be \(2,\) or \(1, 1\)"):
        replace(LANDSCAPES["beale"], blocks=(3,))
    with pytest.raises(ValueError, match=r"\(9, 9\) lies outside the window"):
        replace(LANDSCAPES["beale"], start=(9, 9))
