"""Every method along Rademacher directions: beside its reference, replayed, resumed, chosen and refused."""

import json
import math
from functools import partial

import pytest
import torch
from small import command, equal, loss_of, network, stop_after, weights
from test_methods import SETTINGS, beside
from test_reversible import DTYPES
from torch import nn

from zolab import AdaMeZO, Direction, MeZO, MeZOSwitch, Trajectory, ZOAdaMU, noise, replay
from zolab.models import load_model
from zolab.noise import FAMILIES
from zolab.optim import METHODS, reference
from zolab.pertnn import PertNN
from zolab.probe.blocks import split
from zolab.runs.finetune import Config, finetune

SIGNS = partial(Direction, family="rademacher")
OTHERS = (
    "hizoo",
    "helene",
    "lozo",
    "lozo_m",
    "grzo",
)  # curvature is read off the size of z; directions are a family of their own
NAMES = [name for name in METHODS if name not in OTHERS]


def make(name, model, **settings):
    return METHODS[name](model.named_parameters(), **{"directions": "rademacher", **SETTINGS[name], **settings})


def steps(optimizer, model, count):
    for _ in range(count):
        optimizer.step(loss_of(model))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_replay_resume_and_both_probes_give_the_same_bits(tmp_path, name, dtype):
    model, looked, base, usual = (network(dtype) for _ in range(4))
    settings = {"eps": 1e-2, "seed": 7, "weight_decay": 0.1}
    optimizer, through = make(name, model, **settings), make(name, looked, **settings).look_through(looked)
    steps(optimizer, model, 6)
    steps(through, looked, 6)
    assert equal(weights(looked), weights(model))
    other = make(name, usual, directions="gaussian", **settings)
    steps(other, usual, 6)
    assert not equal(weights(usual), weights(model))

    optimizer.trajectory.save(tmp_path / "t.npz")
    loaded = Trajectory.load(tmp_path / "t.npz")
    assert loaded.settings["directions"] == "rademacher"
    again = replay(base, loaded)
    assert again.directions == "rademacher"
    assert equal(weights(base), weights(model))

    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = make(name, base, **settings)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    steps(resumed, base, 5)
    steps(optimizer, model, 5)
    assert equal(weights(base), weights(model))
    with pytest.raises(ValueError, match="this state was made with"):
        make(name, network(dtype), directions="gaussian").load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


TWINS = {
    "mezo": (reference.mezo_step, {"lr": 1e-3, "weight_decay": 0.1, "samples": 2}),
    "mezo_momentum": (reference.momentum_step, {"lr": 3e-4, "momentum": 0.9}),
    "mezo_adam": (reference.adam_step, {"lr": 1e-3, "betas": (0.9, 0.99), "delta": 1e-8}),
    "adamezo": (
        reference.adamezo_step,
        {"lr": 1e-3, "betas": (0.7, 0.9), "horizon": 4, "scaling": "paper", "gain": 1.0, "delta": 1e-8},
    ),
    "meazo": (reference.meazo_step, {"lr": 1e-3, "beta": 0.9, "delta": 1e-8}),
}


@pytest.mark.parametrize("name", TWINS)
def test_100_steps_are_those_of_the_reference(name, monkeypatch):
    monkeypatch.setattr(reference, "Direction", SIGNS)
    step, settings = TWINS[name]
    memory = [] if name == "mezo" else [{}]
    beside(
        lambda params: METHODS[name](params, directions="rademacher", **settings),
        lambda p, f, t: step(p, f, *memory, step=t, eps=1e-3, **settings),
        tolerance=1e-4,
    )


def test_adamu_is_its_reference_through_every_phase(monkeypatch):
    monkeypatch.setattr(reference, "Direction", SIGNS)
    memory, phases, mix = {}, (7, 30, 40), (0.5, 0.9, 0.01)
    schedule = ZOAdaMU(network().parameters(), mix=mix, phases=phases)
    beside(
        lambda params: ZOAdaMU(params, lr=1e-4, mix=mix, phases=phases, directions="rademacher"),
        lambda p, f, t: reference.adamu_step(p, f, memory, step=t, lr=1e-4, eps=1e-3, mix=schedule.mix_at(t), delta=1e-8),
        steps=60,
        tolerance=2e-4,
    )


