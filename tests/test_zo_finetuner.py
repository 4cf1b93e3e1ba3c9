"""ZO Fine-tuner: its reference, MeZO as a special case, moments that cost no pass, replay and resume to the bit."""

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from small import budgeted, equal, loss_of, network, stop_after, weights
from test_pertnn import ABOUT, sequential
from torch import nn

from zolab import Direction, MeZO, Trajectory, ZOFineTuner, replay
from zolab.models import load_model
from zolab.noise import GivenDirection
from zolab.optim import reference
from zolab.pertnn import PertNN
from zolab.probe.blocks import moments, split
from zolab.probe.in_place import Perturbation
from zolab.probe.updates import MomentsUpdate, Update
from zolab.runs.config import Config
from zolab.runs.finetune import finetune

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("input_scaling", [False, True])
def test_it_equals_its_reference(input_scaling):
    model = network()
    twin, memory = copy.deepcopy(model), {}
    pertnn = PertNN(split(model), input_scaling=input_scaling, seed=2)
    optimizer = ZOFineTuner(model.named_parameters(), pertnn, lr=1e-3)

    def scaled(x):
        mean, variance = x[:2]
        size = (mean**2 + variance).sqrt()
        return torch.stack((mean / size, torch.log10(variance + 1e-8) / 4, *x[2:]))

    networks = [sequential(pertnn, j) for j in range(4)]
    if input_scaling:
        networks = [lambda x, n=n: n(scaled(x)) for n in networks]
    for step in range(100):
        ours = optimizer.step(loss_of(model))
        settings = {"step": step, "lr": 1e-3, "eps": 1e-3, "networks": networks}
        theirs = reference.zo_finetuner_step(list(twin.parameters()), loss_of(twin), memory, **settings)
        assert math.isclose(ours, theirs, rel_tol=1e-4)
        assert optimizer.trajectory.records[-1].sigmas == pytest.approx(memory["sigma"], rel=2e-3)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["tensor", lambda name: name[0]], ids=["tensor", "layer"])
def test_with_sigma_one_it_is_mezo_to_the_bit(dtype, rule):
    ours, theirs = network(dtype), network(dtype)
    settings = {"lr": 1e-3, "eps": 1e-2, "weight_decay": 0.1, "seed": 5, "samples": 2}
    one = ZOFineTuner(ours.named_parameters(), PertNN(split(ours, rule), identity=True), **settings)
    two = MeZO(theirs.named_parameters(), **settings)
    for _ in range(5):
        assert one.step(loss_of(ours)) == two.step(loss_of(theirs))
    assert equal(weights(ours), weights(theirs))


@pytest.mark.parametrize("normalise", ["paper", None])
def test_first_inputs_history_and_feedback_are_as_published(normalise):
    model, features_of = network(), []
    blocks = split(model, lambda name: name[0])  # one for each of the two layers
    pertnn = PertNN(blocks, normalise=normalise)
    pertnn.register_forward_pre_hook(lambda _, inputs: features_of.append(inputs[0].numpy()))
    optimizer = ZOFineTuner(model.parameters(), pertnn, lr=1e-3, samples=2)
    before = [torch.cat([p.detach().view(-1) for p in layer.parameters()]) for layer in (model[0], model[2])]
    optimizer.step(loss_of(model))
    optimizer.step(loss_of(model))
    first, second = optimizer.trajectory.records
    assert features_of[0][:, 0] == pytest.approx([w.mean().item() for w in before], rel=1e-4, abs=1e-7)
    assert features_of[0][:, 1] == pytest.approx([w.var().item() for w in before], rel=1e-4)
    assert (features_of[0][:, 2:] == [0, 0, 1]).all()
    losses = np.array(first.losses).reshape(2, 2).mean(0)
    assert features_of[1][:, 2:4] == pytest.approx(np.tile(losses, (2, 1)))
    assert np.array_equal(features_of[1][:, 4], np.array(first.sigmas, np.float32))  # raw, to the bit
    scales = np.array(optimizer.scales(second.sigmas, (0, 1, 2, 3)))
    assert scales[[0, 2]] == pytest.approx(budgeted(second.sigmas, blocks.sizes) if normalise else second.sigmas)
    assert np.array_equal(scales[::2], scales[1::2])


