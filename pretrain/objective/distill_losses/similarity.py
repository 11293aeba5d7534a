"""Similarities to the other images of the batch, as ReSSL (arXiv 2107.09282) and SEED (arXiv 2101.04731) have them to a queue."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "relative"
Temperature = Annotated[float, Number(0, strictly=True)]


def similarity(
    student: Tensor, target: Tensor, *, student_temperature: Temperature = 0.1, target_temperature: Temperature = 0.05
) -> Tensor:
    """KL divergence of the softmaxes of cosines with the other rows' targets: the student's from the target's; mean over rows."""
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(wide(student), dim=1), F.normalize(wide(target.detach()), dim=1)
        others = ~torch.eye(len(s), dtype=torch.bool, device=s.device)
        own, guide = ((x @ t.T)[others].view(len(s), -1) for x in (s, t))
        return F.kl_div(
            F.log_softmax(own / student_temperature, dim=1),
            F.log_softmax(guide / target_temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