def test_zo_finetuner_is_mezo_with_the_scales_that_it_proposes():
    model, scaled = network(), network()
    optimizer = METHODS["zo_finetuner"](model.named_parameters(), PertNN(split(model)), lr=1e-3, directions="rademacher")
    for _ in range(5):
        optimizer.step(loss_of(model))
        sigma = optimizer.scales(optimizer.trajectory.records[-1].sigmas, (0, 1, 2, 3))
        mezo = MeZO(scaled.parameters(), lr=1e-3, sigma=sigma, directions="rademacher")
        mezo.steps = optimizer.steps - 1
        mezo.step(loss_of(scaled))
        assert equal(weights(scaled), weights(model))


def test_with_the_budget_kept_a_step_has_exactly_mezos_length():
    """n_j is E |z_j|^2 of either family, and of Rademacher directions |z_j|^2 itself."""
    model = network()
    optimizer = METHODS["zo_finetuner"](model.named_parameters(), PertNN(split(model)), lr=1e-3, directions="rademacher")
    for _ in range(3):
        before = weights(model)
        optimizer.step(loss_of(model))
        walked = sum(float((a - b).double().square().sum()) for a, b in zip(before, weights(model), strict=True)) ** 0.5
        (slope,) = optimizer.trajectory.records[-1].projected_grads
        size = sum(p.numel() for p in model.parameters())
        assert walked == pytest.approx(1e-3 * abs(slope) * size**0.5, rel=1e-4)


def test_switch_walks_as_far_as_it_is_told():
    model = network()
    optimizer = MeZOSwitch(model.parameters(), lr=1e-3, lengths=[0.01, 0.02], directions="rademacher")
    for length in (0.01, 0.02):
        before = weights(model)
        optimizer.step(loss_of(model))
        walked = sum(float((a - b).double().square().sum()) for a, b in zip(before, weights(model), strict=True)) ** 0.5
        assert walked == pytest.approx(length, rel=1e-4)


def test_adamezos_second_moment_is_one_number():
    """(1-b1) M / sqrt((1-b2) S) by hand: S is the same in every coordinate."""
    model = network()
    optimizer = AdaMeZO(model.parameters(), lr=1e-3, horizon=3, delta=0.0, directions="rademacher")
    steps(optimizer, model, 4)
    slopes = [record.projected_grads[0] for record in reversed(optimizer.trajectory.records)][:3]
    length = sum(0.9**k * p * p for k, p in enumerate(slopes))
    m = [
        sum(0.7**k * p * noise.direction(SIGNS(0, 3 - k), j, w.shape) for k, p in enumerate(slopes))
        for j, w in enumerate(model.parameters())
    ]
    walked = 1e-3 * 0.3 / (0.1 * length) ** 0.5 * sum(float(part.square().sum()) for part in m) ** 0.5
    assert optimizer.lengths[-1] == pytest.approx(walked, rel=1e-5)


