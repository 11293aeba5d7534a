"""The similarities among the images of the batch themselves (similarity-preserving distillation, arXiv 1907.09682)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "relative"


def gram(student: Tensor, target: Tensor, *, scale: Annotated[float, Number(0, strictly=True)] = 0.1) -> Tensor:
    """scale times the squared differences of the cosines of each two different rows (B, D) among outputs and among targets, summed
    over a row's partners and averaged over rows. A rotation of all targets changes nothing. Their sum alone is tens at the start,
    where outputs are nearly parallel; ``scale`` brings it to the size of other losses.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        return scale * (s @ s.T - t @ t.T).square().sum() / len(s)  # the diagonals are equal
