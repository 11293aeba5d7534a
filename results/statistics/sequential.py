"""A paired t-test that may be looked at after every seed (a group-sequential design with a look per seed).

With a fixed number of seeds a t-test errs with probability alpha; with a look after every seed, and a stop at the first p below
alpha, it errs far more often. Here the whole path counts. Let p_n be the one-sided p value of the paired t-test after n seeds, and
W = min over 3 <= n <= N of p_n / n, N being the most seeds that the study may take, fixed before it starts. Under the null
hypothesis the path of t statistics of normal differences is free of unknown quantities (it is invariant to their scale), so the
distribution of W is known: it is simulated once for each N. The sequential p value after n seeds is the probability under the null
that W falls as low as the path has come so far,

    q_n = P(W <= min over 3 <= m <= n of p_m / m).

It never rises, and P(q_n <= u for any n <= N) <= u, so it is a p value at any stopping time, also of a rule that looks at all
claims at once, and Holm's correction holds for several of them (Liu and Anderson 2008, section 3). The weight n spends little of
the error probability on the first looks, between Pocock (1977) and O'Brien and Fleming (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

FIRST_LOOK = 3  # with two differences the spread is hardly known
PATHS = 400_000
MOST = 100
MOST_SEEDS = 20  # of every study of this suite, which so need not be said before it starts


def sequential_p(differences: Sequence[float], most: int, minimum: float = 0.0) -> tuple[float, float]:
    """Sequential one-sided p values of ``differences`` in the order of their seeds: (that the mean exceeds ``minimum``, that it
    falls short of it).

    Differences beyond ``most`` are not looked at. NaN, NaN for fewer than three, or where all are the same.

    Raises:
        ValueError: ``most`` is not between 3 and 100.
    """
    _check(most)
    shifted = np.asarray(differences, dtype=float)[:most] - minimum
    if len(shifted) < FIRST_LOOK or np.ptp(shifted) <= 1e-12 * max(1.0, float(np.abs(shifted).max())):
        return math.nan, math.nan
    t = t_paths(shifted[None])[0]
    n = np.arange(FIRST_LOOK, len(shifted) + 1)
    above, below = (probability(float(np.min(stats.t.sf(side * t, n - 1) / n)), most) for side in (1, -1))
    return above, below


def sequential_interval(differences: Sequence[float], most: int, level: float = 0.95) -> tuple[float, float]:
    """Repeated confidence interval of the mean: with probability ``level`` it holds the mean at all looks at once (Jennison and
    Turnbull 1989). NaN, NaN for fewer than three differences.
    """
    if len(differences) < FIRST_LOOK:
        return math.nan, math.nan
    means, reach = _looks(differences, most, level)
    low, high = float(np.max(means - reach)), float(np.min(means + reach))
    return (low, high) if low <= high else (float(means[-1] - reach[-1]), float(means[-1] + reach[-1]))


def consistent(differences: Sequence[float], most: int, level: float = 0.95) -> bool:
    """Whether the mean of all looked at lies in the interval of each look. Differences of one distribution nearly always are; where
    later seeds were run on another machine, or beside other work, they need not be.
    """
    if len(differences) < FIRST_LOOK:
        return True
    means, reach = _looks(differences, most, level)
    return bool(np.all(np.abs(means - means[-1]) <= reach + 1e-9 * max(1.0, float(np.abs(means).max()))))


def _looks(differences: Sequence[float], most: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean at each look, and how far the interval reaches to either side."""
    values = np.asarray(differences, dtype=float)[:most]
    n = np.arange(FIRST_LOOK, len(values) + 1)
    means = np.array([values[:k].mean() for k in n])
    spreads = np.array([values[:k].std(ddof=1) for k in n])
    return means, stats.t.isf(critical((1 - level) / 2, most) * n, n - 1) * spreads / np.sqrt(n)


def seeds_needed(differences: Sequence[float], most: int, minimum: float, alpha: float, power: float = 0.8) -> int:
    """How many seeds, counted from the first, decide with probability ``power`` at the two-sided level ``alpha``, were the true
    mean and spread those of ``differences``; ``most`` + 1: more than ``most``. From 4,000 simulated studies of a fixed seed.

    With few differences their spread, and so this number, is itself uncertain. 0 where nothing can be said: fewer than three
    differences, or no spread.
    """
    if math.isnan(sequential_p(differences, most, minimum)[0]):
        return 0
    found = np.asarray(differences, dtype=float) - minimum
    paths = abs(found.mean()) / found.std(ddof=1) + np.random.default_rng(0).standard_normal((4000, most))
    n = np.arange(FIRST_LOOK, most + 1)
    hit = stats.t.sf(t_paths(paths), n - 1) / n <= critical(alpha / 2, most)
    decided = np.cumsum(hit, axis=1).astype(bool).mean(axis=0) >= power  # share of studies that have stopped by then
    return int(n[decided.argmax()]) if decided.any() else most + 1


def probability(lowest: float, most: int) -> float:
    """P(W <= ``lowest``) under the null, of a study of at most ``most`` seeds; never below 1 / (paths simulated + 1)."""
    minima = null_minima(most)
    return float((np.searchsorted(minima, lowest, side="right") + 1) / (len(minima) + 1))


def critical(alpha: float, most: int) -> float:
    """The value that W falls to with probability ``alpha`` under the null: a look at n seeds rejects at p_n <= n times this."""
    minima = null_minima(most)
    rank = math.floor(alpha * (len(minima) + 1)) - 1
    return float(minima[rank]) if rank >= 0 else 0.0


def _check(most: int) -> None:
    if not FIRST_LOOK <= most <= MOST:
        raise ValueError(f"a study takes between {FIRST_LOOK} and {MOST} seeds, not {most}")


@lru_cache(maxsize=8)
def null_minima(most: int) -> np.ndarray:
    """W of 400,000 simulated null studies of at most ``most`` seeds, sorted; from a fixed seed."""
    _check(most)
    random, found = np.random.default_rng(most), []
    for _ in range(20):
        t = t_paths(random.standard_normal((PATHS // 20, most)))
        n = np.arange(FIRST_LOOK, most + 1)
        found.append(np.min(stats.t.sf(t, n - 1) / n, axis=1))
    return np.sort(np.concatenate(found))


def t_paths(values: np.ndarray) -> np.ndarray:
    """t statistics after 3, 4, ... values of each row: (R, n) to (R, n - 2)."""
    n = np.arange(1, values.shape[1] + 1)
    centred = values - values[:, :1]  # a common offset costs digits in the sums of squares
    means = np.cumsum(centred, axis=1) / n
    squares = np.cumsum(centred**2, axis=1) - n * means**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (means + values[:, :1]) * np.sqrt(n * (n - 1) / np.maximum(squares, 0))
    return np.nan_to_num(t, nan=0.0)[:, FIRST_LOOK - 1 :]
