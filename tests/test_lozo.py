"""LOZO and LOZO-M: their twins on both probes, one direction for probe and step, what algebra says, and what is refused."""

import copy
import math

import pytest
import torch
from small import command, equal, loss_of, network, stop_after, weights
from test_methods import fixed_losses
from torch import nn

from zolab import LOZO, LOZOM, MeZO, noise
from zolab.models import load_model
from zolab.noise import Direction
from zolab.optim import reference_low_rank as reference
from zolab.records import load_record
from zolab.runs.config import Config
from zolab.runs.finetune import finetune

probes = pytest.mark.parametrize("through", [False, True], ids=["in place", "through"])
SETTINGS = {"lr": 1e-3, "eps": 1e-2, "rank": 2, "interval": 7}


def steps(optimizer, model, count):
    for _ in range(count):
        optimizer.step(loss_of(model))


def beside(method, step, memory, through, dtype=torch.float32, losses=loss_of, **more):
    """100 steps of a method and of its reference on copies of one network."""
    model = network(dtype)
    twin = copy.deepcopy(model)
    optimizer = method(model.named_parameters(), **SETTINGS, **more).look_through(model if through else None)
    our_loss, their_loss = losses(model), losses(twin)
    for t in range(100):
        ours = optimizer.step(our_loss)
        theirs = step(list(twin.parameters()), their_loss, *memory, step=t, **SETTINGS, **more)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
    return optimizer


# --- the twins


@probes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("more", [{}, {"published_scaling": True, "samples": 2}], ids=["paper", "code"])
def test_100_steps_of_lozo_equal_the_reference(through, dtype, more):
    beside(LOZO, reference.lozo_step, (), through, dtype, **more)


@probes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scaling", [False, True], ids=["paper", "code"])
def test_100_steps_of_lozo_m_equal_the_reference(through, dtype, scaling):
    memory = {}
    optimizer = beside(LOZOM, reference.lozo_m_step, (memory,), through, dtype, momentum=0.9, published_scaling=scaling)
    for block, n in enumerate(memory["n"]):
        torch.testing.assert_close(optimizer.held[block], n.to(optimizer.held[block]), rtol=2e-3, atol=2e-3)


# --- the direction that is probed is the one that is walked


@pytest.mark.parametrize("interval", [1, 3, 50])
def test_the_step_is_along_what_was_probed_where_v_is_drawn_anew_too(interval):
    """The released code draws U before V when it probes, and without V when it steps, so that they differ in those steps."""
    model = network(torch.float64)
    optimizer, good, moved = LOZO(model.parameters(), lr=1e-3, eps=1e-2, rank=2, interval=interval), loss_of(model), []
    for _ in range(7):
        before = weights(model)
        moved.clear()
        optimizer.step(lambda: moved.append(weights(model)) or good())
        (slope,) = optimizer.trajectory.records[-1].projected_grads
        for p, start, plus, minus in zip(model.parameters(), before, *moved, strict=True):
            probed = (plus - minus) / (2 * 1e-2)
            walked = (start - p.detach()) / (1e-3 * slope)
            torch.testing.assert_close(walked * (2 if p.ndim > 1 else 1), probed, rtol=1e-5, atol=1e-6)


