"""The only door from pretraining to the tasks: a checkpoint becomes a dense backbone at any of its widths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain import checkpoint
from pretrain.config import Config, check_widths, config_hash, from_dict, switchable_widths, usable_widths, validate
from pretrain.errors import UserError
from pretrain.models import build
from pretrain.rundir import RunDirectory
from pretrain.slimmable import (
    Cost,
    calibrate,
    calibrated_widths,
    cost,
    extract,
    is_calibrated,
    load_calibration_state,
)

Batches = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


@dataclass
class Backbone:
    """A pretrained slimmable encoder and what is known about it.

    Attributes:
        encoder: images (B, 3, H, W), normalised, to features (B, D(width)).
        arch: its name in ``pretrain.models``.
        low, high: the range of widths it was trained for.
        config: the pretraining config.
        epoch: finished epochs of pretraining.
        path: the file it came from; ``run_dir``: the run directory that file belongs to, None where it lies elsewhere.
    """

    encoder: nn.Module
    arch: str
    low: float
    high: float
    config: Config
    epoch: int
    path: Path
    run_dir: Path | None

    @property
    def seed(self) -> int:
        """The seed of pretraining."""
        return self.config.seed

    @property
    def calibrated(self) -> list[float]:
        """Widths with BatchNorm statistics, widest first."""
        return calibrated_widths(self.encoder)

    def is_calibrated(self, width: float) -> bool:
        """Whether ``width`` can be used as it is: its BatchNorm statistics are there, or there is no BatchNorm."""
        return is_calibrated(self.encoder, width)

    @property
    def finished(self) -> bool:
        """Whether pretraining came to its end."""
        return self.epoch >= self.config.optimizer.epochs

    def default_widths(self) -> list[float]:
        """The widths the checkpoint was calibrated for, or those its config asks for, widest first."""
        return self.calibrated or usable_widths(self.config, [*self.config.calibration.widths, self.low, self.high])

    def check_widths(self, widths: Sequence[float], what: str = "--widths") -> None:
        """:class:`UserError` if there are none, or one is out of the trained range or the same network as another."""
        if not widths:
            raise UserError(f"{what} names no width; write for example {what} 1.0 0.5")
        check_widths(self.arch, widths, self.low, self.high, what, switchable_widths(self.config))

    def check_size(self, size: int) -> None:
        """:class:`UserError` if images of ``size`` pixels cannot be used: a ViT needs whole patches."""
        validate(replace(self.config, data=replace(self.config.data, size=size)))

    def calibrate(self, widths: Sequence[float], batches: Batches) -> None:
        """Set the BatchNorm statistics of ``widths`` from images (B, 3, H, W), B > 1, replacing what is there."""
        device = next(self.encoder.parameters()).device
        stream = batches() if callable(batches) else batches
        calibrate(self.encoder, widths, (x.to(device) for x in stream))

    def at(self, width: float, batches: Batches | None = None) -> nn.Module:
        """The dense network of ``width`` in evaluation mode; weights are copies, so it can be changed freely.

        Its BatchNorm statistics are those the checkpoint holds for ``width``; where it holds none they are calibrated
        on ``batches``, un-augmented training images (METHOD section 3).

        Raises:
            UserError: ``width`` is out of range, or there are neither statistics nor ``batches``.
        """
        self.check_widths([width], "width")
        if not self.is_calibrated(width):
            if batches is None:
                known = ", ".join(map(str, self.calibrated)) or "none"
                raise UserError(f"{self.path} has no BatchNorm statistics for width {width} (stored: {known}); "
                                "give images to calibrate it on")
            self.calibrate([width], batches)
        return extract(self.encoder, width)

    def feature_dim(self, width: float) -> int:
        """Number of features D at ``width``."""
        return self.encoder.feature_dim(width)

    def cost(self, width: float, size: int | None = None) -> Cost:
        """FLOPs of one image of ``size`` pixels (default: the size of pretraining) and parameters at ``width``."""
        return cost(self.encoder, width, size or self.config.data.size)

    def fingerprint(self) -> str:
        """Eight hex digits of the encoder's weights: equal for equal weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:8]


def load_backbone(path: str | Path, device: str | torch.device = "cpu") -> Backbone:
    """The backbone in ``path``: a checkpoint file, or a run directory (its newest readable checkpoint).

    Raises:
        UserError: there is none, it cannot be read, it is not of this project, or its weights do not fit its config.
    """
    path = Path(path)
    payload = _read(path)
    config = _config(payload, path)
    encoder = build(config.model.arch, switchable_widths(config))
    load_weights(encoder, payload["encoder"], path, config.model.arch)
    _load_statistics(encoder, payload.get("calibration") or {}, path)
    return Backbone(encoder.to(device), config.model.arch, config.widths.min, config.widths.max, config,
                    int(payload.get("epoch", config.optimizer.epochs)), path, _run_directory(path, config))


def _read(path: Path) -> dict:
    if not path.is_dir():
        return checkpoint.load(path)
    payload = checkpoint.load_latest(path)
    if payload is None:
        raise UserError(f"there is no checkpoint in {path}; give a run directory that holds a {checkpoint.NAME}")
    return payload


def _config(payload: dict, path: Path) -> Config:
    if not isinstance(payload.get("config"), dict):
        raise UserError(f"{path} holds no config; it is not a checkpoint that pretraining wrote")
    try:
        return from_dict(payload["config"])
    except UserError as error:
        raise UserError(f"the config in {path} cannot be used: {error}") from None


def load_weights(encoder: nn.Module, state: dict[str, Tensor], path: Path, arch: str) -> None:
    """Put ``state`` into ``encoder``; :class:`UserError` names the first parameter that does not fit."""
    own = encoder.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{path} does not fit {arch}: {name} is missing")
        if tuple(state[name].shape) != tuple(tensor.shape):
            raise UserError(f"{path} does not fit {arch}: {name} has shape {tuple(state[name].shape)}, "
                            f"expected {tuple(tensor.shape)}")
    unknown = next((name for name in state if name not in own), None)
    if unknown is not None:
        raise UserError(f"{path} does not fit {arch}: {unknown} is not one of its parameters")
    encoder.load_state_dict(state)


def _load_statistics(encoder: nn.Module, state: dict, path: Path) -> None:
    try:
        load_calibration_state(encoder, state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the BatchNorm statistics in {path} do not fit its network ({error}); "
                        "pretrain it again") from None


def _run_directory(path: Path, config: Config) -> Path | None:
    """The run directory that ``path`` is in, if that run is the one the checkpoint was trained by."""
    directory = path if path.is_dir() else path.parent
    if not (directory / "config.yaml").is_file():
        return None
    try:
        written = from_dict(RunDirectory(directory).read_config() or {})
    except UserError:
        return None
    return directory if config_hash(written) == config_hash(config) else None
