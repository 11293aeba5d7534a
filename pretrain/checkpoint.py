"""This project's checkpoints: written atomically, the previous one kept, read without running anything that is in them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoints.reading import read
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
    """What :func:`latest` finds, without its path."""
    found = latest(directory)
    return None if found is None else found[1]


def latest(directory: Path) -> tuple[Path, dict] | None:
    """The newest readable checkpoint of ``directory`` and its path: the previous one where the last is damaged; None without any.

    Raises:
        UserError: there are checkpoints but none can be read.
    """
    problems = []
    for name in (NAME, PREVIOUS):
        if (directory / name).exists():
            try:
                return directory / name, load(directory / name)
            except UserError as error:
                problems.append(str(error))
                print(f"warning: {error}; trying the one before", flush=True)
    if problems:
        raise UserError(f"no checkpoint of {directory} can be read; remove the directory to start this run again")
    return None


def load_weights(network: nn.Module, state: dict[str, Tensor], path: str | Path, name: str) -> None:
    """Put ``state`` into ``network``, called ``name``; floating-point weights of any precision become those of ``network``.

    Raises:
        UserError: a parameter is missing, unknown, of another shape or kind, or not finite: the first is named.
    """
    own = network.state_dict()
    for key, tensor in own.items():
        if key not in state:
            raise UserError(f"{path} does not fit {name}: {key} is missing")
        if tuple(state[key].shape) != tuple(tensor.shape):
            raise UserError(f"{path} does not fit {name}: {key} has shape {tuple(state[key].shape)}, "
                            f"expected {tuple(tensor.shape)}")
        if not _is_plain(state[key]) or state[key].is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{path} does not fit {name}: {key} is {_kind(state[key])}, expected {tensor.dtype}; "
                            "save the network's plain floating-point weights")
    unknown = next((key for key in state if key not in own), None)
    if unknown is not None:
        raise UserError(f"{path} does not fit {name}: {unknown} is not one of its parameters")
    state = {key: tensor.to(own[key].dtype) for key, tensor in state.items()}
    check_finite(state, path)
    # A network without memory of its own takes the tensors as they are.
    network.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()))


def check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    """:class:`UserError` if there is NaN or infinity in a tensor of ``state``: names the first and counts."""
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(f"{path} cannot be used: {key} holds NaN or infinity ({count:,} of {tensor.numel():,} values), so its "
                            "training diverged or half precision overflowed; take an earlier checkpoint")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta and not tensor.is_complex()


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return "sparse"
    return "without values (on the meta device)" if tensor.is_meta else str(tensor.dtype)
