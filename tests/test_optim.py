"""MeZO: equal to its reference twin, exact to replay, harmless when a step fails."""

import copy
import itertools
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from small import equal, loss_of, network, weights
from torch import nn

from zolab import Direction, MeZO, Trajectory, replay
from zolab.models import tiny_model
from zolab.noise import direction
from zolab.optim.reference import draw, mezo_step, probe


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_100_steps_equal_the_reference(samples, weight_decay):
    model = network()
    twin = copy.deepcopy(model)
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-3, seed=0, samples=samples, weight_decay=weight_decay)
    for step in range(100):
        ours = optimizer.step(loss_of(model))
        reference = mezo_step(
            list(twin.parameters()), loss_of(twin), step=step, lr=1e-3, eps=1e-3, samples=samples, weight_decay=weight_decay
        )
        assert math.isclose(ours, reference, rel_tol=1e-5)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)


def test_sign_on_a_parabola():
    """On f(x) = x^2 every small step goes down."""
    x = nn.Parameter(torch.tensor([3.0]))
    optimizer = MeZO([x], lr=1e-2, eps=1e-3)
    values = []
    for _ in range(50):
        values.append(x.item() ** 2)
        optimizer.step(lambda: (x**2).sum())
    assert all(b <= a for a, b in itertools.pairwise(values))
    assert values[-1] < values[0] / 4


def test_expected_step_is_the_gradient():
    """E[p z] = grad L: a z-test over 20,000 draws on a quadratic."""
    start, curvature = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 0.1, 4.0])
    x = nn.Parameter(start.clone())
    optimizer = MeZO([x], lr=0.0, eps=1e-2)
    draws = []
    for step in range(20_000):
        optimizer.step(lambda: 0.5 * (curvature * x**2).sum())
        draws.append(optimizer.trajectory.records[-1].projected_grads[0] * direction(Direction(0, step), 0, 4))
    draws = torch.stack(draws).double()
    scores = (draws.mean(0) - curvature * start) / (draws.std(0) / math.sqrt(len(draws)))
    print(scores)
    assert scores.abs().max() < 4.5
    assert torch.equal(x.detach(), start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("samples", [1, 2])
def test_replay_gives_the_same_bits(tmp_path, dtype, samples):
    model = network(dtype)
    base = copy.deepcopy(model)
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-2, seed=7, samples=samples, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=20)
    for _ in range(20):
        optimizer.step(loss_of(model))
        scheduler.step()
    optimizer.trajectory.save(tmp_path / "t.npz")
    again = replay(base, Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(model), weights(base))
    assert again.steps == 20
    assert (tmp_path / "t.npz").stat().st_size < 4000


def test_state_dict_round_trip_continues_the_same_run(tmp_path):
    whole, halves = network(), network()
    one = MeZO(whole.named_parameters(), lr=1e-3, seed=5)
    two = MeZO(halves.named_parameters(), lr=1e-3, seed=5)
    for _ in range(10):
        one.step(loss_of(whole))
    for _ in range(5):
        two.step(loss_of(halves))
    torch.save({"optimizer": two.state_dict(), "model": halves.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = network()
    fresh.load_state_dict(saved["model"])
    three = MeZO(fresh.named_parameters(), lr=99.0, seed=1)
    three.load_state_dict(saved["optimizer"])
    for _ in range(5):
        three.step(loss_of(fresh))
    assert equal(weights(whole), weights(fresh))
    assert three.trajectory == one.trajectory


def test_lr_schedulers_work():
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for _ in range(3):
        optimizer.step(lambda: 1.0)
        scheduler.step()
    assert [record.lrs for record in optimizer.trajectory.records] == [(1.0,), (0.5,), (0.25,)]


def test_groups_have_their_own_lr_and_names_are_kept():
    model = network()
    before = weights(model)
    optimizer = MeZO(
        [{"params": list(model[0].named_parameters()), "lr": 0.0}, {"params": list(model[2].named_parameters())}], lr=1e-2
    )
    optimizer.step(loss_of(model))
    after = weights(model)
    assert equal(before[:2], after[:2])
    assert not equal(before[2:], after[2:])
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    optimizer.zero_grad()


def test_frozen_parameters_are_untouched_and_do_not_shift_the_others():
    frozen, free = network(), network()
    frozen[0].weight.requires_grad_(False)
    before = weights(frozen)
    for model in (frozen, free):
        bias = model[2].bias
        MeZO(model.named_parameters(), lr=1e-3).step(bias.sum)
    assert equal(before[:1], weights(frozen)[:1])
    assert torch.equal(frozen[2].bias, free[2].bias)


def test_tied_parameters_count_once():
    model = tiny_model("llama")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    listed = [*model.parameters(), model.lm_head.weight]
    optimizer = MeZO(listed, lr=1e-3)
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    shared = nn.Parameter(torch.ones(5))
    view = nn.Parameter(shared.data)
    optimizer = MeZO([("a", shared), ("b", view)], lr=0.0, eps=0.5)
    values = []
    optimizer.step(lambda: values.append(shared.detach().clone()) or 0.0)
    torch.testing.assert_close(values[0], 1 + 0.5 * direction(Direction(0, 0), 0, 5))


def test_the_global_generator_is_left_alone():
    model = network()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    MeZO(model.named_parameters(), lr=1e-3).step(loss_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_the_mode_of_the_model_and_grads_are_left_alone():
    model = network().train()
    MeZO(model.named_parameters(), lr=1e-3).step(loss_of(model))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


class Interrupt(BaseException):
    pass


def raising(error):
    def closure():
        raise error

    return closure


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda: float("nan"), FloatingPointError, "step 2.*nan"),
        (lambda: torch.tensor(float("inf")), FloatingPointError, "step 2.*inf"),
        (lambda: torch.ones(2), ValueError, r"step 2.*shape \(2,\)"),
        (lambda: None, ValueError, "step 2.*None"),
        (raising(RuntimeError("no memory")), RuntimeError, "no memory"),
        (raising(KeyboardInterrupt("stop")), KeyboardInterrupt, "stop"),
    ],
    ids=["nan", "inf", "vector", "none", "error", "interrupt"],
)
def test_a_failing_closure_leaves_the_weights_exactly(dtype, call, result, error, message):
    model = network(dtype)
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=1e-1, samples=2)
    for _ in range(2):
        optimizer.step(loss_of(model))
    before, calls, good = weights(model), [], loss_of(model)

    def closure():
        calls.append(1)
        return result() if len(calls) == call else good()

    with pytest.raises(error, match=message):
        optimizer.step(closure)
    assert equal(before, weights(model))
    assert optimizer.steps == 2
    optimizer.step(loss_of(model))
    assert optimizer.steps == 3


