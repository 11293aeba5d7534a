"""Latencies that are estimated from measured ones: a search looks at thousands of sub-networks, and measuring takes long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import Ridge

from rundir.subnet import Width

SAMPLES = 48  # measured to learn from, next to the largest and the smallest sub-network
RIDGE = 0.01  # against axes that say the same


class LatencyEstimate:
    """Ridge regression of latency on FLOPs, parameters and memory and on the values of the axes of ``space``, each standardised; of
    errors relative to the latency.

    Args:
        measured: sub-networks with their costs by kind, the latency in milliseconds among them.
    """

    def __init__(self, space, measured: Sequence[tuple[Width, Mapping[str, float]]]):
        self.space = space
        inputs = np.array([self._described(width, costs) for width, costs in measured])
        self.mean, self.scale = inputs.mean(0), inputs.std(0) + 1e-9
        latencies = np.array([costs["latency"] for _, costs in measured])
        self.least = latencies.min() / 2
        weights = (latencies.mean() / latencies) ** 2
        self.model = Ridge(RIDGE).fit((inputs - self.mean) / self.scale, latencies, sample_weight=weights)

    def of(self, width: Width, costs: Mapping[str, float]) -> float:
        """Milliseconds of one image; ``costs``: FLOPs, parameters and memory."""
        standardised = (np.array(self._described(width, costs)) - self.mean) / self.scale
        return max(self.least, float(standardised @ self.model.coef_ + self.model.intercept_))

    def _described(self, width: Width, costs: Mapping[str, float]) -> list[float]:
        return [costs["flops"], costs["parameters"], costs["memory"], *map(float, self.space.values(width))]
