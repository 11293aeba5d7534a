"""What one segmentation command asks for, checked; and its jobs, one for each width."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmseg.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.checkpoints import Checkpoint
from pretrain.data import fingerprint
from pretrain.data.images import STORED
from rundir.errors import UserError
from transfer.dense.job import Job
from transfer.dense.options import branch_setting
from transfer.dense.schedules import Schedule
from transfer.segmentation.backbone import SlimmableTrunk
from transfer.segmentation.checks import Split
from transfer.segmentation.layouts import Layout
from transfer.segmentation.models import DILATED, POOLING, Features, model_config

TASK = "segmentation"
MASKS_READ = 4096  # for the fingerprint, where all together are too large to be read
INFERENCES = ("whole", "slide")


@dataclass(frozen=True)
class Plan:
    """One command: a checkpoint, a data set and a model, to be trained at several widths.

    ``checkpoint``, ``branch`` and ``arch`` are those of ``backbone``; ``batch_size`` is of one process, ``pictures`` the number of
    images shown.
    """

    backbone: Checkpoint
    checkpoint: str
    layout: Layout
    train: Split
    val: Split
    model: str
    schedule_name: str
    schedule: Schedule
    seed: int
    batch_size: int
    initial: str = "pretrained"
    norm: str = "auto"
    inference: str = "whole"
    workers: int = 0
    pictures: int = 4
    branch: str = "student"
    arch: str | None = None

    @property
    def is_vit(self) -> bool:
        """Whether the backbone is a vision transformer."""
        return self.backbone.encoder.is_vit

    @property
    def evaluated(self) -> tuple[int, int]:
        """(height, width) of an evaluated image, on which FLOPs are counted: of a window, and where sizes vary of a crop."""
        width, height = self.layout.scale
        return self.layout.crop if self.inference == "slide" or width > 2 * height else (height, width)

    def check(self) -> None:
        """:class:`UserError` for what cannot be trained."""
        if self.inference not in INFERENCES:
            raise UserError(f"unknown --inference {self.inference!r}; write {' or '.join(INFERENCES)}")
        patch = self.backbone.encoder.patch_size
        if patch and any(side % patch for side in self.layout.crop):
            whole = [max(1, round(side / patch)) * patch for side in self.layout.crop]
            raise UserError(f"--crop {self.layout.crop[0]} {self.layout.crop[1]} is no whole number of patches of {patch} pixels; "
                            f"write --crop {whole[0]} {whole[1]}")
        if self.model in POOLING and self.batch_size < 2:
            raise UserError(f"{self.model} has BatchNorm over pooled images and needs two of them in each process; "
                            "write a larger --batch-size")

    def backbone_config(self, width: float) -> dict:
        """Config of the registered backbone."""
        reads = "maps" if not self.is_vit else "patches" if self.model == "segmenter" else "pyramid"
        return {"type": "SlimmableTrunk", "checkpoint": self.checkpoint, "width": width, "initial": self.initial, "seed": self.seed,
                "norm": "frozen" if self.norm == "frozen" else "bn", "reads": reads, "branch": self.branch, "arch": self.arch,
                "output_stride": self.layout.output_stride if self.model in DILATED else 0}

    def model_config(self, width: float) -> dict:
        """Config of the whole network of ``width``."""
        trunk = self.trunk(width, self.backbone.random_at(width, 0))  # for its shapes
        features = Features(trunk.channels, trunk.patch_size)
        return model_config(self.model, self.backbone_config(width), features, len(self.train.classes), self.layout,
                            *self.backbone.normalisation(), self.inference)

    def settings(self) -> dict:
        """What scores depend on beside the place of their record."""
        sizes = {"scale": list(self.layout.scale), "crop": list(self.layout.crop), "first_weight": self.layout.first_weight}
        return {"weights": self.backbone.fingerprint(), "norm": self.norm, "inference": self.inference, **sizes,
                "output_stride": self.layout.output_stride if self.model in DILATED else None,
                "train_images": len(self.train.images), "train_list": [Path(c.get("ann_file", "")).stem for c in self.layout.train],
                **dataclasses.asdict(self.schedule), **branch_setting(self.backbone),
                **({"exif": STORED} if self.layout.exif == STORED else {})}

    def contents(self) -> str:
        """The fingerprint of images and masks of both splits."""
        splits = {}
        for name, split in (("train", self.train), ("val", self.val)):
            root = self.layout.train[0]["data_root"]
            names = [fingerprint.names_below(root, files) for files in (split.images, split.labels)]
            splits[name] = [names, fingerprint.of_files(dict(zip(names[0], split.images, strict=True))),
                            fingerprint.of_files(dict(zip(names[1], split.labels, strict=True)), sampled=MASKS_READ)]
        return fingerprint.combined(classes=list(self.train.classes), **splits)

    def trunk(self, width: float, network: nn.Module) -> SlimmableTrunk:
        """The backbone of ``width`` around its dense ``network``, which it changes."""
        return MODELS.build({**self.backbone_config(width), "network": network})

    def jobs(self, widths: Sequence[float]) -> list[Job]:
        """A job for each of ``widths``."""
        settings, contents, jobs = self.settings(), self.contents(), []
        for width in widths:
            flops, parameters = encoder_cost(self.trunk(width, self.backbone.random_at(width, 0)), self.evaluated)
            jobs.append(Job(TASK, self.layout.name, self.model, self.schedule_name, self.initial, width, self.seed, flops,
                            parameters, settings, contents))
        return jobs


def encoder_cost(trunk: SlimmableTrunk, size: tuple[int, int]) -> tuple[int, int]:
    """FLOPs (two per multiply-add) of the encoder on one image of ``size`` (height, width), and its parameters.

    A ViT's sides are rounded up to whole patches. ``trunk`` is moved to the meta device and of no use afterwards.
    """
    encoder = getattr(trunk.trunk, "trunk", trunk.trunk)  # without the pyramid, which is no part of the encoder
    patch = trunk.patch_size or 1
    height, width = (-(-side // patch) * patch for side in size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.to("meta").eval()(torch.empty(1, 3, height, width, device="meta"))
    return counter.get_total_flops(), sum(p.numel() for p in encoder.parameters())
