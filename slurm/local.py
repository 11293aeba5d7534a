"""Jobs as processes of this machine, through submitit's local executor.

Submitit starts a controller for each job, which starts the job's own process (the *task*). It knows no limit on how
many run, and Ctrl-C or the end of the launcher leaves its processes alone; both are taken care of here. For that, a
task makes itself the leader of a process group, so that it can be stopped together with all it started.
"""

from __future__ import annotations

import contextlib
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
import submitit
from submitit.core.utils import UncompletedJobError, environment_variables

from rundir.machine import cores
from slurm.jobs import Job, JobState, Outcome, attempt, describe
from slurm.order import Order

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between asking a task to stop and killing it
FOREVER_MINUTES = 10 * 365 * 24 * 60  # submitit's default is to stop a local job after two minutes


class LocalCall:
    """What runs in a job's process: set up the surroundings, then the call. Returns its state and why, as ``attempt``.

    The call travels as bytes of its own, so that nothing heavy is imported before the environment is set.
    """

    def __init__(self, call: bytes, log: Path, pid_file: Path, environment: dict[str, str | None]) -> None:
        self.call, self.log, self.pid_file, self.environment = call, log, pid_file, environment

    def __call__(self) -> tuple[str, str]:
        os.setpgid(0, 0)
        self.pid_file.write_text(str(os.getpid()), encoding="utf-8")
        _redirect_output(self.log)
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        return attempt(self._load_and_call, (), lambda: contextlib.nullcontext(sys.stderr))

    def _load_and_call(self) -> None:
        function, args = cloudpickle.loads(self.call)
        function(*args)


def _redirect_output(log: Path) -> None:
    """Append all that this process and its children print to ``log``: on the descriptors, for native code too."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab", buffering=0) as stream, open(os.devnull, "rb") as nothing:
        stream.write(f"--- {datetime.now().isoformat(timespec='seconds')} pid {os.getpid()}\n".encode())
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        os.dup2(nothing.fileno(), 0)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the terminal's is


@dataclass
class Running:
    """A job that was started: submitit's handle, and the file in which the task says its process id."""

    index: int
    job: Job
    handle: submitit.LocalJob
    log: Path
    pid_file: Path

    def signal_task(self, signum: int) -> bool:
        """Send a signal to the task and all it started. False where the task has not come so far, or is gone."""
        try:
            os.killpg(int(self.pid_file.read_text(encoding="utf-8")), signum)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return False
        return True

    def outcome(self) -> Outcome:
        """How the ended job ended."""
        if not self.handle.paths.result_pickle.exists():
            self.signal_task(signal.SIGKILL)  # the task did not end by itself: its children may live on
            return self._failed("the process ended without a result (killed, or out of memory?)")
        try:
            state, why = self.handle.result()
        except UncompletedJobError:
            state, why = JobState.FAILED, f"the job did not start: {self._submitit_said()[-1]}"
        return self._failed(why) if state == JobState.FAILED else Outcome(self.job.name, state, why, self.log)

    def _failed(self, error: str) -> Outcome:
        if not self.log.exists():  # the task did not come as far as its own log
            self.log.write_text("\n".join(self._submitit_said()) + "\n", encoding="utf-8")
        return Outcome(self.job.name, JobState.FAILED, error, self.log)

    def _submitit_said(self) -> list[str]:
        return [line for line in (self.handle.stderr() or "").splitlines() if line.strip()] or ["nothing was said"]


class LocalLaunch:
    """The jobs of one launch, at most ``parallel`` at once."""

    def __init__(
        self, jobs: Sequence[Job], log_dir: Path, parallel: int, gpus: int, on_update: Callable[[Outcome], object]
    ) -> None:
        self.log_dir, self.on_update, self.gpus = log_dir, on_update, gpus
        self.slots = min(parallel, len(jobs))
        self.waiting = Order(jobs)
        self.running: dict[int, Running] = {}  # by slot
        self.outcomes: dict[int, Outcome] = {}

    def run(self) -> list[Outcome]:
        """Start, wait, collect. A signal to stop, or any exception here, first ends what is running."""
        # A folder of its own: submitit names files by process id, and an older launch may have had the same one.
        work = tempfile.TemporaryDirectory(prefix=".submitit-", dir=self.log_dir, ignore_cleanup_errors=True)
        with work as folder, _stop_signals() as received:
            try:
                while (self.waiting or self.running) and not received:
                    self._fill_slots(Path(folder))
                    self._collect()
                    time.sleep(POLL_SECONDS if self.running else 0)
            finally:
                self._stop()
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])
        return [self.outcomes[index] for index in sorted(self.outcomes)]

    def _fill_slots(self, folder: Path) -> None:
        for slot in range(self.slots):
            if slot not in self.running and (taken := self.waiting.take()) is not None:
                self._start(slot, *taken, folder)

    def _start(self, slot: int, index: int, job: Job, folder: Path) -> None:
        log, pid_file = job.log(self.log_dir), folder / f"{index}.pid"
        try:
            call = cloudpickle.dumps((job.function, job.args))
        except Exception as error:  # pickling raises what it likes
            self._end(index, Outcome(job.name, JobState.FAILED, f"cannot be sent to another process: {describe(error)}"))
            return
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=FOREVER_MINUTES)
        task = LocalCall(call, log, pid_file, {"CUDA_VISIBLE_DEVICES": self._visible_gpus(slot)})
        with environment_variables(**_child_environment(self.slots)):
            handle = executor.submit(task)
        self.running[slot] = Running(index, job, handle, log, pid_file)
        self.on_update(Outcome(job.name, JobState.RUNNING, log=log))

    def _visible_gpus(self, slot: int) -> str | None:
        """The task's CUDA_VISIBLE_DEVICES (None: unset). Submitit would hide all GPUs."""
        mine = os.environ.get("CUDA_VISIBLE_DEVICES")
        if not self.gpus:
            return mine
        names = mine.split(",") if mine else [str(index) for index in range(self.gpus)]
        return names[slot % min(self.gpus, len(names))].strip()

    def _collect(self) -> None:
        for slot, running in list(self.running.items()):
            if running.handle.done():
                del self.running[slot]
                self._end(running.index, running.outcome())

    def _end(self, index: int, outcome: Outcome) -> None:
        for place, ended in [(index, outcome), *self.waiting.end(outcome)]:
            self.outcomes[place] = ended
            self.on_update(ended)

    def _stop(self) -> None:
        """End every task: ask, wait, kill. Nothing to do after a launch that ran to its end."""
        left = list(self.running.values())
        for running in left:
            if not running.signal_task(signal.SIGINT) and not running.handle.done():
                running.handle.cancel()  # still starting: through its controller
        _wait_for(left, GRACE_SECONDS)
        for running in left:
            running.signal_task(signal.SIGKILL)
        _wait_for(left, GRACE_SECONDS)


def _wait_for(jobs: Sequence[Running], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(running.handle.done() for running in jobs):
        time.sleep(POLL_SECONDS)


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
