"""Words that messages share."""

from __future__ import annotations


def counted(count: int, thing: str) -> str:
    """``1 job``, ``2 jobs``, ``1,024 jobs``. ``thing``: the noun, whose plural has an s."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
