"""Multinomial logistic regression on cached features: a linear probe in seconds.

The problem is scikit-learn's: minimise C * sum of cross-entropies + half the squared norm of the weights (not of the
intercepts), solved by L-BFGS in float64 on standardised features. Two classes share one weight vector, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CONSTANT = 1e-6  # a feature that varies less than this share of its mean is rounding noise of float32


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted probe.

    ``mean``, ``scale`` (D,) standardise features; ``weight`` (classes, D) and ``bias`` (classes,) act on standardised
    ones, with one row instead of two for two classes; all float64.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Features (M, D) to logits (M, classes) float64."""
        return _logits((features.double() - self.mean) / self.scale, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Features (M, D) to classes (M,) int64."""
        return self.logits(features).argmax(1)


def _logits(standardised: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.linear(standardised, weight, bias)
    return torch.cat([torch.zeros_like(logits), logits], 1) if len(weight) == 1 else logits


def fit(features: Tensor, labels: Tensor, classes: int, C: float = 1.0, tolerance: float = 1e-6,
        max_iterations: int = 1000) -> LogisticRegression:
    """Fit a probe to features (N, D) and classes (N,) int64.

    Args:
        C: inverse strength of the L2 penalty, above 0, as scikit-learn's ``LogisticRegression(C=...)``.
        tolerance: largest gradient entry of the mean objective at which the solver stops.

    Raises:
        ValueError: ``C`` is not above 0, or there are fewer than two classes.
    """
    if not C > 0:
        raise ValueError(f"C={C} must be above 0")
    if classes < 2:
        raise ValueError("a classifier needs at least two classes")
    x = features.double()
    mean, scale = x.mean(0), x.std(0, unbiased=False)
    scale = torch.where(scale > CONSTANT * mean.abs(), scale, 1.0)
    x = (x - mean) / scale
    rows = 1 if classes == 2 else classes
    weight, bias = x.new_zeros(rows, x.shape[1], requires_grad=True), x.new_zeros(rows, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, max_eval=2 * max_iterations, history_size=20,
                               tolerance_grad=tolerance, tolerance_change=0.0, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(_logits(x, weight, bias), labels) + weight.square().sum() / (2 * C * len(x))
        loss.backward()
        return loss

    solver.step(objective)
    return LogisticRegression(mean, scale, weight.detach(), bias.detach())
