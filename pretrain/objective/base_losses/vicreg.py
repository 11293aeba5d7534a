"""VICReg: outputs of two views are near each other, every dimension varies, and dimensions do not covary."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objective.losses.statistics import covariance, off_diagonal_sum
from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "absolute"
EPSILON = 1e-4  # of a variance
Weight = Annotated[float, Number(0)]


def vicreg(
    student: Tensor, target: Tensor, *, invariance: Weight = 1.0, variance: Weight = 1.0, covariance_weight: Weight = 0.04
) -> Tensor:
    """The sum of the three terms of rows (B, D) (arXiv 2105.04906, eq. 1 to 6); variance and covariance are those of both sides.

    The weights are the paper's 25, 25 and 1 over 25. The invariance is the mean squared error over dimensions too, as in its code.
    The gradient passes through both sides.
    """
    with torch.autocast(student.device.type, enabled=False):
        sides = wide(student), wide(target)
        spread = sum(F.relu(1 - (x.var(0) + EPSILON).sqrt()).mean() for x in sides)
        redundancy = sum(off_diagonal_sum(covariance(x).square()) / x.shape[1] for x in sides)
        return invariance * F.mse_loss(*sides) + variance * spread + covariance_weight * redundancy
