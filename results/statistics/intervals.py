"""Intervals for a fixed number of observations: of a mean, a rank correlation and a proportion."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

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
    return _bootstrap(tuple(float(value) for value in values if not math.isnan(value)), level)


@functools.lru_cache(maxsize=65536)  # tables and several pictures ask for the same scores
def _bootstrap(found: tuple[float, ...], level: float) -> tuple[float, float]:
    if len(found) < 2:
        return math.nan, math.nan
    tail = (1 - level) / 2
    means = np.asarray(found)[_picks(len(found))].mean(axis=1)
    # No interpolation: between the few means that so few values have it would cut the interval short.
    low, high = np.quantile(means, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


@functools.cache
def _picks(n: int) -> np.ndarray:
    """The resamples of ``n`` values (resamples, n), as their places."""
    if n <= ENUMERATED:
        return np.indices((n,) * n).reshape(n, -1).T.copy()
    return np.random.default_rng(0).integers(0, n, (RESAMPLES, n))


def interval_with_images(values: Sequence[float], image_error: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the mean over seeds *and* test images; NaN, NaN where ``image_error`` (of one score, a fraction) is not known.

    All seeds are scored on the same images, so that their choice is an error that more seeds do not average out: to each
    resampled mean (as in :func:`bootstrap_interval`, 10,000 of a fixed seed) a normal error of that size is added. An upper
    bound, since part of a single score's error is that of its seed. Of one value it is the images' alone.
    """
    return _with_images(tuple(float(value) for value in values if not math.isnan(value)), image_error, level)


@functools.lru_cache(maxsize=65536)
def _with_images(values: tuple[float, ...], image_error: float, level: float) -> tuple[float, float]:
    found = np.asarray(values)
    if not len(found) or math.isnan(image_error):
        return math.nan, math.nan
    random = np.random.default_rng(0)
    means = found[random.integers(0, len(found), (RESAMPLES, len(found)))].mean(axis=1)
    low, high = np.quantile(means + image_error * random.standard_normal(RESAMPLES), [(1 - level) / 2, (1 + level) / 2])
    return max(0.0, float(low)), min(1.0, float(high))


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


def clopper_pearson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934): covers the true one at least as often as ``level`` says."""
    interval = stats.binomtest(hits, count).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)
