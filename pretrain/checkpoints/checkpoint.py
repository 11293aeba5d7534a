"""A checkpoint, ours or anybody's: an encoder, where it comes from, and dense networks at any of its widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretrain.checkpoints.redrawn import redrawn
from pretrain.checkpoints.weights import fingerprint
from pretrain.config import Config, check_widths, config_hash, from_dict, switchable_widths, to_dict, usable_widths, validate
from pretrain.config.elastic import ALL, WIDTH, elastic_space
from pretrain.data.sources import normalisation
from pretrain.models.dense import DenseEncoder
from pretrain.models.encoder import Encoder
from pretrain.slimmable import (
    Cost,
    CostTable,
    Space,
    calibrate,
    calibrated_features,
    calibrated_widths,
    canonical,
    channel_signature,
    cost,
    cut_statistics,
    extract,
    is_calibrated,
    of_equal_flops,
    space_of,
)
from pretrain.slimmable.calibrate import batch_norms
from pretrain.slimmable.structure import structure_of
from pretrain.updates import channel_updates
from rundir.arguments import Spread
from rundir.directory import RunDirectory
from rundir.errors import Setting, UserError
from rundir.schema import File
from rundir.subnet import Subnet, Width, narrowest

NARROWEST = 1e-6  # of widths that are extrapolated to
Batches = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


@dataclass
class Checkpoint:
    """A pretrained encoder and what is known about it; :func:`~pretrain.checkpoints.open_checkpoint` makes one of a file.

    Attributes:
        encoder: images (B, 3, H, W), normalised, to features (B, D(width)).
        config: the pretraining config; of a file from elsewhere the defaults with its architecture, its size, the widths it can be
            used at, and no data (``data.name`` empty).
        path: the file it came from, or the run directory.
        epoch: finished epochs of pretraining; 0 where the file does not say.
        branch: which of the file's networks it is.
        foreign: whether somebody else wrote the file.
        extrapolate: whether widths narrower than it was trained for may be used.
        behind: weights of the modules after the encoder (the projector), by name.
    """

    encoder: Encoder
    config: Config
    path: Path
    epoch: int = 0
    branch: str = "student"
    foreign: bool = False
    extrapolate: bool = False
    behind: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def unloaded(cls, config: Config) -> Checkpoint:
        """What is known of the checkpoint of ``config`` before there is one: all but the encoder."""
        return cls(Encoder(), config, Path())

    @property
    def arch(self) -> str:
        """The encoder's name in ``pretrain.models``; of a dense network its family."""
        return self.config.model.arch

    @property
    def low(self) -> float:
        """The narrowest width it can be used at."""
        return self.config.widths.min

    @property
    def high(self) -> float:
        """The widest width it can be used at."""
        return self.config.widths.max

    @property
    def dense(self) -> bool:
        """Whether it is an ordinary network, of which width 1.0 is all there is."""
        return isinstance(self.encoder, DenseEncoder)

    @property
    def run_dir(self) -> Path | None:
        """The run directory that its file is in; None where it is elsewhere, or is not what that run has scores of."""
        return None if self.foreign or self.branch != "student" else _run_directory(self.path, self.config)

    @property
    def seed(self) -> int:
        """The seed of pretraining."""
        return self.config.seed

    @property
    def calibrated(self) -> list[Width]:
        """Widths with BatchNorm statistics, widest first."""
        return calibrated_widths(self.encoder)

    def is_calibrated(self, width: Width) -> bool:
        """Whether ``width`` can be used as it is: its BatchNorm statistics are there, or there is no BatchNorm."""
        return is_calibrated(self.encoder, width)

    @property
    def finished(self) -> bool:
        """Whether pretraining finished; for other people's files this is not known, and assumed."""
        return self.foreign or self.config.derived.network != "none" or self.epoch >= self.config.optimizer.epochs

    def home(self, out: str | Path | None = None) -> Path:
        """Where scores go: ``out``, else the run directory of the checkpoint.

        Raises:
            UserError: there is none; pretraining has not finished; or ``out`` is a run directory whose scores these would seem to
                be: another run's, or that of this run when it has finished.
        """
        if out is not None:
            own = _run_directory(Path(out), self.config)
            if own is None and (Path(out) / File.CONFIG).exists():
                raise UserError(f"--out {out} is the directory of another run than {self.path} is of; give a directory of its own")
            if own is not None and not self.finished:
                raise UserError(
                    f"--out {out} is where the scores of the finished run go, and {self.path} is of epoch {self.epoch} "
                    f"of {self.config.optimizer.epochs}; give a directory of its own"
                )
            return Path(out)
        if self.run_dir is None:
            raise UserError(
                f"{self.path} is not the {File.CHECKPOINT} of the run directory it was trained in, or is its teacher; "
                "set --out DIR for its scores"
            )
        if not self.finished:
            raise UserError(
                f"pretraining of {self.path} has not finished (epoch {self.epoch} of "
                f"{self.config.optimizer.epochs}); finish it, or set --out DIR to score it as it is"
            )
        return self.run_dir

    def default_widths(self) -> list[Width]:
        """The widths the checkpoint was calibrated for, or those its config asks for, widest first."""
        asked = [*self.config.calibration.widths, self.low, self.high]
        return self.calibrated or list(usable_widths(self.config, asked))

    def canonical(self, width: Width, what: str = "--widths") -> Width:
        """``width``, a sub-network without what it names but keeps whole.

        Raises:
            UserError: the encoder has no such sub-network.
        """
        if not isinstance(width, Subnet):
            return float(width)
        try:
            return canonical(self.encoder, width)
        except ValueError as error:
            raise UserError(f"{what}: {width} is no sub-network of {self.arch}: {error}") from None

    def chosen_widths(self, asked: Sequence[Width | Spread]) -> list[Width]:
        """The widths that are ``asked``; of a spread without those that give the channels of a wider one, which is said.

        Raises:
            UserError: one is a sub-network that the encoder does not have.
        """
        alone = [self.canonical(width) for width in asked if not isinstance(width, Spread)]
        found = {channel_signature(self.encoder, width): width for width in alone}
        for spread in (each for each in asked if isinstance(each, Spread)):
            before = len(found)
            for width in spread.widths():
                found.setdefault(channel_signature(self.encoder, width), width)
            if len(found) - before < spread.count:
                print(
                    f"{spread.low:g}:{spread.high:g}:{spread.count} gives {len(found) - before} networks that differ in channels",
                    flush=True,
                )
        return [*alone, *sorted(set(found.values()) - set(alone), reverse=True)]

    def stand_ins(self, widths: Sequence[Width], what: str = "--widths", skip: bool = False) -> dict[Width, Width]:
        """The networks that are scored for ``widths``, each with the width that it stands for: itself, or with
        ``evaluation.dimension`` the sub-network along that dimension whose FLOPs are nearest to those of a plain width.

        Where one stands for two widths, the second is left out with ``skip``, which is said.

        Raises:
            UserError: one stands for two widths, and nothing is to be left out.
        """
        dimension = self.config.evaluation.dimension
        if dimension == WIDTH:
            return {width: width for width in widths}
        space, table, found = elastic_space(self.config), self.costs(), dict[Width, Width]()
        space = space if dimension == ALL else space.along(dimension)
        for width in widths:
            network = (
                width
                if isinstance(width, Subnet) or width == self.high
                else of_equal_flops(space, table.load(width).flops, lambda each: table.load(each).flops)
            )
            if network not in found:
                found[network] = width
            elif skip:
                print(
                    f"width {width} is left out: its sub-network of equal FLOPs, {network}, is that of {found[network]}", flush=True
                )
            else:
                raise UserError(
                    f"{what}: {network} is the sub-network of equal FLOPs for {found[network]} and {width} "
                    f"(evaluation.dimension={dimension}); leave one of them out"
                )
        return found

    def is_extrapolated(self, width: Width) -> bool:
        """Whether ``width`` is narrower than the widths of pretraining, in some stage."""
        return narrowest(width) < self.low

    def untrained(self, dimensions: Iterable[str]) -> list[str]:
        """Those of ``dimensions`` in which no network of pretraining differed from the widest."""
        return [name for name in dimensions if name not in (self.config.elastic.vary or [WIDTH])]

    def check_widths(self, widths: Sequence[Width], what: str = "--widths") -> None:
        """Raise :class:`UserError` if there are none, or one is out of the trained range or the same network as another."""
        if not widths:
            raise UserError(f"{what} names no width; set for example {what} 1.0 0.5")
        if not self.dense:
            low = NARROWEST if self.extrapolate else self.low
            check_widths(self.arch, widths, low, self.high, what, switchable_widths(self.config))
        elif any(width != 1.0 for width in widths) or len(widths) > 1:
            raise UserError(f"{self.path} is a dense {self.arch}, not a slimmable one; set {what} 1.0")

    def check_size(self, size: int, widths: Sequence[Width] = (), what: str = "--widths") -> None:
        """Raise :class:`UserError` if images of ``size`` pixels cannot be used, at all or at one of ``widths``: a ViT needs whole
        patches, and at least one.
        """
        if self.foreign:
            self._check_foreign_size(size)
        else:
            validate(replace(self.config, data=replace(self.config.data, size=size)))
        for width in widths:
            try:
                structure_of(self.encoder).check_size(width, size)
            except ValueError as error:
                raise UserError(f"{what}: {width} cannot be used with images of {size} pixels: {error}") from None

    def _check_foreign_size(self, size: int) -> None:
        made, patch = self.config.data.size, self.encoder.size_divisor
        fixed = self.encoder.fixed_size
        if size < 1 or size % patch or (fixed and size != made):
            whole = "" if fixed or patch == 1 else f", or another multiple of {patch}"
            raise UserError(
                Setting("data.size", size),
                f" does not suit {self.path}, a {self.arch} of {made} pixels; set ",
                Setting("data.size", made),
                whole,
            )

    def calibrate(self, widths: Sequence[Width], batches: Batches) -> None:
        """Set the BatchNorm statistics of ``widths`` from images (B, 3, H, W), B > 1, replacing what is there.

        Those of the control that is sliced without calibration (``derived.calibrate=false``) are the full width's, cut.
        """
        device = next(self.encoder.parameters()).device
        stream = batches() if callable(batches) else batches
        cut = not self.config.derived.calibrate
        calibrate(
            self.encoder,
            [self.high] if cut else widths,
            (x.to(device) for x in stream),
            running=self.config.calibration.average == "running",
        )
        if cut:
            cut_statistics(batch_norms(self.encoder).values(), map(self.canonical, widths), self.high)

    def at(self, width: Width, batches: Batches | None = None) -> nn.Module:
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
                raise UserError(
                    f"{self.path} has no BatchNorm statistics for width {width} (stored: {known}); give images to calibrate it on"
                )
            self.calibrate([width], batches)
        return extract(self.encoder, width)

    def random_at(self, width: Width, seed: int) -> nn.Module:
        """The dense network of ``width`` with weights freshly drawn from ``seed``: the reference of pretraining."""
        self.check_widths([width], "width")
        return redrawn(extract(self.encoder, width).cpu(), seed).to(next(self.encoder.parameters()).device)

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation by RGB channel, in [0, 1], that images must be normalised with: those of pretraining."""
        return normalisation(self.config.data)

    def feature_dim(self, width: Width) -> int:
        """Number of features D at ``width``."""
        return self.encoder.feature_dim(width)

    def cost(self, width: Width, size: int | None = None) -> Cost:
        """FLOPs of one image of ``size`` pixels (default: the size of pretraining) and parameters at ``width``."""
        return cost(self.encoder, width, size or self.config.data.size)

    def updates(self, widths: Sequence[Width]) -> dict[float, int] | None:
        """Optimizer steps of pretraining that reached the outermost channels of each plain width; None where that is not known, and
        where sub-networks were trained.
        """
        if self.run_dir is None or not self.finished or self.config.elastic.vary:
            return None
        steps = 0 if self.config.derived.network != "none" else RunDirectory(self.run_dir).status().get("steps")
        plain = [width for width in widths if not isinstance(width, Subnet)]
        return None if steps is None else channel_updates(self.config, steps, plain)

    def calibrated_features(self, width: Width, batches: Iterable[Tensor]) -> Tensor:
        """Features (N, D) of ``width`` for ``batches``, calibrated on the first of them in the same pass; nothing is kept."""
        return calibrated_features(self.encoder, width, batches)

    def costs(self, size: int | None = None) -> CostTable:
        """A table of what all sub-networks cost on one image of ``size`` pixels (default: the size of pretraining)."""
        return CostTable(self.encoder, size or self.config.data.size)

    def space(self, vary: Sequence[str] = ("width",)) -> Space:
        """The sub-networks within the widths of pretraining, of which these dimensions vary.

        Raises:
            UserError: the network has not got one of them.
        """
        try:
            return space_of(self.encoder, self.low, self.high, vary=vary)
        except ValueError as error:
            raise UserError(f"{self.path} ({self.arch}): {error}") from None

    def origin(self) -> dict[str, object]:
        """Where its encoder comes from, for files that are made of it."""
        return {"checkpoint": self.path.name, "branch": self.branch, "epoch": self.epoch}

    def fingerprint(self) -> str:
        """Eight hex digits of the encoder's weights and of what else decides what it computes: equal for equal ones."""
        return fingerprint(self.encoder, str(dict(self.encoder.settings) or ""))


def _without_labels(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config in plain types without what only names the run."""
    return {key: value for key, value in content.items() if key not in ("experiment", "format")}


def _run_directory(path: Path, config: Config) -> Path | None:
    """The run directory that ``path`` is in, if that run is the one the checkpoint was trained by."""
    if not path.is_dir() and path.name not in (File.CHECKPOINT, File.PREVIOUS_CHECKPOINT):
        return None  # a copy, which may have been edited or be of an earlier epoch
    directory = path if path.is_dir() else path.parent
    if not (directory / File.CONFIG).is_file():
        return None
    try:
        content = RunDirectory(directory).read_config() or {}
        written = from_dict(content)
    except UserError:  # a file from elsewhere has no config to train with
        return directory if _without_labels(content) == _without_labels(to_dict(config)) else None
    return directory if config_hash(written) == config_hash(config) else None
