"""The two losses of the guidelines: absolute and relative distance (METHOD section 2).

Both take outputs of the student and targets of equal shape (B, D), any float type; targets carry no gradient. They are computed in
float32 whatever the autocast type (float64 stays float64), and return a scalar of that type.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import rows_of_processes, several
from pretrain.slimmable.layers import wide


def negative_cosine(student: Tensor, target: Tensor) -> Tensor:
    """Absolute distance: -mean_i cos(s_i, t_i), in [-1, 1] (SimSiam, arXiv 2011.10566, eq. 1).

    Half the squared distance of the unit vectors, less one: what the literature calls the MSE loss.
    """
    return -F.cosine_similarity(wide(student), wide(target.detach()), dim=1).mean()


def infonce(student: Tensor, target: Tensor, temperature: float, gather: bool = False) -> Tensor:
    """Relative distance: NT-Xent over the 2B rows of [student; target] (SimCLR, arXiv 2002.05709, eq. 1).

    The positive of a row is its counterpart in the other half, all other rows are its negatives; the mean is over 2B rows.
    With ``gather`` the rows of all ranks stand in one batch (equal B on each), else negatives are those of this process.
    """
    device = student.device.type
    with torch.autocast(device, enabled=False):
        s = F.normalize(wide(student), dim=1)
        t = F.normalize(wide(target.detach()), dim=1)
        if gather and several():
            s, t = rows_of_processes(s), rows_of_processes(t)
        rows = torch.cat([s, t])
        logits = rows @ rows.T / temperature
        logits.fill_diagonal_(float("-inf"))
        positives = torch.arange(len(rows), device=rows.device).roll(len(s))
        return F.cross_entropy(logits, positives)


def loss_function(name: str, temperature: float, gather: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """``mse`` or ``infonce`` as a function of (student, target)."""
    if name == "mse":
        return negative_cosine
    return lambda student, target: infonce(student, target, temperature, gather)


def symmetric(loss: Callable[[Tensor, Tensor], Tensor], outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over the two pairings of a view's output with the other view's target."""
    return 0.5 * (loss(outputs[0], targets[1]) + loss(outputs[1], targets[0]))
