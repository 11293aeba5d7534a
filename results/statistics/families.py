"""Several hypotheses at once: Holm's correction, claims about each of several cells, and equivalence.

All of it only combines p values. Where these are valid at any number of seeds (:mod:`results.statistics.sequential`), so is what is
made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Sides = tuple[float, float]  # one-sided p values: that the statement holds, that it does not


def every(sides: Sequence[Sides]) -> Sides:
    """Of the statement that *every* one of several holds; NaN, NaN where one cannot be tested.

    In favour: an intersection-union test, the largest p (Berger 1982), with no correction needed. Against: one that does not hold
    is enough, so the smallest p counts, times their number (Bonferroni).
    """
    if any(math.isnan(p) for pair in sides for p in pair):
        return math.nan, math.nan
    return max(holds for holds, _ in sides), min(1.0, len(sides) * min(fails for _, fails in sides))


def equivalence(above_lower: Sides, above_upper: Sides) -> Sides:
    """Of the statement that a mean lies within a margin, from the tests (that it exceeds, that it falls short of) of both ends.

    In favour: two one-sided tests, the larger p (Schuirmann 1987). Against: it lies beyond one end, the smaller p times two.
    """
    return every([above_lower, above_upper[::-1]])


def two_sided(sides: Sides) -> float:
    """Twice the smaller p, at most 1."""
    return min(1.0, 2 * min(sides)) if not any(map(math.isnan, sides)) else math.nan


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
