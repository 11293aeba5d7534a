"""Command lines whose mistakes are one line, and the kinds of values that their options take."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rundir import __version__
from rundir.errors import UserError
from rundir.subnet import LETTERS, Width, parse_width

PROJECT, COMMANDS = "us3l-bench", "us3l-"  # how installed programs begin

LARGEST = 2**31 - 1
LARGEST_SEED = 2**63 - 1  # as of torch's generators
# Nobody means more: a larger number is a typing error, and would only fail later.
MOST_CHANNELS = 2**17
MOST_EPOCHS = 10**6
MOST_PIXELS = 2**12  # of a side
MOST_WORKERS = 2**12
MOST_BATCH = 2**20
MOST_WIDTHS = 1000


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`rundir.errors.UserError` for a mistake instead of printing its usage, and has the
    option ``--version``. A program that is called by its installed name is called so in its messages.
    """

    def __init__(self, prog: str | None = None, **options: Any):
        called = os.path.basename(sys.argv[0])
        super().__init__(called if called.startswith(COMMANDS) and " " not in (prog or "") else prog, **options)
        self.add_argument("--version", action="version", version=f"{PROJECT} {__version__}", help="print the version and stop")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{' '.join(message.split())}; {self.prog} --help shows all options")


def whole(low: int = 0, high: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that is a whole number in [low, high]."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number {_range(low, high)}")
        return value

    return number


def real(low: float = 0.0, high: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """The type of an option that is a finite number in [low, high]; ``above``: above ``low``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or value > high or value == math.inf:
            limits = f"{'above ' if above else ''}{_range(low, high, above)}"
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number {limits}")
        return value

    return number


class Spread(NamedTuple):
    """``count`` widths, evenly spread from ``low`` to ``high``."""

    low: float
    high: float
    count: int  # type: ignore[assignment]  # a tuple's own method of that name is not used

    def widths(self) -> list[float]:
        """The widths, widest first, rounded to six decimals."""
        step = (self.high - self.low) / (self.count - 1)
        return [round(self.high - i * step, 6) for i in range(self.count)]


def a_width(text: str) -> Width:
    """The type of an option that is a width, or a sub-network such as ``w[1,.75,.5,.5]d[2,1,2,2]``."""
    if not any(letter in text for letter in (*LETTERS, "[")) or text.lower() in ("nan", "inf", "infinity"):
        try:
            return real()(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"{_shown(text)} is not a width; set a number above 0 and at most 1, or a sub-network such as 'w[1,.75,.5,.5]'"
                + ", with spaces between several" * ("," in text)
            ) from None
    try:
        return parse_width(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def width_or_spread(text: str) -> Width | Spread:
    """The type of an option that is a width, a sub-network, or ``LOW:HIGH:COUNT``, a :class:`Spread`."""
    if ":" not in text:
        return a_width(text)
    parts = text.split(":")
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        count = 0
    if len(parts) != 3 or not (2 <= count <= MOST_WIDTHS and 0 < low < high <= 1):
        raise argparse.ArgumentTypeError(
            f"{_shown(text)} is not LOW:HIGH:COUNT, such as 0.25:1.0:16, with 0 < LOW < HIGH <= 1 and "
            f"from 2 to {MOST_WIDTHS} widths"
        )
    return Spread(low, high, count)


def place(text: str) -> Path:
    """The type of an option that is a file or directory: not the empty string that an unset variable of a shell leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a path (. is the working directory)")
    return Path(text)


def word(text: str) -> str:
    """The type of an option that is a string of at least one character."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; leave the option out, or give a value")
    return text


def _range(low: float, high: float, above: bool = False) -> str:
    if high in (math.inf, LARGEST, LARGEST_SEED):
        return f"{low}" if above else f"from {low} on" if high != LARGEST_SEED else f"from {low} to {high}"
    return f"and at most {high}" if above and not low else f"from {low} to {high}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}...")
