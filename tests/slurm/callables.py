"""Small jobs for the executors' tests. In a module of its own, since a job's process must be able to import it."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from slurm.calls import from_ledger
from slurm.jobs import Left, Unfinished


@from_ledger
def write(path: Path | str, text: str) -> None:
    Path(path).write_text(text)


@from_ledger
def say(text: str) -> None:
    """Speak on both streams, from Python and from a child process."""
    print("out", text)
    print("err", text, file=sys.stderr)
    subprocess.run([sys.executable, "-c", f"print('child {text}')"], check=True)


@from_ledger
def fail(message: str) -> None:
    raise ValueError(message)


def leave_to(whom: str) -> None:
    raise Left(whom)


def leave(code: int) -> None:
    sys.exit(code)


@from_ledger
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
    end = time.monotonic() + 300
    while not other.exists():
        if time.monotonic() > end:
            raise TimeoutError("nobody came")
        time.sleep(0.05)


def write_environment(path: Path) -> None:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    path.write_text("\n".join(f"{name}={os.environ.get(name, 'unset')}" for name in names))


def change_module(name: str, path: Path) -> None:
    """Write whether the module is loaded and as it was, and change it."""
    module = sys.modules.get(name)
    path.write_text("not loaded" if module is None else f"loaded {getattr(module, 'mark', 'unchanged')}")
    importlib.import_module(name).mark = "changed"


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


_stop = False


@from_ledger
def ask_to_stop() -> None:
    global _stop
    _stop = True


@from_ledger
def count(path: Path | str, total: int, seconds: float) -> None:
    """Count to ``total``, going on from what ``path`` says; when asked to stop, leave it there."""
    path = Path(path)
    done = int(path.read_text()) if path.exists() else 0
    while done < total:
        if _stop:
            raise Unfinished(f"stopped at {done}")
        time.sleep(seconds)
        done += 1
        path.write_text(str(done))


@from_ledger
def wait_for(path: Path | str, seconds: float = 600) -> None:
    """Return when ``path`` appears."""
    path = Path(path)
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not come")
        time.sleep(0.05)


def survive_one_node(here: Path, seconds: float) -> None:
    """Say that it runs and wait; the second time end at once."""
    if here.exists():
        return
    here.write_text(os.environ["SLURMD_NODENAME"])
    time.sleep(seconds)


@from_ledger
def hang_once(directory: Path | str, seconds: float) -> None:
    """The first time say in the directory's status that it trains, as of long ago, and do nothing; the second time end at once."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    status = directory / "status.json"
    if status.exists():
        return
    status.write_text(
        '{"format": 1, "state": "running", "epoch": 3, "epochs": 9, "images_per_second": 55.0, "seconds_left": 600, '
        '"heartbeat": "2020-01-01T00:00:00+00:00"}'
    )
    time.sleep(seconds)


def write_ranks(folder: Path) -> None:
    """Leave what a process is told about itself and the others."""
    names = (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "CUDA_VISIBLE_DEVICES",
        "SLURM_CPUS_PER_TASK",
        "SLURMD_NODENAME",
    )
    said = {name: os.environ.get(name, "") for name in names}
    (folder / f"rank{said['RANK']}").write_text("\n".join(f"{name}={value}" for name, value in said.items()))


def fill(path: Path, size: int, limit: int = 0) -> None:
    """Write a file of ``size`` bytes, where none may grow beyond ``limit``."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    path.write_bytes(b"x" * size)
