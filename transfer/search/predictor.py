"""A predictor of scores from what a sub-network keeps: it is asked where scoring thousands would take too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from rundir.subnet import Width
from transfer.search.problem import Scored

FOLDS = 5
LEAST = 2 * FOLDS  # scored sub-networks to learn from


class Prediction:
    """Gradient boosting (Friedman, Annals of Statistics 29(5), 2001) of scores on the values of the axes of ``space``.

    Attributes:
        rho: Spearman's rho between score and prediction, each sub-network predicted by a model that has not seen it (five folds);
            nan where there are too few.
        count: sub-networks that it learned from.
        screened: those that it has been asked about.
    """

    def __init__(self, space, scored: Sequence[Scored], seed: int):
        self.space = space
        known = [one for one in scored if one.score is not None]
        self.count, self.rho, self.screened = len(known), math.nan, 0
        self.model = GradientBoostingRegressor(
            n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.8, random_state=seed % 2**32
        )
        if len(known) < LEAST:
            self.model = None
            return
        inputs, scores = self._encoded([one.width for one in known]), np.array([one.score for one in known])
        folds = KFold(FOLDS, shuffle=True, random_state=seed % 2**32)
        self.rho = spearman(scores, cross_val_predict(self.model, inputs, scores, cv=folds))
        self.model.fit(inputs, scores)

    def of(self, widths: Sequence[Width]) -> list[float]:
        """Predicted scores; all equal where there were too few to learn from."""
        return self.model.predict(self._encoded(widths)).tolist() if self.model is not None and len(widths) else [0.0] * len(widths)

    def _encoded(self, widths: Sequence[Width]) -> np.ndarray:
        """(N, axes): the value on every axis."""
        return np.array([[float(value) for value in self.space.values(width)] for width in widths])


def spearman(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's rho; nan where one of them is constant, or there are fewer than three."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)
