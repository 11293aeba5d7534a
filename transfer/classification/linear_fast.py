"""Multinomial logistic regression on cached features: a linear probe in seconds.

The problem is scikit-learn's: minimise C * sum of cross-entropies + half the squared norm of the weights (not of the
intercepts), solved by L-BFGS in float64 on standardised features. Two classes share one weight vector, as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.classification.rows import Rows, blocks

BLOCK_NUMBERS = 2**27  # of float64 held at once, about
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

    def predict(self, features: Rows) -> Tensor:
        """Features (M, D) to classes (M,) int64."""
        size = max(1, BLOCK_NUMBERS // (features.shape[1] + 2 * len(self.weight)))
        return torch.cat([self.logits(block).argmax(1) for block in blocks(features, size)])


def _logits(standardised: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.linear(standardised, weight, bias)
    return torch.cat([torch.zeros_like(logits), logits], 1) if len(weight) == 1 else logits


def fit(
    features: Rows, labels: Tensor, classes: int, C: float = 1.0, tolerance: float = 1e-6, max_iterations: int = 1000
) -> LogisticRegression:
    """Fit a probe to features (N, D) and classes (N,) int64, in blocks where they are many: then sums are rounded in another order.

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
    parts = _Blocks(features, labels, classes)
    (count, dim), rows = features.shape, 1 if classes == 2 else classes
    weight, bias = (parts.mean.new_zeros(shape, requires_grad=True) for shape in ((rows, dim), (rows,)))
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        penalty = weight.square().sum() / (2 * C * count)
        if parts.whole is not None:
            loss = F.cross_entropy(_logits(parts.whole, weight, bias), labels) + penalty
            loss.backward()
            return loss
        penalty.backward()
        total = penalty.detach()
        for x, y in parts:
            loss = F.cross_entropy(_logits(x, weight, bias), y, reduction="sum") / count
            loss.backward()
            total = total + loss.detach()
        return total

    solver.step(objective)
    return LogisticRegression(parts.mean, parts.scale, weight.detach(), bias.detach())


class _Blocks:
    """Standardised features (b, D) float64 and their classes (b,), in blocks for each of which about ``BLOCK_NUMBERS`` are held.

    ``mean``, ``scale`` (D,): what standardises them; ``whole``: all of them, where they are one block.
    """

    def __init__(self, features: Rows, labels: Tensor, classes: int):
        self.features, self.labels = features, labels
        self.size = max(1, BLOCK_NUMBERS // (features.shape[1] + 2 * classes))
        if len(features) <= self.size:
            x = features[:].double()
            self.mean, scale = x.mean(0), x.std(0, unbiased=False)
        else:
            self.mean = sum(x.double().sum(0) for x in blocks(features, self.size)) / len(features)
            squares = sum((x.double() - self.mean).square().sum(0) for x in blocks(features, self.size))
            scale = (squares / len(features)).sqrt()
        self.scale = torch.where(scale > CONSTANT * self.mean.abs(), scale, 1.0)
        self.whole = (x - self.mean) / self.scale if len(features) <= self.size else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(blocks(self.features, self.size), self.labels.split(self.size), strict=True):
            yield (x.double() - self.mean) / self.scale, y