def test_one_step_of_rank_one_by_hand():
    """L = sum of C times W, plus the sum of b: its slope along u v^T and z is u^T C v + sum z."""
    c = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], dtype=torch.float64)
    w, b = nn.Parameter(torch.ones(2, 3, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))
    LOZO([w, b], lr=0.1, rank=1, interval=10, seed=4).step(lambda: (c * w).sum() + b.sum())
    u = noise.direction(Direction(4, 0), 0, 2).double()
    v = noise.direction(Direction(4, 0, 2**32 - 1), 0, 3).double()
    z = noise.direction(Direction(4, 0), 1, 2).double()
    slope = u @ c @ v + z.sum()
    torch.testing.assert_close(w.detach(), 1 - 0.1 * slope * torch.outer(u, v), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(b.detach(), -0.1 * slope * z, rtol=1e-6, atol=1e-8)


# --- what algebra says


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_mean_step_is_the_gradient_up_to_the_full_rank(rank):
    """A z-test over 500 steps with a fresh V in each, on a linear function of a 4 x 3 matrix and a vector."""
    c, d = torch.arange(-5.0, 7.0, dtype=torch.float64).view(4, 3), torch.tensor([1.0, -2.0], dtype=torch.float64)
    w, b = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer, draws = LOZO([w, b], lr=0.0, rank=rank, interval=1), []
    for step in range(500):
        optimizer.step(lambda: (c * w).sum() + d @ b)
        z = optimizer.direction(step)
        (slope,) = optimizer.trajectory.records[-1].projected_grads
        draws.append(torch.cat([slope * z.part(0, slice(0, 12)) / rank, slope * z.part(1, slice(0, 2))]))
    draws, expected = torch.stack(draws).double(), torch.cat([c.flatten(), d])
    scores = (draws.mean(0) - expected) / (draws.std(0) / math.sqrt(len(draws)))
    print(scores)
    assert float(scores.abs().max()) < 4.5


def test_in_one_interval_the_steps_stay_in_a_space_of_rank_dimensions():
    model = network()
    optimizer, before = LOZO(model.parameters(), lr=1e-3, rank=2, interval=10), weights(model)
    steps(optimizer, model, 10)
    sizes = torch.linalg.svdvals((model[0].weight.detach() - before[0]).double())
    assert sizes[1] > 1e-6
    assert float(sizes[2]) < 1e-5 * float(sizes[0])
    steps(optimizer, model, 1)
    assert float(torch.linalg.svdvals((model[0].weight.detach() - before[0]).double())[2]) > 1e-4 * float(sizes[0])


@probes
def test_without_matrices_it_is_mezo_to_the_bit(through):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(3000)), nn.Parameter(torch.tensor(0.5))

        def forward(self):
            return ((self.scale * self.shift - 2) ** 2).mean()

    one, two = Scaled(), Scaled()
    ours, mezo = (method(m.parameters(), lr=1e-3, seed=3, weight_decay=0.1) for method, m in ((LOZO, one), (MeZO, two)))
    ours.look_through(one if through else None)
    for _ in range(10):
        assert ours.step(one) == mezo.step(two)
    assert equal(weights(one), weights(two))


def test_published_scaling_is_a_learning_rate_rank_times_as_large():
    paper, code = nn.Linear(9, 7, bias=False), nn.Linear(9, 7, bias=False)
    code.weight.data.copy_(paper.weight.data)
    x = torch.randn(5, 9)
    one = LOZO(paper.parameters(), lr=4e-2, rank=4)
    two = LOZO(code.parameters(), lr=1e-2, rank=4, published_scaling=True)
    for _ in range(5):
        assert one.step(lambda: paper(x).square().mean()) == two.step(lambda: code(x).square().mean())
    assert equal(weights(paper), weights(code))


@probes
def test_lozo_m_without_memory_is_lozo(through):
    one, two = network(), network()
    for method, model, more in ((LOZO, one, {}), (LOZOM, two, {"momentum": 0.0})):
        optimizer, losses = method(model.parameters(), **SETTINGS, **more), fixed_losses(model)
        good = loss_of(model)
        optimizer.look_through(model if through else None)
        for _ in range(20):
            optimizer.step(lambda good=good, losses=losses: 0 * good() + losses())
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_while_v_stays_momentum_in_the_factor_is_momentum_of_the_whole_gradient():
    model = network(torch.float64)
    optimizer = LOZOM(model.parameters(), lr=1e-3, eps=1e-2, rank=2, interval=20)
    m = None
    for step in range(20):
        before = weights(model)
        optimizer.step(loss_of(model))
        (slope,) = optimizer.trajectory.records[-1].projected_grads
        z = optimizer.direction(step)
        gradient = [slope * z.part(j, slice(0, w.numel())).double().view(w.shape) for j, w in enumerate(before)]
        m = gradient if m is None else [0.9 * old + 0.1 * g for old, g in zip(m, gradient, strict=True)]
        for w, start, whole in zip(model.parameters(), before, m, strict=True):
            torch.testing.assert_close((start - w.detach()) / 1e-3, whole / (2 if w.ndim > 1 else 1), rtol=1e-4, atol=1e-5)


