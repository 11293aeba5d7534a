"""Statistics over seeds: bootstrap intervals, paired tests, and Holm's correction.

The unit is the seed: a run's score at one seed is one observation, however many images it was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
# With so few observations all resamples can be listed, and the interval depends on no random numbers.
ENUMERATED = 6


def bootstrap_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993, chapter 13); NaN, NaN for fewer than two values.

    Exact, over all n^n resamples, up to n = 6; above, 10,000 resamples from a fixed seed. With three or four values it
    covers the true mean less often than ``level`` says: it cannot reach beyond the values themselves.
    """
    found = np.asarray([value for value in values if not math.isnan(value)], dtype=float)
    n = len(found)
    if n < 2:
        return math.nan, math.nan
    if n <= ENUMERATED:
        picks = np.array(list(product(range(n), repeat=n)))
    else:
        picks = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    tail = (1 - level) / 2
    # No interpolation: between the few means that so few values have it would cut the interval short.
    low, high = np.quantile(found[picks].mean(axis=1), [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def paired_t(differences: Sequence[float], minimum: float = 0.0) -> tuple[float, float]:
    """One-sided p values of a paired t-test: (that the mean difference exceeds ``minimum``, that it falls short of it).

    NaN, NaN for fewer than two differences, or where all are the same: the spread is then unknown.
    """
    shifted = np.asarray(differences, dtype=float) - minimum
    if len(shifted) < 2 or np.ptp(shifted) <= 1e-12 * max(1.0, float(np.abs(shifted).max())):
        return math.nan, math.nan
    greater = float(stats.ttest_1samp(shifted, 0.0, alternative="greater").pvalue)
    return greater, float(stats.ttest_1samp(shifted, 0.0, alternative="less").pvalue)


def sign_flip(differences: Sequence[float], minimum: float = 0.0) -> tuple[float, float]:
    """As :func:`paired_t`, by the exact permutation test over all 2^n signs (Fisher 1935): no distribution assumed.

    Its smallest p value is 2^-n: two-sided, it decides nothing below six seeds. Above 16 seeds, 2^16 random signs stand for all.
    """
    shifted = np.asarray(differences, dtype=float) - minimum
    n = len(shifted)
    if n < 2:
        return math.nan, math.nan
    signs = (np.array(list(product((-1.0, 1.0), repeat=n))) if n <= 16
             else np.random.default_rng(0).choice((-1.0, 1.0), (2**16, n)))
    sums, seen = signs @ shifted, shifted.sum()
    room = 1e-12 * max(1.0, float(np.abs(shifted).sum()))
    return float(np.mean(sums >= seen - room)), float(np.mean(sums <= seen + room))


def spearman_interval(x: Sequence[float], y: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of Spearman's rho over pairs (2,000 resamples from a fixed seed); NaN, NaN for fewer than four.

    Resamples without an order, all of one pair, are left out.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(first) < 4:
        return math.nan, math.nan
    picks = np.random.default_rng(0).integers(0, len(first), (2_000, len(first)))
    ranks = [stats.rankdata(values[picks], axis=1) for values in (first, second)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    rhos = (centred[0] * centred[1]).sum(axis=1)[scale > 0] / scale[scale > 0]
    tail = (1 - level) / 2
    low, high = np.quantile(rhos, [tail, 1 - tail])
    return float(low), float(high)


def seeds_needed(differences: Sequence[float], minimum: float, level: float, power: float = 0.8, most: int = 100) -> int:
    """How many seeds a two-sided paired t-test at ``level`` needs to decide with probability ``power``, were the true mean and
    spread those of ``differences`` (the noncentral t distribution; Cohen 1988, section 2.3). ``most`` + 1: more than ``most``.

    With few differences their spread, and so this number, is itself uncertain. 0 where nothing can be said: fewer than two
    differences, or no spread.
    """
    if math.isnan(paired_t(differences, minimum)[0]):
        return 0
    found = np.asarray(differences, dtype=float) - minimum
    size = abs(found.mean()) / found.std(ddof=1)
    for n in range(2, most + 1):
        critical = stats.t.ppf(1 - level / 2, n - 1)
        if stats.nct.sf(critical, n - 1, size * math.sqrt(n)) >= power:
            return n
    return most + 1


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934): covers the true one at least as often as ``level`` says."""
    interval = stats.binomtest(hits, count).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def binomial_p(hits: int, count: int, share: float) -> float:
    """Two-sided exact p of ``hits`` among ``count`` were the true proportion ``share``: twice the smaller tail, at most 1."""
    return float(min(1.0, 2 * min(stats.binom.sf(hits - 1, count, share), stats.binom.cdf(hits, count, share))))


def every_p(differences: Sequence[Sequence[float]], minimum: float, test: Callable[..., tuple[float, float]]) -> float:
    """Two-sided p of the statement that the mean of *every* list of ``differences`` exceeds ``minimum``.

    In favour: an intersection-union test, the largest p of all (Berger 1982), with no correction needed. Against it, one that falls
    short is enough, so the smallest p counts, times their number (Bonferroni). Which of the two is decided by the weakest mean.
    """
    sides = [test(found, minimum) for found in differences]
    if any(math.isnan(greater) for greater, _ in sides):
        return math.nan
    weakest = min(sum(found) / len(found) for found in differences)
    if weakest > minimum:
        return min(1.0, 2 * max(greater for greater, _ in sides))
    return min(1.0, 2 * len(sides) * min(less for _, less in sides))


TESTS = {"paired_t": paired_t, "sign_flip": sign_flip}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: below 0.05 all at once with at most 5 % risk of any error.

    NaN stays NaN and is not counted as a test.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
