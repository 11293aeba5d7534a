"""How the C library reuses memory that tensors have freed."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3)


@cache
def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of returning it to the system; False where the C library is not glibc.

    A training step or a search's score on a CPU frees and allocates the same large tensors again and again. glibc returns each to
    the system at once, and the pages of the next one are zeroed anew when they are first touched (mallopt(3): M_MMAP_MAX,
    M_TRIM_THRESHOLD).
    ``benchmarks/README.md`` has what that costs.
    """
    name = ctypes.util.find_library("c")
    library = ctypes.CDLL(name) if name else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(MMAP_MAX, 0)) and bool(library.mallopt(TRIM_THRESHOLD, 2**31 - 1))
