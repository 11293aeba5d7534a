"""Errors that a user can fix, of every room.

A :class:`UserError` is bad input: one line that says what is wrong and what to set instead, exit code 2 (:mod:`rundir.cli`).
Anything else is our own fault and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, and what to set instead."""


def suggestion(name: object, known: Iterable[str], before: str = "", otherwise: str = "") -> str:
    """What to write instead of an unknown ``name``: the ``known`` one most like it, after ``before``; else ``otherwise`` or all."""
    known = list(known)
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    return f"did you mean {before}{near[0]}?" if near else otherwise or f"choose one of {', '.join(known)}"


def check_choice(option: str, value: str, known: Iterable[str], what: str = "") -> None:
    """:class:`UserError` if ``value`` of ``option`` is not ``known``; ``what`` it is, where ``option`` does not say it."""
    known = list(known)
    if value not in known:
        otherwise = f"write {option} with one of {', '.join(known)}"
        raise UserError(f"unknown {what or option} {value!r}; {suggestion(value, known, f'{option} ', otherwise)}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
