"""Errors that a user can fix, of every room.

A :class:`UserError` is bad input: one line that says what is wrong and what to set instead, exit code 2 (:mod:`rundir.cli`).
Anything else is our own fault and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """``key=value`` of a config within a message, which a command line may show as one of its options."""

    key: str
    value: object

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, and what to set instead; given in parts, it is their concatenation."""

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    def with_options(self, options: Mapping[str, str]) -> UserError:
        """The same error where every :class:`Setting` whose key is in ``options`` is that option of a command line."""
        return type(self)(
            *(
                f"{options[part.key]} {part.value}" if isinstance(part, Setting) and part.key in options else part
                for part in self.args
            )
        )


@contextmanager
def settings_are_options(options: Mapping[str, str]) -> Iterator[None]:
    """Within the block, errors name the options of this command line instead of the config keys that they set."""
    try:
        yield
    except UserError as error:
        raise error.with_options(options) from error


def suggestion(name: object, known: Iterable[str], before: str = "", otherwise: str = "") -> str:
    """What to write instead of an unknown ``name``: the ``known`` one most like it, after ``before``; else ``otherwise`` or all."""
    known = list(known)
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    return f"did you mean {before}{near[0]}?" if near else otherwise or f"choose one of {', '.join(known)}"


def check_choice(option: str, value: object, known: Iterable[object], what: str = "") -> None:
    """Raise :class:`UserError` if ``value`` of ``option`` is not ``known``; ``what`` it is, where there is a word for it."""
    known = list(known)
    if value not in known:
        names = list(map(str, known))
        every = f"set {option or what} to one of {', '.join(names)}"
        near = suggestion(value, names, f"{option} ".lstrip(), every)
        more = f" Choices: {', '.join(names)}" if near != every and len(known) > 1 else ""
        raise UserError(f"unknown {what or f'value of {option}:'} {str(value)!r}; {near}{more}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
