"""Asking a training in this process to save and stop: from a signal handler, whatever launched it.

The loop looks between two steps. What it then leaves is a checkpoint like any other, so the run ends with the same numbers.
"""

from __future__ import annotations

_asked = False


class Interrupted(Exception):
    """The training was asked to stop and has saved; the same call goes on from there."""


def request_stop() -> None:
    """Let the training save and raise :class:`Interrupted` after its current step."""
    global _asked
    _asked = True


def stop_requested() -> bool:
    """Whether :func:`request_stop` was called in this process."""
    return _asked
