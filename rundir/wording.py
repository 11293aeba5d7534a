"""Words that messages share."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, thing: str) -> str:
    """``1 job``, ``2 jobs``, ``1,024 jobs``. ``thing``: the noun, whose plural has an s."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def joined(words: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
