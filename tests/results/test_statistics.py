"""Intervals and tests against independent computations: scipy's own bootstrap, closed testing, sums by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.statistics import (
    TESTS,
    binomial_p,
    bootstrap_interval,
    clopper_pearson,
    every_p,
    holm,
    paired_t,
    seeds_needed,
    sign_flip,
    spearman_interval,
)

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


def test_paired_t_is_the_textbook_formula():
    differences, minimum = [0.031, 0.052, 0.018, 0.044], 0.01
    shifted = np.array(differences) - minimum
    t = shifted.mean() / (shifted.std(ddof=1) / 2)  # root of n = 4
    # Student's t with 3 degrees of freedom has a closed form (Abramowitz and Stegun 26.7.3).
    angle = math.atan(t / math.sqrt(3))
    below = 0.5 + (angle + math.sin(angle) * math.cos(angle)) / math.pi
    greater, less = paired_t(differences, minimum)
    assert greater == pytest.approx(1 - below) and less == pytest.approx(below)


def test_paired_t_equals_scipys_test_of_two_samples():
    ahead, behind = [0.9, 0.93, 0.88, 0.95], [0.85, 0.9, 0.89, 0.9]
    expected = stats.ttest_rel(ahead, behind, alternative="greater").pvalue
    assert paired_t(np.subtract(ahead, behind))[0] == pytest.approx(expected)


def test_sign_flip_counts_the_signs_that_do_as_well():
    # Sums of +-1 +-2 +-3 that reach 1 + 2 + 3: one of 8; that reach 1 + 2 - 3 = 0: two of 8 and those above, five in all
    assert sign_flip([1, 2, 3]) == (1 / 8, 1.0)
    assert sign_flip([1, 2, -3])[0] == 5 / 8
    rng = np.random.default_rng(3)
    many = rng.normal(0.2, 1, 30)
    theirs = stats.permutation_test((many,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=5)
    assert sign_flip(many)[0] == pytest.approx(theirs.pvalue, abs=0.02)


@pytest.mark.parametrize(("mean", "level"), [(1.2, 0.05), (0.7, 0.05), (-1.2, 0.005), (3.0, 0.005)])
def test_with_the_seeds_needed_four_simulated_studies_of_five_decide_and_with_fewer_not(mean, level):
    observed = np.array([-1.0, 0.0, 1.0]) + mean  # of standard deviation 1
    needed = seeds_needed(observed + 0.5, 0.5, level)
    rng = np.random.default_rng(1)

    def power(n: int) -> float:
        studies = rng.normal(mean, 1, (20_000, n))
        p = stats.ttest_1samp(studies, 0, axis=1).pvalue
        return float(np.mean((p < level) & (np.sign(studies.mean(axis=1)) == np.sign(mean))))
    assert power(needed) > 0.8 - 0.01
    assert needed == 2 or power(needed - 1) < 0.8 + 0.01


def test_spearmans_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(0, 0.7, 12)
    theirs = stats.bootstrap((x, y), lambda a, b: stats.spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=2000,
                             method="percentile", rng=1).confidence_interval
    assert spearman_interval(x, y) == pytest.approx((theirs.low, theirs.high), abs=0.06)
    assert all(map(math.isnan, spearman_interval([1, 2, 3], [1, 2, 3])))
    assert spearman_interval([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx((1, 1))


def test_seeds_needed_has_its_limits():
    assert seeds_needed([0.1], 0, 0.05) == seeds_needed([0.1, 0.1, 0.1], 0, 0.05) == 0
    assert seeds_needed([-1.0, 0.0, 1.0001], 0, 0.05, most=50) == 51


@pytest.mark.parametrize("name", list(TESTS))
def test_what_cannot_be_tested_is_nan(name):
    assert all(map(math.isnan, TESTS[name]([0.1])))


def test_equal_differences_have_no_spread_to_test_against():
    assert all(map(math.isnan, paired_t([0.02, 0.02, 0.02])))


def test_errors_are_as_rare_as_holm_promises():
    """120 families of 5 true null hypotheses, 4 seeds each: one family in twenty has an error, not one test in twenty."""
    rng = np.random.default_rng(0)
    wrong = sum(min(holm([min(1.0, 2 * min(paired_t(rng.normal(0, 1, 4)))) for _ in range(5)])) < 0.05 for _ in range(120))
    assert 1 <= wrong <= 14  # binomial(120, 0.05): 6 expected, this is 3.4 standard deviations; uncorrected 27 are expected


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (2, 3), (3, 3), (5, 12), (1, 50)])
def test_clopper_pearson_is_where_the_tails_are_a_fortieth(hits, count):
    """By its definition: at the ends of the interval, as many or more (fewer) hits have a probability of 2.5 %."""
    low, high = clopper_pearson(hits, count)

    def at_most(most, share):
        return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(most + 1))

    assert low == 0 if hits == 0 else 1 - at_most(hits - 1, low) == pytest.approx(0.025)
    assert high == 1 if hits == count else at_most(hits, high) == pytest.approx(0.025)


def test_binomial_p_by_hand():
    assert binomial_p(6, 6, 0.5) == pytest.approx(2 / 64) and binomial_p(0, 6, 0.5) == pytest.approx(2 / 64)
    assert binomial_p(3, 3, 0.5) == pytest.approx(0.25) and binomial_p(1, 2, 0.5) == 1
    assert binomial_p(2, 5, 0.1) == pytest.approx(2 * (1 - 0.9**5 - 5 * 0.1 * 0.9**4))


def test_every_mean_must_exceed_the_minimum():
    strong, weak, none = [3.0, 3.1, 2.9], [0.5, 0.8, 0.6], [0.2, -0.3, 0.1]
    one_sided = {name: stats.ttest_1samp(found, 0, alternative="greater").pvalue
                 for name, found in (("strong", strong), ("weak", weak))}
    assert every_p([strong, weak], 0, paired_t) == pytest.approx(2 * one_sided["weak"])  # no correction for their number
    assert every_p([strong, weak], 1, paired_t) == pytest.approx(
        4 * stats.ttest_1samp(weak, 1, alternative="less").pvalue)  # but against it one of two is enough
    assert every_p([strong, none], 0, paired_t) > 0.5 and math.isnan(every_p([strong, [1.0]], 0, paired_t))


def test_every_p_holds_its_level_where_one_mean_is_at_the_minimum():
    """The least favourable truth: one cell without an effect, the others far above. Two-sided 5 % is 2.5 % in favour."""
    draw = np.random.default_rng(1)
    samples = [[draw.normal(0, 1, 5), *draw.normal(9, 1, (3, 5))] for _ in range(1000)]
    wrong = sum(found[0].mean() > 0 and every_p(found, 0, paired_t) < 0.05 for found in samples)
    assert 0 < stats.binom.cdf(wrong, 1000, 0.025) < 0.9999
