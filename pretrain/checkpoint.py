"""Checkpoints: written atomically, the previous one kept, read without unpickling anything but tensors and plain types."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

from pretrain.errors import UserError

FORMAT = 1
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(directory: Path, payload: dict) -> None:
    """Write ``payload`` as ``checkpoint.pt`` in ``directory``; the one before becomes ``checkpoint.previous.pt``.

    A crash at any moment leaves at least one whole checkpoint. A failed write (a full disk) removes its temporary file, leaves both
    checkpoints as they were and raises OSError.
    """
    target, temporary = directory / NAME, directory / f".{NAME}.tmp"
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(target)) from error
        raise
    if target.exists():
        os.replace(target, directory / PREVIOUS)
    os.replace(temporary, target)


def load(path: str | Path) -> dict:
    """The payload in ``path``, tensors on the CPU.

    Raises:
        UserError: there is no such file, it is truncated or not a torch file, it would need arbitrary unpickling, it is not a
            checkpoint of this project, or its format is unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the checkpoint.pt of a run directory")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is not a checkpoint that can be read safely (tensors and plain types only)") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error) or "it is empty").splitlines()[0][:120]
        raise UserError(f"{path} is truncated or not a torch file ({reason})") from None
    if not isinstance(payload, dict) or "format" not in payload or "encoder" not in payload:
        raise UserError(f"{path} is a torch file but not a checkpoint of this project (no 'format' and 'encoder' in it)")
    if payload["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {payload['format']}; this version reads format {FORMAT}")
    return payload


def load_latest(directory: Path) -> dict | None:
    """The newest readable checkpoint of ``directory``: the previous one where the last is damaged; None where there is none.

    Raises:
        UserError: there are checkpoints but none can be read.
    """
    problems = []
    for name in (NAME, PREVIOUS):
        if (directory / name).exists():
            try:
                return load(directory / name)
            except UserError as error:
                problems.append(str(error))
                print(f"warning: {error}; trying the one before", flush=True)
    if problems:
        raise UserError(f"no checkpoint of {directory} can be read; remove the directory to start this run again")
    return None
