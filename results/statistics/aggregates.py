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
    resampled = np.concatenate([scores[random.integers(0, len(scores), (RESAMPLES, len(scores)))].reshape(RESAMPLES, -1)
                                for scores in strata], axis=1)
    return _ends(stats.trim_mean(resampled, 0.25, axis=1))


def improvement(ours: Strata, others: Sequence[Strata]) -> float:
    """Probability that a run of ``ours`` scores higher than one of another's, ties counting half: mean over tasks and ``others``
    (of each pair the Mann-Whitney U statistic over the number of pairs of seeds).
    """
    return float(np.mean([_task_mean([_wins(a, b).mean() for a, b in zip(ours, theirs, strict=True)], ours) for theirs in others]))


def improvement_interval(ours: Strata, others: Sequence[Strata]) -> tuple[float, float]:
    """95 % bootstrap interval of it over the seeds of all of them (1,000 of a fixed seed)."""
    random = np.random.default_rng(0)
    picks = [random.integers(0, len(scores), (RESAMPLES, len(scores), 1)) for scores in ours]
    found = np.zeros(RESAMPLES)
    for theirs in others:
        parts = [_wins(a, b)[own, random.integers(0, len(b), (RESAMPLES, 1, len(b)))].mean(axis=(1, 2))
                 for a, b, own in zip(ours, theirs, picks, strict=True)]
        found += _task_mean(parts, ours) / len(others)
    return _ends(found)


def profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Performance profile: the share of all scores above each of the ``thresholds``."""
    scores = np.concatenate([part.ravel() for part in strata])
    return (scores[None, :] > thresholds[:, None]).mean(axis=1)


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Seeds x seeds: mean over tasks of who scores higher."""
    return (np.sign(ours[:, None, :] - theirs[None, :, :]) / 2 + 0.5).mean(axis=2)


def _task_mean(parts: Sequence, ours: Strata) -> np.ndarray | float:
    """Mean over tasks of values per stratum."""
    return np.average(np.stack([np.asarray(part) for part in parts]), axis=0, weights=[scores.shape[1] for scores in ours])


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