@pytest.fixture
def default_interrupts():
    """A shell that starts tests in the background leaves SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_interrupts")
def test_ctrl_c_during_a_step_restores_and_is_delivered():
    """A real SIGINT, sent again and again while the weights are moving."""
    model = nn.Linear(2000, 1500)
    optimizer = MeZO(model.named_parameters(), lr=0.0)
    before = weights(model)
    for delay in (0.0, 0.002, 0.005, 0.01):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            for _ in range(2000):
                optimizer.step(lambda: 1.0)
        timer.join()
        assert equal(before, weights(model))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_interrupts")
@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_ctrl_c_without_a_python_handler_is_ignored_or_interrupts(handler):
    model = nn.Linear(3, 2)
    optimizer = MeZO(model.named_parameters(), lr=0.1)
    before = weights(model)
    signal.signal(signal.SIGINT, handler)

    def closure():
        signal.raise_signal(signal.SIGINT)
        return 1.0

    if handler is signal.SIG_IGN:
        assert optimizer.step(closure) == 1.0
    else:
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
    assert equal(before, weights(model))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"lr": -1.0}, "lr"),
        ({"lr": math.nan}, "lr"),
        ({"eps": 0.0}, "eps"),
        ({"eps": -1e-3}, "eps"),
        ({"eps": math.inf}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"samples": 0}, "samples"),
        ({"samples": 1.5}, "samples"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        MeZO([nn.Parameter(torch.ones(2))], **{"lr": 1e-3, **change})


def test_parameters_that_cannot_be_trained_are_refused():
    with pytest.raises(ValueError, match="empty"):
        MeZO([], lr=1e-3)
    with pytest.raises(ValueError, match="nothing to train"):
        MeZO([nn.Parameter(torch.ones(2), requires_grad=False)], lr=1e-3)
    with pytest.raises(ValueError, match="w is not contiguous"):
        MeZO([("w", nn.Parameter(torch.ones(3, 4).T))], lr=1e-3)
    with pytest.raises(ValueError, match="same in every parameter group"):
        one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        MeZO([{"params": [one], "eps": 1e-2}, {"params": [two]}], lr=1e-3)


def test_damaged_trajectories_are_refused(tmp_path):
    model = network()
    optimizer = MeZO(model.named_parameters(), lr=1e-3)
    optimizer.step(loss_of(model))
    path = tmp_path / "t.npz"
    optimizer.trajectory.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"t\.npz is not a trajectory file"):
        Trajectory.load(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a trajectory"):
        Trajectory.load(path)
    with pytest.raises(ValueError, match="no method called Sorcery"):
        replay(model, Trajectory("Sorcery", 0, 1e-3, 1))
    with pytest.raises(ValueError, match="next step to replay is 1"):
        optimizer.replay(optimizer.trajectory.records)


# --- scales of the blocks


def test_mezo_with_scales_walks_along_scaled_directions():
    """Block j moves along sigma_j z_j: the twin's steps with every z_j multiplied by sigma_j."""
    model = network()
    twin = copy.deepcopy(model)
    sigma = [0.5 * j for j in range(len(list(model.parameters())))]
    optimizer, params = MeZO(model.named_parameters(), lr=1e-3, eps=1e-3, seed=3, sigma=sigma), list(twin.parameters())
    for step in range(20):
        optimizer.step(loss_of(model))
        z = [s * z_j for s, z_j in zip(sigma, draw(params, 3, step), strict=True)]
        with torch.no_grad():
            p, _ = probe(params, loss_of(twin), z, 1e-3)
            for weight, z_j in zip(params, z, strict=True):
                weight -= 1e-3 * p * z_j
    for p, q in zip(model.parameters(), params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
    again = network()
    replay(again, optimizer.trajectory)
    assert equal(weights(again), weights(model))


def test_scales_of_one_are_mezo_to_the_bit():
    plain, scaled = network(), network()
    for model, sigma in ((plain, None), (scaled, [1.0] * len(list(scaled.parameters())))):
        optimizer = MeZO(model.named_parameters(), lr=0.01, seed=1, sigma=sigma)
        for _ in range(5):
            optimizer.step(loss_of(model))
    assert equal(weights(plain), weights(scaled))


@pytest.mark.parametrize("sigma", [[1.0], [1.0, 1.0, -1.0], [1.0, 1.0, float("nan")]])
def test_scales_that_do_not_fit_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be 3 finite numbers of at least 0, one for each parameter"):
        MeZO([nn.Parameter(torch.zeros(2)) for _ in range(3)], sigma=sigma)
