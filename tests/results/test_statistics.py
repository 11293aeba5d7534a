"""Intervals and tests against independent computations: scipy's own bootstrap, closed testing, sums by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics.families import equivalence, every, holm, two_sided
from results.statistics.intervals import bootstrap_interval, clopper_pearson, interval_with_images, spearman_interval

P_VALUES = st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=6)


@given(P_VALUES)
def test_holm_is_closed_testing_with_bonferroni(p_values):
    """Holm rejects a hypothesis exactly if Bonferroni rejects every intersection that it is part of (Marcus et al. 1976)."""
    everything = range(len(p_values))
    subsets = [subset for size in range(1, len(p_values) + 1) for subset in combinations(everything, size)]
    for place, adjusted in enumerate(holm(p_values)):
        closed = max(min(1.0, len(subset) * min(p_values[i] for i in subset)) for subset in subsets if place in subset)
        assert adjusted == pytest.approx(closed)


def test_holm_by_hand_and_what_was_not_tested_does_not_count():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.03)
    assert holm([]) == []


def test_the_small_bootstrap_is_the_distribution_of_all_resamples():
    """Of two values a, b the means of resamples are a, (a + b) / 2 twice, b: 25 % of them at either end.

    Of three, 1 of 27 at either end is more than 2.5 %. Of four, 6.4 of 256 are 2.5 %: below come 0 once, 2.5 four times, then 5;
    above 1000 once, 775 four times, then 752.5.
    """
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0) and bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert bootstrap_interval([0.1, 0.5, 0.3]) == pytest.approx((0.1, 0.5))
    assert bootstrap_interval([0, 10, 100, 1000]) == pytest.approx((5.0, 752.5))


@pytest.mark.parametrize("values", [[0.91, 0.94, 0.90], [0.5, 0.52, 0.47, 0.55, 0.61], list(np.linspace(0.2, 0.8, 12) ** 2)])
def test_intervals_agree_with_scipys_bootstrap(values):
    theirs = stats.bootstrap((np.array(values),), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    room = 0.05 * np.ptp(values)
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), abs=room)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_an_interval_holds_the_mean_and_stays_within_the_values(values):
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-12 <= low <= np.mean(values) + 1e-9 and np.mean(values) - 1e-9 <= high <= max(values) + 1e-12


def test_one_value_has_no_interval_and_missing_ones_do_not_count():
    assert all(map(math.isnan, bootstrap_interval([0.5])))
    assert bootstrap_interval([0.5, math.nan, 0.7]) == bootstrap_interval([0.5, 0.7])


def test_spearmans_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(0, 0.7, 12)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert spearman_interval(x, y) == pytest.approx((theirs.low, theirs.high), abs=0.06)
    assert all(map(math.isnan, spearman_interval([1, 2, 3], [1, 2, 3])))
    assert spearman_interval([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx((1, 1))


def one_sided(values, minimum=0.0):
    """A plain one-sided t-test and its opposite."""
    greater = float(stats.ttest_1samp(values, minimum, alternative="greater").pvalue)
    return greater, 1 - greater


def test_errors_are_as_rare_as_holm_promises():
    """120 families of 5 true null hypotheses, 4 seeds each: one family in twenty has an error, not one test in twenty."""
    rng = np.random.default_rng(0)
    wrong = sum(min(holm([min(1.0, 2 * min(one_sided(rng.normal(0, 1, 4)))) for _ in range(5)])) < 0.05 for _ in range(120))
    assert 1 <= wrong <= 14  # binomial(120, 0.05): 6 expected, this is 3.4 standard deviations; uncorrected 27 are expected


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (2, 3), (3, 3), (5, 12), (1, 50)])
def test_clopper_pearson_is_where_the_tails_are_a_fortieth(hits, count):
    """By its definition: at the ends of the interval, as many or more (fewer) hits have a probability of 2.5 %."""
    low, high = clopper_pearson(hits, count)

    def at_most(most, share):
        return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(most + 1))

    assert low == 0 if hits == 0 else 1 - at_most(hits - 1, low) == pytest.approx(0.025)
    assert high == 1 if hits == count else at_most(hits, high) == pytest.approx(0.025)


def test_every_one_has_to_hold():
    strong, weak, none = [one_sided(values) for values in ([3.0, 3.1, 2.9], [0.5, 0.8, 0.6], [0.2, -0.3, 0.1])]
    assert every([strong, weak])[0] == weak[0]  # no correction for their number
    assert every([weak, (0.99, 0.01), none])[1] == pytest.approx(0.03)  # against it one of three is enough, if it is clear
    assert every([strong]) == strong
    assert all(map(math.isnan, every([strong, (math.nan, math.nan)])))


def test_every_holds_its_level_where_one_mean_is_at_the_minimum():
    """The least favourable truth: one cell without an effect, the others far above. Two-sided 5 % is 2.5 % in favour."""
    draw = np.random.default_rng(1)
    samples = [[draw.normal(0, 1, 5), *draw.normal(9, 1, (3, 5))] for _ in range(1000)]
    wrong = sum(every(list(map(one_sided, found)))[0] < 0.025 for found in samples)
    assert 0 < stats.binom.cdf(wrong, 1000, 0.025) < 0.9999


def test_equivalence_is_two_one_sided_tests():
    values = np.array([0.1, -0.2, 0.15, 0.05])
    found = equivalence(one_sided(values, -1), one_sided(values, 1))
    assert found[0] == pytest.approx(
        max(stats.ttest_1samp(values, -1, alternative="greater").pvalue, stats.ttest_1samp(values, 1, alternative="less").pvalue)
    )
    assert equivalence(one_sided(values + 3, -1), one_sided(values + 3, 1))[1] == pytest.approx(
        2 * stats.ttest_1samp(values + 3, 1, alternative="greater").pvalue
    )


@pytest.mark.parametrize("mean", [-1.0, 1.0])
def test_equivalence_errs_at_the_level_where_the_mean_is_at_the_margin(mean):
    samples = np.random.default_rng(4).normal(mean, 0.2, (1000, 5))
    wrong = np.mean([equivalence(one_sided(found, -1), one_sided(found, 1))[0] < 0.025 for found in samples])
    assert 0.011 < wrong < 0.040  # 0.025, and three standard deviations


def test_two_sided_is_twice_the_smaller():
    assert two_sided((0.01, 0.99)) == 0.02 and two_sided((0.6, 0.4)) == 0.8 and two_sided((0.5, 0.7)) == 1
    assert math.isnan(two_sided((math.nan, math.nan)))


def test_an_interval_with_images_covers_the_score_on_other_images():
    """Seeds of an accuracy of 0.9 with a spread of 0.01, scored on the same 200 images: the mean of many seeds on all images."""
    random, covered, without, studies = np.random.default_rng(0), 0, 0, 300
    for _ in range(studies):
        hard = random.random(200)  # an image is right where the network is better than it is hard
        seeds = [float(np.mean(hard < skill)) for skill in random.normal(0.9, 0.01, 5)]
        low, high = interval_with_images(seeds, math.sqrt(0.9 * 0.1 / 200))
        covered += low <= 0.9 <= high
        low, high = bootstrap_interval(seeds)
        without += low <= 0.9 <= high
    assert covered / studies > 0.92 and without / studies < 0.6
    assert interval_with_images([0.5], 0.02) == pytest.approx((0.5 - 1.96 * 0.02, 0.5 + 1.96 * 0.02), abs=0.002)
    assert all(map(math.isnan, interval_with_images([0.5, 0.6], math.nan)))
    assert interval_with_images([1.0, 1.0], 0.01)[1] == 1.0
