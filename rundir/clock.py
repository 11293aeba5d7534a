"""Times as they are written to files, read and shown: UTC, ISO 8601, to the second."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from rundir.errors import UserError

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def age(time: object) -> float | None:
    """Seconds since ``time``, which :func:`now` wrote; None where it is no such time."""
    try:
        return (datetime.now(timezone.utc) - datetime.fromisoformat(str(time))).total_seconds()
    except (ValueError, TypeError):  # no time at all; a time without its zone
        return None


def duration(seconds: float) -> str:
    """Seconds as people read them: ``48 s``, ``12.0 min``, ``3.5 h``, ``2.1 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def seconds(text: str) -> float:
    """``90min``, ``6h``, ``1.5 d``, ``45s`` as seconds.

    Raises:
        UserError: it is no such time above 0.
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(s|min|h|d)\s*", text)
    if not found or not float(found[1]):
        raise UserError(f"{text[:50]!r} is not a time; set a number above 0 with s, min, h or d, for example 90min or 6h")
    return float(found[1]) * UNITS[found[2]]
