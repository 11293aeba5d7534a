"""Features, one row per image: a tensor, or a memory map where they are too many for memory; both are read in blocks."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rundir.errors import UserError

IN_MEMORY = 2 * 2**30  # bytes of features, at all widths together, up to which they stay in memory
CHECKED = 2**16  # rows at once


class Mapped:
    """Rows (N, D) float32 in a memory map, of which all or those of ``index`` (n,) are meant; blocks are given on ``device``."""

    def __init__(self, rows: np.memmap, device: torch.device, index: Tensor | None = None):
        self.rows, self.device, self.index = rows, device, index

    def __len__(self) -> int:
        return len(self.rows if self.index is None else self.index)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        return len(self), self.rows.shape[1]

    def __getitem__(self, part: slice) -> Tensor:
        """A copy of a part in memory; the map's own pages are given back, so that what is resident stays bounded."""
        copy = torch.from_numpy(np.array(self.rows[part if self.index is None else self.index[part].numpy()]))
        self.release()
        return copy.to(self.device)

    def release(self) -> None:
        """Take the map's pages out of this process's memory; the file keeps them."""
        self.rows._mmap.madvise(mmap.MADV_DONTNEED)


Rows: TypeAlias = Tensor | Mapped


def blocks(rows: Rows, size: int) -> Iterator[Tensor]:
    """The rows in blocks (at most ``size``, D), in order."""
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def select(rows: Rows, index: Tensor) -> Rows:
    """The rows of ``index`` (n,) int64, ascending."""
    if len(index) == len(rows):
        return rows
    return Mapped(rows.rows, rows.device, index.cpu()) if isinstance(rows, Mapped) else rows[index]


def are_finite(rows: Rows) -> bool:
    """Whether all numbers are finite."""
    return all(bool(block.isfinite().all()) for block in blocks(rows, CHECKED))


class Storage:
    """Where features are kept: in memory while all that were asked for take at most ``IN_MEMORY`` bytes, then in ``folder``.

    The files have no name: they are gone with the process, however it ends.
    """

    def __init__(self, folder: Path | None = None):
        self.folder, self.taken = folder, 0

    def new(self, count: int, dims: list[int], device: torch.device) -> list[Rows]:
        """Rows (count, D) for each D of ``dims``, to be filled by :func:`fill`.

        Raises:
            UserError: there is no room for them on the disk.
        """
        size = 4 * count * sum(dims)
        self.taken += size
        if self.taken <= IN_MEMORY:
            return [torch.empty(count, dim, device=device) for dim in dims]
        folder = self.folder or Path(tempfile.gettempdir())
        print(
            f"features of {count:,} images take {size / 1e9:.1f} GB at all widths; they are kept in files in {folder} until the "
            "evaluation ends",
            flush=True,
        )
        try:
            return [Mapped(_mapped(count, dim, folder), device) for dim in dims]
        except OSError as error:
            raise UserError(
                f"cannot keep {size / 1e9:.1f} GB of features in {folder} ({error.strerror}); set --out to a folder "
                "on a larger disk, or evaluate fewer --widths at a time"
            ) from None


def _mapped(count: int, dim: int, folder: Path) -> np.memmap:
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, 4 * count * dim)  # a disk that is full later would end the process
        return np.memmap(file, np.float32, "r+", shape=(count, dim))


def fill(rows: Rows, start: int, block: Tensor) -> None:
    """Put ``block`` (b, D) into the rows from ``start`` on."""
    if isinstance(rows, Mapped):
        rows.rows[start : start + len(block)] = block.cpu().numpy()
        rows.release()
    else:
        rows[start : start + len(block)] = block
