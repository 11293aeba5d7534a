"""One number for all widths and data sets at once (Agarwal et al. 2021, arXiv 2108.13264), with intervals over seeds.

Scores come as one matrix of seeds x tasks for each data set and setting; a task is a width of it. As in that paper and its package
rliable, but for the bootstrap: the widths of one network are no independent runs, so that a seed is drawn with all its widths.
(rliable itself would bring arch, statsmodels, seaborn and absl for these formulas.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 1000
LEVEL = 0.95
Strata = Sequence[np.ndarray]  # seeds x tasks each


def interquartile_mean(strata: Strata) -> float:
    """Mean of the middle half of all scores, each task and seed counting once."""
    return float(stats.trim_mean(np.concatenate([scores.ravel() for scores in strata]), 0.25))


def interquartile_interval(strata: Strata) -> tuple[float, float]:
    """95 % bootstrap interval of it over seeds, resampled in each stratum for itself (1,000 of a fixed seed)."""
    random = np.random.default_rng(0)
    resampled = np.concatenate(
        [scores[random.integers(0, len(scores), (RESAMPLES, len(scores)))].reshape(RESAMPLES, -1) for scores in strata], axis=1
    )
    return _ends(stats.trim_mean(resampled, 0.25, axis=1))


def improvement(ours: Strata, others: Sequence[Strata]) -> float:
    """Probability that a run of ``ours`` scores higher than one of another's, ties counting half: mean over tasks and ``others``
    (of each pair the Mann-Whitney U statistic over the number of pairs of seeds).
    """
    parts = [
        [_wins(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0] for a, b in zip(ours, theirs, strict=True)] for theirs in others
    ]
    return float(np.mean([_task_mean(part, ours) for part in parts]))


def improvement_interval(ours: Strata, others: Sequence[Strata]) -> tuple[float, float]:
    """95 % bootstrap interval of it over the seeds of all of them (1,000 of a fixed seed)."""
    random = np.random.default_rng(0)
    picks = [_drawn(random, len(scores)) for scores in ours]
    found = np.zeros(RESAMPLES)
    for theirs in others:
        parts = [_wins(a, b, own, _drawn(random, len(b))) for a, b, own in zip(ours, theirs, picks, strict=True)]
        found += _task_mean(parts, ours) / len(others)
    return _ends(found)


def profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Performance profile: the share of all scores above each of the ``thresholds``."""
    scores = np.concatenate([part.ravel() for part in strata])
    return (scores[None, :] > thresholds[:, None]).mean(axis=1)


def _drawn(random: np.random.Generator, seeds: int) -> np.ndarray:
    """Resamples x seeds: how often each seed is drawn, ``seeds`` draws with replacement in each."""
    picks = random.integers(0, seeds, (RESAMPLES, seeds)) + seeds * np.arange(RESAMPLES)[:, None]
    return np.bincount(picks.ravel(), minlength=RESAMPLES * seeds).reshape(RESAMPLES, seeds).astype(float)


def _wins(ours: np.ndarray, theirs: np.ndarray, our_counts: np.ndarray, their_counts: np.ndarray) -> np.ndarray:
    """The share of pairs of runs in which ours scores higher, ties counting half, mean over tasks, for each row of the counts
    (resamples x seeds), which say how often each seed is there.

    The cost grows as the seeds do, not as their pairs: of each of our scores, theirs below it are read off sums along their order.
    """
    found = np.zeros(len(our_counts))
    for own, other in zip(ours.T, theirs.T, strict=True):
        order = np.argsort(other)
        below = np.pad(np.cumsum(their_counts[:, order], axis=1), ((0, 0), (1, 0)))
        beaten, not_lost = (below[:, np.searchsorted(other[order], own, side)] for side in ("left", "right"))
        found += np.einsum("rs,rs->r", our_counts, beaten + not_lost)
    return found / (2 * ours.shape[1] * our_counts.sum(axis=1) * their_counts.sum(axis=1))


def _task_mean(parts: Sequence[np.ndarray], ours: Strata) -> np.ndarray:
    """Mean over tasks of values per stratum."""
    return np.average(np.stack(parts), axis=0, weights=[scores.shape[1] for scores in ours])


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
