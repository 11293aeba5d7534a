"""The similarities among the images of the batch themselves (similarity-preserving distillation, arXiv 1907.09682)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.slimmable.layers import wide

DISTANCE = "relative"


def gram(student: Tensor, target: Tensor) -> Tensor:
    """Squared differences of the cosines of each two different rows (B, D) among outputs and among targets: their sum over a row's
    partners, averaged over rows. A rotation of all targets changes nothing.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        return (s @ s.T - t @ t.T).square().sum() / len(s)  # the diagonals are equal
