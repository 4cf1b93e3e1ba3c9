"""Theory: every closed form against Monte Carlo, autograd or a numerical optimiser."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from zolab.models import load_model
from zolab.probe.blocks import split, weights_of
from zolab.tasks import load_task
from zolab.tasks.scoring import option_log_probs
from zolab.theory.bounds import CORRECTIONS, BoundTerms, best_for_bound, block_bound, mezo_bound, rank_factor
from zolab.theory.exact import Local, Objective, localise, sampled_change, sequential_change
from zolab.theory.example import letter_rows, letters_model
from zolab.theory.judged import Estimates, best_scales, noise_scales, shared_best
from zolab.theory.measure import BlockStatistics, block_statistics, gauss_newton_terms
from zolab.theory.terms import StepTerms, shared_sigma


class Quadratic(nn.Module):
    """Random blocks with random couplings; one loss for each example, which share the Hessian."""

    def __init__(self, seed, sizes=(1, 4, 7), examples=5, coupling=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        d = sum(sizes)
        self.parts = nn.ParameterList([normal(n) for n in sizes])
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        root = normal(d, d) * torch.where(owner[:, None] == owner, 1.0, coupling) * normal(len(sizes)).exp()[owner]
        self.hessian, self.slopes = root @ root.T / d, normal(examples, d) + normal(d)

    def losses(self, model):
        x = torch.cat([part.flatten() for part in model.parts])
        return x @ self.hessian @ x / 2 + self.slopes @ x


@pytest.mark.parametrize("seed", range(20))
def test_the_exact_change_is_monte_carlos(seed):
    """Target: within 3 standard errors on 20 random block quadratics (each seed is fixed, and so is the outcome)."""
    model = Quadratic(seed, coupling=seed % 3)
    objective = Objective(model, model.losses)
    terms = localise(objective).step_terms()
    sigma = np.random.default_rng(seed).uniform(0.2, 2, 3)
    lrs = float(terms.best_lr(sigma)) * np.array([0.5, 1.0, 2.0])
    mean, error = sampled_change(objective, sigma, lrs, samples=10_000, seed=seed, eps=1e-2)
    z = (mean - terms.change(sigma, lrs)) / error
    print("z-scores", z.round(2))
    assert (np.abs(z) < 3).all()


def test_minibatch_noise_is_in_the_exact_change():
    """Against an average over all minibatches of two examples, drawn with replacement."""
    model = Quadratic(3, examples=3)
    everything = localise(Objective(model, model.losses))
    sigma, lr = np.array([0.5, 1.0, 1.5]), 0.01
    changes = []
    for pair in itertools.product(range(3), repeat=2):
        one = localise(Objective(model, lambda m, pair=pair: m.losses(m)[list(pair)]))
        terms = one.step_terms()
        descent = everything.blocks.totals  # the step follows this pair's slope, the gain is measured on all examples
        gain = descent([one.gradient[part] @ everything.gradient[part] for part in one.parts])
        changes.append(-lr * (sigma**2 @ gain) + lr**2 / 2 * terms.noise(sigma))
    assert everything.step_terms(batch=2).change(sigma, lr) == pytest.approx(np.mean(changes), rel=1e-10)


def test_on_a_two_layer_transformer_too():
    model, tokenizer = load_model("tiny-random-llama")
    model = model.double()
    for name, parameter in model.named_parameters():  # the Hessian of all 27,000 weights would be too large
        parameter.requires_grad_("layers.1.self_attn" in name or "norm" in name)
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in ("a slow start", "and one good", "ending, later")][:1] * 2)
    ids = torch.cat([ids, ids.flip(1)])

    def losses(m):
        logits = m(input_ids=ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)

    objective = Objective(model, losses)
    local = localise(objective)
    gradient = torch.autograd.grad(losses(model).mean(), [p for p in model.parameters() if p.requires_grad])
    np.testing.assert_allclose(local.gradient, torch.cat([g.flatten() for g in gradient]).numpy(), rtol=1e-8, atol=1e-12)
    direction = torch.randn(len(local.gradient), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, h = objective.weights, 3e-3  # the model's norms compute in float32
    bent = objective.at(weights + h * direction) + objective.at(weights - h * direction) - 2 * objective.at(weights)
    assert float(bent) / h**2 == pytest.approx(float(direction.numpy() @ local.hessian @ direction.numpy()), rel=2e-2)
    terms, one = local.step_terms(), np.ones(len(local.blocks))
    lr = 0.01 * float(abs(terms.gain(one) / terms.noise(one)))
    mean, error = sampled_change(objective, one, [lr], samples=3000, eps=1e-3)
    z = (mean[0] - terms.change(one, lr)) / error[0]
    print(f"z-score {z:.2f}")
    assert abs(z) < 4  # third derivatives, too, make a difference of a real loss


@pytest.mark.parametrize("seed", range(3))
def test_blocks_moved_one_after_the_other_separate(seed):
    """On a block-diagonal quadratic each block's change is its own; moved all at once they cost more."""
    model = Quadratic(seed, coupling=0.0)
    objective = Objective(model, model.losses)
    terms, sigma = localise(objective).step_terms(), np.array([1.2, 0.8, 1.0])
    lr, s = float(terms.best_lr(sigma)), sigma**2
    noise = s**2 @ (terms.squares * terms.traces + 2 * np.diag(terms.matrix))
    mean, error = sequential_change(objective, sigma, lr, samples=10_000, seed=seed, eps=1e-2)
    z = (mean + lr * s @ terms.squares - lr**2 / 2 * noise) / error
    print(f"z-score {z:.2f}")
    assert abs(z) < 3
    assert terms.change(sigma, lr) > mean + 3 * error


