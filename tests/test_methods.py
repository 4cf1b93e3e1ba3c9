"""Every method: 100 steps beside its reference twin, exact replay, nothing lost when a step fails."""

import copy
import math

import pytest
import torch
from small import NUMBERS, equal, loss_of, network, weights
from torch import nn

from zolab import (
    MEAZO,
    AdaMeZO,
    Direction,
    HiZOO,
    MeZO,
    MeZOAdam,
    MeZOMomentum,
    MeZOSwitch,
    Trajectory,
    ZOAdaMU,
    ZOSignSGD,
    replay,
)
from zolab.noise import GivenDirection, direction, squared_length
from zolab.optim import METHODS, reference
from zolab.pertnn import PertNN
from zolab.probe.blocks import split

PHASES = (7, 30, 40)
MIX = (0.5, 0.9, 0.01)


def fixed_losses(_):
    """Losses that do not depend on the weights, so that rounding in one step cannot grow through the next slope."""
    stream = torch.Generator().manual_seed(3)
    return lambda: 1 + 1e-3 * torch.randn((), generator=stream)


def beside(make, twin_step, steps=100, tolerance=2e-5, dtype=torch.float32, losses=loss_of):
    """Step a method and its reference on copies of one network, each reading its own losses, and compare after every step."""
    model = network(dtype)
    twin = copy.deepcopy(model)
    optimizer = make(model.named_parameters())
    our_loss, their_loss = losses(model), losses(twin)
    for step in range(steps):
        ours = optimizer.step(our_loss)
        theirs = twin_step(list(twin.parameters()), their_loss, step)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_momentum_equals_its_reference():
    memory = {}
    beside(
        lambda params: MeZOMomentum(params, lr=3e-4, momentum=0.9),
        lambda p, f, t: reference.momentum_step(p, f, memory, step=t, lr=3e-4, eps=1e-3, momentum=0.9),
    )


def test_adam_equals_its_reference():
    memory, settings = {}, {"lr": 1e-3, "betas": (0.9, 0.99), "delta": 1e-8}
    beside(
        lambda params: MeZOAdam(params, **settings),
        lambda p, f, t: reference.adam_step(p, f, memory, step=t, eps=1e-3, **settings),
        tolerance=2e-4,  # where v is nearly zero, rounding decides the size of a step
    )


@pytest.mark.parametrize("horizon", [1, 2, 3, 10, 25])
@pytest.mark.parametrize(("scaling", "lr", "delta"), [("paper", 1e-3, 1e-8), ("code", 2e-5, 1e-5)])
def test_adamezo_equals_the_dense_reference_for_any_horizon(horizon, scaling, lr, delta):
    memory, settings = {}, {"betas": (0.7, 0.9), "horizon": horizon, "scaling": scaling, "gain": 100.0, "delta": delta}
    beside(
        lambda params: AdaMeZO(params, lr=lr, **settings),
        lambda p, f, t: reference.adamezo_step(p, f, memory, step=t, lr=lr, eps=1e-3, **settings),
        losses=fixed_losses,
        tolerance=1e-5,
    )


def test_adamezo_equals_the_dense_reference_on_its_own_losses():
    memory, settings = {}, {"betas": (0.7, 0.9), "horizon": 10, "scaling": "paper", "gain": 1.0, "delta": 1e-8}
    beside(
        lambda params: AdaMeZO(params, lr=1e-3, **settings),
        lambda p, f, t: reference.adamezo_step(p, f, memory, step=t, lr=1e-3, eps=1e-3, **settings),
        tolerance=1e-4,
    )


def test_adamezo_in_the_codes_scaling_without_second_moment_is_momentum():
    memory, settings = {}, {"betas": (0.7, 0.0), "horizon": 5, "scaling": "code", "gain": 1.0, "delta": 1e-5}
    beside(
        lambda params: AdaMeZO(params, lr=1e-3, **settings),
        lambda p, f, t: reference.adamezo_step(p, f, memory, step=t, lr=1e-3, eps=1e-3, **settings),
    )


def test_adamezo_equals_the_dense_reference_in_float64():
    memory, settings = {}, {"betas": (0.7, 0.9), "horizon": 4, "scaling": "code", "gain": 1.0, "delta": 1e-8}
    beside(
        lambda params: AdaMeZO(params, lr=1e-3, **settings),
        lambda p, f, t: reference.adamezo_step(p, f, memory, step=t, lr=1e-3, eps=1e-3, **settings),
        dtype=torch.float64,
        tolerance=1e-5,
    )


