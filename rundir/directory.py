"""One run directory: its lock, and its files as they are written and read (:mod:`rundir.schema`, docs/formats.md)."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from rundir.atomic import remove_leftovers, write_atomically, write_json
from rundir.cli import is_interruption
from rundir.clock import now
from rundir.errors import UserError
from rundir.files import Damaged, read_json, read_text, read_yaml
from rundir.provenance import code, kind
from rundir.records import identity
from rundir.schema import FORMAT, WRITTEN, File, Provenance, State, Status

MOST_METRICS = 2**32  # bytes of metrics.jsonl
SCORED = {"task", "dataset", "metric", "width", "value"}  # every record says


class Busy(UserError):
    """Another process holds the run directory."""


def _opened(path: Path):
    """A file to be locked, made where there is none; of a named pipe no other end is waited for."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), "rb")


class RunDirectory:
    """One run's files. Creating the object makes the directory; nothing is written until asked."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run directory {path} ({error.strerror}); choose another") from None
        self._held = False

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the directory; the lock goes with the process, however it ends. Held already through this object: nothing to do.

        Raises:
            Busy: another process holds it, and still after ``wait`` seconds.
        """
        if self._held:
            yield
            return
        with _opened(self.path / File.LOCK) as file:
            self._acquire(file, wait)
            remove_leftovers(self.path, WRITTEN)
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def _acquire(self, file, wait: float) -> None:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Busy(f"{self.path} is in use by another process; wait for it or choose another directory") from None
            time.sleep(min(1.0, wait))

    def remove_if_unused(self) -> None:
        """Remove the directory if nothing but the lock is in it."""
        if [entry.name for entry in self.path.iterdir()] == [File.LOCK]:
            (self.path / File.LOCK).unlink()
            self.path.rmdir()

    def has_begun(self) -> bool:
        """Whether a run has written here: its status or a checkpoint is there."""
        return any((self.path / name).exists() for name in (File.STATUS, File.CHECKPOINT, File.PREVIOUS_CHECKPOINT))

    def status(self) -> Status:
        """What ``status.json`` says; state ``pending`` where there is none."""
        return cast(Status, self._read_json(File.STATUS) or {"format": FORMAT, "state": State.PENDING, "why": ""})

    def set_status(self, state: str, why: str = "", **details) -> None:
        """Write ``status.json``: keeps earlier details, stamps host, process and heartbeat."""
        status = {
            **self.status(),
            "state": state,
            "why": why,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": now(),
            **details,
        }
        status.setdefault("started", now())
        status["finished"] = now() if state in (State.DONE, State.FAILED) else None
        write_json(self.path / File.STATUS, status)

    def set_ended(self, error: BaseException, stage: str = "") -> None:
        """Write to ``status.json`` that ``error`` ended ``stage``: why it failed, or that it was interrupted and is pending.

        A full disk must not hide the error, so nothing is raised where that fails.
        """
        reason = str(error).splitlines()[0] if str(error) else ""
        with suppress(OSError):
            if is_interruption(error):
                self.set_status(State.PENDING, why=f"{stage}interrupted, to be continued")
            else:
                self.set_status(State.FAILED, why=f"{stage}{type(error).__name__}: {reason}")

    def read_config(self) -> dict | None:
        """The mapping in ``config.yaml``, None where there is none."""
        path = self.path / File.CONFIG
        instead = f"remove {self.path} to start this run again, or choose another directory if it holds anything else"
        return _mapping(path, read_yaml, f"damaged, or of no run; {instead}")

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``."""
        write_atomically(self.path / File.CONFIG, text)

    def append_metrics(self, rows: Iterable[dict]) -> None:
        """Append one line per row to ``metrics.jsonl``."""
        with open(self.path / File.METRICS, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def truncate_metrics(self, step: int) -> None:
        """Drop lines after ``step`` and torn ones, so that a resumed run does not log anything twice."""
        path = self.path / File.METRICS
        try:
            text = read_text(path, MOST_METRICS)
        except FileNotFoundError:
            return
        except Damaged as error:
            raise UserError(f"{error}: it is damaged; remove it to go on without what was logged so far") from None
        kept = []
        for line in text.splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        write_atomically(path, "".join(kept))

    def records(self) -> list[dict[str, Any]]:
        """The score records of ``result.json`` (:class:`rundir.schema.Score`), [] where there is none."""
        found = (self._read_json(File.RESULT) or {"records": []}).get("records")
        if not isinstance(found, list) or not all(isinstance(record, dict) and record.keys() >= SCORED for record in found):
            raise UserError(f"{self.path / File.RESULT} has no list of records; remove it and evaluate the run again")
        return found

    def add_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Merge ``records`` into ``result.json``: one with the same identity is replaced, and the newest are last."""
        with self._exclusive():
            remove_leftovers(self.path, WRITTEN)
            merged: dict[str, Mapping] = {identity(record): record for record in self.records()}
            for record in records:
                merged.pop(identity(record), None)
                merged[identity(record)] = record
            write_json(self.path / File.RESULT, {"format": FORMAT, "records": list(merged.values())})

    def keep_records(self, wanted: Callable[[Mapping[str, Any]], bool]) -> int:
        """Leave the records that are ``wanted`` in ``result.json``; returns the number of those that were removed."""
        with self._exclusive():
            every = self.records()
            kept = [record for record in every if wanted(record)]
            if len(kept) < len(every):
                write_json(self.path / File.RESULT, {"format": FORMAT, "records": kept})
        return len(every) - len(kept)

    def provenance(self) -> Provenance:
        """What ``provenance.json`` says, {} where there is none."""
        return cast(Provenance, self._read_json(File.PROVENANCE) or {})

    def add_provenance(self, **details) -> None:
        """Write or extend ``provenance.json``: commit, packages and command as they were first, plus ``details``."""
        with self._exclusive():
            write_json(self.path / File.PROVENANCE, {"format": FORMAT, **code(), **self.provenance(), **details})

    def add_stretch(self, work: str, execution: dict, machines: Sequence[dict], **place) -> str:
        """Note in ``provenance.json`` on what ``work`` (pretraining, evaluation, ...) is done from now on; returns its kind.

        execution: ``device`` and what else :func:`rundir.provenance.kind` names; machines: the hardware of each process, the first
        of which is kept as the run's ``hardware``; place: where the work begins again, for example ``step``. Nothing is added where
        the stretch of that work before is the same. ``kinds`` holds the different kinds by work, in the order they came.

        Raises:
            UserError: a file is damaged, also one that what the work finds will be added to.
        """
        self.records()
        machines = list({json.dumps(machine): machine for machine in machines}.values())
        found = " and ".join(dict.fromkeys(kind(machine, execution) for machine in machines))
        code_here = code()
        here = {
            "work": work,
            "kind": found,
            "git_commit": code_here["git_commit"],
            "packages": code_here["packages"],
            "machines": machines,
            "execution": execution,
        }
        with self._exclusive():
            known = {"format": FORMAT, **code_here, "hardware": machines[0], **self.provenance()}
            stretches, kinds = known.get("stretches", []), known.get("kinds", {})
            last = next((stretch for stretch in reversed(stretches) if stretch["work"] == work), {})
            if {name: last.get(name) for name in here} != here:
                of_work = kinds.get(work, [])
                known["stretches"] = [*stretches, {**here, "since": now(), **place}]
                known["kinds"] = {**kinds, work: of_work if found in of_work else [*of_work, found]}
                write_json(self.path / File.PROVENANCE, known)
        return found

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Two evaluations may end at once; neither may lose what the other writes."""
        with _opened(self.path / File.RESULT_LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_json(self, name: str) -> dict | None:
        path = self.path / name
        content = _mapping(path, read_json, "damaged; remove it to have it written again")
        if content is not None and content.get("format") != FORMAT:
            raise UserError(f"{path} has format {content.get('format')}; this version reads format {FORMAT}")
        return content


def _mapping(path: Path, read: Callable[[Path], object], fault: str) -> dict | None:
    """The mapping in a file, None where there is no file; ``fault``: what is said of one that holds something else."""
    try:
        content = read(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise UserError(f"{error}: it is {fault}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is {fault}")
    return content