def test_a_step_of_adamezo_leaves_the_lengths_of_earlier_ones_alone():
    """Or a run of 100,000 steps, and loading it, would take time with the square of their number."""

    class Unread(list):
        def __iter__(self):
            raise AssertionError("all of them were read")

    model = network()
    optimizer = AdaMeZO(model.parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    optimizer.walked = Unread(optimizer.walked)
    steps(optimizer, model, 2)
    optimizer.skip([optimizer.trajectory.records[0]])
    optimizer.walked = list(map(optimizer.walked.__getitem__, range(5)))
    assert [length is None for length in optimizer.lengths] == [False] * 4 + [True]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_step_of_an_optimizer_is_the_gradient(family):
    weight, draws = nn.Parameter(torch.tensor([1.0, -0.5, 2.0, 0.0], dtype=torch.float64)), 1000
    hessian = torch.tensor([2.0, 1.0, 0.5, 3.0], dtype=torch.float64)
    slope = torch.tensor([0.3, -1.0, 0.2, 2.0], dtype=torch.float64)
    optimizer = MeZO([weight], lr=0.0, eps=1e-3, directions=family)
    for _ in range(draws):
        optimizer.step(lambda: weight @ (hessian * weight) / 2 + slope @ weight)
    z = torch.stack([noise.direction(Direction(0, step, family=family), 0, 4) for step in range(draws)]).double()
    p = torch.tensor([record.projected_grads[0] for record in optimizer.trajectory.records], dtype=torch.float64)
    g = (hessian * weight + slope).detach()
    assert torch.allclose(p, z @ g, atol=1e-5)  # on a quadratic, the difference of both sides is exact
    estimates = p[:, None] * z
    assert float(((estimates.mean(0) - g) / (estimates.std(0) / math.sqrt(draws))).abs().max()) < 4.5


# What is chosen, and what is refused.


def test_normal_directions_are_the_default_and_older_files_mean_them():
    model = network()
    optimizer = MeZO(model.parameters(), lr=1e-3)
    steps(optimizer, model, 2)
    assert optimizer.directions == "gaussian"
    assert "directions" not in optimizer.trajectory.settings
    explicit = network()
    steps(MeZO(explicit.parameters(), lr=1e-3, directions="gaussian"), explicit, 2)
    assert equal(weights(explicit), weights(model))


@pytest.mark.parametrize("name", NAMES)
def test_no_method_takes_another_family(name):
    model = network()
    with pytest.raises(ValueError, match=r"^directions must be one of gaussian, rademacher, got 'sphere'\.$"):
        make(name, model, directions="sphere")
    with pytest.raises(ValueError, match=r"^family must be one of gaussian, rademacher, got 'sphere'\.$"):
        Direction(0, 0, family="sphere")


def test_a_run_of_the_command_line_is_replayed_and_goes_on(tmp_path, monkeypatch):
    words = ["--model=tiny-random-llama", "--task=reviews_sentence", "--train=12", "--dev=4", "--test=4", "--batch_size=4"]
    words += ["--eval_every=3", "--lr=1e-3", "--steps=6", "--optim_args=directions='rademacher'"]
    folders = whole, stopped, _ = [tmp_path / name for name in ("whole", "stopped", "usual")]
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        assert command("finetune", *words, "--out", stopped).status != 0
    for out, more in zip(folders, (words, words, words[:-1]), strict=True):
        completed = command("finetune", *more, "--out", out)
        assert completed.status == 0, completed.errors
    one, two, other = (json.loads((out / "record.json").read_text()) for out in folders)
    assert one["steps"] == two["steps"] != other["steps"]
    completed = command("replay", whole, "--out", tmp_path / "model")
    assert completed.status == 0, completed.errors
    done = finetune(Config(**one["config"]), tmp_path / "again", progress=False)
    assert equal(weights(load_model(str(tmp_path / "model"))[0]), weights(done.model))


@pytest.mark.parametrize("text", ["directions='sphere'", "directions=1", "directions=None", "directions=['rademacher']"])
def test_the_command_line_refuses_another_family(text):
    with pytest.raises(ValueError, match="directions must be one of gaussian, rademacher, got"):
        Config(optim_args=text).validate()


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_refuse_them(name):
    with pytest.raises(ValueError, match=f"do not fit {name}"):
        Config(optimizer=name, optim_args="directions='rademacher'").validate()


def test_every_other_method_takes_it_from_the_command_line():
    for name in NAMES:
        more = ", pertnn='tiny-reviews'" if name == "zo_finetuner" else ""
        Config(optimizer=name, optim_args=f"directions='rademacher'{more}").validate()
