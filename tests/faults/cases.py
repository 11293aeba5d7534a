"""A case of the campaign and how it ended; the rules by which an end is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.fork import Ended


@dataclass(frozen=True)
class Verdict:
    """``equal`` to an unfaulted run, ``refused`` with one line and exit code 2, or ``WRONG``; and why."""

    kind: str
    why: str = ""

    @classmethod
    def wrong(cls, why: str) -> Verdict:
        """A fault of the product."""
        return cls("WRONG", why)


@dataclass(frozen=True)
class Case:
    """One thing to try: ``run(folder, rng)`` in a folder of its own, with randomness of its own.

    ``weight``: how many faults it tries.
    """

    kind: str
    name: str
    run: Callable[[Path, random.Random], Verdict]
    weight: int = 1

    def key(self) -> str:
        """Names the case; with the campaign's seed it is the seed of its randomness."""
        return f"{self.kind}: {self.name}"


def refusal(ended: Ended) -> Verdict:
    """Whether this is one line on stderr, after argparse's usage perhaps, and exit code 2, without a traceback."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    while lines and not _is_error(lines[0]) and (lines[0].startswith(("usage:", " "))):
        del lines[0]
    errors = [line for line in lines if _is_error(line)]
    if ended.code is None:
        return Verdict.wrong("it hangs")
    if "Traceback (most recent call last)" in ended.err:
        return Verdict.wrong(f"traceback, exit code {ended.code}: {ended.last()}")
    if ended.code != 2:
        return Verdict.wrong(f"exit code {ended.code}: {ended.last()}")
    if len(errors) != 1 or lines[-1] != errors[0]:
        return Verdict.wrong(f"{len(errors)} error lines of {len(lines)}: {ended.err.strip()[-300:]}")
    return Verdict("refused")


def _is_error(line: str) -> bool:
    return line.startswith("error: ") or ": error: " in line


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file below ``folder`` with its size and time of change; locks and a report's cache of what it read are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(".lock") or ".frame" in path.parts:
            continue
        about = path.lstat()
        found[str(path.relative_to(folder))] = (about.st_mode, about.st_mtime_ns, about.st_size) if not path.is_dir() else ()
    return found