def odd_tensors(dtype):
    """Sizes on both sides of every branch of the kernels."""
    source = torch.Generator().manual_seed(0)
    sizes = (512 * 2048 + 7, 2049, 2048, 100, 1, 0)
    return [(0.2 * torch.randn(n, generator=source) + 0.05).to(dtype) for n in sizes]


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_summed_while_stepping_are_those_of_a_pass_of_their_own(dtype):
    tensors = odd_tensors(dtype)
    blocks = tuple(range(len(tensors)))
    rows = [[-1e-2] * len(tensors)] * 2
    given = GivenDirection([torch.randn(t.shape) for t in tensors])
    by_moments = MomentsUpdate(blocks, [Direction(0, 0)], rows[:1], [[1.0] * 6], [1.0] * 6, outside=1.0)
    updates = {
        "same direction": Update(blocks, [Direction(0, 0)], rows[:1], [1.0] * 6),
        "another, and decay": Update(blocks, [Direction(0, 1), Direction(0, 0)], rows, [0.9] * 6),
        "given": Update(blocks, [given], rows[:1], [1.0] * 6),
        "nothing": None,
        "by moments": by_moments,
    }
    for update in updates.values():
        for moved in (True, False):
            perturbation = Perturbation(tensors, blocks, Direction(0, 0), [1e-3] * len(tensors))
            if moved:
                perturbation.plus()
                perturbation.minus()
            assert np.array_equal(perturbation.leave(update, measure=True), moments(tensors))
    assert Perturbation(tensors, blocks, Direction(0, 0), [1e-3] * 6).leave() is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_run_that_is_broken_off_goes_on_to_the_same_bits(tmp_path, dtype):
    whole, half = network(dtype), network(dtype)
    base, pertnn = copy.deepcopy(half), PertNN(split(whole), seed=1)
    settings = {"lr": 1e-3, "eps": 1e-2}
    one = ZOFineTuner(whole.named_parameters(), pertnn, **settings)
    two = ZOFineTuner(half.named_parameters(), pertnn, **settings)
    for _ in range(12):
        one.step(loss_of(whole))
    for _ in range(6):
        two.step(loss_of(half))
    two.trajectory.save(tmp_path / "t.npz")
    three = replay(base.named_parameters(), Trajectory.load(tmp_path / "t.npz"))
    assert equal(weights(half), weights(base))
    for group in three.param_groups:
        group["lr"] = 1e-3
    with pytest.raises(ValueError, match="attach the PertNN"):
        three.step(loss_of(base))
    with pytest.raises(ValueError, match="another PertNN"):
        three.attach(PertNN(split(whole), seed=2))
    three.attach(pertnn)
    for _ in range(6):
        three.step(loss_of(base))
    assert equal(weights(whole), weights(base))
    assert [r.sigmas for r in three.trajectory.records] == [r.sigmas for r in one.trajectory.records]


def test_frozen_sigma_is_that_of_the_first_step():
    model = network()
    optimizer = ZOFineTuner(model.named_parameters(), PertNN(split(model)), lr=1e-3, freeze=True)
    for _ in range(3):
        optimizer.step(loss_of(model))
    first, *others = (record.sigmas for record in optimizer.trajectory.records)
    assert len(set(first)) == 4
    assert others == [first, first]


@pytest.mark.parametrize(("value", "message"), [(math.nan, "no finite sigma for 4"), (math.inf, "no finite"), (0.0, "zero")])
def test_a_proposal_that_is_no_sigma_is_refused_before_anything_moves(value, message):
    model = network()
    pertnn = PertNN(split(model))
    optimizer = ZOFineTuner(model.named_parameters(), pertnn, lr=1e-3)
    optimizer.step(loss_of(model))
    before, state = weights(model), copy.deepcopy(pertnn.state_dict())
    nn.init.zeros_(pertnn.w2)
    nn.init.constant_(pertnn.b2, value)
    with pytest.raises(FloatingPointError, match=message):
        optimizer.step(lambda: pytest.fail("the loss was probed"))
    assert equal(before, weights(model))
    assert optimizer.steps == 1
    pertnn.load_state_dict(state)
    optimizer.step(loss_of(model))


