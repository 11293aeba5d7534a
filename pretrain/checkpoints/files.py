"""This project's checkpoints: written atomically, the previous one kept, read without running anything that is in them."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pretrain.checkpoints.reading import read
from rundir.atomic import replacing
from rundir.errors import UserError
from rundir.schema import CHECKPOINT_FORMAT, File


def save(directory: Path, payload: dict) -> None:
    """Write ``payload`` as ``checkpoint.pt`` in ``directory``; the one before becomes ``checkpoint.previous.pt``.

    A crash at any moment leaves at least one whole checkpoint. A failed write (a full disk) or one that a signal broke off removes
    its temporary file, leaves both checkpoints as they were and raises OSError or what the signal's handler raised.
    """
    target = directory / File.CHECKPOINT
    try:
        with replacing(target) as file:
            torch.save({"format": CHECKPOINT_FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())  # whole before the present one makes way
            if target.exists():
                _keep(target, directory / File.PREVIOUS_CHECKPOINT)
    except (OSError, RuntimeError) as error:
        cause = _cause(error)
        if isinstance(cause, OSError):
            raise type(cause)(cause.errno, cause.strerror, str(target)) from error
        raise cause from error


def _keep(target: Path, previous: Path) -> None:
    """Give the present checkpoint its second name, from which it is not lost when ``target`` is replaced."""
    if previous.exists() and os.path.samefile(target, previous):  # a crash between the moves
        return
    second = previous.with_name(f".{target.name}.tmp")
    second.unlink(missing_ok=True)
    try:
        os.link(target, second)
    except OSError:  # a file system without links: for a moment there is no checkpoint.pt, but the previous one
        os.replace(target, previous)
        return
    os.replace(second, previous)


def _cause(error: BaseException) -> BaseException:
    """What was raised within a write: torch's writer, which calls ours from C++, hides it behind a RuntimeError of its own."""
    cause: BaseException | None = error
    while isinstance(cause, RuntimeError):
        cause = cause.__cause__ or cause.__context__
    return error if cause is None else cause


def is_own(payload: object) -> bool:
    """Whether what was read looks like a checkpoint that this project wrote."""
    return isinstance(payload, dict) and "format" in payload and isinstance(payload.get("encoder"), dict)


def load(path: str | Path) -> dict:
    """The payload in ``path``, tensors on the CPU.

    Raises:
        UserError: what :func:`read` raises; it is not a checkpoint of this project, or its format is unknown.
    """
    payload = read(path)
    if not is_own(payload):
        raise UserError(f"{path} is a torch file but not a checkpoint of this project (no 'format' and 'encoder' in it)")
    check_format(payload, path)
    return payload


def check_format(payload: dict, path: str | Path) -> None:
    """Raise :class:`UserError` if a checkpoint of this project is of another version's format."""
    found = payload["format"]
    if not (isinstance(found, int) and found == CHECKPOINT_FORMAT):
        raise UserError(f"{path} has checkpoint format {repr(found)[:40]}; this version reads format {CHECKPOINT_FORMAT}")


def load_latest(directory: Path) -> dict | None:
    """What :func:`latest` finds, without its path."""
    found = latest(directory)
    return None if found is None else found[1]


def latest(directory: Path) -> tuple[Path, dict] | None:
    """The newest readable checkpoint of ``directory`` and its path: the previous one where the last is damaged; None without any.

    Raises:
        UserError: there are checkpoints but none can be read.
    """
    problems = []
    for name in (File.CHECKPOINT, File.PREVIOUS_CHECKPOINT):
        if (directory / name).exists():
            try:
                return directory / name, load(directory / name)
            except UserError as error:
                problems.append(str(error))
                print(f"warning: {error}; trying the one before", flush=True)
    if problems:
        raise UserError(
            f"no checkpoint of {directory} can be read; remove the directory to start this run again, or choose "
            "another if it holds anything else"
        )
    return None
