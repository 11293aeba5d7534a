"""The sequential t-test: its p values against plain loops, its error under peeking, and how many seeds it takes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results.statistics.families import holm
from results.statistics.proportions import sequential_binomial_p, sequential_share
from results.statistics.sequential import (
    FIRST_LOOK,
    MOST_SEEDS,
    consistent,
    critical,
    null_minima,
    probability,
    seeds_needed,
    sequential_interval,
    sequential_p,
    t_paths,
)

MOST = 12
LEVEL = 0.05


def test_paths_are_those_of_a_t_test_after_every_value():
    values = np.random.default_rng(0).normal(3.0, 2.0, (4, 9)) + 1e4
    for row, path in zip(values, t_paths(values), strict=True):
        expected = [stats.ttest_1samp(row[:n], 0.0).statistic for n in range(FIRST_LOOK, 10)]
        np.testing.assert_allclose(path, expected, rtol=1e-6)


def test_p_values_against_a_loop_over_looks():
    differences = np.random.default_rng(1).normal(1.0, 1.0, 8)
    minima = null_minima(MOST)
    for side, alternative in enumerate(("greater", "less")):
        lowest = min(stats.ttest_1samp(differences[:n], 0.5, alternative=alternative).pvalue / n for n in range(3, 9))
        expected = (sum(minima <= lowest * (1 + 1e-12)) + 1) / (len(minima) + 1)
        assert sequential_p(differences, MOST, 0.5)[side] == pytest.approx(expected, rel=1e-3)


def test_nothing_is_said_of_too_few_or_equal_differences():
    assert all(map(math.isnan, sequential_p([1.0, 2.0], MOST)))
    assert all(map(math.isnan, sequential_p([1.0, 1.0, 1.0], MOST)))
    assert all(map(math.isnan, sequential_interval([1.0, 2.0], MOST)))
    with pytest.raises(ValueError, match="between 3 and 100"):
        sequential_p([1.0, 2.0, 4.0], 2)


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=MOST + 3), st.floats(-5, 5))
@settings(max_examples=60, deadline=None)
def test_more_seeds_never_raise_a_p_value_and_its_interval_agrees(values, minimum):
    before, after = sequential_p(values[:-1], MOST, minimum), sequential_p(values, MOST, minimum)
    for earlier, later in zip(before, after, strict=True):
        assert math.isnan(earlier) or later <= earlier + 1e-15
    if not math.isnan(after[0]):
        low, high = sequential_interval(values, MOST, 1 - LEVEL)
        near = 1e-9 * max(1.0, max(map(abs, values)))
        if after[0] < LEVEL / 2 - 1e-4:
            assert low >= minimum - near
        if after[0] > LEVEL / 2 + 1e-4:
            assert low <= minimum + near
        if after[1] < LEVEL / 2 - 1e-4:
            assert high <= minimum + near


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=MOST + 3))
@settings(max_examples=60, deadline=None)
def test_differences_are_consistent_where_the_mean_of_all_is_in_the_interval_of_each_look(values):
    seen = values[:MOST]
    spare = []
    for look in range(FIRST_LOOK, len(seen) + 1):
        first = np.array(seen[:look])
        reach = stats.t.isf(critical(0.025, MOST) * look, look - 1) * first.std(ddof=1) / math.sqrt(look)
        spare.append(reach - abs(first.mean() - np.mean(seen)))
    if abs(min(spare)) > 1e-6:
        assert consistent(values, MOST) == (min(spare) > 0)


def test_differences_of_one_distribution_are_nearly_always_consistent():
    drawn = np.random.default_rng(0).normal(1.0, 1.0, (2000, 12))
    assert np.mean([consistent(row, MOST) for row in drawn]) > 0.97


def stops(paths, alpha):
    """After how many seeds each row's two-sided test stops; one more than there are where it never does."""
    t = t_paths(paths)
    n = np.arange(FIRST_LOOK, paths.shape[1] + 1)
    hit = stats.t.sf(np.abs(t), n - 1) / n <= critical(alpha / 2, paths.shape[1])
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + FIRST_LOOK, paths.shape[1] + 1)


@pytest.mark.parametrize("noise", ["normal", "t5", "skewed"])
def test_peeking_after_every_seed_errs_at_most_at_the_level(noise):
    random, shape = np.random.default_rng(7), (20_000, MOST)
    paths = {
        "normal": lambda: random.standard_normal(shape),
        "t5": lambda: random.standard_t(5, shape),
        "skewed": lambda: random.gamma(4.0, 1.0, shape) - random.gamma(4.0, 1.0, shape),
    }[noise]()
    wrong = np.mean(stops(paths, LEVEL) <= MOST)
    assert wrong <= LEVEL + 0.005
    naive = np.mean((2 * stats.t.sf(np.abs(t_paths(paths)), np.arange(2, MOST)) <= LEVEL).any(axis=1))
    assert naive > 0.10  # which is why a plain t-test may not be looked at so often


