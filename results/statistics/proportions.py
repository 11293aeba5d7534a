"""A test of a share of seeds that may be looked at after every seed: the design of :mod:`results.statistics.sequential`, exact.

p_n is the one-sided binomial p value after n seeds and W = min over n <= N of p_n / n. Under the null share the number of hits is a
walk of n steps, so P(W <= w) is a finite sum, and no simulation is needed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

GRID = 400  # shares that the interval is searched over


def sequential_binomial_p(hits: Sequence[bool], most: int, share: float) -> tuple[float, float]:
    """Sequential one-sided p values of ``hits`` in the order of their seeds: (that the true share exceeds ``share``, that it falls
    short of it). Hits beyond ``most`` are not looked at; NaN, NaN for none.
    """
    seen = np.asarray(hits, dtype=bool)[:most]
    if not len(seen):
        return math.nan, math.nan
    return _exceeds(seen, most, share), _exceeds(~seen, most, 1 - share)


def _exceeds(hits: np.ndarray, most: int, share: float) -> float:
    """Under ``share``, the probability of a path of at most ``most`` steps that is ever as extreme as this one ever was."""
    n, counts = np.arange(1, len(hits) + 1), np.cumsum(hits)
    lowest = float(np.min(stats.binom.sf(counts - 1, n, share) / n)) * (1 + 1e-9)
    going, reached = np.ones(1), 0.0  # probability of each number of hits, on paths that are not as extreme so far
    for step in range(1, most + 1):
        going = np.append(going * (1 - share), 0.0) + np.append(0.0, going * share)
        extreme = stats.binom.sf(np.arange(step + 1) - 1, step, share) / step <= lowest
        reached += float(going[extreme].sum())
        going = np.where(extreme, 0.0, going)
    return min(1.0, reached)


def sequential_share(hits: Sequence[bool], most: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the true share that holds at all looks at once: the shares that neither side rejects, found among 400 by
    bisection and widened to the next; NaN, NaN for no hits at all to look at.
    """
    if not len(hits):
        return math.nan, math.nan
    seen, tail, shares = np.asarray(hits, dtype=bool)[:most], (1 - level) / 2, range(1, GRID)
    low = bisect.bisect_left(shares, True, key=lambda k: _exceeds(seen, most, k / GRID) > tail)
    high = bisect.bisect_left(shares, True, key=lambda k: _exceeds(~seen, most, k / GRID) > tail)
    return low / GRID, 1 - high / GRID
