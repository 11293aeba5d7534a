"""Files that anything may have happened to, read so that nothing hangs, nothing explodes and the reason is one line.

A run directory may hold a named pipe where a file is expected, a YAML file whose aliases expand to gigabytes, or JSON nested a
million deep. Everything here either returns plain content or raises :class:`Damaged`; a missing file is FileNotFoundError.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Hashable
from typing import Any

import yaml

from rundir.errors import UserError, first_line

MOST_BYTES = 64 * 2**20
# Of YAML: a config has some 150 values four levels deep.
MOST_DEPTH, MOST_NODES = 64, 200_000
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_UNFIT = re.compile("[\0\ud800-\udfff]")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Damaged(UserError):
    """A file that cannot be used. The message is one line: which file, and what is wrong with it."""


def read_text(path: str | os.PathLike, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of an ordinary file (a byte order mark is dropped).

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is no ordinary file, larger than ``most`` bytes, not UTF-8, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # opening a pipe must not wait for its writer
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Damaged(f"{path} is {_kind(status.st_mode)}, not a file")
            if status.st_size > most:
                raise Damaged(f"{path} has {status.st_size:,} bytes, more than the {most:,} that are read")
            return file.read(most + 1).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(2, "No such file or directory", str(path)) from None
    except IsADirectoryError:
        raise Damaged(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is not UTF-8 text (byte {error.start})") from None


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


def read_json(path: str | os.PathLike, most: int = MOST_BYTES) -> Any:
    """The JSON content of a file. Raises as :func:`read_text`, and Damaged where it is not JSON."""
    try:
        return json.loads(read_text(path, most))
    except RecursionError:
        raise Damaged(f"{path} is nested too deeply to be read as JSON") from None
    except ValueError as error:
        raise Damaged(f"{path} is not JSON ({first_line(error)})") from None


def read_yaml(path: str | os.PathLike) -> Any:
    """The YAML content of a file. Raises as :func:`read_text` and :func:`parse_yaml`."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, name: str = "the text") -> Any:
    """The plain content of one YAML document; ``name`` is what messages call it.

    Raises:
        Damaged: it is not YAML, names a key twice in one mapping, is nested more than 64 deep, or holds more than 200,000 values
            with all aliases expanded.
    """
    try:
        _check_size(text, name)
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise Damaged(f"{name} is not YAML ({_problem(error, text)})") from None
    except (ValueError, TypeError) as error:  # not seen, but libraries change
        raise Damaged(f"{name} is not YAML ({first_line(error)})") from None


def _check_size(text: str, name: str) -> None:
    """Raise Damaged for what would take too much memory or stack; events come one by one, whatever the document holds."""
    anchors: dict[str, int | None] = {}  # how many values each stands for; None while it is open
    open_anchors: list[str | None] = []
    sizes = [0]
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            size = anchors.get(event.anchor, 0)
            if size is None:
                raise Damaged(f"{name}, line {event.start_mark.line + 1}: *{event.anchor} holds itself")
            sizes[-1] += size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            open_anchors.append(event.anchor)
            if event.anchor:
                anchors[event.anchor] = None
            if len(sizes) > MOST_DEPTH:
                raise Damaged(f"{name}, line {event.start_mark.line + 1}: nested more than {MOST_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), open_anchors.pop()
            sizes[-1] += size
            if anchor:
                anchors[anchor] = size
        if sum(sizes) > MOST_NODES:
            raise Damaged(f"{name} holds more than {MOST_NODES:,} values when its aliases are expanded")


class _UniqueKeys(_Loader):  # type: ignore[misc, valid-type]  # yaml's in C, or in Python
    """The safe loader, as users mean it: a duplicate key in a mapping is an error, not silently the last one; 1:30:00 is a
    string, not a number to the base 60; strings hold nothing that no file can.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:  # 2026-99-99, !!int x, 5,000 digits
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"not a value of type {kind} ({first_line(error)})", node.start_mark
            ) from None

    def construct_scalar(self, node: yaml.Node) -> str:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _UNFIT.search(value):
            raise yaml.constructor.ConstructorError(None, None, "a NUL or half a character in a string", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            value = self.construct_object(key, deep=True)
            if isinstance(value, Hashable):
                if value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{value} is there twice", key.start_mark)
                seen.add(value)
        return super().construct_mapping(node, deep)


_UniqueKeys.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(rf"(?!.*:)(?:{pattern.pattern})", re.X) if tag.endswith((":int", ":float")) else pattern)
        for tag, pattern in resolvers
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _problem(error: yaml.YAMLError, text: str) -> str:
    """What a YAML error says, with its line; PyYAML's own text takes several."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return first_line(error)
    problem = getattr(error, "problem", None) or "it cannot be read"
    lines = text.splitlines()
    if mark.line < len(lines) and re.match(r" *\t", lines[mark.line]):
        problem = "it is indented with a tab; indent with spaces"
    return f"line {mark.line + 1}: {problem}"
