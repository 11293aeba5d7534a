"""Small jobs for the executors' tests. In a module of its own, since a job's process must be able to import it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def write(path: Path, text: str) -> None:
    path.write_text(text)


def say(text: str) -> None:
    """Speak on both streams, from Python and from a child process."""
    print("out", text)
    print("err", text, file=sys.stderr)
    subprocess.run([sys.executable, "-c", f"print('child {text}')"], check=True)


def fail(message: str) -> None:
    raise ValueError(message)


def leave(code: int) -> None:
    sys.exit(code)


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def span(folder: Path, name: str, seconds: float) -> None:
    """Write when this job began and ended."""
    began = time.time()
    time.sleep(seconds)
    (folder / name).write_text(f"{began} {time.time()}")


def meet(mine: Path, other: Path) -> None:
    """Leave a file and wait for the other job's."""
    mine.touch()
    end = time.monotonic() + 20
    while not other.exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody came")
        time.sleep(0.05)


def write_environment(path: Path) -> None:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    path.write_text("\n".join(f"{name}={os.environ.get(name, 'unset')}" for name in names))


def sleep_with_child(pids: Path, seconds: float, deaf: bool) -> None:
    """Start a child that sleeps, write both process ids, sleep. A deaf job ignores requests to stop."""
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    partial = pids.with_suffix(".partial")
    partial.write_text(f"{os.getpid()} {child.pid}")
    partial.rename(pids)
    time.sleep(seconds)


def read_value(argument: object) -> None:
    """Use an argument, so that it has to travel."""
    repr(argument)
