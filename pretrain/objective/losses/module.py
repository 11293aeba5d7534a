"""A loss with settings or a memory of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from pretrain.config import ObjectiveConfig
from pretrain.objective.queue import Queue


class LossSetting(NamedTuple):
    """What a loss is made with: the size D of outputs and targets, the run's objective, and its queue of past targets, if any."""

    dim: int
    objective: ObjectiveConfig
    queue: Queue | None = None


class LossModule(nn.Module):
    """A loss that is a class: it is made with a :class:`LossSetting`, and its ``forward`` takes what a function would.

    What it remembers of past steps is in buffers, which checkpoints hold; it has no parameters.
    """

    def observe(self, targets: Sequence[Tensor]) -> None:
        """See the targets (B, D) of the views of a base pass, after its loss was computed."""
