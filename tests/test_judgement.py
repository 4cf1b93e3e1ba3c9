"""Calibration moves no example past another; AUC is the share of ordered pairs."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from zolab.models import load_model
from zolab.tasks import load_task
from zolab.tasks.base import Scores, Task
from zolab.tasks.judgement import auc, auc_change, fit_offsets, judge, score_and_judge


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 40).astype(float), rng.integers(0, 2, 40)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[labels == 1], scores[labels == 0])]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert auc(np.array([1.0, 2.0]), np.array([0, 1])) == 1
    assert np.isnan(auc(scores, np.ones(40)))


@pytest.mark.parametrize("classes", [2, 3])
def test_offsets_have_the_lowest_loss_and_match_the_shares(classes):
    rng = np.random.default_rng(1)
    answers = rng.integers(0, classes, 300)
    scores = log_softmax(rng.normal(size=(300, classes)) + 2.0 * np.arange(classes), axis=1)
    offsets = fit_offsets(scores, answers)
    shifted = log_softmax(scores + offsets, axis=1)
    assert offsets[0] == 0
    assert np.exp(shifted).mean(0) == pytest.approx(np.bincount(answers, minlength=classes) / 300, abs=1e-4)
    for j in range(1, classes):  # nearby offsets are worse
        for step in (-0.05, 0.05):
            moved = log_softmax(scores + offsets + step * (np.arange(classes) == j), axis=1)
            assert -moved[range(300), answers].mean() > -shifted[range(300), answers].mean()


def test_a_class_that_is_missing_keeps_its_offset_finite():
    assert np.isfinite(fit_offsets(np.log([[0.5, 0.5], [0.4, 0.6]]), np.array([0, 0]))).all()


def test_a_model_is_judged_beside_its_plain_evaluation():
    task, (model, tokenizer) = load_task("reviews_sentence"), load_model("tiny-reviews")
    examples = task.sample(0, 60, 20, 80)
    before = [p.clone() for p in model.parameters()]
    judgement = judge(task, model, tokenizer, examples.train, examples.test)
    plain = task.evaluate(model, tokenizer, examples.test)
    assert judgement.accuracy == pytest.approx(plain.metric)
    assert judgement.loss == pytest.approx(plain.loss, abs=1e-4)
    assert judgement.calibrated_loss < judgement.loss  # its offset is far off, as every untrained one here
    assert 0 <= judgement.auc <= 1
    assert (judgement.examples, judgement.training) == (80, 60)
    assert "after calibration" in str(judgement)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_each_example_is_run_once(monkeypatch):
    """An evaluation that calibrates scores its test examples no second time, with the same numbers."""
    task, (model, tokenizer) = load_task("reviews_sentence"), load_model("tiny-reviews")
    examples, ran, encoded = task.sample(0, 10, 2, 40), [], Task._encode_all
    plain = task.score(model, tokenizer, examples.test)
    monkeypatch.setattr(Task, "_encode_all", lambda *args, **more: ran.extend(args[2]) or encoded(*args, **more))
    scores, judged = score_and_judge(task, model, tokenizer, examples.train, examples.test)
    assert sorted(e.prompt for e in ran) == sorted(e.prompt for e in (*examples.train, *examples.test))
    assert scores.loss == plain.loss
    assert np.array_equal(scores.metrics["accuracy"], plain.metrics["accuracy"])
    assert judged.accuracy == plain.metrics["accuracy"].mean()


def test_a_metric_of_ones_own_stays(monkeypatch):
    class Halved(type(load_task("reviews_sentence"))):
        def score(self, *args, **settings):
            loss, metrics = super().score(*args, **settings)
            return Scores(loss, {"half": metrics["accuracy"] / 2})

    task, (model, tokenizer) = Halved(), load_model("tiny-reviews")
    examples = task.sample(0, 4, 2, 4)
    assert score_and_judge(task, model, tokenizer, examples.train, examples.test)[0].metrics.keys() == {"half"}


def test_examples_with_candidates_of_their_own_are_refused():
    task, (model, tokenizer) = load_task("reviews_next"), load_model("tiny-reviews")
    examples = task.sample(0, 4, 2, 4)
    with pytest.raises(ValueError, match="same candidates"):
        judge(task, model, tokenizer, examples.train, examples.test)


def test_the_change_of_an_auc_has_an_interval_that_covers_it():
    rng, known, covered = np.random.default_rng(0), 0.8413 - 0.5, 0  # normal scores a distance of sqrt(2) apart
    for _ in range(40):
        labels = rng.integers(0, 2, 200)
        before, after = rng.normal(size=200), rng.normal(size=200) + 2**0.5 * labels
        value, low, high = auc_change(before, after, labels, draws=200)
        assert low < value < high
        assert value == pytest.approx(auc(after, labels) - auc(before, labels))
        covered += low < known < high
    assert covered >= 34  # of 40, where 38 are expected
    assert auc_change(before, before, labels, draws=10) == (0, 0, 0)