def test_frozen_parameters_ties_and_groups_in_any_order():
    model = network()
    model[0].bias.requires_grad_(False)
    model[2].tied = model[2].weight
    pertnn = PertNN(split(model))
    assert len(pertnn.blocks) == 3
    named = dict(model.named_parameters())
    groups = [{"params": [(n, p) for n, p in named.items() if n.endswith(end)]} for end in ("bias", "weight")]
    start, bias = weights(model), model[0].bias.clone()
    ours = []
    for params in (model.named_parameters(), groups, model.parameters()):
        for p, w in zip(model.parameters(), start, strict=True):
            p.data.copy_(w)
        optimizer = ZOFineTuner(params, pertnn, lr=1e-3)
        optimizer.step(loss_of(model))
        ours.append(optimizer.scales(optimizer.trajectory.records[0].sigmas, ()))
        assert torch.equal(model[0].bias, bias)
    assert ours[0] == ours[2]
    assert ours[0] != ours[1]
    assert sorted(ours[0]) == sorted(ours[1])


def test_what_does_not_fit_is_refused(tmp_path):
    model = network()
    pertnn = PertNN(split(model))
    pertnn.save(tmp_path / "p", base_model="small", **ABOUT)
    with pytest.raises(ValueError, match=r"blocks that the model lacks \(2\)"):
        ZOFineTuner(model[:1].named_parameters(), pertnn)
    with pytest.raises(ValueError, match=r"blocks that the model lacks \(2\)"):
        ZOFineTuner.from_pretrained(tmp_path / "p", model[:1])
    with pytest.raises(ValueError, match=r"pass model.named_parameters\(\)"):
        ZOFineTuner(model[:1].parameters(), pertnn)
    with pytest.raises(ValueError, match="give pertnn"):
        ZOFineTuner(model.named_parameters())
    trajectory = ZOFineTuner.from_pretrained(tmp_path / "p", model, lr=1e-3).trajectory
    with pytest.raises(ValueError, match="of 4 trainable tensors, but 2"):
        replay(model[:1], trajectory)


def test_a_configuration_names_a_folder(tmp_path):
    PertNN(split(network())).save(tmp_path / "p", base_model="small", **ABOUT)
    Config(optimizer="zo_finetuner", optim_args=f"pertnn={str(tmp_path / 'p')!r}, freeze=True").validate()
    for args, message in (("", "pertnn must be"), ("pertnn=3", "pertnn must be")):
        with pytest.raises(ValueError, match=message):
            Config(optimizer="zo_finetuner", optim_args=args).validate()
    with pytest.raises(ValueError, match="do not fit"):
        Config(optimizer="zo_finetuner", optim_args=f"pertnn={str(tmp_path / 'p')!r}, colour=3").validate()
    with pytest.raises(OSError, match="no folder and no shipped"):
        Config(optimizer="zo_finetuner", optim_args="pertnn='nowhere'").validate()


def test_the_global_generator_is_left_alone():
    model = network()
    before = torch.get_rng_state()
    ZOFineTuner(model.named_parameters(), PertNN(split(model)), lr=1e-3).step(loss_of(model))
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_does_not_go_on_with_another_pertnn(tmp_path, monkeypatch):
    model, _ = load_model("tiny-reviews")
    about = {**ABOUT, "base_model": "tiny-reviews"}
    PertNN(split(model), hidden=4).save(tmp_path / "pertnn", **about)
    arguments = f"pertnn={str(tmp_path / 'pertnn')!r}"
    sizes = {"batch_size": 2, "steps": 3, "train": 8, "dev": 4, "test": 2, "eval_every": 3}
    config = Config(
        model="tiny-reviews", task="reviews_sentence", optimizer="zo_finetuner", optim_args=arguments, lr=1e-4, **sizes
    )
    whole = finetune(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "stopped", progress=False)
    shutil.copytree(tmp_path / "stopped", tmp_path / "other")
    again = finetune(config, tmp_path / "stopped", progress=False)
    assert equal(weights(again.model), weights(whole.model))
    PertNN(split(model), hidden=4, seed=1).save(tmp_path / "pertnn", **about)
    with pytest.raises(ValueError, match=r"is no longer what .*other was started with; use --overwrite"):
        finetune(config, tmp_path / "other", progress=False)
