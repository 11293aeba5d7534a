"""Jobs as processes of this machine, at most so many at once: forks of a process that has their libraries loaded.

Ctrl-C or the end of the launcher stops them, together with all they started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cloudpickle

from rundir.atomic import write_json
from rundir.machine import cores
from slurm.files import print_to
from slurm.forkserver import ForkServer, ServerLost, signal_groups
from slurm.jobs import Job, JobState, Outcome, attempt, describe
from slurm.order import Order

POLL_SECONDS = 0.1


@dataclass
class LocalCall:
    """What runs in a job's process: set up the surroundings, call, and leave its state and why, as ``attempt``, in ``result``.

    The call travels as bytes of its own, so that nothing of it is imported before the environment is set.
    """

    call: bytes
    log: Path
    result: Path
    environment: dict[str, str | None]
    argv: list[str]  # of the launcher

    def __call__(self) -> None:
        print_to(self.log, f"{datetime.now().isoformat(timespec='seconds')} pid {os.getpid()}")
        sys.argv = self.argv
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        state, why = attempt(self._load_and_call, (), lambda: contextlib.nullcontext(sys.stderr))
        write_json(self.result, {"state": state, "why": why})

    def _load_and_call(self) -> None:
        function, args = cloudpickle.loads(self.call)
        function(*args)


@dataclass
class Running:
    """A job that was started: its process, which leads a group of its own, and the file for how it ended."""

    index: int
    job: Job
    pid: int
    log: Path
    result: Path

    def outcome(self, code: int | None) -> Outcome:
        """How the job ended whose process ended with exit ``code`` (negative: that signal's; None: not known)."""
        if not self.result.exists():
            signal_groups([self.pid], signal.SIGKILL)  # it did not end by itself: what it started may live on
            return self._failed(f"the process {_ending(code)}, without a result")
        found = json.loads(self.result.read_text(encoding="utf-8"))
        state, why = found["state"], found["why"]
        return self._failed(why) if state == JobState.FAILED else Outcome(self.job.name, state, why, self.log)

    def _failed(self, error: str) -> Outcome:
        self.log.touch()  # the process may not have come so far
        return Outcome(self.job.name, JobState.FAILED, error, self.log)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return "was killed" if code is None else f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


class LocalLaunch:
    """The jobs of one launch, at most ``parallel`` at once; ``preload``: modules that they import."""

    def __init__(
        self,
        jobs: Sequence[Job],
        log_dir: Path,
        parallel: int,
        gpus: int,
        on_update: Callable[[Outcome], object],
        preload: Sequence[str] = (),
    ) -> None:
        self.log_dir, self.on_update, self.gpus, self.preload = log_dir, on_update, gpus, preload
        self.slots = min(parallel, len(jobs))
        self.waiting = Order(jobs)
        self.server: ForkServer | None = None
        self.running: dict[int, Running] = {}  # by slot
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> list[Outcome]:
        """Start, wait, collect. A signal to stop, or any exception here, first ends what is running."""
        work = tempfile.TemporaryDirectory(prefix=".local-", dir=self.log_dir, ignore_cleanup_errors=True)
        with work as folder, _stop_signals() as received:
            try:
                while (self.waiting or self.running) and not received:
                    self._turn(Path(folder))
                    time.sleep(POLL_SECONDS if self.running or self.waiting else 0)
            finally:
                if self.server is not None:
                    self.server.stop()
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
        return [self.outcomes[index] for index in sorted(self.outcomes)]

    def _turn(self, folder: Path) -> None:
        """Collect what has ended and start what can be; where the server is lost, its jobs are, and the next turn has another."""
        if self.server is None:
            self.server = ForkServer(self.preload, _child_environment(self.slots), folder / "server.log")
        try:
            codes = self.server.ended()
            for slot, running in list(self.running.items()):
                if running.pid in codes:
                    self._collect(slot, codes[running.pid])
            if self.server.ready:
                self._fill_slots(folder)
        except ServerLost as lost:
            server, self.server = self.server, None
            server.stop()
            if not server.ready:
                raise RuntimeError(f"{lost}: {server.said()}") from lost
            for slot in list(self.running):
                self._collect(slot, None)

    def _fill_slots(self, folder: Path) -> None:
        for slot in range(self.slots):
            while slot not in self.running and (taken := self.waiting.take()) is not None:
                self._start(slot, *taken, folder)

    def _start(self, slot: int, index: int, job: Job, folder: Path) -> None:
        log, result = job.log(self.log_dir), folder / f"{index}.json"
        try:
            call = cloudpickle.dumps((job.function, job.args))
        except Exception as error:  # pickling raises what it likes
            self._end(index, Outcome(job.name, JobState.FAILED, f"cannot be sent to another process: {describe(error)}"))
            return
        task = LocalCall(call, log, result, {"CUDA_VISIBLE_DEVICES": self._visible_gpus(slot)}, sys.argv)
        try:
            pid = self.server.start(task)
        except ServerLost as lost:
            self._end(index, Outcome(job.name, JobState.FAILED, str(lost)))
            raise
        self.running[slot] = Running(index, job, pid, log, result)
        self.on_update(Outcome(job.name, JobState.RUNNING, log=log))

    def _visible_gpus(self, slot: int) -> str | None:
        """The task's CUDA_VISIBLE_DEVICES (None: unset)."""
        mine = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not self.gpus:
            return mine
        names = mine.split(",") if mine else [str(index) for index in range(self.gpus)]
        return names[slot % min(self.gpus, len(names))].strip()

    def _collect(self, slot: int, code: int | None) -> None:
        running = self.running.pop(slot)
        self._end(running.index, running.outcome(code))

    def _end(self, index: int, outcome: Outcome) -> None:
        for place, ended in [(index, outcome), *self.waiting.end(outcome)]:
            self.outcomes[place] = ended
            self.on_update(ended)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and a closed terminal in a list instead of letting them strike between two statements.

    In another thread than the main one Python allows no handlers; there the list stays empty.
    """
    received: list[int] = []
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup's wish is respected. A shell's background jobs ignore Ctrl-C too, which our tasks must not inherit.
            if signum == signal.SIGINT or signal.getsignal(signum) is not signal.SIG_IGN:
                previous[signum] = signal.signal(signum, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def _child_environment(parallel: int) -> dict[str, str]:
    """What a job's process gets in addition to this one's environment: its share of the cores, and where modules are found."""
    paths = [os.path.abspath(path) for path in sys.path]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if os.path.isdir(path)))}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // parallel))
    return environment
