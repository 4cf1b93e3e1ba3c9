"""The comparison of methods: each number by hand on curves whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from zolab.studies.compare import decided
from zolab.studies.statistics import (
    FEWEST,
    Estimate,
    Ratio,
    Runs,
    difference,
    forwards_to,
    geometric_ratio,
    holm,
    log_mean,
    mean_difference,
    smoothed,
    target_of,
)


def runs(*curves, every=10):
    losses = np.array(curves, float)
    return Runs(every * np.arange(losses.shape[1], dtype=float), losses, np.full(len(losses), 0.5), tuple(range(len(losses))))


def test_a_mean_over_tasks_leaves_out_the_pairs_that_a_task_leaves_out():
    lost = math.inf
    clean = ([0.3, 0.4, 0.5], [0.4, 0.5, 0.6])  # 0.1 lower
    both = ([0.3, lost, 0.5], [0.4, lost, 0.6])  # the same, and one seed of which neither run is left
    crossed = ([0.3, lost, 0.5, 0.2], [0.4, 0.5, lost, 0.3])  # each lost one
    for task in (both, crossed):
        gaps = mean_difference([tuple(map(np.array, each)) for each in (clean, task, task, clean)])
        assert (gaps.value, gaps.n) == (pytest.approx(-0.1), 4)


def test_bounds_of_one_side_are_kept_over_tasks():
    never, arrives = runs(*[[1, 0.9, 0.9, 0.9, 0.9]] * 6), runs(*[[1, 0.6, 0.5, 0.5, 0.5]] * 6)
    late, early = Ratio(never, arrives), Ratio(arrives, never, target=0.6)
    assert geometric_ratio([late] * 3).text().startswith("≥")
    assert geometric_ratio([early] * 3).text().startswith("≤")
    assert geometric_ratio([late, early, late]).bound == ""
    assert geometric_ratio([late, Ratio(arrives, arrives), late]).bound == "≥"


def test_equal_gaps_have_no_spread_to_judge_them_by():
    estimate = difference(np.array([0.5, 0.5]), np.array([0.4, 0.4]))
    assert estimate.value == pytest.approx(0.1)
    assert math.isnan(estimate.p)
    assert estimate.word == "undecided"
    assert difference(np.ones(3), np.ones(3)).p == 1.0


def test_a_single_run_has_no_interval():
    assert Ratio(runs([1, 0.5, 0.5, 0.5]), runs([1, 0.8, 0.6, 0.55])).estimate().text().endswith("(–)")


def test_a_run_is_smoothed_by_the_median_of_its_last_three_evaluations():
    assert np.allclose(smoothed(np.array([[4.0, 1.0, 3.0, 2.0, 0.0]])), [[4.0, 2.5, 3.0, 2.0, 2.0]])


def test_the_target_is_the_mean_final_loss_of_runs_that_did_not_diverge():
    assert target_of(runs([1, 0.5], [1, 0.7], [math.inf, math.inf])) == pytest.approx(0.6)


def test_forward_passes_to_a_target_are_interpolated_and_infinite_if_it_is_not_reached():
    falling = runs([1.0, 0.9, 0.8, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert np.allclose(smoothed(falling.losses)[0], [1.0, 0.95, 0.9, 0.8, 0.7])
    passes = forwards_to(falling, 0.85)
    assert passes[0] == pytest.approx(25)  # halfway between 0.9 at 20 and 0.8 at 30
    assert passes[1] == math.inf
    assert forwards_to(falling, 2.0).tolist() == [0, 0]


def test_one_lucky_evaluation_is_no_arrival():
    assert forwards_to(runs([1.0, 1.0, 0.1, 1.0, 1.0]), 0.5)[0] == math.inf


def test_the_ratio_is_one_of_medians_over_paired_seeds():
    base = runs(*[[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]] * 7)
    fast = runs(*[[1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0]] * 7)
    estimate = Ratio(fast, base, target=0.65).estimate()
    assert estimate.value == pytest.approx(27.5 / 45)  # smoothed: 0.8 at 20, 0.6 at 30, beside 0.7 at 40, 0.6 at 50
    assert estimate.low == estimate.high == pytest.approx(estimate.value)
    assert estimate.word == "lower"
    assert estimate.bound == ""


def test_runs_that_never_arrive_are_censored_and_not_dropped():
    base = runs(*[[1.0, 0.9, 0.8, 0.7, 0.6]] * 6)
    stuck = runs(*[[1.0] * 5] * 4, *[[1.0, 0.5, 0.4, 0.3, 0.2]] * 2)
    ratio = Ratio(stuck, base, target=0.75)
    assert ratio.reached == (2, 6)
    assert ratio.estimate().bound == "≥"
    assert ratio.estimate().value == pytest.approx(40 / 35)  # the whole budget over theirs: smoothed 0.8 at 30, 0.7 at 40
    assert Ratio(base, stuck, target=0.75).estimate().bound == "≤"
    assert Ratio(stuck, stuck, target=0.75).estimate().text() == "–"


def test_a_target_above_the_loss_before_training_says_nothing():
    """One run that ends high lifts the mean above where all runs begin, so that all are there at once."""
    base = runs(*[[1.0, 0.9, 0.8, 0.7, 0.6]] * 5, [1.0, 2.0, 3.0, 4.0, 9.0])
    fast = runs(*[[1.0, 0.5, 0.4, 0.3, 0.2]] * 6)
    assert target_of(base) > 1
    ratio = Ratio(fast, base)
    assert (ratio.void, ratio.reached, ratio.estimate().text()) == (True, (6, 6), "–")
    assert not Ratio(fast, base, target=0.65).void


def test_fewer_runs_than_a_median_needs_decide_nothing():
    assert 1 - 2 ** (1 - FEWEST) >= 0.95 > 1 - 2 ** (2 - FEWEST)
    slow, fast = [1.0, 0.9, 0.8, 0.7, 0.6], [1.0, 0.5, 0.4, 0.3, 0.2]
    for count in (3, FEWEST - 1, FEWEST):
        estimate = Ratio(runs(*[fast] * count), runs(*[slow] * count), target=0.75).estimate()
        assert estimate.high < 1
        assert estimate.word == ("lower" if count >= FEWEST else "undecided")


def test_differences_are_paired_with_the_quantile_of_t():
    ours, base = np.array([0.5, 0.7, 0.6]), np.array([0.6, 0.9, 0.65])
    estimate, gaps = difference(ours, base), ours - base
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / 3**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((gaps.mean(), gaps.mean() - half, gaps.mean() + half))
    assert estimate.p == pytest.approx(stats.ttest_rel(ours, base).pvalue)
    assert abs(gaps.mean()) > 2 * gaps.std(ddof=1) / 3**0.5  # two standard errors would have decided
    assert estimate.word == "undecided"


def test_a_method_that_loses_runs_is_not_lower():
    estimate = difference(np.array([0.1, 0.1, np.inf]), np.array([0.5, 0.5, 0.5]))
    assert (estimate.bound, estimate.high) == ("≥", math.inf)
    assert estimate.word != "lower"
    assert difference(np.array([0.1, 0.2]), np.array([0.5, np.inf])).bound == "≤"
    assert math.isnan(difference(np.array([0.1]), np.array([0.5])).p)


def test_a_run_that_diverges_decides_only_if_fishers_test_does():
    nine = difference(np.array([np.inf] + [0.1] * 9), np.ones(10))
    assert nine.bound == "≥"
    assert nine.p == 1
    assert decided(nine, nine.p) == "undecided"
    all_lost = difference(np.full(5, np.inf), np.ones(5))
    assert all_lost.p == pytest.approx(2 / 252)  # of 10 runs 5 are lost, and all of them on one side
    assert decided(all_lost, all_lost.p) == "higher"
    assert decided(difference(np.ones(5), np.full(5, np.inf)), all_lost.p) == "lower"
    assert decided(all_lost, 0.06) == "undecided"


def test_holms_correction():
    ps = [0.01, 0.04, 0.03, 0.005]
    assert holm(ps) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, float("nan")])[0] == pytest.approx(0.02)
    assert math.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_loss_curve_is_averaged_over_the_logarithm_of_forward_passes():
    curve = Runs(np.array([0.0, 10.0, 100.0, 1000.0]), np.array([[9.0, 4.0, 2.0, 0.0]]), np.zeros(1), (0,))
    assert log_mean(curve)[0] == pytest.approx((3 + 1) / 2)
    passes = np.array([4.0, 10.0, 100.0, 1000.0])  # some before the first step
    calibrated = Runs(passes, curve.losses, curve.metrics, curve.seeds)
    assert log_mean(calibrated)[0] == pytest.approx((3 + 1) / 2)


def test_tasks_are_averaged_by_the_logarithm_with_the_t_interval_over_tasks():
    slow, fast = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0]
    half = Ratio(runs(*[fast] * 3), runs(*[slow] * 3), target=0.65)
    same = Ratio(runs(*[slow] * 3), runs(*[slow] * 3), target=0.65)
    estimate, log = geometric_ratio([half, same] * 6), math.log(27.5 / 45)
    assert estimate.value == pytest.approx(math.exp(log / 2))
    reach = stats.t.ppf(0.975, 11) * np.std([log, 0] * 6, ddof=1) / 12**0.5
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(log / 2 - reach), math.exp(log / 2 + reach)))
    assert (estimate.word, estimate.n) == ("lower", 12)
    assert geometric_ratio([half, same] * 3).word == "undecided"
    assert geometric_ratio([half, half]).text() == "0.61 (–)"  # of two tasks there is no interval
    assert geometric_ratio([half, half]).word == "undecided"


def test_the_interval_of_a_mean_over_tasks_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for tasks in (3, 6):
        hits = 0
        for _ in range(1000):
            shift = rng.normal(0.0, 0.05, size=tasks)
            estimate = mean_difference([(rng.normal(s, 0.1, 5), rng.normal(0.0, 0.1, 5)) for s in shift])
            hits += estimate.low <= 0 <= estimate.high
        assert 0.93 <= hits / 1000 <= 0.97


def test_a_task_with_a_run_that_diverged_leaves_a_mean_open():
    fine, lost = (np.array([0.1, 0.3]), np.array([0.2, 0.2])), (np.array([np.inf, 0.1]), np.array([0.2, 0.2]))
    above, below = mean_difference([fine, fine, lost]), mean_difference([fine, fine, lost[::-1]])
    assert (above.bound, above.high) == ("≥", math.inf)
    assert (below.bound, below.low) == ("≤", -math.inf)
    assert above.value == below.value == pytest.approx(0)


def test_an_estimate_in_words():
    assert Estimate(0.8, 0.55, 1.3, null=1.0, n=9).text() == "0.80 (0.55 to 1.30)"
    assert Estimate(0.01, -0.02, math.inf, bound="≥").text(3, sign=True) == "≥ +0.010 (-0.020 to ∞)"
    words = {(0.5, 0.9): "lower", (1.1, 2.0): "higher", (0.9, 1.1): "undecided"}
    for (low, high), word in words.items():
        assert Estimate(1.0, low, high, null=1.0, n=9).word == word


def test_the_smoothed_median_does_not_depend_on_the_order_of_seeds():
    curves = [[1.0, 0.9, 0.6, 0.5, 0.4], [1.0, 0.8, 0.7, 0.6, 0.5], [1.0, 0.95, 0.9, 0.6, 0.3]]
    values = {
        round(Ratio(runs(*order), runs(*order), target=0.7).estimate().value, 12) for order in itertools.permutations(curves)
    }
    assert values == {1.0}


def test_the_bootstrap_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    """Passes of ten seeds, lognormal, ours 0.8 times the base's; with so few runs a median's bootstrap covers a bit less."""
    ratio, rng = Ratio(runs(*[[1, 0.5]] * 10), runs(*[[1, 0.5]] * 10)), np.random.default_rng(0)
    covered, widths = 0, []
    for number in range(200):
        ratio.times = [0.8 * np.exp(0.3 * rng.normal(size=10)), np.exp(0.3 * rng.normal(size=10))]
        estimate = ratio.estimate(draws=400, seed=number)
        covered += estimate.low <= 0.8 <= estimate.high
        widths.append(estimate.high / estimate.low)
    assert 0.88 <= covered / 200 <= 0.99
    assert np.median(widths) < 3


def test_seeds_are_drawn_anew_as_pairs():
    """With two seeds a draw has each of them, or one twice: three medians, and the outer ones are the ends."""
    ratio = Ratio(runs(*[[1, 0.5]] * 2), runs(*[[1, 0.5]] * 2))
    ratio.times = [np.array([10.0, 40.0]), np.array([20.0, 20.0])]
    estimate = ratio.estimate()
    assert (estimate.value, estimate.low, estimate.high) == tuple(pytest.approx(value) for value in (1.25, 0.5, 2.0))


def test_edges_of_what_can_be_compared():
    flat = runs(*[[1.0, 1.0, 1.0, 1.0]] * 3)
    assert Ratio(flat, flat, target=1.0).void
    assert not Ratio(flat, flat, target=0.999).void
    at_once = Ratio(runs(*[[0.4, 0.4, 0.4, 0.4]] * 3), runs(*[[1, 0.5, 0.5, 0.5]] * 3), target=0.5)
    assert float(at_once(np.arange(3))) == pytest.approx(-np.log(20))  # one pass, not none, of 20
    shorter = runs(*[[1, 0.9, 0.9, 0.9]] * 3, every=9)
    neither = Ratio(shorter, runs(*[[1, 0.9, 0.9, 0.9]] * 3), target=0.5)
    assert (neither.bound, float(neither(np.arange(3)))) == ("–", 0.0)
    lost = np.full(3, math.inf)
    clean = (np.array([0.3, 0.4, 0.5]), np.array([0.4, 0.5, 0.6]))
    assert mean_difference([(lost, lost), clean, clean]).value == pytest.approx(-0.2 / 3)
