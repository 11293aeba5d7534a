"""Made features with known classes."""

from __future__ import annotations

import torch
from torch import Tensor


def clusters(seed: int, count: int, dim: int, classes: int,
             dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Overlapping clusters: features (count, dim) and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99), dtype=dtype)
    return centres[labels] + torch.randn(count, dim, generator=generator, dtype=dtype), labels
