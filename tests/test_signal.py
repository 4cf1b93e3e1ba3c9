"""Signal and noise of gradients: against pairs one by one, against what is known of a population, against other estimators."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from zolab.models import load_model
from zolab.probe.blocks import split
from zolab.tasks import Description, Example, load_task
from zolab.tasks.scoring import option_log_probs, scored_log_probs
from zolab.theory.measure import block_statistics, gauss_newton_terms
from zolab.theory.signal import Signal, gain, in_turns, jackknife, signal, signal_of
from zolab.theory.terms import StepTerms

SIZES = (3, 5, 2)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ParameterList([torch.zeros(n, dtype=torch.float64) for n in SIZES])


BLOCKS = split(Tiny())


def random_gradients(rng, examples, slope, spread):
    """Gradients of a linear model with squared losses: of size `slope`, with normal noise of size `spread`, by block."""
    return [
        (1.0, [torch.from_numpy(m + s * rng.normal(size=n)) for m, s, n in zip(slope, spread, SIZES, strict=True)])
        for _ in range(examples)
    ]


def signal_from(gradients, groups=None):
    curvature = [np.array([float(part.square().sum()) for part in tensors]) for _, tensors in gradients]
    parts = ((f, tensors, c) for (f, tensors), c in zip(gradients, curvature, strict=True))
    return signal_of(BLOCKS, parts, groups or len(gradients))


def pairwise(gradients):
    """Estimates from their definitions."""
    rows = []
    for j in range(len(SIZES)):
        g = np.stack([factor * tensors[j].numpy() for factor, tensors in gradients])
        n, products = len(g), g @ g.T
        square = (products.sum() - np.trace(products)) / (n * (n - 1))
        plain = np.stack([tensors[j].numpy() for _, tensors in gradients])
        rows.append([square, g.var(0, ddof=1).sum(), np.square(plain).sum(1).mean()])
    return np.array(rows).T


def test_estimates_are_those_of_pairs_with_and_without_each_example():
    rng = np.random.default_rng(0)
    gradients = [(rng.normal(), tensors) for _, tensors in random_gradients(rng, 6, (1.0, 0.2, 3.0), (1.0, 2.0, 0.5))]
    statistics = signal_from(gradients)
    assert statistics.estimates == pytest.approx(pairwise(gradients))
    for i in range(6):
        assert statistics.without_each[i] == pytest.approx(pairwise(gradients[:i] + gradients[i + 1 :]))
    assert statistics.errors == pytest.approx(
        jackknife(np.array([pairwise(gradients[:i] + gradients[i + 1 :]) for i in range(6)]))
    )


def test_groups_give_the_same_estimates_and_those_of_a_part_of_the_examples():
    rng = np.random.default_rng(3)
    gradients = random_gradients(rng, 14, (1.0, 0.2, 3.0), (1.0, 2.0, 0.5))
    statistics = signal_from(gradients, groups=4)
    assert statistics.counts.tolist() == [4, 4, 3, 3]
    assert statistics.estimates == pytest.approx(pairwise(gradients))
    for k in range(4):
        assert statistics.without_each[k] == pytest.approx(pairwise([g for i, g in enumerate(gradients) if i % 4 != k]))
    for half, first in zip(statistics.halves(), (0, 1), strict=True):
        assert half.estimates == pytest.approx(pairwise(gradients[first::2]))
    again = Signal.of(json.loads(json.dumps(statistics.record())))
    assert again.names == statistics.names
    assert (again.errors == statistics.errors).all()


def test_balanced_groups_leave_out_the_noise_of_the_classes_shares():
    rng, slope, spread, apart = np.random.default_rng(6), (0.4, 0.0, 1.0), (1.0, 2.0, 0.5), 3.0
    sizes, samples = np.array(SIZES), []
    for _ in range(200):
        gradients = random_gradients(rng, 24, slope, spread)  # a class, and then the other: 4 groups get 3 of each
        for i, (_, tensors) in enumerate(gradients):
            tensors[1] += apart if i < 12 else -apart
        samples.append(signal_of(BLOCKS, ((1.0, tensors, np.zeros(3)) for _, tensors in gradients), 4, balanced=True).estimates)
    estimates = np.array(samples)
    errors = estimates.std(0, ddof=1) / len(samples) ** 0.5
    known = [sizes * np.square(slope), sizes * np.square(spread)]
    assert np.all(np.abs(estimates.mean(0)[:2] - known) < 4 * errors[:2])


def test_examples_are_dealt_so_that_each_group_has_as_many_of_each_class():
    task = load_task("reviews_sentence")
    examples = task.sample(0, 50, 2, 2).train
    dealt = in_turns(examples, 4)
    counts = [Counter(example.answer for example in dealt[k::4]) for k in range(4)]
    assert counts[0][0] == counts[0][1] > 2
    assert counts == 4 * counts[:1]
    with pytest.raises(ValueError, match="60 groups need as many examples of each class"):
        in_turns(examples, 60)


def test_estimates_are_unbiased_and_error_bars_are_as_wide_as_they_say():
    rng, slope, spread = np.random.default_rng(1), np.array([0.5, 0.0, 1.0]), np.array([1.0, 2.0, 0.5])
    samples = [signal_from(random_gradients(rng, 24, slope, spread)) for _ in range(400)]
    estimates = np.array([one.estimates for one in samples])
    sizes, stds = np.array(SIZES), estimates.std(0, ddof=1)
    known = [sizes * slope**2, sizes * spread**2, sizes * (slope**2 + spread**2)]
    assert np.all(np.abs(estimates.mean(0) - known) < 4 * stds / len(samples) ** 0.5)
    mean_error = np.sqrt(np.mean([one.errors**2 for one in samples], axis=0))
    assert mean_error[:, [0, 2]] == pytest.approx(stds[:, [0, 2]], rel=0.2)
    assert mean_error[1:, 1] == pytest.approx(stds[1:, 1], rel=0.2)
    assert mean_error[0, 1] == pytest.approx(2**0.5 * stds[0, 1], rel=0.2)  # no gradient there: a degenerate U-statistic


def test_a_gain_is_known_where_noise_rules_and_is_judged_by_other_examples():
    sizes, squared, variances = np.array(SIZES), np.array([4.0, 1.0, 0.0]), np.array([100.0, 50.0, 150.0])
    terms = StepTerms(sizes, squared, squared + variances / 8, 2 * variances, np.zeros(3))
    s = np.array([1.0, 0.0, 0.0])
    exact = (4 / 5) ** 2 * (terms.seconds.sum() * 600) / (terms.seconds[0] * 200)
    assert gain(terms, np.sqrt(s)) == pytest.approx(exact)
    assert gain(terms, np.ones(3)) == 1
    rng, slope, spread = np.random.default_rng(2), (0.3, 0.0, 0.0), (1.0, 2.0, 3.0)
    first, second = (signal_from(random_gradients(rng, 200, slope, spread)) for _ in range(2))
    sigma = np.sqrt(np.maximum(first.estimates[0] / first.estimates[1], 0))
    value, error = second.gain(sigma, batch=8)
    signals, noises = sizes * np.square(slope), sizes * np.square(spread)
    true = StepTerms(sizes, signals, signals + noises / 8, signals + noises, np.zeros(3))
    assert value > 2  # the two blocks of pure noise are left alone
    assert abs(value - gain(true, sigma)) < 3 * error
    assert 0 < error < value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_summed_in_float32(dtype):
    """|S|^2 is beyond float16 here, and bfloat16 sums stop growing after a few hundred terms."""
    rng = np.random.default_rng(0)
    rows = [[torch.from_numpy(1 + 0.3 * rng.normal(size=n)) for n in SIZES] for _ in range(512)]
    exact, half = (
        signal_of(BLOCKS, ((1.0, [part.to(kind) for part in tensors], np.ones(len(SIZES))) for tensors in rows), 4).estimates
        for kind in (torch.float64, dtype)
    )
    assert np.isfinite(half).all()
    assert half == pytest.approx(exact, rel=5e-3)


def test_few_examples_are_refused():
    few = random_gradients(np.random.default_rng(0), 4, (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="at least 3 groups of examples, got 2"):
        signal_from(few, groups=2)
    with pytest.raises(ValueError, match="5 groups need as many examples, got 4"):
        signal_from(few, groups=5)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny-random-llama")


def test_a_models_signal_is_that_of_the_other_estimators(tiny):
    task = load_task("reviews_sentence")
    examples = task.sample(0, 6, 2, 2).train
    statistics = signal(tiny[0], task, tiny[1], examples, groups=6)
    known = block_statistics(tiny[0], task, tiny[1], examples, probes=2)
    terms, _ = gauss_newton_terms(tiny[0], task, tiny[1], examples, batch=2, minibatches=1)
    assert statistics.names == known.names
    assert statistics.estimates == pytest.approx(np.array([known.squares, known.variances, terms.traces]), rel=1e-3, abs=1e-7)


def test_offsets_and_further_candidates_are_part_of_the_loss(tiny, tmp_path):
    rows = [{"text": f"a film of {count} parts", "label": count % 3} for count in range(12)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(str(Description(str(tmp_path / "my.jsonl"), "{text} was", (" bad", " fair", " good"))))
    task.offsets = (0.0, 2.0, -1.0)
    model, tokenizer = tiny
    examples = task.sample(0, 4, 2, 2).train
    draws = [signal(model, task, tokenizer, examples, groups=4, seed=seed) for seed in range(50)]
    params = list(model.parameters())
    slopes, traces = [], []
    for example in examples:
        batch = task.encode(tokenizer, [example])
        slopes.append(torch.autograd.grad(task.loss(model, batch), params))
        logs = (option_log_probs(model, batch) + torch.tensor(task.offsets)).log_softmax(0)
        parts = [torch.autograd.grad(log, params, retain_graph=True) for log in logs]
        rows = [[float(log.detach().exp() * a.square().sum()) for a in part] for log, part in zip(logs, parts, strict=True)]
        traces.append(np.sum(rows, 0))
    variance = [float(torch.stack([slope[j] for slope in slopes]).var(0).sum()) for j in range(len(params))]
    assert draws[0].estimates[1] == pytest.approx(variance, rel=1e-3, abs=1e-7)
    assert means_to(np.array([draw.estimates[2] for draw in draws]), np.mean(traces, 0))


def means_to(values, expected):
    """Whether the mean over the first axis is what is expected, within what chance explains in so many numbers."""
    errors = values.std(0, ddof=1) / len(values) ** 0.5
    return np.all(np.abs(values.mean(0) - expected) < 4 * errors + 1e-9)


def test_an_answers_signal_is_that_of_its_tokens(tiny):
    task = load_task("reviews_next")
    model, tokenizer = tiny
    examples = [Example(f"a film of {count} parts was", (answer,), 0) for count, answer in enumerate((" bad", " ok", " so so"))]
    draws = [signal(model, task, tokenizer, examples, groups=3, seed=seed) for seed in range(40)]
    params, slopes, traces = list(model.parameters()), [], []
    for example in examples:
        batch = task.encode(tokenizer, [example])
        slopes.append(torch.autograd.grad(task.loss(model, batch), params))
        ((logs, rows, _),) = scored_log_probs(model, batch)
        trace, each = np.zeros(len(params)), torch.eye(logs.shape[1])
        for row in logs[rows]:
            of_tokens = torch.autograd.grad(row, params, each, retain_graph=True, is_grads_batched=True)
            chances = row.detach().exp().numpy()
            trace += [chances @ a.flatten(1).square().sum(1).numpy() / len(rows) for a in of_tokens]
        traces.append(trace)
    variance = [float(torch.stack([slope[j] for slope in slopes]).var(0).sum()) for j in range(len(params))]
    assert draws[0].estimates[1] == pytest.approx(variance, rel=1e-3, abs=1e-7)
    assert means_to(np.array([draw.estimates[2] for draw in draws]), np.mean(traces, 0))