def test_the_letters_model_learns_and_can_be_made_again():
    rows = letter_rows()
    assert rows.shape[1] == 24
    assert 0 <= rows.min() <= rows.max() <= 26
    first, trained = letters_model(steps=0, rows=4), letters_model(steps=30, rows=4)
    assert len(first.weights) == 1544
    assert trained().shape == (4,)
    assert trained().mean() < first().mean() - 0.2
    assert torch.equal(first.weights, letters_model(steps=0, rows=4).weights)
    assert not torch.equal(first.weights, letters_model(seed=1, steps=0, rows=4).weights)


def random_terms(seed, blocks=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(blocks, blocks)) * 0.1
    g = rng.lognormal(0, 1, blocks)
    return StepTerms(rng.integers(5, 500, blocks), g, g * rng.uniform(1, 3, blocks), rng.lognormal(1, 1, blocks), root @ root.T)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lr", [None, 1e-3, 0.1])
def test_the_best_scales_are_a_numerical_optimisers(seed, lr):
    terms = random_terms(seed)

    def value(logs):
        sigma = terms.on_budget(np.exp(logs))
        return terms.best_change(sigma) if lr is None else terms.change(sigma, lr)

    starts = np.random.default_rng(seed).normal(size=(12, 6)) * 2
    options = {"method": "Nelder-Mead", "options": {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-14}}
    other = min(float(minimize(value, start, **options).fun) for start in starts)
    best = terms.best_sigma(lr)
    ours = float(terms.best_change(best) if lr is None else terms.change(best, lr))
    assert best**2 @ terms.sizes == pytest.approx(terms.sizes.sum())
    assert ours <= other + 1e-6 * abs(other)
    one = np.ones(6)
    assert ours <= (terms.best_change(one) if lr is None else terms.change(one, lr))


def test_at_a_small_learning_rate_all_goes_to_the_densest_gradient():
    terms = random_terms(1)
    share = terms.best_sigma(1e-9) ** 2 * terms.sizes / terms.sizes.sum()
    assert share[np.argmax(terms.squares / terms.sizes)] > 0.999


