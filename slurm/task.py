"""What runs in a Slurm job's processes: set up the surroundings, call, and when told to end soon, save and queue again.

Signals, all sent by Slurm: SIGUSR2 some time before the time limit, and at preemption where the cluster is set so; SIGTERM at a
cancellation, at preemption, or when somebody queues the job again. Both make the function save and stop. After SIGUSR2 the job
queues itself again; after SIGTERM alone it does not, since a cancelled job must stay cancelled (and a preempted one is queued
again by Slurm).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import submitit
from submitit.helpers import TorchDistributedEnvironment

from rundir.atomic import write_json
from rundir.clock import now
from rundir.schema import LEDGER_FORMAT
from slurm import environment
from slurm.files import print_to
from slurm.jobs import JobState, Unfinished, attempt

BEAT_SECONDS = 15.0
END_SECONDS = 300.0  # after a stop, Slurm's own end of the processes is awaited for so long
UNSAVED = 0.75  # of the time between signal and end: who has not saved by then goes on from the checkpoint before


class Task:
    """One job's call and its surroundings. Its call travels as bytes, so nothing heavy is imported before the environment is set.

    ``state_file`` tells, in one JSON object, the state of rank 0; see :meth:`_say`.
    """

    def __init__(self, name: str, call: bytes, log: Path, state_file: Path, requeues: int, grace: float) -> None:
        self.name, self.call, self.log, self.state_file = name, call, log, state_file
        self.requeues, self.grace = requeues, grace

    def __call__(self) -> None:
        self._begin()
        try:
            state, why = attempt(self._load_and_call, (), lambda: contextlib.nullcontext(sys.stderr))
        except Unfinished as reason:
            self._end_unfinished(str(reason))
            return
        finally:
            self.over.set()
            if self.timer is not None:
                self.timer.cancel()
        if state != JobState.DONE:
            self._say(JobState.FAILED, why)
            sys.exit(1)  # the traceback is in the log already
        self._say(JobState.DONE)

    def __getstate__(self) -> dict:
        names = ("name", "call", "log", "state_file", "requeues", "grace")
        return {name: getattr(self, name) for name in names}

    # -- surroundings ---------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.here = submitit.JobEnvironment()
        self.rank = self.here.global_rank
        self.restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        self.asked: int | None = None
        self.stop, self.calling = None, False
        self.timer: threading.Timer | None = None
        self.over, self.writing, self.requeueing = threading.Event(), threading.Lock(), threading.Lock()
        self.started = now()
        self._redirect()
        for signum in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(signum, self._on_signal)
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        self._say(JobState.RUNNING)
        threading.Thread(target=self._beat, daemon=True).start()

    def _redirect(self) -> None:
        """Append what is printed to the job's log; where that cannot be, Slurm's own file has it."""
        log = self.log if self.rank == 0 else self.log.with_suffix(f".rank{self.rank}.log")
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            print_to(log, f"{now()} job {self.here.job_id} on {socket.gethostname()}, start {self.restarts + 1}")
        except OSError as error:
            print(f"no log {log}: {error.strerror}", file=sys.stderr)

    def _load_and_call(self) -> None:
        function, args, self.stop = cloudpickle.loads(self.call)  # not to be broken off: modules would be left half imported
        if self.asked:
            raise Unfinished("stopped before it began")
        try:
            self.calling = True
            function(*args)
        finally:
            self.calling = False

    def _say(self, state: str, why: str = "") -> None:
        """Write the state file: running, requeued, stopped, done or failed, why, which job, where, since when."""
        if self.rank != 0:
            return
        said = {
            "format": LEDGER_FORMAT,
            "name": self.name,
            "job": self.here.job_id,
            "state": state,
            "why": why,
            "restarts": self.restarts,
            "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "machine": socket.gethostname(),
            "pid": os.getpid(),
            "started": self.started,
            "heartbeat": now(),
        }
        with self.writing:
            try:
                self.state_file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.state_file, said)
            except OSError as error:  # a full disk must not hide what the job itself has to say
                print(f"cannot write {self.state_file}: {error.strerror}", file=sys.stderr)

    def _beat(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            self._say(JobState.RUNNING)

    # -- the end --------------------------------------------------------------------------------------------------------------

    def _on_signal(self, signum: int, frame: object) -> None:
        first = self.asked is None
        if first or signum == signal.SIGUSR2:
            self.asked = signum
        if signum == signal.SIGUSR2 and self.rank == 0 and self.timer is None:
            self.timer = threading.Timer(UNSAVED * self.grace, self._requeue)
            self.timer.daemon = True
            self.timer.start()
        if first:
            print(f"received {signal.Signals(signum).name}: saving", flush=True)
            if self.calling and self.stop is not None:
                self.stop()
            elif self.calling:
                raise Unfinished("stopped by a signal")

    def _end_unfinished(self, reason: str) -> None:
        """Queue the job again if that is asked for, and let Slurm end the processes: to return would be success."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm's, when it queues again; scontrol inherits this and lives
        requeue = self.asked == signal.SIGUSR2
        if requeue and self.restarts >= self.requeues:
            self._say(JobState.FAILED, f"queued again {self.restarts} times, which is the limit (requeues)")
            sys.exit(1)
        self._say(JobState.REQUEUED if requeue else JobState.STOPPED, reason)
        print(f"{reason}; {'queued again' if requeue else 'ended by Slurm (cancelled or preempted)'}", flush=True)
        if requeue and self.rank == 0:
            self._requeue()
        time.sleep(END_SECONDS)
        sys.exit("Slurm did not end this job after it had stopped")

    def _requeue(self) -> None:
        """Once: by who has saved, or by the timer of who has not."""
        if not self.requeueing.acquire(blocking=False):
            return
        job = self.here.job_id
        done = subprocess.run(
            ["scontrol", "requeue", job],
            env=environment.for_questions(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
        if done.returncode > 0:  # below 0: killed with us by what it asked for
            self._say(JobState.FAILED, f"could not be queued again: {' '.join(done.stderr.split())}")
            os._exit(1)