def test_a_family_of_claims_errs_at_most_at_the_level():
    """Twelve claims, eight of them null and correlated; Holm after every seed, stop when all are decided or the seeds end."""
    random, studies, claims, true = np.random.default_rng(3), 300, 12, 4
    wrong = 0
    for _ in range(studies):
        shared = random.standard_normal((1, MOST))
        paths = 0.7 * shared + math.sqrt(0.51) * random.standard_normal((claims, MOST))
        paths[:true] += 1.5
        decided = set()
        for n in range(FIRST_LOOK, MOST + 1):
            both = [2 * min(sequential_p(path[:n], MOST)) for path in paths]
            decided |= {place for place, p in enumerate(holm(both)) if p < LEVEL}
            if len(decided) == claims:
                break
        wrong += any(place >= true for place in decided)
    assert wrong / studies <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / studies)


def fixed_seeds(effect, alpha, power):
    """Seeds of a plain two-sided paired t-test of that power."""
    return next(n for n in range(2, 200) if stats.nct.sf(stats.t.ppf(1 - alpha / 2, n - 1), n - 1, effect * math.sqrt(n)) >= power)


@pytest.mark.parametrize(("effect", "alpha"), [(1.2, 0.05), (2.0, 0.05), (1.6, 0.05 / 12), (2.5, 0.05 / 12)])
def test_takes_fewer_seeds_than_a_fixed_design_of_the_same_power(effect, alpha):
    power, fixed = 0.9, fixed_seeds(effect, alpha, 0.9)
    for most in range(fixed + 1, 2 * fixed + 3):
        taken = stops(np.random.default_rng(5).normal(effect, 1.0, (4000, most)), alpha)
        if np.mean(taken <= most) >= power:
            break
    else:
        pytest.fail("no number of seeds reaches the power")
    assert np.minimum(taken, most).mean() < 0.95 * fixed


def test_tails_are_what_they_say():
    for alpha in (0.001, 0.0125, 0.025):
        assert probability(critical(alpha, MOST), MOST) == pytest.approx(alpha, abs=3e-5)
    assert 0 < probability(0.0, MOST) < 1e-5


@pytest.mark.parametrize(("mean", "level"), [(1.2, 0.05), (-1.2, 0.005), (3.0, 0.005)])
def test_with_the_seeds_needed_four_studies_of_five_have_decided_and_with_fewer_not(mean, level):
    observed = np.array([-1.0, 0.0, 1.0]) + mean  # of standard deviation 1
    needed = seeds_needed(observed + 0.5, MOST_SEEDS, 0.5, level)
    taken = stops(np.random.default_rng(1).normal(abs(mean), 1, (4000, MOST_SEEDS)), level)
    assert np.mean(taken <= needed) > 0.8 - 0.02
    assert needed == FIRST_LOOK or np.mean(taken < needed) < 0.8 + 0.02


def test_seeds_needed_has_its_limits():
    assert seeds_needed([0.1, 0.2], MOST, 0, 0.05) == seeds_needed([0.1, 0.1, 0.1], MOST, 0, 0.05) == 0
    assert seeds_needed([-1.0, 0.0, 1.0001], MOST, 0, 0.05) == MOST + 1


def walks(most):
    """All paths of so many seeds."""
    return [[bool(number >> place & 1) for place in range(most)] for number in range(2**most)]


@pytest.mark.parametrize("share", [0.4, 0.2])
def test_the_binomial_walk_errs_at_most_at_the_level_over_all_paths_and_stops(share):
    """All 2^7 studies of seven seeds, each looked at after every seed: the probability of those that ever err, summed exactly."""
    most, wrong, naive = 7, 0.0, 0.0
    for path in walks(most):
        weight = share ** sum(path) * (1 - share) ** (most - sum(path))
        looks = [sequential_binomial_p(path[:n], most, share)[0] for n in range(1, most + 1)]
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(looks))
        wrong += weight * (min(looks) <= LEVEL)
        plain = stats.binom.sf(np.cumsum(path) - 1, np.arange(1, most + 1), share)
        naive += weight * (min(plain) <= LEVEL)
    assert wrong <= LEVEL < naive


def test_a_binomial_p_is_the_probability_of_paths_as_extreme():
    hits, most, share = [True, True, False, True, True, True], 8, 0.5

    def lowest(path):
        return min(stats.binomtest(sum(path[:n]), n, share, "greater").pvalue / n for n in range(1, len(path) + 1))

    expected = np.mean([lowest(path) <= lowest(hits) * (1 + 1e-9) for path in walks(most)])
    assert sequential_binomial_p(hits, most, share)[0] == pytest.approx(expected)
    assert sequential_binomial_p([not hit for hit in hits], most, share)[1] == pytest.approx(expected)
    assert all(map(math.isnan, sequential_binomial_p([], most, share)))


def test_the_interval_of_a_share_holds_it_at_all_looks_at_once():
    share, missed, studies = 0.7, 0, 100
    for path in np.random.default_rng(2).random((studies, 12)) < share:
        ends = [sequential_share(path[:n], 12) for n in (4, 12)]
        missed += any(not low <= share <= high for low, high in ends)
    assert missed <= 12  # 5 are expected at most; 13 or more have a probability below 0.001
    low, high = sequential_share([True] * 8, MOST_SEEDS)
    assert high == 1 and min(sequential_binomial_p([True] * 8, MOST_SEEDS, low)) <= LEVEL / 2 < min(
        sequential_binomial_p([True] * 8, MOST_SEEDS, low + 2 / 400)
    )
