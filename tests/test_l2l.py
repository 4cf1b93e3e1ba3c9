"""Learning to learn: the meta-gradient against autograd, SGD to the bit beside it, runs that go on, refusals."""

import copy
import functools
import importlib
import json
import math

import numpy as np
import pytest
import torch
from small import equal, loss_of, network, stop_after, weights
from torch import nn
from torch.func import functional_call

from zolab import Direction
from zolab.l2l import GRADIENTS, MEASURED, History, MetaConfig, MetaStep, meta_train
from zolab.models import fingerprint, load_model
from zolab.models.gradients import consumed, recomputable, recomputed
from zolab.noise import direction
from zolab.pertnn import PertNN, features
from zolab.probe.blocks import split
from zolab.records.log import RunLog
from zolab.runs.batches import batch_at
from zolab.tasks import load_task
from zolab.theory.terms import StepTerms

EPS, LR_ZO = 1e-3, 0.02


def step_of(model, pertnn, lr=0.0, meta_lr=0.0, fused=False, momentum=0.0, **settings):
    tensors = list(model.parameters())
    outer = torch.optim.SGD(pertnn.parameters(), lr=meta_lr)
    return MetaStep(tensors, pertnn, outer, lr=lr, momentum=momentum, lr_zo=LR_ZO, eps=EPS, fused=fused, seed=4, **settings)


def published_slope(model, pertnn, complete, through_budget):
    """Algorithm 2 as it is published: a copy of the model, moved through a graph; slopes in PertNN's weights."""
    names, params = zip(*model.named_parameters(), strict=True)
    z = [direction(Direction(4, 0), j, p.shape) for j, p in enumerate(params)]
    flat = [p.detach() for p in params]
    mean, variance = [float(p.mean()) for p in flat], [float(p.var()) for p in flat]
    raw = pertnn(features(mean, variance, (0.0, 0.0), (1.0,)))
    factor = pertnn.normaliser(raw)
    sigma = raw * (factor if through_budget else factor.detach())
    closure = loss_of(model)

    def loss_at(moved):
        return functional_call(Loss(model), {f"model.{name}": w for name, w in zip(names, moved, strict=True)}, ())

    if complete:
        gradient = torch.autograd.grad(closure(), params)
        p = sum(s * (g * z_j).sum() for s, g, z_j in zip(sigma, gradient, z, strict=True))
    else:
        u = [s.item() * z_j for s, z_j in zip(sigma, z, strict=True)]
        with torch.no_grad():
            plus = loss_at([w + EPS * d for w, d in zip(flat, u, strict=True)])
            minus = loss_at([w - EPS * d for w, d in zip(flat, u, strict=True)])
        p = float(plus - minus) / (2 * EPS)
    moved = [w - LR_ZO * p * s * z_j for w, s, z_j in zip(flat, sigma, z, strict=True)]
    return torch.autograd.grad(loss_at(moved), list(pertnn.parameters()))


class Loss(nn.Module):
    """The loss as a module, whose weights can be exchanged."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        return loss_of(self.model)()


@pytest.mark.parametrize("gradient", ["sample", "complete"])
@pytest.mark.parametrize("through_budget", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_the_meta_gradient_is_that_of_a_copy_with_a_graph(gradient, through_budget, exact):
    model, before = network(), weights(network())
    pertnn = PertNN(split(model), hidden=8, seed=1)
    expected = published_slope(model, pertnn, gradient == "complete", through_budget)
    meta_step = step_of(model, pertnn, gradient=gradient, through_budget=through_budget, exact=exact)
    meta_step(loss_of(model), History())
    for w, slope in zip(pertnn.parameters(), expected, strict=True):
        torch.testing.assert_close(w.grad, slope, rtol=2e-2, atol=2e-3 * float(slope.abs().max()) + 1e-9)
    assert equal(weights(model), before)


def terms_of(model):
    """Of a model's gradient, with invented noise and curvature."""
    g = np.array([float(x.square().sum()) for x in torch.autograd.grad(loss_of(model)(), list(model.parameters()))])
    blocks, traces = split(model), np.linspace(1, 4, len(g))
    return StepTerms(np.array(blocks.sizes), g, 2 * g, traces, np.outer(g, g) + np.diag(g))


