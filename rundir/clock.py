"""Times as they are written to files, read and shown: UTC, ISO 8601, to the second."""

from __future__ import annotations

from datetime import datetime, timezone


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
