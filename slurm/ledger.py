"""What was submitted, in one file that all launchers of a grid share: a job that is in the queue is never submitted again.

``<folder>/ledger.jsonl`` has one JSON object per line. Before an array is submitted its line says so (``"event": "intent"``, with a
token that also is the jobs' comment in Slurm), afterwards another one says the id; a launcher that dies in between therefore loses
nothing. Written under a lock, read without.
"""

from __future__ import annotations

import base64
import fcntl
import gc
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rundir.clock import now
from rundir.errors import UserError
from rundir.files import Damaged, read_text
from rundir.schema import LEDGER_FORMAT
from slurm.calls import rebuilt
from slurm.files import SHARED, NotOwn, check_own
from slurm.jobs import Job, JobState, file_name

NAME = "ledger.jsonl"
MOST_BYTES = 256 * 2**20  # ten thousand cells take 10 MB, and each further launch a quarter of one


@contextmanager
def no_collections() -> Iterator[None]:
    """Without Python's search for cycles of garbage: data as read have none, and looking through them all again and again makes
    reading a long file cost more per line than a short one.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@dataclass(frozen=True)
class Entry:
    """A submitted job: ``task`` is its Slurm id, ``ARRAY_INDEX``; the rest is what showing it and submitting it again take."""

    name: str
    task: str
    kind: str
    after: tuple[str, ...]
    last: bool
    directory: str
    log: str
    pickled: str  # submitit's file of the call, for the job's own process; nobody else reads it
    submitted: str  # when
    call: dict | None = None  # as slurm/calls.py describes it; None where it cannot be, or was not asked for

    @classmethod
    def read(cls, job: dict, time: str, call: dict | None) -> Entry:
        """The entry of a job in a line of the ledger. Raises KeyError, TypeError or ValueError where it is none."""
        texts = {name: job[name] for name in ("name", "task", "kind", "directory", "log", "pickled")}
        if not all(isinstance(value, str) for value in (*texts.values(), *job["after"])):
            raise ValueError("a name must be a text")
        return cls(**texts, after=tuple(job["after"]), last=bool(job["last"]), submitted=time, call=call)

    def job(self) -> Job:
        """The job, to be submitted again. Raises :class:`UserError` where the ledger does not hold its call."""
        function, args, stop = rebuilt(self.call, self.name)
        directory = Path(self.directory) if self.directory else None
        return Job(self.name, function, args, self.kind, self.after, self.last, directory, stop)

    @property
    def array(self) -> str:
        """Id of the array."""
        return self.task.partition("_")[0]


def pack(calls: Sequence[dict | None]) -> str:
    """The calls of a line's jobs as one text: a kilobyte each, nearly the same, and read to submit again only."""
    return base64.b64encode(zlib.compress(json.dumps(calls).encode())).decode()


def _unpacked(text: str) -> list[dict | None]:
    """What :func:`pack` was given. Raises ValueError or TypeError where it was not."""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not reader.eof:
        raise ValueError("it has no end, or is too long")
    return json.loads(content)


def _calls(line: dict) -> list[dict | None]:
    """Those of a line's jobs; earlier versions wrote each with its job."""
    return _unpacked(line["calls"]) if "calls" in line else [job.get("call") for job in line["jobs"]]


class Ledger:
    """The ledger of ``folder``. Reading makes nothing."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.path = self.folder / NAME
        self._known: tuple[tuple, list[dict]] | None = None  # what was read last, and how the file looked then

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One launcher at a time; waits for another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write(self, lines: Sequence[dict]) -> None:
        """Append these lines, on the disk when this returns."""
        text = "".join(json.dumps({"format": LEDGER_FORMAT, "time": now(), **line}) + "\n" for line in lines)
        with open(self.path, "ab") as file:
            about = os.fstat(file.fileno())
            if about.st_uid == os.geteuid() and about.st_mode & SHARED:
                os.fchmod(file.fileno(), about.st_mode & ~SHARED)
            if file.tell() and not self._ends_whole():
                text = "\n" + text  # after the torn line of a launcher that was killed
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def lines(self, own: bool = False) -> list[dict]:
        """Every whole line; read once as long as the file stays the same.

        Args:
            own: the ledger must be this user's, and nobody else may write it.

        Raises:
            UserError: it cannot be read, has an unknown format, or is not ``own``.
        """
        try:
            before = check_own(self.path) if own else None
            about = os.stat(self.path)
            looks = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
            if self._known and self._known[0] == looks:
                return self._known[1]
            text = read_text(self.path, MOST_BYTES)
            if own and check_own(self.path) != before:
                raise NotOwn(f"{self.path} was replaced while it was read")
        except FileNotFoundError:
            return []
        except Damaged as error:
            raise UserError(str(error)) from None
        except NotOwn as error:
            raise UserError(f"{error}; what it says is not run: start the grid again instead") from None
        found = self._parsed(text)
        self._known = looks, found
        return found

    @no_collections()
    def _parsed(self, text: str) -> list[dict]:
        found = []
        for line in text.splitlines():
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                if content.get("format") != LEDGER_FORMAT:
                    raise UserError(f"{self.path} has format {content.get('format')}; this version reads format {LEDGER_FORMAT}")
                found.append(content)
        return found

    @no_collections()
    def entries(self, own: bool = False, calls: bool = False) -> dict[str, Entry]:
        """What was submitted last under each name, with its call if ``calls``. Raises :class:`UserError`; ``own`` as for
        :meth:`lines`.
        """
        found = {}
        for line in self.lines(own):
            if line.get("event") == JobState.SUBMITTED:
                try:
                    jobs, time = line["jobs"], str(line["time"])
                    said = _calls(line) if calls else [None] * len(jobs)
                    read = [Entry.read(job, time, call) for job, call in zip(jobs, said, strict=True)]
                except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
                    raise UserError(
                        f"{self.path} has a damaged line; look with squeue for jobs of this grid that still run, "
                        "then move the file away and start the grid again"
                    ) from None
                found.update({entry.name: entry for entry in read})
        return found

    def open_intents(self) -> dict[str, dict]:
        """Lines, by token, of arrays of which it is not known whether they were submitted."""
        found: dict[str, dict] = {}
        for line in self.lines():
            token = str(line.get("token"))
            if line.get("event") == "intent":
                found[token] = line
            else:
                found.pop(token, None)
        return found

    def last_intent(self, own: bool = False) -> dict:
        """The line of the last array submitted. Raises :class:`UserError` where there is none; ``own`` as for :meth:`lines`."""
        for line in reversed(self.lines(own)):
            if line.get("event") == "intent":
                return line
        raise UserError(f"nothing was submitted to Slurm from {self.folder.parent}")

    def to_retry(self) -> tuple[dict[str, Entry], dict]:
        """Entries and the settings of the last launch, for submitting again: both make this user run something.

        Raises:
            UserError: the ledger is not this user's alone, or was written elsewhere: a copy, or somebody else's runs.
        """
        line = self.last_intent(own=True)
        written = str(line.get("folder", ""))
        if not written or not os.path.exists(written) or not os.path.samefile(written, self.folder):
            where = f"was written in {written}, not here" if written else "was written by an earlier version"
            raise UserError(f"{self.path} {where}; what it says is not run: start the grid again instead")
        return self.entries(own=True, calls=True), line.get("cluster", {})

    def state_file(self, name: str) -> Path:
        """The state file of the job of that name."""
        return self.folder / "state" / (file_name(name) + ".json")