def test_negative_curvature_has_no_best_scale():
    terms = StepTerms(np.array([1, 1]), np.ones(2), np.ones(2), np.array([1.0, -9.0]), np.array([1.0, -9.0]))
    with pytest.raises(ValueError, match="falls without end"):
        terms.best_sigma()
    assert np.isfinite(terms.best_sigma(0.1)).all()
    with pytest.raises(ValueError, match="no block has a gradient"):
        StepTerms(np.ones(2), np.zeros(2), np.ones(2), np.ones(2), np.ones(2)).best_sigma()


def test_a_loss_that_falls_without_end_whatever_the_sign_of_the_slope():
    terms = StepTerms(np.ones(2), np.array([-1.0, 2.0]), np.ones(2), np.array([-5.0, 1.0]), np.zeros(2))
    sigma = np.array([1.0, 0.0])
    assert terms.best_change(sigma) == -np.inf
    assert terms.change(sigma, 1e6) < -1e11
    flat = StepTerms(np.ones(2), np.array([-1.0, 0.0]), np.ones(2), np.zeros(2), np.zeros(2))
    assert list(flat.best_change(np.eye(2))) == [0, 0]


def test_scales_need_finite_statistics_a_rate_and_curvature():
    for name in ("squares", "seconds", "traces", "curvatures"):
        terms = dataclasses.replace(StepTerms(*np.ones((5, 2))), **{name: np.array([1.0, np.nan])})
        for choose in (terms.best_sigma, lambda terms=terms: shared_sigma([terms])):
            with pytest.raises(ValueError, match=f"{name} of block 1 are nan"):
                choose()
    for lr in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="lr must be > 0"):
            StepTerms(*np.ones((5, 2))).best_sigma(lr)
    flat = Estimates(("a", "b"), np.ones(2), np.array([[1.0, 2.0], [1.0, 1.0], [0.0, 0.0]]))
    assert list(shared_best([flat], 4)) == list(best_scales(flat, 4)) == [1, 1]
    with pytest.raises(ValueError, match="are inf"):
        noise_scales(dataclasses.replace(flat, estimates=flat.estimates + np.array([[np.inf], [0], [0]])), str)


def test_a_linear_loss_has_no_curvature():
    model = nn.Linear(3, 1, bias=False).double()
    local = localise(Objective(model, lambda model: model(torch.eye(3, dtype=torch.float64))[:, 0]))
    assert not local.hessian.any()
    assert (local.rank, local.off_diagonal) == (0, 0)
    assert np.isfinite(local.squares).all()
    with pytest.raises(ValueError, match="at least 2 directions"):
        sampled_change(Objective(model, lambda model: model.weight.sum().view(1)), [1.0], [0.1], 1)


def test_few_examples_leave_noise_below_zero_and_good_scales():
    """A = G + V / batch may be so where a batch is larger than what was measured: G is at least -V over those examples."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sizes, v, t = rng.integers(5, 500, 5), rng.lognormal(0, 1.5, 5), rng.lognormal(0, 1, 5)
        g = v / 8 * np.array([0.5, 0.7, -0.9, -0.95, 0.2])
        a = g + v / 16
        known = StepTerms(sizes, np.maximum(g, 0), np.maximum(a, 0), t, np.zeros(5))
        best = shared_sigma([StepTerms(sizes, g, a, t, np.zeros(5))])
        assert known.best_change(best) <= 0.8 * known.best_change(known.best_sigma())


def bound_terms(seed, blocks=5, batch=4):
    rng = np.random.default_rng(seed)
    norms, ranks = rng.lognormal(0, 1, blocks), rng.uniform(1, 9, blocks)
    sizes = rng.integers(10, 400, blocks)
    whole = norms.max(), float((norms * ranks).sum() / norms.max())
    return BoundTerms(sizes, rng.lognormal(-1, 1, blocks), rng.lognormal(0, 1, blocks), norms, ranks, *whole, batch)


def test_the_rank_factor_is_the_printed_one():
    for d, r in ((7, 3.0), (1000, 1.0), (2, 2.0)):
        assert rank_factor(r, d) == pytest.approx((d * r + d - 2) / (d + 2) + 1)


def test_mezos_bound_holds_on_the_sphere():
    """Theorem 2 is for z uniform on the sphere of radius sqrt(d); without noise, on quadratics, Monte Carlo lies below it."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        model = Quadratic(seed)
        local = localise(Objective(model, model.losses))
        terms, d = local.bound_terms(10**12), len(local.gradient)
        lr = 1 / (terms.norm * rank_factor(terms.rank, d))
        z = rng.normal(size=(20_000, d))
        z *= np.sqrt(d) / np.linalg.norm(z, axis=1, keepdims=True)
        p = z @ local.gradient
        change = -lr * p**2 + lr**2 / 2 * p**2 * np.einsum("nd,de,ne->n", z, local.hessian, z)
        assert change.mean() <= mezo_bound(terms, lr) + 3 * change.std() / len(change) ** 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [False, True])
