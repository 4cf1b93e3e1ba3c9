"""Official F1 and exact match on answers made by hand, and the interval around a mean."""

import itertools

import numpy as np
import pytest

from zolab.tasks.metrics import drop_em, drop_f1, interval, squad_em, squad_f1


@pytest.mark.parametrize(
    ("text", "golds", "f1", "em"),
    [
        ("The Eiffel Tower.", ["Eiffel tower"], 1, 1),  # case, punctuation and articles do not count
        ("eiffel  tower", ["a Eiffel-Tower"], 0, 0),  # a hyphen is dropped and glues its words
        ("in Paris, France", ["Paris"], 0.5, 0),
        ("Paris", ["in Paris, France", "London", "Paris!"], 1, 1),  # the best gold counts
        ("the the cat cat", ["cat"], 2 / 3, 0),  # words count as often as they occur
        ("tower Eiffel", ["Eiffel Tower"], 1, 0),
        ("1,000", ["1000"], 1, 1),
        ("12.0", ["12"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 0, 1),  # nothing is left of either: equal, but no word in common
        ("Banana", ["anna"], 0, 0),
    ],
)
def test_squad(text, golds, f1, em):
    assert squad_f1(text, golds) == pytest.approx(f1)
    assert squad_em(text, golds) == em


@pytest.mark.parametrize(
    ("spans", "golds", "f1", "em"),
    [
        (["12"], ["12.0"], 1, 1),  # numbers are compared as numbers
        (["1.2e1"], ["12"], 1, 1),
        (["S.K. Singh"], ["sk singh"], 1, 1),
        (["a 30-yard pass"], ["the 30 yard pass"], 1, 1),  # a hyphen parts words
        (["30"], ["30-yard"], 0.67, 0),
        (["yards"], ["36 yards"], 0, 0),  # the gold number is missing
        (["36 yd"], ["36 yards"], 0.5, 0),
        (["36 yards"], ["yards"], 0.67, 0),  # a number in the text alone does not hurt more than a word
        (["1,500"], ["1500"], 1, 1),
        (["Ann Lee"], ["Lee Ann"], 1, 0),  # bags have no order
        (["cat cat"], ["cat"], 1, 0),  # nor repetition
        (["Ann"], ["Ann", "Bob"], 0.5, 0),  # a missing span counts 0
        (["Ann", "Bob"], ["Bob", "Ann"], 1, 1),
        (["Ann", "Ann"], ["Ann"], 0.5, 0),  # one gold span is used once
        (["x", "x"], ["x", "y"], 0.5, 0),
        (["red fox", "fox"], ["fox", "red"], 0.83, 0),  # greedy pairing of "fox" with "red fox" would lose
        (["Ann Poe", "Bob Ray"], ["Ann Ray", "Bob Poe"], 0.5, 0),  # spans are not pooled
        ([""], ["army"], 0, 0),
    ],
)
def test_drop(spans, golds, f1, em):
    assert drop_f1(spans, golds) == f1
    assert drop_em(spans, golds) == em


def test_the_alignment_is_the_best_of_all():
    words = ["ann", "bob", "cat", "dog", "eel"]
    draw = np.random.RandomState(0)
    for _ in range(40):
        spans, golds = ([" ".join(draw.choice(words, draw.randint(1, 4))) for _ in range(draw.randint(1, 5))] for _ in range(2))
        short, long = sorted((spans, golds), key=len)
        pairings = itertools.permutations(long, len(short))
        totals = [sum(drop_f1([a], [b]) for a, b in zip(short, pairing, strict=True)) for pairing in pairings]
        assert drop_f1(spans, golds) == pytest.approx(max(totals) / len(long), abs=0.011)


def test_interval_by_hand():
    assert interval([1, 0, 1, 1]) == pytest.approx((0.300642, 0.954413), abs=1e-6)
    assert interval([1.0] * 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert interval([0.0] * 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    low, high = interval([0.25, 0.75] * 200)
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low < 0.1


def test_interval_holds_the_truth_nineteen_times_in_twenty():
    draw = np.random.RandomState(0)
    for truth in (0.3, 0.6, 0.9):
        covered = [low <= truth <= high for low, high in (interval(draw.random(100) < truth) for _ in range(1000))]
        assert 0.92 < np.mean(covered) < 0.98
