"""Ways to damage a file or what a JSON or YAML file says; a random generator chooses which, and where."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

WORDS = ("abc", -1, 10**400, None, [], {}, True, [[1, 2]], "é\u2028", float("nan"), float("inf"), 1e308, "", {"a": {"b": []}})
ALWAYS = {"format", "records", "state", "task", "dataset", "metric", "width", "value", "seed", "packages"}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def cut(path: Path, rng: random.Random) -> str:
    """The end is missing."""
    size = path.stat().st_size
    keep = rng.randrange(size) if size else 0
    os.truncate(path, keep)
    return f"cut to {keep} of {size} bytes"


def empty(path: Path, rng: random.Random) -> str:
    """Nothing is in it."""
    path.write_bytes(b"")
    return "empty"


def noise(path: Path, rng: random.Random) -> str:
    """Random bytes."""
    path.write_bytes(rng.randbytes(max(100, min(10_000, path.stat().st_size))))
    return "random bytes"


def zeros(path: Path, rng: random.Random) -> str:
    """Zeros from some place on, as after a crash of the machine."""
    content = path.read_bytes()
    start = rng.randrange(max(1, len(content)))
    path.write_bytes(content[:start] + bytes(len(content) - start))
    return f"zeros from byte {start} on"


def flipped(path: Path, rng: random.Random) -> str:
    """One byte is another one."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"one bit of byte {place}"


def deep(path: Path, rng: random.Random) -> str:
    """Nested a hundred thousand times."""
    path.write_text(rng.choice("[{") * 100_000)
    return "nested deep"


def pipe(path: Path, rng: random.Random) -> str:
    """A named pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)
    return "a named pipe"


def directory(path: Path, rng: random.Random) -> str:
    """A directory of that name."""
    path.unlink()
    path.mkdir()
    return "a directory"


def loop(path: Path, rng: random.Random) -> str:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)
    return "a link to itself"


def dangling(path: Path, rng: random.Random) -> str:
    """A link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")
    return "a link to nothing"


def trapped(path: Path, rng: random.Random) -> str:
    """A pickle that leaves a file ``RAN`` beside the folder of the case."""
    path.write_bytes(pickle.dumps({"encoder": Trap(path.parent / "RAN"), "format": 1}))
    return "a pickle that runs something"


def missing(path: Path, rng: random.Random) -> str:
    """It is not there."""
    path.unlink()
    return "missing"


def json_value(path: Path, rng: random.Random) -> str:
    """One value, or one line's, is of another kind."""
    lines = path.suffix == ".jsonl"
    text = path.read_text()
    content = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    said = _other_value(content, rng)
    path.write_text("".join(json.dumps(line) + "\n" for line in content) if lines else json.dumps(content, indent=1))
    return said


def json_key(path: Path, rng: random.Random) -> str:
    """One key is missing that every version wrote."""
    content = json.loads(path.read_text())
    places = [place for place in _places(content) if isinstance(place[0], dict) and place[1] in ALWAYS]
    holder, key, name = rng.choice(places)
    del holder[key]
    path.write_text(json.dumps(content))
    return f"without {name}"


def other_format(path: Path, rng: random.Random) -> str:
    """Of a version that does not exist yet."""
    content = json.loads(path.read_text())
    content["format"] = rng.choice([2, 99, "1", None, 1.5])
    path.write_text(json.dumps(content))
    return f"format {content['format']!r}"


def other_document(path: Path, rng: random.Random) -> str:
    """JSON, but nothing that belongs there."""
    path.write_text(json.dumps(rng.choice([[], 3, "x", None, {"records": 5}, {"format": 1}, {"format": 1, "records": [3]}])))
    return f"another document: {path.read_text()[:60]}"


def yaml_value(path: Path, rng: random.Random) -> str:
    """One value is of another kind."""
    content = yaml.safe_load(path.read_text())
    said = _other_value(content, rng)
    path.write_text(yaml.safe_dump(content))
    return said


def yaml_text(path: Path, rng: random.Random) -> str:
    """No YAML, or too much of it."""
    name, text = rng.choice(
        [
            ("an alias bomb", BOMB),
            ("a tab", "\tmodel: {}\n" + path.read_text()),
            ("a list", "- a\n- b\n"),
            ("a section twice", path.read_text() + "\nmodel: {arch: resnet18}\n"),
            ("a tag", "!!python/none x\n"),
            ("an alias of itself", "model: &a [*a]\n"),
        ]
    )
    path.write_text(text)
    return name


Damage = Callable[[Path, random.Random], str]
ANY: tuple[Damage, ...] = (cut, empty, noise, zeros, deep, pipe, directory, loop, dangling)
JSON: tuple[Damage, ...] = (*ANY, json_value, json_value, json_value, json_key, other_format, other_document)
LINES: tuple[Damage, ...] = (*ANY, json_value, json_value, json_value)
YAML: tuple[Damage, ...] = (*ANY, yaml_value, yaml_value, yaml_value, yaml_text, yaml_text)
TORCH: tuple[Damage, ...] = (cut, empty, noise, zeros, flipped, pipe, directory, loop, trapped, missing)


def copy(source: Path, target: Path) -> None:
    """A copy of a folder, where there is none yet."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def _other_value(content: Any, rng: random.Random) -> str:
    holder, key, name = rng.choice(_places(content))
    before = holder[key]
    holder[key] = rng.choice([word for word in WORDS if type(word) is not type(before)])
    return f"{name} = {str(holder[key])[:40]!r} instead of {str(before)[:40]!r}"


def _places(content: Any, name: str = "") -> list[tuple[Any, Any, str]]:
    """Every value in nested lists and mappings: what holds it, its key there, and its name."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = []
    for key, value in items:
        here = f"{name}.{key}".lstrip(".")
        found += [(content, key, here), *_places(value, here)]
    return found
