"""Segmentation networks at every width: from the checkpoint to configs of mmsegmentation, and to scores."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

from mmseg.registry import MODELS
from torch import nn

from pretrain.checkpoints import Checkpoint
from pretrain.data.images import STORED
from pretrain.distributed import Processes
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.subnet import Subnet, Width
from transfer.finetuning import plan
from transfer.finetuning.description import Finetuning
from transfer.finetuning.runs import Resolved, Scores
from transfer.finetuning.schedules import Schedule, named
from transfer.segmentation import SCHEDULES, data, training
from transfer.segmentation.backbone import SlimmableTrunk
from transfer.segmentation.data import SegmentationData
from transfer.segmentation.data.layouts import layout_of
from transfer.segmentation.model import DILATED, POOLING, Features, check_model, model_config


class Plan(plan.Plan):
    """Fine-tunings of one segmentation network by mmsegmentation."""

    data: SegmentationData

    @staticmethod
    def check_network(finetuning: Finetuning, checkpoint: Checkpoint) -> None:
        """Raise :class:`UserError` if the network's heads do not fit the checkpoint's network."""
        check_model(finetuning.model, checkpoint.encoder.is_vit)

    @staticmethod
    def load(finetuning: Finetuning, where: Path, show: bool) -> SegmentationData:
        """The data in ``where``, checked."""
        asked = {name: getattr(finetuning, name) for name in ("scale", "crop", "output_stride")}
        layout = layout_of(finetuning.dataset, where)
        changed = dataclasses.replace(layout, **{name: value for name, value in asked.items() if value})
        return data.load(changed, finetuning.exif, show)

    def check(self) -> None:
        """Raise :class:`UserError` for crops and batches that the network cannot be trained on."""
        patch, crop = self.checkpoint.encoder.patch_size, self.data.layout.crop
        if patch and any(side % patch for side in crop):
            whole = [max(1, round(side / patch)) * patch for side in crop]
            raise UserError(
                f"--crop {crop[0]} {crop[1]} is not a whole number of patches of {patch} pixels; set --crop {whole[0]} {whole[1]}"
            )
        if self.model in POOLING and self.batch_size < 2:
            raise UserError(
                f"{self.model} has BatchNorm over pooled images and needs two of them in each process; set a larger --batch-size"
            )

    @cached_property
    def schedule(self) -> Schedule:
        own = self.finetuning
        if not self.is_vit:
            return own.asked_schedule
        whole = training.for_vit(own.schedule, named(own.schedule, SCHEDULES), own.model)
        return whole.changed(own.iterations, own.batch_size, own.lr)

    @property
    def batch_size(self) -> int:
        """Images per step in each process."""
        return self.schedule.batch_size // self.processes

    @property
    def inference(self) -> str:
        """``whole`` images at once, or windows that ``slide``."""
        return self.finetuning.inference or ("slide" if self.model == "segmenter" else "whole")

    @property
    def images(self) -> tuple[int, int]:
        return len(self.data.train.images), len(self.data.val.images)

    @property
    def contents(self) -> str:
        return self.data.contents

    @cached_property
    def settings(self) -> dict[str, Any]:
        layout = self.data.layout
        sizes = {"scale": list(layout.scale), "crop": list(layout.crop), "first_weight": layout.first_weight}
        return {
            "weights": self.checkpoint.fingerprint(),
            "norm": self.finetuning.norm,
            "inference": self.inference,
            **sizes,
            "output_stride": layout.output_stride if self.model in DILATED else None,
            "train_images": self.images[0],
            "train_list": [Path(c.get("ann_file", "")).stem for c in layout.train],
            **dataclasses.asdict(self.schedule),
            **self.branch,
            **({"exif": STORED} if layout.exif == STORED else {}),
        }

    def encoder(self, width: Width) -> nn.Module:
        """The dilated trunk at ``width``, whatever its weights; without a ViT's pyramid, which is no part of the encoder."""
        trunk = self._trunk(width).trunk
        return getattr(trunk, "trunk", trunk)

    @property
    def scored_size(self) -> tuple[int, int]:
        """A window's, and where the images' sizes vary a crop's; a ViT's sides are rounded up to whole patches."""
        wide, high = self.data.layout.scale
        size = self.data.layout.crop if self.inference == "slide" or wide > 2 * high else (high, wide)
        patch = self.checkpoint.encoder.size_divisor
        height, width = (-(-side // patch) * patch for side in size)
        return height, width

    def model_config(self, width: Width) -> dict:
        """Config of the whole network of ``width``."""
        trunk, layout = self._trunk(width), self.data.layout
        features = Features(trunk.channels, trunk.patch_size)
        return model_config(
            self.model,
            self._backbone_config(width),
            features,
            len(self.data.train.classes),
            layout,
            *self.checkpoint.normalisation(),
            self.inference,
        )

    def _backbone_config(self, width: Width) -> dict:
        own = self.finetuning
        reads = "maps" if not self.is_vit else "patches" if self.model == "segmenter" else "pyramid"
        return {
            "type": "SlimmableTrunk",
            "checkpoint": own.checkpoint,
            "initial": own.initial,
            "seed": self.seed,
            "width": str(width) if isinstance(width, Subnet) else width,
            "norm": "frozen" if own.norm == "frozen" else "bn",
            "reads": reads,
            "branch": own.branch,
            "arch": own.arch,
            "output_stride": self.data.layout.output_stride if self.model in DILATED else 0,
        }

    def _trunk(self, width: Width) -> SlimmableTrunk:
        """The backbone of ``width`` for its shapes, whatever its weights."""
        return MODELS.build({**self._backbone_config(width), "network": self.checkpoint.random_at(width, 0)})

    def train(self, resolved: Resolved, run: RunDirectory, group: Processes) -> Scores:
        """Fine-tune and score one width in its run directory by mmengine's runner."""
        return training.train(self, resolved, run, group)
