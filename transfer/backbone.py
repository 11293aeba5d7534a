"""The only door from pretraining to the tasks: a checkpoint becomes a dense backbone at any of its widths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.checkpoints.arguments import add_checkpoint_arguments
from pretrain.config import Config, check_widths, config_hash, from_dict, switchable_widths, usable_widths, validate
from pretrain.data.sources import normalisation
from pretrain.errors import UserError
from pretrain.restore import restore
from pretrain.rundir import RunDirectory
from pretrain.slimmable import Cost, calibrate, calibrated_widths, cost, cut_statistics, extract, is_calibrated
from pretrain.slimmable.calibrate import batch_norms

__all__ = ["Backbone", "Batches", "Cost", "add_checkpoint_arguments", "load_backbone"]

Batches = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


@dataclass
class Backbone:
    """A pretrained slimmable encoder and what is known about it.

    Attributes:
        encoder: images (B, 3, H, W), normalised, to features (B, D(width)).
        arch: its name in ``pretrain.models``; of a dense network its family.
        low, high: the range of widths it was trained for.
        config: the pretraining config; of a file from elsewhere the defaults with its size and no data.
        epoch: finished epochs of pretraining.
        path: the file it came from; ``run_dir``: the run directory that file belongs to, None where it lies elsewhere.
        foreign: whether somebody else pretrained it; ``dense``: whether width 1.0 is all there is; ``branch``: which of its
            networks it is.
    """

    encoder: nn.Module
    arch: str
    low: float
    high: float
    config: Config
    epoch: int
    path: Path
    run_dir: Path | None
    foreign: bool = False
    dense: bool = False
    branch: str = "student"

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
        """Whether pretraining came to its end; of others' it is not known and taken for granted."""
        return self.foreign or self.config.derived.network != "none" or self.epoch >= self.config.optimizer.epochs

    def home(self, out: str | Path | None = None) -> Path:
        """Where scores go: ``out``, else the run directory of the checkpoint. :class:`UserError` if there is none, it has not
        finished, or ``out`` is the directory of another run, whose scores these would seem to be."""
        if out is not None:
            if (Path(out) / "config.yaml").exists() and _run_directory(Path(out), self.config) is None:
                raise UserError(f"--out {out} is the directory of another run than {self.path} is of; give a directory of its own")
            return Path(out)
        if self.run_dir is None:
            raise UserError(f"{self.path} does not lie in the run directory it was trained in, or is its teacher; "
                            "write --out DIR for its scores")
        if not self.finished:
            raise UserError(f"pretraining of {self.path} has not finished (epoch {self.epoch} of "
                            f"{self.config.optimizer.epochs}); finish it, or write --out DIR to score it as it is")
        return self.run_dir

    def default_widths(self) -> list[float]:
        """The widths the checkpoint was calibrated for, or those its config asks for, widest first."""
        return self.calibrated or usable_widths(self.config, [*self.config.calibration.widths, self.low, self.high])

    def check_widths(self, widths: Sequence[float], what: str = "--widths") -> None:
        """:class:`UserError` if there are none, or one is out of the trained range or the same network as another."""
        if not widths:
            raise UserError(f"{what} names no width; write for example {what} 1.0 0.5")
        if not self.dense:
            check_widths(self.arch, widths, self.low, self.high, what, switchable_widths(self.config))
        elif any(width != 1.0 for width in widths) or len(widths) > 1:
            raise UserError(f"{self.path} is a dense {self.arch}, not a slimmable one; write {what} 1.0")

    def check_size(self, size: int) -> None:
        """:class:`UserError` if images of ``size`` pixels cannot be used: a ViT needs whole patches."""
        if self.foreign:
            self._check_foreign_size(size)
            return
        validate(replace(self.config, data=replace(self.config.data, size=size)))

    def _check_foreign_size(self, size: int) -> None:
        made, patch = self.config.data.size, self.encoder.size_divisor
        fixed = self.encoder.fixed_size
        if size % patch or (fixed and size != made):
            whole = "" if fixed else f", or another multiple of {patch}"
            raise UserError(f"data.size={size} does not suit {self.path}, a {self.arch} of {made} pixels; "
                            f"write data.size={made}{whole}")

    def calibrate(self, widths: Sequence[float], batches: Batches) -> None:
        """Set the BatchNorm statistics of ``widths`` from images (B, 3, H, W), B > 1, replacing what is there.

        Those of the control that is sliced without calibration (``derived.calibrate=false``) are the full width's, cut.
        """
        device = next(self.encoder.parameters()).device
        stream = batches() if callable(batches) else batches
        cut = not self.config.derived.calibrate
        calibrate(self.encoder, [self.high] if cut else widths, (x.to(device) for x in stream),
                  running=self.config.calibration.average == "running")
        if cut:
            cut_statistics(batch_norms(self.encoder).values(), widths, self.high)

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

    def random_at(self, width: float, seed: int) -> nn.Module:
        """The dense network of ``width`` with weights freshly drawn from ``seed``: the reference of pretraining.

        Convolutions are drawn as this project's are (He et al., arXiv 1502.01852, fan-out) and linear layers as its ViTs' (Glorot),
        for the width's own channels, so that a narrow network starts as one that was made narrow. BatchNorms have mean 0,
        variance 1.
        """
        self.check_widths([width], "width")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _redrawn(extract(self.encoder, width).cpu()).to(next(self.encoder.parameters()).device)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by RGB channel, in [0, 1], that images must be normalised with: those of pretraining."""
        return normalisation(self.config.data)

    def feature_dim(self, width: float) -> int:
        """Number of features D at ``width``."""
        return self.encoder.feature_dim(width)

    def cost(self, width: float, size: int | None = None) -> Cost:
        """FLOPs of one image of ``size`` pixels (default: the size of pretraining) and parameters at ``width``."""
        return cost(self.encoder, width, size or self.config.data.size)

    def fingerprint(self) -> str:
        """Eight hex digits of the encoder's weights: equal for equal weights."""
        digest = hashlib.sha256(str(dict(self.encoder.settings) or "").encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:8]


def load_backbone(path: str | Path, device: str | torch.device = "cpu", *, branch: str = "student",
                  arch: str | None = None) -> Backbone:
    """The backbone in ``path``: a checkpoint file, or a run directory (its newest readable checkpoint).

    Files of the authors of US3L, and of torchvision's and timm's networks, are taken too (``pretrain.checkpoints.foreign``, which
    says what ``branch`` and ``arch`` may be there). With ``branch`` teacher it is the momentum teacher, which is not what its run
    directory has scores of.

    Raises:
        UserError: there is none, it cannot be read, it is of no known kind, or its weights do not fit.
    """
    path = Path(path)
    found = restore(path, branch, arch)
    run_dir = None if found.foreign or branch != "student" else _run_directory(path, found.config)
    return Backbone(found.encoder.to(device), found.arch, found.low, found.high, found.config, found.epoch, path, run_dir,
                    found.foreign, found.dense, branch)


def _redrawn(network: nn.Module) -> nn.Module:
    drawn: set[int] = set()
    for name, module in list(network.named_modules()):
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:  # extracted without statistics
            module = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine)
            network.set_submodule(name, module)
            own = list(module.parameters(recurse=False))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif own and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        else:
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        drawn |= {id(parameter) for parameter in own}
    for parameter in network.parameters():  # tokens and embeddings; what is fixed by design stays
        if id(parameter) not in drawn and parameter.requires_grad:
            nn.init.trunc_normal_(parameter, std=0.02)
    return network


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
