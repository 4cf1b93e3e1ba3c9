"""Pairs of recipes that differ in one setting; differences of runs, lost ones included."""

import math

import pytest

from zolab.studies.ablation import changes, difference, single_changes


def record(a, b):
    def runs(losses):
        return {"seeds": {str(seed): {"dev_loss": loss} for seed, loss in enumerate(losses)}}

    return {"result": {f"task{k}": {"a": runs(x), "b": runs(y)} for k, (x, y) in enumerate(zip(a, b, strict=True))}}


def test_runs_are_compared_task_by_task_and_seed_by_seed():
    found = difference(record([[1.0, 2.0], [5.0, 6.0]], [[1.1, 2.1], [5.1, 6.3]]), "a", "b")
    assert found.mean == pytest.approx(-0.15)
    assert found.error == pytest.approx(0.05)
    assert found.word == "lower"
    assert difference(record([[1.0, 2.0]], [[0.9, 2.1]]), "a", "b").word == "undecided"
    assert str(difference(record([[1.0, 2.0]], [[0.5, 1.5]]), "a", "b")) == "higher (+0.500 ± 0.000 nats)"


@pytest.mark.parametrize(
    ("a", "b", "word", "lost"),
    [
        ([None, 1.0], [1.0, 2.0], "higher", 1),
        ([1.0, 1.0], [None, None], "lower", -2),
        ([None, 1.0, 2.0], [None, 1.5, 2.6], "lower", 0),
        ([None], [None], "undecided", 0),
        ([1.0], [2.0], "undecided", 0),
    ],
)
def test_a_lost_run_is_worse_than_any(a, b, word, lost):
    found = difference(record([a], [b]), "a", "b")
    assert (found.word, found.lost) == (word, lost)


def test_methods_without_a_common_task_are_refused():
    with pytest.raises(ValueError, match="no task has runs of both a and c"):
        difference(record([[1.0]], [[2.0]]), "a", "c")


def test_pairs_differ_in_one_question():
    recipes = {
        "published": {"steps": 570},
        "never reset": {"steps": 570, "period": 570},
        "adam": {"steps": 570, "outer": "adam", "meta_lr": 0.01},
        "both": {"steps": 570, "period": 570, "outer": "adam", "meta_lr": 0.01},
        "expected": {"steps": 570, "outer": "adam", "meta_lr": 0.01, "gradient": "expected", "through_budget": True},
        "larger step": {"steps": 570, "lr_zo": 1e-3, "identity": True},
    }
    found = single_changes(recipes)
    assert found["reset"] == [("published", "never reset", "period 190 -> 570"), ("adam", "both", "period 190 -> 570")]
    assert [pair[:2] for pair in found["gradient"]] == [("adam", "expected")]
    assert [pair[:2] for pair in found["step in the meta-loss"]] == [("published", "larger step"), ("adam", "larger step")]
    assert not any(pairs for question, pairs in found.items() if question not in ("reset", "gradient", "step in the meta-loss"))
    assert changes(recipes["both"]) == {"period": 570, "outer": "adam", "meta_lr": 0.01}


def test_a_difference_of_no_runs_says_so():
    assert math.isnan(difference(record([[None]], [[1.0]]), "a", "b").mean)
