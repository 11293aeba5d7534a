"""Barlow Twins: outputs of two views correlate dimension by dimension, and different dimensions do not."""

from typing import Annotated

import torch
from torch import Tensor

from pretrain.objective.losses.statistics import off_diagonal_sum, standardised
from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "neither"


def barlow_twins(
    student: Tensor,
    target: Tensor,
    *,
    off_diagonal: Annotated[float, Number(0)] = 0.005,
    scale: Annotated[float, Number(0, strictly=True)] = 0.1,
) -> Tensor:
    """scale / D * (sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2), C the cross-correlation of rows (B, D) over the batch.

    arXiv 2103.03230, eq. 1 and 2, whose authors scale the loss too; D and ``scale`` bring its learning rate to that of other
    losses. The gradient passes through both sides.
    """
    with torch.autocast(student.device.type, enabled=False):
        correlation = standardised(wide(student)).T @ standardised(wide(target)) / len(student)
        diagonal = (1 - correlation.diagonal()).square().sum()
        return scale / len(correlation) * (diagonal + off_diagonal * off_diagonal_sum(correlation.square()))
