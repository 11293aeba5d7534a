"""Checkpoints: atomic, the previous one kept, damaged and foreign files refused in one line."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from pretrain.checkpoints import files as checkpoint
from rundir.cli import Terminated, is_interruption
from rundir.errors import UserError
from rundir.schema import File

NEW, OLD = File.CHECKPOINT, File.PREVIOUS_CHECKPOINT


def payload(value, size=1000):
    return {"encoder": {"w": torch.full((size,), float(value))}, "step": value, "calibration": {"1.0": {"bn": torch.ones(2)}}}


@pytest.fixture
def two(tmp_path):
    """A directory with checkpoint 2 and, before it, checkpoint 1."""
    checkpoint.save(tmp_path, payload(1))
    checkpoint.save(tmp_path, payload(2))
    return tmp_path


def step_of(path):
    return checkpoint.load(path)["step"]


def files(directory):
    return sorted(os.listdir(directory))


def test_the_last_two_are_kept(two):
    assert files(two) == sorted([NEW, OLD])
    assert (step_of(two / NEW), step_of(two / OLD)) == (2, 1)
    checkpoint.save(two, payload(3))
    assert (step_of(two / NEW), step_of(two / OLD)) == (3, 2)
    assert checkpoint.load_latest(two)["step"] == 3
    assert torch.equal(checkpoint.load_latest(two)["encoder"]["w"], torch.full((1000,), 3.0))


def test_no_checkpoint(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    with pytest.raises(UserError, match=r"there is no checkpoint .*give a run directory, or its checkpoint.pt"):
        checkpoint.load(tmp_path / NEW)
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoint.load(tmp_path)


def damage(path, how):
    content = path.read_bytes()
    if how == "garbage":
        path.write_bytes(os.urandom(3000))
    elif how == "text":
        path.write_text("hello")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "unpickled object":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        path.write_bytes(content[: int(len(content) * how)])


DAMAGES = [0.0, 0.01, 0.3, 0.6, 0.9, 0.999, "garbage", "text", "zeros", "unpickled object"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(two, how, capsys):
    damage(two / NEW, how)
    with pytest.raises(UserError) as caught:
        checkpoint.load(two / NEW)
    assert "\n" not in str(caught.value) and NEW in str(caught.value)
    assert checkpoint.load_latest(two)["step"] == 1
    assert "trying the one before" in capsys.readouterr().out
    damage(two / OLD, how)
    with pytest.raises(UserError, match=r"no checkpoint of .* can be read") as caught:
        checkpoint.load_latest(two)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_file_is_noticed(tmp_path):
    checkpoint.save(tmp_path, payload(1, size=50))
    content = (tmp_path / NEW).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / NEW).write_bytes(content[:length])
        with pytest.raises(UserError):
            checkpoint.load(tmp_path / NEW)


@pytest.mark.parametrize(
    "foreign",
    [
        {"state_dict": {"w": torch.ones(2)}},
        [1, 2],
        {"format": 1},
        torch.ones(3),
        {"format": 2, "encoder": {}},
        {"format": "x", "encoder": {}},
    ],
)
def test_foreign_torch_files_are_refused(tmp_path, foreign):
    torch.save(foreign, tmp_path / NEW)
    with pytest.raises(UserError, match=r"not a checkpoint of this project|reads format 1") as caught:
        checkpoint.load(tmp_path / NEW)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil-was-here",)


def test_no_code_is_run_by_loading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "encoder": Evil()}, tmp_path / NEW)
    with pytest.raises(UserError, match="read safely"):
        checkpoint.load(tmp_path / NEW)
    assert not (tmp_path / "evil-was-here").exists()


@pytest.mark.parametrize("moment", range(4))
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(two, monkeypatch, moment):
    """The process ends before the n-th call that changes a name (2 of them), while writing, or before the flush."""

    class Killed(BaseException):
        pass

    calls = {"n": 0}

    def killer(function, at):
        def wrapped(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == at:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    if moment < 2:
        monkeypatch.setattr(checkpoint.os, "replace", killer(os.replace, moment + 1))
    elif moment == 2:
        monkeypatch.setattr(checkpoint.os, "fsync", killer(os.fsync, 1))
    else:
        monkeypatch.setattr(checkpoint.torch, "save", killer(torch.save, 1))
    with pytest.raises(Killed):
        checkpoint.save(two, payload(3))
    monkeypatch.undo()
    assert checkpoint.load_latest(two)["step"] == 2
    checkpoint.save(two, payload(4))  # what the crash left is no hindrance
    assert checkpoint.load_latest(two)["step"] == 4 and files(two) == sorted([NEW, OLD])


def failing_open(after, error):
    """``open`` for writing, whose files raise ``error`` once more than ``after`` bytes are written."""
    real_open = open

    class Failing:
        def __init__(self, file):
            self.file, self.written = file, 0

        def write(self, data):
            self.written += len(data)
            if self.written > after:
                raise error
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    return lambda path, *args: Failing(real_open(path, *args))


@pytest.mark.parametrize("after", [0, 1, 2000, 10**6])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_write_leaves_everything_as_it_was(two, monkeypatch, after, code):
    """The disk is full after some bytes: OSError with its number, both checkpoints whole, no temporary file."""
    monkeypatch.setattr("builtins.open", failing_open(after, OSError(code, os.strerror(code))))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        checkpoint.save(two, payload(3, size=10**6))
    monkeypatch.undo()
    assert caught.value.errno == code and caught.value.filename == str(two / NEW)
    assert files(two) == sorted([NEW, OLD])
    assert (step_of(two / NEW), step_of(two / OLD)) == (2, 1)


@pytest.mark.parametrize("after", [0, 1, 2000, 10**6])
@pytest.mark.parametrize("end", [KeyboardInterrupt, Terminated(signal.SIGTERM)])
def test_a_signal_in_the_middle_of_a_write_is_an_interruption(two, monkeypatch, after, end):
    """torch's writer is C++ and makes a RuntimeError of whatever is raised in ours."""
    monkeypatch.setattr("builtins.open", failing_open(after, end))
    with pytest.raises(KeyboardInterrupt) as caught:
        checkpoint.save(two, payload(3, size=10**6))
    monkeypatch.undo()
    assert is_interruption(caught.value) and isinstance(caught.value, end if isinstance(end, type) else type(end))
    assert files(two) == sorted([NEW, OLD]) and (step_of(two / NEW), step_of(two / OLD)) == (2, 1)


def test_a_file_system_without_links(two, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", unsupported)
    checkpoint.save(two, payload(3))
    assert files(two) == sorted([NEW, OLD]) and (step_of(two / NEW), step_of(two / OLD)) == (3, 2)


def test_a_file_size_limit(two):
    """The real thing, by a limit of the operating system: exit code 2, one line, nothing damaged."""
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import torch
        from pretrain.checkpoints import files as checkpoint
        from rundir.cli import cli
        def main(argv):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            checkpoint.save(Path(argv[0]), {"encoder": {"w": torch.ones(10**6)}, "step": 3})
        cli(main, sys.argv[1:])
    """)
    done = subprocess.run([sys.executable, "-c", program, str(two)], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and NEW in done.stderr
    assert files(two) == sorted([NEW, OLD]) and (step_of(two / NEW), step_of(two / OLD)) == (2, 1)


@pytest.mark.parametrize("seed", range(200))
def test_random_bytes_end_with_one_line(tmp_path, seed):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(random.Random(seed).randbytes(64))
    with pytest.raises(UserError, match=r"checkpoint\.pt (\(64 bytes\) )?is (truncated or )?not a"):
        checkpoint.read(path)
