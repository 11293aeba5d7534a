"""SwAV: an output predicts to which prototypes the batch assigns the other view."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import Config
from pretrain.objective.losses.statistics import balanced_codes
from pretrain.objective.prototypes import check_prototypes
from pretrain.slimmable.layers import wide
from rundir.fields import Number

DISTANCE = "relative"
Temperature = Annotated[float, Number(0, strictly=True)]


def swav(
    student: Tensor,
    target: Tensor,
    *,
    temperature: Temperature = 0.1,
    epsilon: Temperature = 0.05,
    iterations: Annotated[int, Number(1)] = 3,
) -> Tensor:
    """Cross-entropy of the targets' codes and the softmax of the student's scores / temperature (arXiv 2006.09882, eq. 1 and 2).

    It is multiplied by the temperature, as InfoNCE is in MoCo v3 (arXiv 2104.02057), so that gradients do not grow with 1 / it.
    Rows (B, K) are cosines with prototypes (``model.prototypes``). Codes are those of this process's images, and carry no gradient.
    """
    with torch.autocast(student.device.type, enabled=False):
        codes = balanced_codes(wide(target), epsilon, iterations)
        return -temperature * (codes * F.log_softmax(wide(student) / temperature, dim=1)).sum(1).mean()


def check(cfg: Config) -> None:
    """Raise :class:`UserError` where there are no prototypes."""
    check_prototypes(cfg, "swav")