@pytest.mark.parametrize("gradient", ["expected", "curved", "gain"])
def test_the_expected_meta_gradients_are_slopes_of_what_they_say(gradient):
    model = network()
    blocks, terms = split(model), terms_of(model)
    given = (terms,) if gradient in MEASURED else ()
    outcome = step_of(model, PertNN(blocks, seed=2), gradient=gradient)(loss_of(model), History(), *given)
    none = np.zeros(len(blocks))
    flat = StepTerms(terms.sizes, terms.squares, terms.squares, none, none)

    def value(sigma):
        if gradient == "gain":
            return np.log(terms.best_change(np.ones(len(blocks))) / terms.best_change(sigma))
        return (flat if gradient == "expected" else terms).change(sigma, LR_ZO)

    sigma, h = outcome.sigma.astype(float), 1e-4
    numerical = [(value(sigma + d) - value(sigma - d)) / (2 * h) for d in h * np.eye(len(blocks))]
    np.testing.assert_allclose(outcome.slope, numerical, rtol=1e-4)
    assert outcome.meta_loss == pytest.approx(float(value(sigma)), rel=1e-4)


def test_terms_go_with_the_gradients_that_need_them():
    model = network()
    for gradient, given in (("gain", ()), ("curved", ()), ("sample", (terms_of(model),))):
        with pytest.raises(ValueError, match="terms go with gradient curved or gain, and only with it"):
            step_of(model, PertNN(split(model)), gradient=gradient)(loss_of(model), History(), *given)


def test_the_gain_ignores_the_budget_and_grows():
    """Its slope has no component along sigma itself; following it on one batch, the predicted descent grows."""
    model = network()
    pertnn, history = PertNN(split(model), identity=True), History()
    meta_step, terms = step_of(model, pertnn, meta_lr=0.02, gradient="gain"), terms_of(model)
    outcomes = [meta_step(loss_of(model), history, terms) for _ in range(30)]
    assert all(abs(outcome.slope @ outcome.sigma) < 1e-5 * np.abs(outcome.slope).sum() for outcome in outcomes)
    assert outcomes[0].meta_loss == pytest.approx(0, abs=1e-6)
    assert outcomes[-1].meta_loss < -0.1


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_beside_it_the_model_takes_plain_sgd_to_the_bit(gradient, fused, momentum):
    model = network()
    twin = copy.deepcopy(model)
    settings = {"gradient": gradient, "fused": fused, "momentum": momentum}
    given = (terms_of(model),) if gradient in MEASURED else ()
    meta_step, history = step_of(model, PertNN(split(model)), lr=0.05, meta_lr=0.1, **settings), History()
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=momentum)
    for _ in range(5):
        outcome = meta_step(loss_of(model), history, *given)
        sgd.zero_grad()
        loss = loss_of(twin)()
        loss.backward()
        sgd.step()
        assert outcome.loss == loss.item()
        assert equal(weights(model), weights(twin))
    assert all(p.grad is None for p in model.parameters())


def test_an_exact_slope_is_the_probes():
    model = network()
    pertnn = PertNN(split(model))
    probed, exact = (step_of(model, pertnn, exact=exact)(loss_of(model), History()) for exact in (False, True))
    assert exact.projected_grad == pytest.approx(probed.projected_grad, rel=1e-3)
    assert exact.losses == pytest.approx(probed.losses, rel=1e-4)
    assert exact.loss == probed.loss


