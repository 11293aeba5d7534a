"""W-MSE: whitened outputs of two views are near each other; whitening keeps them from collapsing."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import Config
from pretrain.objective.losses.statistics import whitened
from pretrain.slimmable.layers import wide
from rundir.errors import UserError
from rundir.fields import Number

DISTANCE = "neither"
GROUP = 32


def wmse(
    student: Tensor,
    target: Tensor,
    *,
    group: Annotated[int, Number(1)] = GROUP,
    epsilon: Annotated[float, Number(0, 1, strictly=True)] = 1e-4,
) -> Tensor:
    """-mean_i cos of rows (B, D), each side whitened over the batch (arXiv 2007.06346, eq. 2 to 4).

    Whitening is within groups of ``group`` consecutive dimensions, as decorrelated BatchNorm has it (arXiv 1804.08450), so that the
    batch may be smaller than D. The gradient passes through both sides.
    """
    with torch.autocast(student.device.type, enabled=False):
        s, t = (whitened(wide(x), group, epsilon) for x in (student, target))
        return -F.cosine_similarity(s, t, dim=1).mean()


def check(cfg: Config) -> None:
    """Raise :class:`UserError` where a covariance would be of too few images."""
    if cfg.objective.base_loss != "wmse":
        return
    group = cfg.objective.base_options.get("group", GROUP)
    images = cfg.optimizer.batch_size // max(1, cfg.optimizer.virtual_processes)
    if images <= group:
        raise UserError(
            f"objective.base_loss=wmse whitens groups of {group} dimensions over {images} images, which are too few; "
            f"set objective.base_options.group={max(1, images // 2)} or a larger optimizer.batch_size"
        )