def test_a_refresh_keeps_the_part_of_the_momentum_in_the_new_space():
    """N V_old^T is projected onto what V_new spans, up to V_new^T V_new / n, which is one in expectation."""
    model = nn.Linear(400, 30, bias=False)
    x, target = torch.randn(6, 400), torch.randn(6, 30)
    optimizer = LOZOM(model.parameters(), lr=1e-4, momentum=0.9, rank=4, interval=5)
    for _ in range(5):
        optimizer.step(lambda: (model(x) - target).square().mean())
    old, n = optimizer.direction(4), optimizer.held[0].clone()
    optimizer.step(lambda: 1.0)  # no slope: what is left is the momentum alone
    new = optimizer.direction(5)
    expected = 0.9 * n.double() @ old.right(0).double() @ new.right(0).double().T / 400
    torch.testing.assert_close(optimizer.held[0].double(), expected, rtol=1e-5, atol=1e-7)


def test_momentum_is_as_small_as_a_factor():
    model = network()
    optimizer = LOZOM(model.named_parameters(), **SETTINGS)
    steps(optimizer, model, 3)
    assert [tuple(n.shape) for n in optimizer.held.values()] == [(51, 2), (51,), (3, 2), (3,)]


def test_momentum_is_made_again_without_a_pass_over_the_weights():
    model, base = network(torch.bfloat16), network(torch.bfloat16)
    optimizer = LOZOM(model.named_parameters(), **SETTINGS, samples=2)
    steps(optimizer, model, 16)
    resumed = LOZOM(base.named_parameters(), **SETTINGS, samples=2)
    resumed.load_state_dict(optimizer.state_dict())
    assert equal(weights(base), weights(network(torch.bfloat16)))
    assert all(torch.equal(n, resumed.held[block]) for block, n in optimizer.held.items())


# --- bad input


@pytest.mark.parametrize("method", [LOZO, LOZOM])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, r"^rank is 4, but 2\.weight is a matrix of 3 x 51, whose rank is at most 3: lower rank, or freeze"),
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"rank": 1.5}, "rank must be a whole number of at least 1, got 1.5"),
        ({"interval": 0}, "interval must be a whole number of at least 1, got 0"),
        ({"published_scaling": "yes"}, "published_scaling must be True or False, got 'yes'"),
        ({"published_scaling": 1}, "published_scaling must be True or False, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method(network().named_parameters(), **settings)


@pytest.mark.parametrize("momentum", [1.0, -0.1, math.nan])
def test_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum must lie in"):
        LOZOM(network().parameters(), momentum=momentum)


def test_only_trained_matrices_bound_the_rank():
    model = network()
    model[2].weight.requires_grad_(False)
    optimizer = LOZO(model.named_parameters(), rank=4)
    with pytest.raises(ValueError, match="extra is a matrix of 2 x 9"):
        optimizer.add_param_group({"params": [("extra", nn.Parameter(torch.ones(2, 9)))]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [("extra", nn.Parameter(torch.ones(4, 3, 3)))]})


# --- a run

RUN = {
    **{"model": "tiny-reviews", "task": "reviews_sentence", "lr": 1e-4, "eps": 1e-2},
    **{"steps": 4, "batch_size": 4, "train": 16, "dev": 8, "test": 8, "eval_every": 2},
}


@pytest.mark.parametrize("name", ["lozo", "lozo_m"])
def test_a_run_is_replayed_and_goes_on_to_the_same_bits(tmp_path, monkeypatch, name):
    config = Config(**RUN, optimizer=name, optim_args="rank=3, interval=2")
    whole = finetune(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "halves", progress=False)
    halves = finetune(config, tmp_path / "halves", progress=False)
    assert equal(weights(whole.model), weights(halves.model))
    assert load_record(tmp_path / "whole" / "record.json")["result"]["forwards"] == 8
    completed = command("replay", tmp_path / "whole", "--out", tmp_path / "model")
    assert completed.status == 0, completed.errors
    assert equal(weights(load_model(str(tmp_path / "model"))[0]), weights(whole.model))
    refused = command(
        *("finetune", "--model", "tiny-reviews", "--task", "reviews_sentence", "--optimizer", name, "--steps", 1),
        *("--train", 16, "--dev", 8, "--test", 8, "--optim_args", "rank=1000", "--out", tmp_path / "other"),
    )
    assert refused.status != 0
    assert "is a matrix of" in refused.errors
    assert not (tmp_path / "other" / "log.jsonl").exists()
