"""From a file to an encoder: this project's checkpoints, the authors', and dense networks of torchvision and timm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from pretrain import checkpoint
from pretrain.checkpoints.foreign import BRANCHES, adopt
from pretrain.config import Config, DataConfig, ModelConfig, WidthsConfig, from_dict, switchable_widths
from pretrain.errors import UserError
from pretrain.models import build
from pretrain.slimmable import load_calibration_state

LOWEST_WIDTH = 0.25  # of the authors' networks, whose files do not say it (METHOD section 1)


@dataclass
class Restored:
    """An encoder and what its file says about it.

    Attributes:
        encoder: images (B, 3, H, W), normalised, to features (B, D(width)).
        arch: its name in ``pretrain.models``; of a dense network its family.
        low, high: the range of widths it can be used at.
        config: the pretraining config; of a foreign file the defaults with its size and no data (``data.name`` empty).
        epoch: finished epochs.
        foreign: whether somebody else wrote the file; dense: whether width 1.0 is all there is.
        projector: what stands behind the encoder, by name, for whom it concerns.
    """

    encoder: nn.Module
    arch: str
    low: float
    high: float
    config: Config
    epoch: int
    foreign: bool = False
    dense: bool = False
    projector: dict[str, Tensor] = field(default_factory=dict)


def restore(path: str | Path, branch: str = "student", arch: str | None = None) -> Restored:
    """The encoder in ``path``: a file, or a run directory (its newest readable checkpoint).

    Args:
        branch: ``student``, or ``teacher`` for the momentum teacher, whose BatchNorms have no statistics yet.
        arch: the name of a foreign slimmable network that its file does not name.

    Raises:
        UserError: there is none, it cannot be read, there is no such branch, or its weights do not fit.
    """
    path = Path(path)
    payload = _latest(path) if path.is_dir() else checkpoint.read(path)
    if not checkpoint.is_own(payload):
        return _foreign(payload, path, branch, arch)
    checkpoint.check_format(payload, path)
    if arch is not None:
        raise UserError(f"{path} says itself that it is a {_config(payload, path).model.arch}; leave out --arch")
    if branch not in BRANCHES:
        raise UserError(f"unknown branch {branch!r} of {path}; set --branch to student or teacher")
    return _own(payload, path, branch)


def _latest(path: Path) -> dict:
    payload = checkpoint.load_latest(path)
    if payload is None:
        raise UserError(f"there is no checkpoint in {path}; give a run directory that holds a {checkpoint.NAME}")
    return payload


def _own(payload: dict, path: Path, branch: str) -> Restored:
    config = _config(payload, path)
    encoder = build(config.model.arch, switchable_widths(config))
    state, projector = payload["encoder"], payload.get("projector") or {}
    if branch == "teacher":
        teacher = payload.get("teacher") or {}
        state, projector = (_behind(teacher, part) for part in ("encoder.", "projector."))
        if not state:
            raise UserError(f"{path} holds no teacher (objective.teacher={config.objective.teacher}); set --branch student")
    checkpoint.load_weights(encoder, state, path, config.model.arch)
    if branch == "student":
        _load_statistics(encoder, payload.get("calibration") or {}, path)
    return Restored(encoder, config.model.arch, config.widths.min, config.widths.max, config,
                    int(payload.get("epoch", config.optimizer.epochs)), projector=projector)


def _behind(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix):]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _foreign(payload: object, path: Path, branch: str, arch: str | None) -> Restored:
    found = adopt(payload, path, branch, arch)
    if found.note:
        print(found.note, flush=True)
    low = LOWEST_WIDTH if found.slimmable else 1.0
    config = Config(model=ModelConfig(arch=found.arch), data=DataConfig(name="", size=found.size),
                    widths=WidthsConfig(min=low, max=1.0))
    return Restored(found.encoder, found.arch, low, 1.0, config, found.epoch, foreign=True, dense=not found.slimmable,
                    projector=found.projector)


def _config(payload: dict, path: Path) -> Config:
    if not isinstance(payload.get("config"), dict):
        raise UserError(f"{path} holds no config; it is not a checkpoint that pretraining wrote")
    try:
        return from_dict(payload["config"])
    except UserError as error:
        raise UserError(f"the config in {path} cannot be used: {error}") from None


def _load_statistics(encoder: nn.Module, state: dict, path: Path) -> None:
    try:
        load_calibration_state(encoder, state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the BatchNorm statistics in {path} do not fit its network ({error}); "
                        "pretrain it again") from None