def test_clipping_is_torchs():
    model = network()
    twin = copy.deepcopy(model)
    step_of(model, PertNN(split(model)), lr=0.5, clip=0.1)(loss_of(model), History())
    loss_of(twin)().backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    torch.optim.SGD(twin.parameters(), lr=0.5).step()
    assert equal(weights(model), weights(twin))


def test_gradients_never_exist_together():
    model = network()
    params, shapes = list(model.parameters()), []

    def use(j, gradient):
        shapes.append((j, gradient.shape))
        assert all(p.grad is None for p in params)

    params[0].grad = torch.ones_like(params[0])
    with consumed(params, use):
        loss_of(model)().backward()
    assert sorted(j for j, _ in shapes) == [0, 1, 2, 3]
    assert torch.equal(params[0].grad, torch.ones_like(params[0]))
    assert all(p.grad is None for p in params[1:])


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_recomputed_layer_keeps_its_input_alone(family):
    model, ids = load_model(f"tiny-random-{family}")[0], torch.arange(12).view(2, 6)

    def stored_bytes():
        """Gradients, and how many numbers lay in the graph before the backward pass."""
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(input_ids=ids, labels=ids).loss
        before = sum(sizes)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return gradients, before

    plain, all_kept = stored_bytes()
    with recomputed(model):
        again, few_kept = stored_bytes()
    assert equal(plain, again)
    assert few_kept < all_kept / 2
    assert stored_bytes()[1] == all_kept


def test_training_lowers_the_meta_loss():
    """Blocks with the larger gradients come to be moved more, on one batch seen again and again."""
    model = network()
    pertnn = PertNN(split(model), identity=True)
    meta_step, history = step_of(model, pertnn, meta_lr=20.0, gradient="expected", through_budget=True), History()
    outcomes = [meta_step(loss_of(model), history) for _ in range(100)]
    assert outcomes[0].sigma == pytest.approx(np.ones(4))
    assert outcomes[-1].meta_loss < 1.05 * outcomes[0].meta_loss < 0
    density = [float(g.square().mean()) for g in torch.autograd.grad(loss_of(model)(), list(model.parameters()))]
    assert ((outcomes[-1].sigma > 1) == (np.array(density) > 1e-3)).all()


@pytest.mark.parametrize(("gradient", "exact"), [("sample", False), ("sample", True), ("expected", False)])
def test_a_step_that_fails_leaves_weights_and_pertnn(gradient, exact):
    model = network()
    before, pertnn = weights(model), PertNN(split(model))
    theirs, calls = weights(pertnn), [0]

    def closure(fail):
        calls[0] += 1
        return loss_of(model)() * (math.nan if calls[0] == fail else 1.0)

    for fail in (1, 2) if exact else (1, 2, 3):
        calls[0] = 0
        with pytest.raises(FloatingPointError, match="lower"):
            meta_step = step_of(model, pertnn, lr=0.1, meta_lr=0.1, gradient=gradient, exact=exact)
            meta_step(lambda fail=fail: closure(fail), History())
        assert all(p.grad is None for p in model.parameters())
        assert equal(weights(model), before)
        assert equal(weights(pertnn), theirs)


@pytest.mark.parametrize(("gradient", "fused"), [("sample", False), ("complete", False), ("expected", True), ("sample", True)])
def test_a_gradient_that_is_not_finite_reaches_neither_pertnn_nor_weights(gradient, fused):
    """The loss is finite, and the root's slope at zero is not."""
    model = network()
    model[2].bias.data.zero_()
    before, pertnn, theirs = weights(model), PertNN(split(model), seed=1), None
    plain, theirs = loss_of(model), weights(pertnn)
    moved = [False]

    def closure():
        moved[0] = bool(model[2].bias.detach().abs().any())  # by a direction
        return plain() + (0.0 if moved[0] else (model[2].bias ** 2).sum().sqrt())

    meta_step = step_of(model, pertnn, lr=0.1, meta_lr=0.1, gradient=gradient, fused=fused)
    with pytest.raises(FloatingPointError, match=r"the gradient of 2\.bias is not finite"):
        meta_step(closure, History())
    assert fused or equal(weights(model), before)
    assert equal(weights(pertnn), theirs)
    assert all(p.grad is None for p in model.parameters())


