"""Command lines whose mistakes are one line, and the kinds of values that their options take."""

from __future__ import annotations

import argparse
import difflib
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rundir import __version__
from rundir.errors import UserError, check_choice
from rundir.overrides import EXAMPLE, is_setting, split_overrides
from rundir.subnet import LETTERS, Width, parse_width
from rundir.wording import joined

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

# Options that only some of the programs have, for those who give them to another one.
PROGRAMS = {
    "pretrain/run.py": "--preset --recipe --print-config --versions",
    "transfer/run.py": "--checkpoint --dataset --protocol --model --schedule --device --branch --arch --force",
    "transfer/run.py TASK --executor auto": "--executor --parallel --per-gpu --slurm --slurm-config --wait --transfer --dry-run "
    "--yes --name",
    "ablations/run.py": "--grid --profile --seeds --only --until --executor --parallel --per-gpu --slurm --slurm-config --wait "
    "--transfer --dry-run --yes",
    "results/report.py": "--runs --small --intervals --publish",
    "slurm/status.py": "--runs --all --every --once --stalled-minutes --lines",
    "pretrain/export.py": "--width --format",
}
OPTION = r"--?[A-Za-z][\w.-]*"
VALUES: dict[object, float] = {None: 1.0, "?": 1.0, "*": math.inf, "+": math.inf}  # that an option takes, by argparse's nargs
ALIKE = 0.75  # of 1: to suggest a name where it is not the only help: an option for one that only others have, a value among all


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`rundir.errors.UserError` for a mistake instead of printing its usage, and has the
    option ``--version``. A program that is called by its installed name is called so in its messages. An option that it does not
    have is refused before anything else, and so is a word that belongs to no option; the message says what is like it, here and
    elsewhere.

    Attributes:
        settings: what to write, but for its ``=VALUE``, for a value that has no option, such as ``optimizer.epochs``.
        tasks: the parsers behind the words that choose one.
    """

    def __init__(self, prog: str | None = None, settings: Collection[str] = (), **options: Any):
        called = os.path.basename(sys.argv[0])
        super().__init__(called if called.startswith(COMMANDS) and " " not in (prog or "") else prog, **options)
        self.settings, self.tasks = settings, dict[str, Parser]()
        self.add_argument("--version", action="version", version=f"{PROJECT} {__version__}", help="print the version and stop")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{' '.join(message.split())}; {self.prog} --help shows all options")

    def add_subparsers(self, **options: Any) -> Any:
        made = super().add_subparsers(**options)
        self.tasks = made.choices
        return made

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else list(args)
        self._check_options(words, None)
        return super().parse_args(words, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None:
            option, parts = "".join(action.option_strings[-1:]), str(value).split(",")
            if len(parts) > 1 and action.nargs in ("*", "+") and set(parts) <= set(action.choices):
                raise UserError(f"{option} {value}: several have spaces between them; did you mean {option} {' '.join(parts)}?")
            check_choice(option, value, action.choices, "" if option else str(action.metavar or action.dest))

    @property
    def options(self) -> list[str]:
        """The long ones that help shows."""
        shown = (name for name, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS)
        return [name for name in shown if name.startswith("--")]

    def _check_options(self, words: Sequence[str], above: Parser | None) -> None:
        chosen = next((place for place, word in enumerate(words) if word in self.tasks), len(words))
        for word in words[:chosen]:
            name = word.partition("=")[0]
            if word == "--":
                return
            if not re.fullmatch(OPTION, name) or self._option(name):
                continue
            if chosen < len(words) or not any(name in task.options for task in self.tasks.values()):  # else the task is wrong
                raise UserError(f"{self.prog} has no option {name}; {self._instead(name, above)}")
        if chosen < len(words):
            self.tasks[words[chosen]]._check_options(words[chosen + 1 :], self)
            return
        positionals = self._get_positional_actions()
        if all(action.nargs == argparse.PARSER for action in positionals):
            for word in self._strays(words):
                meant = self._meant_by(word, words)
                if meant or not positionals:
                    raise UserError(self._no_value(word, meant))

    def parse_with_settings(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options in ``argv``, and its ``key=value`` words: settings. Raises for one that has the name of an option."""
        words, given = split_overrides(argv)
        for word in given:
            if word.partition("=")[0] not in self.settings and self._as_option(word):
                raise UserError(self._no_value(word, self._as_option(word)))
        return self.parse_args(words), given

    def _option(self, name: str) -> argparse.Action | None:
        """The option of this name, which may be shortened."""
        names = [known for known in self._option_string_actions if known.startswith(name)]
        return self._option_string_actions[name if name in names else names[0]] if names else None

    def _strays(self, words: Sequence[str]) -> Iterator[str]:
        """Words that are no option's value, and each ``key=value`` among several values of an option that have another type."""
        action, left = None, 0.0
        for word in itertools.takewhile(lambda word: word != "--", words):
            name, sign, _ = word.partition("=")
            if re.fullmatch(OPTION, name):
                action = self._option(name)
                left = 0 if sign or action is None else VALUES.get(action.nargs) or float(action.nargs or 0)
            elif not left or (left == math.inf and action and (action.type or action.choices) and is_setting(word)):
                yield word
            else:
                left -= 1

    def _no_value(self, word: str, meant: Sequence[str]) -> str:
        """That ``word`` is no value of an option, and what is to be set instead."""
        instead = f"did you mean {joined(meant, 'or')}?" if meant else f"{self.prog} --help shows all options"
        if not meant and "=" in word and "--set" in self.options:
            instead = f"a setting is given as --set {self._option_string_actions['--set'].metavar}"
        return f"{self.prog}: {_shown(word)} belongs to no option; {instead}"

    def _meant_by(self, word: str, words: Sequence[str]) -> list[str]:
        """What somebody may have meant by one of ``words`` that belongs to no option."""
        key, sign, value = word.partition("=")
        meant = self._as_option(word) or self._as_setting(key, value or "VALUE")
        if meant or sign:
            return meant
        given = [self._option(each.partition("=")[0]) for each in words if each.startswith("-")]
        known = self._option_string_actions
        return [f"{name} {word}" for name in self.options if known[name].required and known[name] not in given]

    def _as_option(self, word: str) -> list[str]:
        """``key=value`` as the option of that name, if there is one."""
        key, sign, value = word.partition("=")
        option = f"--{key.replace('_', '-')}"
        flag = sign and option in self.options and self._option_string_actions[option].nargs == 0
        return [option if flag else f"{option} {value}"] if sign and option in self.options else []

    def _instead(self, name: str, above: Parser | None) -> str:
        """What somebody may have meant by an option that this parser, below ``above``, does not have."""
        bare = name.lstrip("-").replace("_", "-")
        name = f"--{bare}"
        if name in self.options:
            return f"did you mean {name}?"
        if name == "--set" and self.settings and not above:
            return f"leave it out: settings are words of their own, such as {EXAMPLE}"
        elsewhere = self._elsewhere(above)
        named, there = self._as_setting(bare), elsewhere.get(name, [])
        beside = [f"{each} of {task.prog}" for task in (above.tasks.values() if above else ()) for each in task._as_choice(bare)]
        found = difflib.get_close_matches(name, self.options, n=1, cutoff=ALIKE if named or there or beside else 0.6) + named
        if not found and not there:
            near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=ALIKE)
            found = beside or [f"{option} of {joined(elsewhere[option])}" for option in near]
        said = [f"did you mean {joined(found, 'or')}?"] if found else []
        said += [f"{name if found else 'it'} is an option of {joined(there)}"] if there else []
        return " ".join(said) or f"{self.prog} --help shows all options"

    def _as_setting(self, name: str, value: str = "VALUE") -> list[str]:
        """How to give ``value`` to a setting of this name, with or without its section; or the choice of this name."""
        key = name.replace("-", "_")
        return [
            f"{each}={value}" for each in self.settings if key in (each.split()[-1], each.rpartition(".")[2])
        ] + self._as_choice(name)

    def _as_choice(self, name: str) -> list[str]:
        actions = [(option, self._option_string_actions[option]) for option in self.options]
        return [f"{option} {name}" for option, action in actions if name in map(str, action.choices or ())]

    def _elsewhere(self, above: Parser | None) -> dict[str, list[str]]:
        """By option, the tasks beside this one or behind it that have it, and the program before it; or else other programs."""
        found: dict[str, list[str]] = {}
        for task in (above or self).tasks.values():
            for option in task.options:
                found.setdefault(option, []).append(task.prog)
        if above:
            found |= {option: [f"{above.prog}, before {self.prog.split()[-1]}"] for option in above.options}
        others: dict[str, list[str]] = {}
        for program, options in PROGRAMS.items():
            for option in options.split():
                others.setdefault(option, []).append(program)
        return others | found


def whole(low: int = 0, high: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that is a whole number in [low, high]."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            limits = f"from {low} to {high}" if value is not None and value > high else _range(low, high)
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number {limits}")
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
            limits = f"above {low:g}" + (f" and at most {high:g}" if high < math.inf else "") if above else _range(low, high)
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


def _range(low: float, high: float) -> str:
    return f"from {low:g} on" if high in (math.inf, LARGEST) else f"from {low} to {high}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}...")