def test_meazo_equals_its_reference():
    memory, settings = {}, {"lr": 1e-3, "beta": 0.9, "delta": 1e-8}
    beside(
        lambda params: MEAZO(params, **settings),
        lambda p, f, t: reference.meazo_step(p, f, memory, step=t, eps=1e-3, **settings),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("sign", ["slope", "estimate"])
def test_sign_sgd_equals_its_reference(sign, samples):
    beside(
        lambda params: ZOSignSGD(params, lr=1e-4, sign=sign, samples=samples),
        lambda p, f, t: reference.sign_step(p, f, step=t, lr=1e-4, eps=1e-3, sign=sign, samples=samples),
        losses=fixed_losses,  # or rounding would turn the sign of a small slope
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sign_sgd_moves_by_the_learning_rate_whatever_the_slope(dtype):
    """Each weight by lr, or by lr times its z; a loss 1,000 times as large gives the same walk."""
    walks = {}
    for sign in ("slope", "estimate"):
        for scale in (1.0, 1000.0):
            model = network(dtype)
            before, loss = weights(model), loss_of(model)
            ZOSignSGD(model.parameters(), lr=1e-2, sign=sign).step(lambda loss=loss, scale=scale: scale * loss())
            walks[sign, scale] = torch.cat(
                [(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]
            )
        assert torch.equal(walks[sign, 1.0], walks[sign, 1000.0])
    torch.testing.assert_close(
        walks["estimate", 1.0].abs(), torch.full_like(walks["estimate", 1.0], 1e-2), rtol=1e-4, atol=1e-7
    )
    z = torch.cat([direction(Direction(0, 0), j, p.numel(), dtype=dtype) for j, p in enumerate(network(dtype).parameters())])
    torch.testing.assert_close(walks["slope", 1.0].abs(), 1e-2 * z.abs(), rtol=1e-3, atol=1e-6)
    assert torch.equal(walks["estimate", 1.0].sign(), walks["slope", 1.0].sign())


def test_sign_sgd_stays_where_the_loss_is_flat():
    model = network()
    before = weights(model)
    for sign in ("slope", "estimate"):
        ZOSignSGD(model.parameters(), lr=1.0, sign=sign).step(lambda: 1.0)
    assert equal(before, weights(model))


@pytest.mark.parametrize("phases", [(0, 0, 100), (10, 10, 100), PHASES], ids=["constant", "warm", "annealed"])
def test_adamu_equals_its_reference_through_every_phase(phases):
    memory, schedule = {}, ZOAdaMU(network().parameters(), mix=MIX, phases=phases)
    beside(
        lambda params: ZOAdaMU(params, lr=1e-4, mix=MIX, phases=phases),
        lambda p, f, t: reference.adamu_step(p, f, memory, step=t, lr=1e-4, eps=1e-3, mix=schedule.mix_at(t), delta=1e-8),
        steps=60,
        tolerance=2e-4,
    )


def test_adamu_anneals_as_the_papers_cosine_does():
    """With the paper's phases the cosine ends near (0.01, 0.13, 0.01), before its constants take over."""
    schedule = ZOAdaMU(network().parameters())
    assert schedule.mix_at(1023) == schedule.mix_at(0) == (1, 1, 1)
    assert schedule.mix_at(15_999) == pytest.approx((0.01, 0.13, 0.012), abs=3e-3)
    assert schedule.mix_at(16_000) == MIX


def test_adamus_first_phase_walks_by_signs():
    model = network()
    before = weights(model)
    optimizer = ZOAdaMU(model.parameters(), lr=1e-3, delta=0.0)
    optimizer.step(loss_of(model))
    (slope,) = optimizer.trajectory.records[0].projected_grads
    for p, start, block in zip(model.parameters(), before, range(4), strict=True):
        z = direction(Direction(0, 0), block, p.shape)
        torch.testing.assert_close(p.detach(), start - 1e-3 * slope * z.sign())


def distance(before, model):
    return math.sqrt(sum(float((a - b.detach()).square().sum()) for a, b in zip(before, model.parameters(), strict=True)))


def test_switch_walks_as_far_as_adamezo_did():
    model, follower = network(), network()
    leader = AdaMeZO(model.parameters(), lr=1e-3, horizon=4, scaling="code", gain=1.0)
    walked = []
    for _ in range(20):
        before = weights(model)
        leader.step(loss_of(model))
        walked.append(distance(before, model))
    assert leader.lengths[:5] == [None] * 5
    assert leader.lengths[5:] == pytest.approx(walked[5:], rel=1e-3)
    optimizer, twin = MeZOSwitch(follower.parameters(), lr=1e-3, lengths=leader.lengths), copy.deepcopy(follower)
    for step, length in enumerate(leader.lengths):
        before = weights(follower)
        optimizer.step(loss_of(follower))
        reference.switch_step(list(twin.parameters()), loss_of(twin), step=step, lr=1e-3, eps=1e-3, length=length)
        assert length is None or distance(before, follower) == pytest.approx(length, rel=1e-3)
        for p, q in zip(follower.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


SETTINGS = {
    "mezo": {"lr": 1e-3},
    "mezo_momentum": {"lr": 3e-4},
    "mezo_adam": {"lr": 1e-3},
    "mezo_switch": {"lr": 1e-3, "lengths": [None, 0.01, 0.02]},
    "adamezo": {"lr": 1e-3, "horizon": 3},
    "meazo": {"lr": 1e-3},
    "zo_adamu": {"lr": 1e-4, "phases": (3, 8, 12)},
    "zo_sign_sgd": {"lr": 1e-3, "sign": "estimate"},
    "hizoo": {"lr": 1e-3, "alpha": 1e-3},
    "lozo": {"lr": 1e-3, "interval": 4},
    "lozo_m": {"lr": 1e-3, "interval": 4},
    "fzoo": {"lr": 1e-3, "samples": 3},
    "mezo_svrg": {"lr": 1e-3, "q": 3},
    "forward_gradient": {"lr": 1e-3},
    "dizo": {"lr": 1e-3, "period": 4, "iterations": 2, "radius": 0.01},
    "helene": {"lr": 1e-3, "k": 3},
    "zo_finetuner": {"lr": 1e-3, "pertnn": PertNN(split(network()))},
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_replay_gives_the_same_bits(tmp_path, name, dtype):
    model = network(dtype)
    base = copy.deepcopy(model)
    optimizer = METHODS[name](model.named_parameters(), eps=1e-2, seed=7, weight_decay=0.1, **SETTINGS[name])
    for _ in range(15):
        optimizer.step(loss_of(model))
    optimizer.trajectory.save(tmp_path / "t.npz")
    replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(model), weights(base))
    assert not equal(weights(model), weights(network(dtype)))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_saved_state_goes_on_to_the_same_bits(tmp_path, name):
    whole, half = network(), network()
    one = METHODS[name](whole.parameters(), **SETTINGS[name])
    two = METHODS[name](half.parameters(), **SETTINGS[name])
    for _ in range(12):
        one.step(loss_of(whole))
    for _ in range(6):
        two.step(loss_of(half))
    torch.save({"optimizer": two.state_dict(), "model": half.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = network()
    fresh.load_state_dict(saved["model"])
    three = METHODS[name](fresh.parameters(), **SETTINGS[name])
    three.step(loss_of(fresh))  # whatever it remembers of this step is to go
    fresh.load_state_dict(saved["model"])
    three.load_state_dict(saved["optimizer"])
    for _ in range(6):
        three.step(loss_of(fresh))
    assert equal(weights(whole), weights(fresh))
    if "lengths" not in SETTINGS[name] and name != "mezo":
        other = METHODS[name](fresh.parameters(), **{**SETTINGS[name], **changed(name)})
        with pytest.raises(ValueError, match="this state was made with"):
            other.load_state_dict(saved["optimizer"])


def changed(name):
    return {
        "mezo_momentum": {"momentum": 0.5},
        "mezo_adam": {"betas": (0.5, 0.5)},
        "adamezo": {"horizon": 4},
        "meazo": {"beta": 0.5},
        "zo_adamu": {"mix": (0.2, 0.5, 0.5)},
        "hizoo": {"estimator": "unbiased"},
        "lozo": {"rank": 1},
        "lozo_m": {"momentum": 0.5},
        "fzoo": {"directions": "gaussian"},
        "mezo_svrg": {"q": 4},
        "forward_gradient": {"directions": "rademacher"},
        "dizo": {"tau": 0.1},
        "helene": {"k": 2},
        "zo_sign_sgd": {"sign": "slope"},
        "zo_finetuner": {"freeze": True},
    }[name]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_failing_closure_changes_neither_weights_nor_what_is_remembered(name):
    model, undisturbed = network(), network()
    optimizer = METHODS[name](model.parameters(), **SETTINGS[name])
    twin = METHODS[name](undisturbed.parameters(), **SETTINGS[name])
    for step in range(10):
        twin.step(loss_of(undisturbed))
        if step % 3 == 1:
            before = weights(model)
            with pytest.raises(FloatingPointError):
                optimizer.step(lambda: math.nan)
            assert equal(before, weights(model))
        optimizer.step(loss_of(model))
    assert equal(weights(model), weights(undisturbed))


@pytest.mark.parametrize("name", ["mezo", "adamezo", "meazo"])
def test_a_step_of_infinite_size_is_refused(name):
    model = network()
    optimizer = METHODS[name](model.parameters(), **{**SETTINGS[name], "lr": 1e300})
    before = weights(model)
    with pytest.raises(FloatingPointError, match="Lower lr"):
        optimizer.step(loss_of(model))
    assert equal(before, weights(model))
    assert optimizer.steps == 0


def test_moments_are_not_stored():
    model = network()
    optimizer = AdaMeZO(model.parameters(), lr=1e-3, horizon=10)
    for _ in range(15):
        optimizer.step(loss_of(model))
    tensors = [value for value in vars(optimizer).values() if isinstance(value, torch.Tensor)]
    assert not tensors
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mezo", "adamezo", "meazo", "mezo_adam", "hizoo"])
def test_prescribed_directions_are_the_ones_that_are_walked(name, dtype):
    """Two given directions, taken in turn: the same steps as when the same values come from their keys."""
    free, prescribed = network(dtype), network(dtype)
    blocks = range(4)
    shapes = [p.shape for p in free.parameters()]
    two = [
        GivenDirection([direction(Direction(0, t), j, s, dtype=dtype) for j, s in zip(blocks, shapes, strict=True)])
        for t in (0, 1)
    ]
    one, other = (METHODS[name](model.parameters(), **SETTINGS[name]) for model in (free, prescribed))
    one.direction = lambda step, sample=0: Direction(0, step % 2)
    other.direction = lambda step, sample=0: two[step % 2]
    for _ in range(12):
        one.step(loss_of(free))
        other.step(loss_of(prescribed))
    for p, q in zip(free.parameters(), prescribed.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_squared_length_is_that_of_the_direction():
    tensors = [torch.zeros(3000), torch.zeros(5, 7)]
    name = Direction(3, 4)
    expected = [float(direction(name, j, t.shape).double().square().sum()) for j, t in enumerate(tensors)]
    assert squared_length(tensors, name, (0, 1)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AdaMeZO(p, horizon=0), "horizon"),
        (lambda p: AdaMeZO(p, horizon=2.5), "horizon"),
        (lambda p: AdaMeZO(p, betas=(1.0, 0.9)), r"betas\[0\]"),
        (lambda p: AdaMeZO(p, betas=(0.7, -0.1)), r"betas\[1\]"),
        (lambda p: AdaMeZO(p, scaling="theirs"), "scaling"),
        (lambda p: AdaMeZO(p, delta=-1.0), "delta"),
        (lambda p: MEAZO(p, beta=1.0), "beta"),
        (lambda p: MeZOMomentum(p, momentum=1.0), "momentum"),
        (lambda p: MeZOAdam(p, betas=(0.9, 1.0)), r"betas\[1\]"),
        (lambda p: MeZOSwitch(p, lengths=[-1.0]), "lengths"),
        (lambda p: ZOAdaMU(p, mix=(0.5, 1.0, 0.5)), "mix"),
        (lambda p: ZOAdaMU(p, mix=(0.5, 0.9)), "mix"),
        (lambda p: ZOAdaMU(p, phases=(10, 5, 20)), "phases"),
        (lambda p: ZOAdaMU(p, phases=(0, 5, 30)), "the cosine's horizon shrinks to nothing before T2; choose T3 below 3 T2"),
        (lambda p: HiZOO(p, alpha=1.0), "alpha"),
        (lambda p: HiZOO(p, alpha=-1e-8), "alpha"),
        (lambda p: HiZOO(p, alpha=math.nan), "alpha"),
        (lambda p: HiZOO(p, estimator="theirs"), "estimator must be one of published, unbiased"),
        (lambda p: HiZOO(p, bounds=(2.0, 3.0)), "bounds"),
        (lambda p: HiZOO(p, bounds=(0.0, 3.0)), "bounds"),
        (lambda p: HiZOO(p, bounds=(0.1, math.inf)), "bounds"),
        (lambda p: HiZOO(p, bounds=(0.1,)), "bounds"),
        (lambda p: ZOSignSGD(p, sign="theirs"), "sign must be one of slope, estimate"),
        (lambda p: MeZO(p, lr=-1.0), "lr"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(2))])
