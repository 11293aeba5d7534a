"""Linear CKA of outputs and targets (arXiv 1905.00414)."""

import torch
from torch import Tensor

from pretrain.slimmable.layers import wide

DISTANCE = "relative"
EPSILON = 1e-12


def cka(student: Tensor, target: Tensor) -> Tensor:
    """1 - linear CKA of rows (B, D): ||S^T T||^2 / (||S^T S|| ||T^T T||) of the centred rows (Kornblith et al., eq. 4).

    A shift, a rotation or a scale of all targets changes nothing.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (x - x.mean(0) for x in (wide(student), wide(target.detach())))
        own, guide = ((x.T @ x).square().sum() for x in (s, t))
        return 1 - (s.T @ t).square().sum() / ((own * guide).clamp_min(EPSILON).sqrt() + EPSILON)