def test_the_bounds_best_scales_are_a_numerical_optimisers(seed, budget):
    terms, lr = bound_terms(seed), 0.02 * (seed + 1)
    sigma = best_for_bound(terms, lr, budget)
    d = terms.sizes.sum()
    constraints = {"type": "eq", "fun": lambda s: (s @ terms.sizes - d) / d} if budget else ()
    optimum = minimize(
        lambda s: block_bound(terms, np.sqrt(np.maximum(s, 0)), lr, CORRECTIONS),
        np.ones(5),
        bounds=[(0, None)] * 5,
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    if budget:
        assert sigma**2 @ terms.sizes == pytest.approx(d)
    assert block_bound(terms, sigma, lr, CORRECTIONS) <= optimum.fun + 1e-6 * abs(optimum.fun)


def test_with_the_budget_blocks_are_left_out_at_small_rates():
    sigma = best_for_bound(bound_terms(0), 1e-6, budget=True)
    assert (sigma == 0).sum() == 4


def test_each_correction_changes_the_printed_bound():
    terms, sigma = bound_terms(2), np.linspace(0.5, 1.5, 5)
    printed = block_bound(terms, sigma, 0.1)
    assert all(block_bound(terms, sigma, 0.1, [name]) != printed for name in CORRECTIONS)
    with pytest.raises(ValueError, match="unknown correction rank"):
        block_bound(terms, sigma, 0.1, ["rank"])
    with pytest.raises(ValueError, match="lr must be > 0"):
        best_for_bound(terms, 0.0)


def test_a_rank_smaller_than_a_blocks():
    """methods: r >= r_j fails for H_1 = 100 and H_2 = 0.01 I of a thousand weights."""
    traces, norms = np.array([100.0, 10.0]), np.array([100.0, 0.01])
    assert traces.sum() / norms.max() < (traces / norms).max()


@pytest.fixture(scope="module")
def reviews():
    model, tokenizer = load_model("tiny-reviews")
    task = load_task("reviews_sentence")
    return model.eval(), tokenizer, task, task.sample(0, 50, 2, 2).train[:6]


def test_traces_by_products_are_the_hessians():
    """On a model small enough for the Hessian, with many probes, within the estimator's own error."""
    model, tokenizer = load_model("tiny-random-llama")
    task = load_task("rotten_tomatoes")
    examples = task.sample(0, 20, 2, 2).train[:4]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layernorm" in name or "layers.1.self_attn.k_proj" in name)

    def losses(m):
        return torch.stack([task.loss(m, task.encode(tokenizer, [example])) for example in examples])

    statistics = block_statistics(model, task, tokenizer, examples, probes=20)
    local = localise(Objective(model, losses))
    z = (statistics.traces - local.traces) / np.maximum(statistics.errors, 1e-7)
    print("z-scores", z.round(2))
    assert (np.abs(z) < 4).all()
    spread = len(examples) / (len(examples) - 1)
    np.testing.assert_allclose(statistics.variances, local.variances * spread, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(statistics.squares, local.squares - local.variances * spread / 4, rtol=2e-3, atol=1e-7)


def test_a_block_diagonal_hessian_has_nothing_outside_its_blocks():
    blocks, rng = split([("a", nn.Parameter(torch.ones(3))), ("b", nn.Parameter(torch.ones(4)))]), np.random.default_rng(0)
    for _ in range(50):
        hessian = np.zeros((7, 7))
        hessian[:3, :3], hessian[3:, 3:] = rng.normal(size=(3, 3)), rng.normal(size=(4, 4))
        assert Local(blocks, np.zeros((1, 7)), hessian).off_diagonal < 1e-7


@pytest.mark.parametrize("offsets", [(), (0.0, -2.0)])
def test_gauss_newton_terms_are_the_matrixs(reviews, offsets):
    """Against the matrix written out: sum_i p (1 - p) a a' / n with a the gradient of the difference of the two scores."""
    model, tokenizer, _, examples = reviews
    task = load_task("reviews_sentence")
    task.offsets = offsets
    terms, rank = gauss_newton_terms(model, task, tokenizer, examples, batch=4, minibatches=1)
    params = weights_of(model)
    gradient = torch.autograd.grad(task.loss(model, task.encode(tokenizer, examples)), params)
    rows = []
    for example in examples:
        first, second = option_log_probs(model, task.encode(tokenizer, [example]))
        p = torch.sigmoid(second - first + sum(offsets)).item()
        slopes = torch.autograd.grad(second - first, params)
        rows.append([(p * (1 - p) / len(examples)) ** 0.5 * slope.double().flatten() for slope in slopes])
    traces = [sum(float(row[j].square().sum()) for row in rows) for j in range(len(params))]
    np.testing.assert_allclose(terms.traces, traces, rtol=1e-4)
    np.testing.assert_allclose(terms.squares, [float(g.square().sum()) for g in gradient], rtol=1e-3)
    along = [sum(float(a @ g.double().flatten()) for a, g in zip(row, gradient, strict=True)) for row in rows]
    assert rank["largest"] == pytest.approx(np.square(along).sum() / terms.squares.sum(), rel=1e-3)
    assert rank["ratio"] == pytest.approx(sum(traces) / rank["largest"], rel=1e-3)
    assert np.linalg.eigvalsh(terms.matrix).min() > -1e-6 * np.abs(terms.matrix).max()


def test_balanced_minibatches_lack_the_noise_of_the_classes(reviews):
    """Two classes of one example each: balanced minibatches of two are the whole, others are at times one example twice."""
    model, tokenizer, task, examples = reviews
    both = [next(example for example in examples if example.answer == answer) for answer in (0, 1)]
    terms, _ = gauss_newton_terms(model, task, tokenizer, both, batch=2, minibatches=3, balanced=True)
    np.testing.assert_allclose(terms.seconds, terms.squares, rtol=1e-4)
    plain, _ = gauss_newton_terms(model, task, tokenizer, both, batch=2, minibatches=3)
    assert plain.seconds.sum() > 1.1 * plain.squares.sum()


def test_a_task_without_options_has_no_such_matrix(reviews):
    model, tokenizer, *_ = reviews
    task = load_task("reviews_number")
    with pytest.raises(ValueError, match="is that of a task with options, and reviews_number has none"):
        gauss_newton_terms(model, task, tokenizer, task.sample(0, 4, 2, 2).train, batch=2)


def test_statistics_survive_json(reviews):
    model, tokenizer, task, examples = reviews
    statistics = block_statistics(model, task, tokenizer, examples[:2], probes=2)
    again = BlockStatistics.of(statistics.record())
    assert again.names == statistics.names
    np.testing.assert_array_equal(again.traces, statistics.traces)
    assert len(statistics.table().splitlines()) == 1 + len(statistics.by_kind())
    with pytest.raises(ValueError, match="at least 2 examples and 2 probes"):
        block_statistics(model, task, tokenizer, examples[:1], probes=2)
