"""Architectures by name, as a config asks for their channels and dimensions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.models.encoder import Encoder


@functools.cache
def skeleton(arch: str) -> Encoder:
    """The architecture without weights: only its channel counts are asked for."""
    import torch

    from pretrain.models import build

    with torch.device("meta"):
        return build(arch)
