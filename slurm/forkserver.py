"""A process that has the libraries of jobs loaded, of which each job of ``--executor local`` is a fork.

A job then starts in milliseconds instead of the seconds that imports take, and is a process of its own all the same: nothing that
another job did is in its memory, and no other notices when it is killed. The server itself only imports and forks: OpenMP's threads
and CUDA's state, which would come with computing, do not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

if __name__ == "__main__":  # run as a script: make the rooms importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

GRACE_SECONDS = 5.0  # between asking a job to stop and killing it
POLL_SECONDS = 0.02
READY, STARTED, ENDED = "ready", "started", "ended"


class ServerLost(Exception):
    """The server has ended by itself. Its jobs may live on."""


class ForkServer:
    """The launcher's end: a server that loads the modules ``preload`` with ``environment`` on top of this process's.

    log: file of what it says, which jobs do not, having logs of their own.
    """

    def __init__(self, preload: Sequence[str], environment: dict[str, str], log: Path):
        self.ready = False  # whether the modules are loaded and jobs can start
        self._log = log
        self._codes: dict[int, int] = {}
        self._pipe, theirs = Pipe()
        with theirs, log.open("ab") as said:
            # A session of its own: Ctrl-C in a terminal reaches the launcher alone, which then stops the jobs.
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def start(self, call: Callable[[], object]) -> int:
        """Fork a process, the leader of a group of its own, that calls ``call`` (picklable) and ends; its process id.

        Raises:
            ServerLost: there is no server any more.
        """
        with self._lost():
            self._pipe.send_bytes(pickle.dumps(call))
            while (pid := self._receive()) is None:
                pass
            return pid

    def ended(self) -> dict[int, int]:
        """Exit codes by process id of what has ended since the last call; a negative one is the signal that killed it.

        Raises:
            ServerLost: there is no server any more.
        """
        with self._lost():
            while self._pipe.poll():
                self._receive()
        found, self._codes = self._codes, {}
        return found

    def stop(self) -> None:
        """End the server and with it whatever still runs: ask, wait, kill."""
        self._pipe.close()
        if self.ready:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2 * GRACE_SECONDS)
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """The last line that the server said."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def _receive(self) -> int | None:
        """Take note of one message; the process id if it is of a start."""
        kind, *about = self._pipe.recv()
        if kind == READY:
            self.ready = True
        elif kind == ENDED:
            self._codes[about[0]] = about[1]
        return about[0] if kind == STARTED else None

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise ServerLost(f"the process that starts jobs ended (exit code {self._process.wait()})") from error


def serve(pipe: Connection) -> Callable[[], object] | None:
    """Fork what the launcher asks for. In a fork this returns its call; in the server None, once the launcher has closed its end or
    is gone, and all forks have ended.
    """
    running: set[int] = set()
    with contextlib.suppress(EOFError, OSError):
        pipe.send((READY,))
        while True:
            for pid, code in _reaped(running):
                pipe.send((ENDED, pid, code))
            if not pipe.poll(POLL_SECONDS):
                continue
            call = pipe.recv_bytes()
            pid = os.fork()
            if pid == 0:
                return _begin(pipe, call)
            with contextlib.suppress(OSError):  # the fork was quicker, or has ended
                os.setpgid(pid, pid)
            running.add(pid)
            pipe.send((STARTED, pid))
    _stop(running)
    return None


def _begin(pipe: Connection, call: bytes) -> Callable[[], object]:
    pipe.close()
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and that is inherited
    return pickle.loads(call)


def _reaped(running: set[int]) -> Iterable[tuple[int, int]]:
    """Those of ``running`` that have ended, which they are taken from, with their exit codes."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            running.discard(pid)
            yield pid, os.waitstatus_to_exitcode(status)


def _stop(running: set[int]) -> None:
    """End these processes and all that they started."""
    groups = set(running)
    signal_groups(groups, signal.SIGINT)
    end = time.monotonic() + GRACE_SECONDS
    while running and time.monotonic() < end:
        list(_reaped(running))
        time.sleep(POLL_SECONDS)
    signal_groups(groups, signal.SIGKILL)


def signal_groups(groups: Iterable[int], signum: int) -> None:
    """Send a signal to these process groups, as far as they are there."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signum)


def main() -> None:
    """``forkserver.py FD MODULE...``: load the modules, serve the connection FD, and in a fork do what it is for."""
    own, *preload = sys.argv[1:]
    os.set_inheritable(int(own), False)
    for module in preload:
        with contextlib.suppress(Exception):  # whoever needs it imports it again, and says what is wrong where it is seen
            importlib.import_module(module)
    gc.freeze()  # a collection in a fork would copy what it looks at
    call = serve(Connection(int(own)))
    if call is not None:
        call()


if __name__ == "__main__":
    main()
