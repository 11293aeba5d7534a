"""Constraints of config values. Each is stored in the metadata of its dataclass field.

lr: float = number(0.05, above=0)
teacher: str = choice("online", "momentum")
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rundir.arguments import ALIKE, LARGEST
from rundir.subnet import parse_width

CONSTRAINT = "constraint"


@dataclass(frozen=True)
class Choice:
    """One of ``allowed`` strings."""

    allowed: tuple[str, ...]

    def fault(self, value: object) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        return "" if value in self.allowed else self._not_known(value)

    def _not_known(self, value: object, otherwise: str = "") -> str:
        near = difflib.get_close_matches(str(value)[:100], self.allowed, n=1, cutoff=ALIKE)
        every = f"{', '.join(self.allowed)}{otherwise}"
        return f"is not known; did you mean {near[0]}? Choices: {every}" if near else f"is not known; set one of {every}"


@dataclass(frozen=True)
class Text:
    """Any string that a file in UTF-8 and the name of a file can hold."""

    def fault(self, value: object) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        unfit = any(character == "\0" or "\ud800" <= character <= "\udfff" for character in str(value))
        return "holds a NUL or bytes that are not UTF-8; set it without them (rename the file)" if unfit else ""


@dataclass(frozen=True)
class Number:
    """A finite number in [low, high]; ``strictly``: above ``low``; ``optional``: or None."""

    low: float
    high: float = math.inf
    strictly: bool = False
    optional: bool = False

    def fault(self, value: object) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        if value is None and self.optional:
            return ""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return f"must be a number {self}"
        if not -math.inf < value < math.inf:  # type: ignore[operator]  # of Real, whatever its class
            return f"must be finite and {self}"
        above = self.low < value if self.strictly else self.low <= value  # type: ignore[operator]
        return "" if above and value <= self.high else f"must be {self}"

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.strictly else 'at least'} {self.low}"
        return f"in {'(' if self.strictly else '['}{self.low}, {self.high}]"


@dataclass(frozen=True)
class Numbers:
    """A list of finite numbers: ``count`` of them if that is not None, or with ``or_none`` none; ``ordered``: the smallest, above
    0, then the largest; ``different``: at least one, and none twice.
    """

    each: Number
    count: int | None = None
    ordered: bool = False
    or_none: bool = False
    different: bool = False

    def fault(self, value: Sequence) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        if self.or_none and not len(value):
            return ""
        if self.count not in (None, len(value)) or any(map(self.each.fault, value)):
            return f"must be {'' if self.count is None else f'{self.count} '}numbers, each {self.each}"
        if self.ordered and not 0 < value[0] <= value[1]:
            return "must be the smallest, above 0, and then the largest"
        if self.different and not 0 < len(value) == len(set(value)):
            return "must be at least one number, and none twice"
        return ""


WIDTH = Number(0, 1, strictly=True)


@dataclass(frozen=True)
class Networks:
    """A list of widths in (0, 1], and of sub-networks as text, such as ``w[1,.75,.5,.5]``."""

    def settled(self, value: Sequence) -> list:
        """``value`` with widths as numbers and sub-networks as they are printed; what is neither as it is."""
        return [self._settled(each) for each in value]

    def _settled(self, each: object) -> object:
        if isinstance(each, str):
            try:
                found = parse_width(each)
            except ValueError:
                return each
            return found if isinstance(found, float) else str(found)
        return each if WIDTH.fault(each) else float(each)  # type: ignore[arg-type]

    def fault(self, value: Sequence) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        for each in value:
            if not isinstance(each, str) and WIDTH.fault(each):
                return f"must be widths, each {WIDTH}, or sub-networks such as 'w[1,.75,.5,.5]'"
            try:
                _ = parse_width(each) if isinstance(each, str) else each
            except ValueError as error:
                return f"is not a list of widths: {error}"
        return ""


@dataclass(frozen=True)
class Wholes:
    """A list of at least one whole number, or with ``empty`` of none, all different, each in [0, high]."""

    high: int
    empty: bool = False

    def fault(self, value: Sequence) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        if not len(value) and self.empty:
            return ""
        if not len(value) or any(type(each) is not int or not 0 <= each <= self.high for each in value):
            return f"must be whole numbers, at least one, each in [0, {self.high}]"
        return "names something twice; name it once" if len(set(value)) < len(value) else ""


@dataclass(frozen=True)
class Names:
    """A list of different strings, each one of ``allowed``."""

    allowed: tuple[str, ...]

    def fault(self, value: Sequence) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        unknown = next((name for name in value if name not in self.allowed), None)
        if unknown is not None:
            return f"has the unknown {unknown!r}; set some of {', '.join(self.allowed)}"
        return "names something twice; name it once" if len(set(value)) < len(value) else ""


@dataclass(frozen=True)
class Options:
    """Settings by name, each a single value; which there are, what they belong to says."""

    def fault(self, value: object) -> str:
        """What is wrong with ``value``, to follow ``name=value``; "" if nothing is."""
        fits = isinstance(value, dict) and all(
            isinstance(key, str) and isinstance(each, bool | int | float | str) for key, each in value.items()
        )
        return "" if fits else "must be NAME: VALUE pairs, such as {beta: 0.5}"


def choice(*allowed: str, default: str | None = None) -> Any:
    """A field that is one of ``allowed``, by default the first of them."""
    return field(default=allowed[0] if default is None else default, metadata={CONSTRAINT: Choice(allowed)})


def number(default: Any = dataclasses.MISSING, low: float = 0, high: float = math.inf, above: float | None = None) -> Any:
    """A field that is a finite number in [low, high], or in (above, high]; or None, where that is the default."""
    limits = Number(low if above is None else above, high, above is not None, default is None)
    return field(default=default, metadata={CONSTRAINT: limits})


def number_list(*default: float, high: float = math.inf, ordered: bool = False, any_count: bool = False) -> Any:
    """A field that is a list of as many numbers as the default has, or of any count, each in [0, high]."""
    limits = Numbers(Number(0, high), None if any_count else len(default), ordered)
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: limits})


def pixel_list(above: float | None = None) -> Any:
    """A field that is a list of three numbers in [0, 1], or in (above, 1], of RGB; empty by default."""
    limits = Number(0, 1) if above is None else Number(above, 1, strictly=True)
    return field(default_factory=list, metadata={CONSTRAINT: Numbers(limits, 3, or_none=True)})


def width_list(*default: float) -> Any:
    """A field that is a list of widths."""
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: Numbers(Number(0, 1, strictly=True))})


def network_list(*default: float) -> Any:
    """A field that is a list of widths and sub-networks; :func:`rundir.subnet.as_widths` reads it."""
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: Networks()})


def share_list(*default: float) -> Any:
    """A field that is a list of different numbers in (0, 1], at least one."""
    limits = Numbers(Number(0, 1, strictly=True), different=True)
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: limits})


def whole_list(*default: int, high: int = LARGEST, empty: bool = False) -> Any:
    """A field that is a list of different whole numbers in [0, high]; ``empty``: or of none."""
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: Wholes(high, empty)})


def names(*default: str, allowed: tuple[str, ...]) -> Any:
    """A field that is a list of different names of ``allowed``."""
    return field(default_factory=lambda: list(default), metadata={CONSTRAINT: Names(allowed)})


def named_options() -> Any:
    """A field that holds settings by name; none by default."""
    return field(default_factory=dict, metadata={CONSTRAINT: Options()})


def is_section(each: dataclasses.Field) -> bool:
    """Whether a field holds further fields."""
    return dataclasses.is_dataclass(each.default_factory)


@functools.cache
def constraints(kind: type) -> dict[str, Any]:
    """The constraint of each field of a config dataclass and its sections, by dotted key; fields that have none left out."""
    return dict(_constraints(kind, ""))


def _constraints(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for each in dataclasses.fields(kind):
        if is_section(each):
            yield from _constraints(each.default_factory, f"{prefix}{each.name}.")  # type: ignore[arg-type]
        elif each.type == "str" and CONSTRAINT not in each.metadata:
            yield f"{prefix}{each.name}", Text()
        elif CONSTRAINT in each.metadata:
            yield f"{prefix}{each.name}", each.metadata[CONSTRAINT]


@functools.cache
def dotted_keys(kind: type, prefix: str = "") -> tuple[str, ...]:
    """The dotted key of each field of a config dataclass and its sections, sections themselves left out."""
    found: list[str] = []
    for each in dataclasses.fields(kind):
        key = f"{prefix}{each.name}"
        found += dotted_keys(each.default_factory, f"{key}.") if is_section(each) else [key]  # type: ignore[arg-type]
    return tuple(found)


def value_of(content: object, dotted: str) -> Any:
    """The value at a dotted key of nested dataclasses."""
    return functools.reduce(getattr, dotted.split("."), content)
