"""The queue of targets of past steps (MoCo, arXiv 1911.05722, section 3.2; SEED, arXiv 2101.04731, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.distributed import rows_of_processes, several
from pretrain.slimmable.layers import wide


class Queue(nn.Module):
    """The last ``size`` targets, ``rows`` (size, dim), L2-normalised; the same on every process.

    It starts with random directions from ``seed``, as MoCo's does.
    """

    def __init__(self, size: int, dim: int, seed: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        start = torch.randn(size, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        self.register_buffer("rows", F.normalize(start, dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, *targets: Tensor) -> None:
        """Replace the oldest rows by ``targets`` (B, dim) of every process, in the order of the processes.

        Raises:
            ValueError: they are more than the queue holds.
        """
        rows = torch.cat([F.normalize(wide(t), dim=1) for t in targets]).to(self.rows)
        if several():
            rows = rows_of_processes(rows)
        if len(rows) > len(self.rows):
            raise ValueError(f"{len(rows)} targets do not fit in a queue of {len(self.rows)}")
        self.rows[(self.position + torch.arange(len(rows), device=rows.device)) % len(self.rows)] = rows
        self.position.add_(len(rows)).remainder_(len(self.rows))
