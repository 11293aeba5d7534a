"""From plain mappings to the dataclasses of a config, with every value of its field's type."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rundir.errors import Setting, UserError, first_line, suggestion
from rundir.fields import Networks, constraints, dotted_keys, is_section, value_of

MOST_SHOWN = 200  # characters of a value in a message
MOST = 2**1000  # of a number, which must fit into a float
Content = TypeVar("Content")


def typed(kind: type[Content], raw: dict, prefix: str = "") -> Content:
    """A ``kind`` with the values of ``raw``, defaults elsewhere; constraints are not checked. ``prefix``: of keys in messages.

    Raises:
        UserError: an unknown key, or a value that is not of its field's type.
    """
    worded = check_keys(kind, raw, prefix)
    try:
        content: Content = OmegaConf.to_object(OmegaConf.merge(_schema(kind), worded))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise UserError(f"{prefix}{getattr(error, 'full_key', None) or 'config'}{_said(first_line(error))}") from None
    for dotted, constraint in constraints(kind).items():  # type: ignore[arg-type]  # a class is hashable
        if isinstance(constraint, Networks):
            _settle(content, dotted, constraint)
    return content


def _settle(content: object, dotted: str, constraint: Networks) -> None:
    *sections, last = dotted.split(".")
    section = value_of(content, ".".join(sections)) if sections else content
    setattr(section, last, constraint.settled(getattr(section, last)))


_KINDS = (
    (r"Value '(.*)' of type '\w+' could not be converted to Float", "={} must be a number"),
    (r"Value '(.*)' of type '\w+' could not be converted to Integer", "={} must be a whole number"),
    (r"Value '(.*)' is not a valid bool.*", "={} must be true or false"),
    (r"Incompatible value '(None)' for field of type '\w+'", " is empty; set a value"),
)


def _said(error: str) -> str:
    """OmegaConf's message, to follow a key, in the words of a constraint."""
    for pattern, words in _KINDS:
        found = re.fullmatch(pattern, error)
        if found:
            return words.format(found[1])
    return f": {error}"


def check_values(content: object, prefix: str = "") -> None:
    """Raise :class:`UserError` for the first value of a config dataclass that its field's constraint forbids."""
    for dotted, constraint in constraints(type(content)).items():  # type: ignore[arg-type]  # a class is hashable
        value = value_of(content, dotted)
        fault = constraint.fault(value)
        if fault:
            raise UserError(Setting(f"{prefix}{dotted}", shown(value)), f" {fault}")


def shown(value: object) -> str:
    """A value in a message: on one line, and short."""
    text = str(value) if str(value).isprintable() else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


@functools.cache
def _schema(kind: type) -> DictConfig:
    return OmegaConf.structured(kind)


def check_keys(kind: type, raw: dict, prefix: str = "", every: Sequence[str] = ()) -> dict:
    """A copy of ``raw`` where YAML's true and false are words if the field is a string.

    Args:
        every: the keys of all sections, to suggest them where one stands in the wrong section; default: those of ``kind``.

    Raises:
        UserError: a key that ``kind`` and its sections do not have, a section that is none, or a value no field can have.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    every = every or dotted_keys(kind, prefix)
    worded: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            same = [name for name in every if name.rpartition(".")[2] == key]
            if same:
                raise UserError(f"unknown key {prefix}{key}; did you mean {' or '.join(same)}?")
            otherwise = f"known here: {', '.join(prefix + k for k in known)}"
            raise UserError(f"unknown key {prefix}{key}; {suggestion(key, known, prefix, otherwise)}")
        if is_section(known[key]):
            if not isinstance(value, dict):
                raise UserError(f"{prefix}{key} is a section; set {prefix}{key}.NAME=VALUE")
            worded[key] = check_keys(known[key].default_factory, value, f"{prefix}{key}.", every)  # type: ignore[arg-type]
        else:
            _check_value(value, str(known[key].type), prefix + key)
            worded[key] = str(value).lower() if isinstance(value, bool) and known[key].type == "str" else value
    return worded


def _check_value(value: Any, kind: str, key: str) -> None:
    """Raise :class:`UserError` for what OmegaConf would take for something else than it says."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if inner is None and kind.startswith("dict"):
                raise UserError(f"{key}.{name} is empty; set {key}.{name}=VALUE")
            _check_value(inner, "", f"{key}.{name}")
    if kind.startswith("list") and value is not None and not isinstance(value, list | tuple):
        raise UserError(f"{key}={shown(value)} must be a list, such as [{shown(value)}]")
    if kind == "str" and isinstance(value, list | dict):
        raise UserError(
            f"{key}={shown(value)} must be text; set it without brackets and without a colon at its end or before a "
            "space, or in quotes"
        )
    if kind.startswith("dict") and not isinstance(value, dict):
        raise UserError(f"{key}={shown(value)} must be NAME: VALUE pairs; set {key}.NAME=VALUE")
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str) and (part == "???" or "${" in part):
            raise UserError(f"{key}={part} is not a value; set {key} to the value itself")
        if isinstance(part, int) and abs(part) > MOST:
            raise UserError(f"{key} is a number of {len(str(abs(part)))} digits; set a smaller one")
        if isinstance(part, list | dict) and kind.startswith("list"):
            raise UserError(f"{key}={value} must be a list of single values")
    if kind == "bool" and not isinstance(value, bool | str) and value not in (0, 1):
        raise UserError(f"{key}={value} must be true or false")
