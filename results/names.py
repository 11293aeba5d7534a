"""File names from any text: unique, stable, and safe on every file system."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

MOST = 100  # characters
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_.]*")


def file_name(texts: Sequence[str]) -> str:
    """The texts joined by ``-``, without those that are empty at the end.

    Ordinary ones (lower-case letters, digits, ``_`` and ``.``) stay as they are. Where anything had to be changed, eight hex digits
    of the texts follow, so that different texts have different names, on a file system that ignores case too.
    """
    texts = list(texts)
    while texts and not texts[-1]:
        texts.pop()
    name = "-".join(filter(None, (re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.") for text in texts)))
    if len(name) <= MOST and all(_PLAIN.fullmatch(text) for text in texts):
        return name
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]
    return "-".join(filter(None, [name[: MOST - 9].rstrip("-."), digest]))
