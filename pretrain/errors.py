"""Errors a user can mend, and how a command line shows them.

A :class:`UserError` is bad input: one line that says what is wrong and what to write instead, exit code 2. Anything else is
our own fault and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable, Sequence


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, and what to write instead."""


def suggestion(name: object, known: Iterable[str], before: str = "", otherwise: str = "") -> str:
    """What to write instead of an unknown ``name``: the ``known`` one most like it, after ``before``; else ``otherwise`` or all."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {before}{near[0]}?" if near else otherwise or f"choose one of {', '.join(known)}"


def check_choice(option: str, value: str, known: Iterable[str], what: str = "") -> None:
    """:class:`UserError` if ``value`` of ``option`` is not ``known``; ``what`` it is, where ``option`` does not say it."""
    known = list(known)
    if value not in known:
        otherwise = f"write {option} with one of {', '.join(known)}"
        raise UserError(f"unknown {what or option} {value!r}; {suggestion(value, known, f'{option} ', otherwise)}")


def cli(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> None:
    """Run ``main(argv)`` as a program and exit with its code.

    Exit codes: 0 or what ``main`` returns; 2 for a :class:`UserError` or a full or read-only disk, printed as one line
    on stderr; 130 for Ctrl-C. Other exceptions are not caught, so that their traceback is seen.
    """
    try:
        code = main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"error: {error.strerror}{where}; free some space or choose another directory, "
              f"then run the same command again: it resumes", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        code = 130
    sys.exit(code)
