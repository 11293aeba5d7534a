"""What was submitted, in one file that all launchers of a grid share: who is in the queue is never submitted again.

``<folder>/ledger.jsonl`` has one JSON object a line. Before an array is submitted its line says so (``"event": "intent"``, with a
token that also is the jobs' comment in Slurm), afterwards another one says the id; a launcher that dies in between therefore loses
nothing. Written under a lock, read without.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from slurm.jobs import InputError, file_name

FORMAT = 1
NAME = "ledger.jsonl"


@dataclass(frozen=True)
class Entry:
    """A submitted job: ``task`` is its Slurm id, ``ARRAY_INDEX``; the rest is what submitting it again takes."""

    name: str
    task: str
    kind: str
    after: tuple[str, ...]
    last: bool
    directory: str
    log: str
    pickled: str  # submitit's file of the call
    submitted: str  # when

    @property
    def array(self) -> str:
        """Id of the array."""
        return self.task.partition("_")[0]


class Ledger:
    """The ledger of ``folder``. Reading makes nothing."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.path = self.folder / NAME

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One launcher at a time; waits for another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write(self, lines: Sequence[dict]) -> None:
        """Append these lines, on the disk when this returns."""
        text = "".join(json.dumps({"format": FORMAT, "time": now(), **line}) + "\n" for line in lines)
        with open(self.path, "ab") as file:
            if file.tell() and not self._ends_whole():
                text = "\n" + text  # after the torn line of a launcher that was killed
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def lines(self) -> list[dict]:
        """Every whole line. Raises :class:`InputError` at an unknown format."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                if content.get("format") != FORMAT:
                    raise InputError(f"{self.path} has format {content.get('format')}; this version reads format {FORMAT}")
                found.append(content)
        return found

    def entries(self) -> dict[str, Entry]:
        """What was submitted last under each name."""
        fields = [field.name for field in dataclasses.fields(Entry)]
        found = {}
        for line in self.lines():
            if line["event"] == "submitted":
                for job in line["jobs"]:
                    job = {**job, "after": tuple(job["after"]), "submitted": line["time"]}
                    found[job["name"]] = Entry(**{name: job[name] for name in fields})
        return found

    def open_intents(self) -> dict[str, dict]:
        """Lines, by token, of arrays of which it is not known whether they were submitted."""
        found: dict[str, dict] = {}
        for line in self.lines():
            if line["event"] == "intent":
                found[line["token"]] = line
            elif line.get("token") in found:
                del found[line["token"]]
        return found

    def cluster(self) -> dict:
        """The settings of the last launch. Raises :class:`InputError` where there was none."""
        for line in reversed(self.lines()):
            if line["event"] == "intent":
                return line["cluster"]
        raise InputError(f"nothing was submitted to Slurm from {self.folder.parent}")

    def state_file(self, name: str) -> Path:
        """Where the job of that name says how it stands."""
        return self.folder / "state" / (file_name(name) + ".json")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
