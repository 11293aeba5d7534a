"""What functions and classes look like that are a part of the method, and their options: keyword-only arguments with defaults."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rundir.fields import CONSTRAINT, Number

OPTIONS = (float, int, bool, str)


@dataclass(frozen=True)
class Shape:
    """What one is called; the positional arguments of a function, or of a class's ``forward`` (all of them, or with ``some`` the
    first and at least one other); the class that a class extends, as module and name; what an object of it is made with; and an
    attribute that the extended class's ``__init__`` sets. Without ``positional`` it is a class, without ``extends`` a function.
    """

    what: str
    positional: tuple[str, ...] = ()
    some: bool = False
    extends: tuple[str, str] = ("", "")
    made_with: tuple[str, ...] = ()
    sets: str = ""


@functools.cache
def options_of(found: Callable) -> type:
    """The options of a function or class as a dataclass: its keyword-only arguments, their types, defaults and constraints."""
    fields = []
    for argument, annotation in _keywords(found.__init__ if inspect.isclass(found) else found):
        kind, constraint = _kind_of(annotation)
        fields.append(
            (argument.name, kind.__name__, dataclasses.field(default=argument.default, metadata={CONSTRAINT: constraint}))
        )
    return dataclasses.make_dataclass(f"OptionsOf{found.__name__}", fields)


def fault_of(shape: Shape, found: Any) -> str:
    """What keeps a function or class from being of that shape; "" if nothing does."""
    is_class, fault = inspect.isclass(found), ""
    if is_class and not shape.extends[0]:
        return f"a {shape.what} is a function of ({', '.join(shape.positional)}), not a class"
    if is_class and not issubclass(found, vars(importlib.import_module(shape.extends[0]))[shape.extends[1]]):
        return f"a class that is a {shape.what} must extend {'.'.join(shape.extends)}"
    if not is_class and not shape.positional:
        return f"a {shape.what} must be a class that extends {'.'.join(shape.extends)}"
    function = found.forward if is_class and shape.positional else found
    if is_class:
        fault = _positional_fault(shape.what, "__init__", found.__init__, shape.made_with)
    fault = fault or (
        _positional_fault(shape.what, function.__name__, function, shape.positional, shape.some) if shape.positional else ""
    )
    return fault or next(_option_faults(found.__init__ if is_class else found), "")


def _positional_fault(what: str, name: str, function: Callable, wanted: tuple[str, ...], some: bool = False) -> str:
    arguments = inspect.signature(function).parameters.values()
    names = tuple(a.name for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD) and a.name != "self")
    fits = (
        len(names) > 1 and names[0] == wanted[0] and {*names} <= {*wanted}
        if some
        else len(names) == len(wanted) and (names == wanted or {*names} != {*wanted})
    )  # any names, but not these in another order
    said = f"({', '.join(wanted)}){' or some of them, student first' if some else ''}, and options after *"
    has = (*names, *(f"*{a.name}" for a in arguments if a.kind is a.VAR_POSITIONAL))
    return "" if fits else f"{name} takes ({', '.join(has)}), but a {what} takes {said}"


def _option_faults(function: Callable) -> Iterator[str]:
    for argument, annotation in _keywords(function):
        if argument.default is argument.empty:
            yield f"the option {argument.name} has no default; give it one, such as {argument.name}: float = 1.0"
        elif _kind_of(annotation)[0] not in OPTIONS:
            yield f"the option {argument.name} must be a float, an int, a bool or a str, and annotated as one"


def _keywords(function: Callable) -> Iterator[tuple[inspect.Parameter, Any]]:
    """The keyword-only arguments with their annotations, or the types of their defaults."""
    keywords = [a for a in inspect.signature(function).parameters.values() if a.kind is a.KEYWORD_ONLY]
    annotated = {a.name: a.annotation for a in keywords if a.annotation is not a.empty}
    types = typing.get_type_hints(SimpleNamespace(__annotations__=annotated), function.__globals__, include_extras=True)
    return ((a, types.get(a.name, type(a.default))) for a in keywords)


def _kind_of(annotation: Any) -> tuple[type, Any]:
    """The type of an option, and its constraint: what ``Annotated`` has, else any finite number, or anything."""
    kind, *constraints = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
    anything = Number(-sys.float_info.max) if kind in (float, int) else _Anything()
    return kind, next(iter(constraints), anything)


class _Anything:
    def fault(self, value: object) -> str:
        return ""
