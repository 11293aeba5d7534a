"""Checkpoints: written atomically, the previous one kept, read without unpickling anything but tensors and plain types."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.errors import UserError
from rundir.atomic import replacing

FORMAT = 1
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(directory: Path, payload: dict) -> None:
    """Write ``payload`` as ``checkpoint.pt`` in ``directory``; the one before becomes ``checkpoint.previous.pt``.

    A crash at any moment leaves at least one whole checkpoint. A failed write (a full disk) or one that a signal broke off removes
    its temporary file, leaves both checkpoints as they were and raises OSError or what the signal's handler raised.
    """
    target = directory / NAME
    try:
        with replacing(target) as file:
            torch.save({"format": FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())  # whole before the present one makes way
            if target.exists():
                _keep(target, directory / PREVIOUS)
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


def read(path: str | Path) -> object:
    """What is in ``path``, whoever wrote it, tensors on the CPU: a torch file, or a safetensors file by that ending.

    Raises:
        UserError: there is no such file, it is truncated or of another kind, or it would need arbitrary unpickling.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the checkpoint.pt of a run directory")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is not a checkpoint that can be read safely (tensors and plain types only)") from None
    except MemoryError:
        raise
    except Exception:  # the unpickler takes random bytes for instructions, and each ends in another way
        raise UserError(f"{path} ({path.stat().st_size:,} bytes) is truncated or not a torch file; copy it again, "
                        "or take the checkpoint before it") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"reading {path} needs safetensors; pip install 'us3l-bench[export]'") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({str(error).splitlines()[0][:120]})") from None


def is_own(payload: object) -> bool:
    """Whether what was read looks like a checkpoint that this project wrote."""
    return isinstance(payload, dict) and "format" in payload and "encoder" in payload


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
    """:class:`UserError` if a checkpoint of this project is of another version's format."""
    if payload["format"] != FORMAT:
        raise UserError(f"{path} has checkpoint format {payload['format']}; this version reads format {FORMAT}")


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


def load_weights(network: nn.Module, state: dict[str, Tensor], path: str | Path, name: str) -> None:
    """Put ``state`` into ``network``, called ``name``; :class:`UserError` names the first parameter that does not fit."""
    own = network.state_dict()
    for key, tensor in own.items():
        if key not in state:
            raise UserError(f"{path} does not fit {name}: {key} is missing")
        if tuple(state[key].shape) != tuple(tensor.shape):
            raise UserError(f"{path} does not fit {name}: {key} has shape {tuple(state[key].shape)}, "
                            f"expected {tuple(tensor.shape)}")
    unknown = next((key for key in state if key not in own), None)
    if unknown is not None:
        raise UserError(f"{path} does not fit {name}: {unknown} is not one of its parameters")
    # A network without memory of its own takes the tensors as they are.
    network.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()))
