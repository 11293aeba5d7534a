"""``key=value`` words of a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from rundir.errors import UserError
from rundir.files import Damaged, parse_yaml

EXAMPLE = "optimizer.epochs=20"
KEY = r"[A-Za-z_][\w.]*="


def is_setting(word: str) -> bool:
    """Whether a word is ``key=value``, and not a file of that name."""
    return re.match(KEY, word) is not None and not os.path.exists(word)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are options, and those that are ``key=value``, wherever they stand."""
    is_override = [re.match(KEY, word) is not None for word in argv]
    return (
        [word for word, yes in zip(argv, is_override, strict=True) if not yes],
        [word for word, yes in zip(argv, is_override, strict=True) if yes],
    )


def read_overrides(texts: Sequence[str], example: str = EXAMPLE) -> dict:
    """``section.key=value`` words as a nested mapping, values read as YAML; the last of one key wins.

    Raises:
        UserError: a word is not of that form, as ``example`` is, or its value is not YAML.
    """
    found: dict = {}
    for text in texts:
        dotted, sign, value = text.partition("=")
        if not sign or not dotted:
            raise UserError(f"override {text[:200]!r} is not of the form key=value, for example {example}")
        *sections, last = dotted.split(".")
        inside = found
        for place, section in enumerate(sections):
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                taken = ".".join(sections[: place + 1])
                raise UserError(f"override {text[:200]!r}: {taken} has a value already; leave one of them out")
        try:
            parsed = parse_yaml(value, f"the value of {dotted}")
        except Damaged as error:
            instead = "quote it for the shell, or set another value"
            if re.search(r"\w\[", value):
                instead = "put text with brackets in quotes of its own, as in '[1.0,\"w[1,.5,.5,.5]\"]'"
            raise UserError(f"override {text[:200]!r}: {error}; {instead}") from None
        both = isinstance(parsed, dict) and isinstance(inside.get(last), dict)
        inside[last] = {**inside[last], **parsed} if both else parsed
    return found