def test_a_pertnn_for_other_tensors_is_refused():
    model = network()
    pertnn, outer = PertNN(split(model)), torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for tensors in (list(model.parameters())[::-1], list(model.parameters())[:2]):
        with pytest.raises(ValueError, match="the PertNN is for tensors of"):
            MetaStep(tensors, pertnn, outer, lr=0.1, lr_zo=0.1)
    with pytest.raises(ValueError, match="eps must be > 0"):
        MetaStep(list(model.parameters()), pertnn, outer, lr=0.1, lr_zo=0.1, eps=0.0)


def test_layers_that_others_have_hooked_are_as_before():
    model = load_model("tiny-random-llama")[0]
    layer = recomputable(model)[0]
    hooked = layer.forward = functools.partial(layer.forward)
    with recomputed(model), recomputed(model):
        assert layer.forward is not hooked
    assert layer.forward is hooked
    assert "forward" not in vars(recomputable(model)[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient": "first"}, "unknown gradient 'first'; choose sample"),
        ({"fused": True, "clip": 1.0}, "the fused step cannot clip"),
        ({"fused": True, "exact": True}, "the fused step forgets the gradients that an exact p is made of"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        step_of(model, PertNN(split(model)), **settings)


TINY = {"model": "tiny-reviews", "tasks": "reviews_sentence,reviews_writer", "steps": 5, "period": 2, "batch_size": 4}
TINY |= {"train": 20, "lr_zo": 1e-4, "hidden": 8}


def test_the_slow_phase_begins_with_fitted_offsets_and_sees_balanced_batches(tmp_path):
    settings = TINY | {"train": 200, "steps": 4, "lr": 0.0, "gradient": "gain", "measured": 8}
    runs = {}
    for name, slow in {"plain": {}, "slow": {"balanced": True, "calibrate": 100}}.items():
        run = meta_train(MetaConfig(**settings, **slow), tmp_path / name, progress=False)
        runs[name] = [entry["loss"] for entry in run.record["result"]["steps"]]
    assert np.mean(runs["slow"]) < 0.75 < 1 < np.mean(runs["plain"])
    examples = load_task("reviews_sentence").sample(0, 200, 1, 1).train
    assert sum(example.answer for example in batch_at(examples, 4, 0, 0, balanced=True)) == 2


def test_meta_training_writes_a_pertnn_that_loads(tmp_path):
    run = meta_train(MetaConfig(**TINY), tmp_path / "run", progress=False)
    model, _ = load_model("tiny-reviews")
    loaded = PertNN.load(tmp_path / "run", model)
    assert equal(weights(loaded), weights(run.pertnn))
    assert loaded.card["fingerprint"] == run.record["result"]["base"] == fingerprint(model)
    steps = run.record["result"]["steps"]
    assert [entry["step"] for entry in steps] == [0, 1, 2, 3, 4]
    assert [entry["task"] for entry in steps[:3]] == ["reviews_sentence", "reviews_writer", "reviews_sentence"]
    assert not (tmp_path / "run" / "base.bin").exists()


def test_a_stopped_meta_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    for outer in ("sgd", "adam"):
        config = MetaConfig(**TINY, outer=outer)
        whole = meta_train(config, tmp_path / outer, progress=False)
        with monkeypatch.context() as patch:
            stop_after(4, patch)
            with pytest.raises(KeyboardInterrupt):
                meta_train(config, tmp_path / f"{outer}-stopped", progress=False)
        again = meta_train(config, tmp_path / f"{outer}-stopped", progress=False)
        with monkeypatch.context() as patch:
            train = importlib.import_module("zolab.l2l.train")
            patch.setattr(train, "environment", lambda: {"commit": "another"})
            patch.setattr(train, "peak_memory", lambda device: 1)
            assert meta_train(config, tmp_path / f"{outer}-stopped", progress=False).record == again.record
            log = tmp_path / f"{outer}-stopped" / "log.jsonl"
            peaks = [
                entry["peak_bytes"] for entry in map(json.loads, log.read_text().splitlines()) if entry["event"] == "period"
            ]
            assert again.record["timing"]["peak_bytes"] == max(peaks)
        assert equal(weights(again.pertnn), weights(whole.pertnn))
        assert again.record["result"]["steps"] == whole.record["result"]["steps"]


def test_recomputed_activations_change_nothing(tmp_path):
    runs = []
    for recompute in (False, True):
        config = MetaConfig(**{**TINY, "clip": 0.0}, fused=True, recompute=recompute)
        runs.append(meta_train(config, tmp_path / str(recompute), progress=False))
    assert equal(weights(runs[0].pertnn), weights(runs[1].pertnn))
    assert runs[0].record["result"] == runs[1].record["result"]


def test_a_period_begins_with_the_base_model(tmp_path):
    """Without a reset the clean loss of the third step is another; with one, that of the base model."""
    common = {**TINY, "tasks": "reviews_sentence", "meta_lr": 0.0, "lr": 0.1, "steps": 3}
    losses = {}
    for period in (2, 3):
        run = meta_train(MetaConfig(**{**common, "period": period}), tmp_path / str(period), progress=False)
        losses[period] = [entry["loss"] for entry in run.record["result"]["steps"]]
    frozen = meta_train(MetaConfig(**{**common, "lr": 0.0}), tmp_path / "frozen", progress=False).record["result"]["steps"]
    assert losses[2][:2] == losses[3][:2]
    assert losses[2][2] == frozen[2]["loss"] != losses[3][2]


def test_a_low_loss_ends_a_period_early(tmp_path):
    config = MetaConfig(**{**TINY, "tasks": "reviews_sentence", "steps": 12, "period": 12}, reset_below=100.0)
    meta_train(config, tmp_path / "run", progress=False)
    log = RunLog(tmp_path / "run" / "log.jsonl")
    assert [entry["steps"] for entry in log.of("period")] == [10, 12]
    log.close()


def test_layers_may_share_a_network(tmp_path):
    run = meta_train(MetaConfig(**{**TINY, "steps": 2}, rule="layer", gradient="complete"), tmp_path / "run", progress=False)
    assert len(run.pertnn.blocks) == 4
    assert set(run.record["result"]["sigma"]) == set(run.pertnn.blocks.names)


def test_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    meta_train(MetaConfig(**{**TINY, "steps": 1}), tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"period": 0}, "period must be at least 1, got 0; give as many as steps never to reset"),
        ({"tasks": "reviews_sentence,"}, "names an empty task"),
        ({"tasks": "reviews_sentence,reviews_sentence"}, "names a task twice"),
        ({"tasks": "reviews_sentences"}, "reviews_sentences"),
        ({"train": 3}, "fewer than batch_size 4; leave it out"),
        ({"meta_lr": -1.0}, "meta_lr must be at least 0"),
        ({"normalise": "codes"}, "normalise must be paper, code or none"),
        ({"calibrate": 21}, "calibrate 21 exceeds the 20 training examples of reviews_sentence"),
        ({"fused": True}, "the fused step cannot clip; set clip to 0"),
        ({"rule": "row"}, "unknown rule 'row'"),
        ({"outer": "lion"}, "unknown outer optimizer 'lion'"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused_before_any_work(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        meta_train(MetaConfig(**{**TINY, **change}), tmp_path / "run", progress=False)


def test_a_folder_with_other_settings_is_refused(tmp_path):
    meta_train(MetaConfig(**{**TINY, "steps": 1}), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="holds a meta-training with other settings"):
        meta_train(MetaConfig(**TINY), tmp_path / "run", progress=False)
