"""Made features with known classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from transfer.classification import rows
from transfer.classification.rows import Mapped, Storage, fill


def clusters(seed: int, count: int, dim: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Overlapping clusters: features (count, dim) and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99), dtype=dtype)
    return centres[labels] + torch.randn(count, dim, generator=generator, dtype=dtype), labels


def on_disk(features: Tensor, folder: Path) -> Mapped:
    """Features (N, D) in a memory map."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "IN_MEMORY", 0)
        [stored] = Storage(folder).new(len(features), [features.shape[1]], features.device)
    for start in range(0, len(features), 7):
        fill(stored, start, features[start : start + 7])
    return stored
