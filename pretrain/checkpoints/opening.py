"""From a file to a checkpoint: this project's, the authors', and dense networks of torchvision and timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.checkpoints import files
from pretrain.checkpoints.checkpoint import Checkpoint
from pretrain.checkpoints.foreign import BRANCHES, adopt
from pretrain.checkpoints.reading import read
from pretrain.checkpoints.weights import check_finite, load_weights
from pretrain.config import Config, from_dict, switchable_widths
from pretrain.models import build
from pretrain.slimmable import calibration_state, load_calibration_state
from rundir.errors import UserError
from rundir.schema import File

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".tar", ".bin")  # of files that may be checkpoints


def open_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", *, branch: str = "student", arch: str | None = None
) -> Checkpoint:
    """The checkpoint in ``path``: a file, whoever wrote it, or a run directory (its newest readable one).

    Args:
        device: where its encoder goes.
        branch: ``student``, or ``teacher`` for the momentum teacher, whose BatchNorms have no statistics yet; what else it may be
            of a file from elsewhere, :func:`pretrain.checkpoints.foreign.adopt` says.
        arch: of a file from elsewhere what that does not say, likewise.

    The state of the random generators is left as it was.

    Raises:
        UserError: there is none, it cannot be read, it is of no known kind, there is no such branch, or its weights do not fit.
    """
    path = Path(path)
    payload = _latest(path) if path.is_dir() else read(path)
    with torch.random.fork_rng(devices=[]):  # networks are drawn before they are filled
        if files.is_own(payload):
            found = _own(payload, path, branch, arch)
        else:
            found = adopt(payload, path, branch, arch)
    found.encoder = found.encoder.to(device)
    return found


def untrained(config: Config, path: str | Path) -> Checkpoint:
    """The finished checkpoint that training ``config`` will leave in ``path``, but with untrained weights.

    The state of the random generators is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        encoder = build(config.model.arch, switchable_widths(config))
    return Checkpoint(encoder, config, Path(path), config.optimizer.epochs)


def open_pretrained(setting: str, path: str | Path) -> Checkpoint:
    """The checkpoint of this project that the config's ``setting`` names.

    Raises:
        UserError: what :func:`open_checkpoint` raises, or it is a file from elsewhere; the line begins with the setting.
    """
    try:
        found = open_checkpoint(path)
    except UserError as error:
        raise UserError(f"{setting}={path}: {error}") from None
    if found.foreign:
        raise UserError(
            f"{setting}={path} is not a checkpoint of this project; set it to the run directory of a finished pretraining"
        )
    return found


def _latest(path: Path) -> dict:
    payload = files.load_latest(path)
    if payload is None:
        inside = sorted(each.name for each in path.iterdir() if each.suffix in SUFFIXES)
        hint = f", or {path / inside[0]}" if inside else ""
        raise UserError(f"there is no checkpoint in {path}; give a run directory that holds a {File.CHECKPOINT}{hint}")
    return payload


def _own(payload: dict, path: Path, branch: str, arch: str | None) -> Checkpoint:
    files.check_format(payload, path)
    config = _config(payload, path)
    if arch is not None:
        raise UserError(f"{path} says itself that it is a {config.model.arch}; leave out --arch")
    if branch not in BRANCHES:
        raise UserError(f"unknown branch {branch!r} of {path}; set --branch to student or teacher")
    encoder = build(config.model.arch, switchable_widths(config))
    state, behind, teacher, calibration = (
        found if isinstance(found, dict) else {} for found in map(payload.get, ("encoder", "projector", "teacher", "calibration"))
    )
    if branch == "teacher":
        state, behind = (_behind(teacher, part) for part in ("encoder.", "projector."))
        if not state:
            raise UserError(f"{path} holds no teacher (objective.teacher={config.objective.teacher}); set --branch student")
    load_weights(encoder, state, path, config.model.arch)
    if branch == "student":
        _load_statistics(encoder, calibration, path)
    epoch = payload.get("epoch")
    return Checkpoint(encoder, config, path, epoch if isinstance(epoch, int) else config.optimizer.epochs, branch, behind=behind)


def _behind(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if str(name).startswith(prefix)}


def _config(payload: dict, path: Path) -> Config:
    if not isinstance(payload.get("config"), dict):
        raise UserError(f"{path} holds no config; it is not a checkpoint that pretraining wrote")
    try:
        if not _is_plain(payload["config"]):
            raise UserError("it holds more than numbers and strings")
        return from_dict(payload["config"])
    except UserError as error:
        raise UserError(f"the config in {path} cannot be used: {error}") from None


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is what a YAML file can hold."""
    if type(value) in (dict, list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or type(value) in (bool, int, float, str)


def _load_statistics(encoder: nn.Module, state: dict, path: Path) -> None:
    try:
        load_calibration_state(encoder, state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the BatchNorm statistics in {path} do not fit its network ({error}); pretrain it again") from None
    for width, layers in calibration_state(encoder).items():
        check_finite(
            {
                f"the {moment} of {name} at width {width}": tensor
                for name, moments in layers.items()
                for moment, tensor in moments.items()
            },
            path,
        )
