"""Detectors at every width: from the checkpoint to scores, pictures and what arrived of its weights."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from pretrain.checkpoints import Checkpoint
from pretrain.data import evaluation_batches
from pretrain.data.images import STORED
from pretrain.data.sources import FolderSource
from pretrain.distributed import Processes
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.overrides import KEY
from rundir.schema import FORMAT, File
from rundir.subnet import Width
from transfer.detection import data
from transfer.detection.data import DetectionData
from transfer.detection.data.faults import has_box, some
from transfer.detection.evaluation import evaluate
from transfer.detection.model import Model, build, config
from transfer.detection.pictures import draw
from transfer.detection.training import FINAL, adamw_rate, finished_iterations, set_schedule, train
from transfer.finetuning import plan
from transfer.finetuning.description import Finetuning
from transfer.finetuning.runs import Resolved, Scores, journal, tell_weights, write_json
from transfer.finetuning.trunk import dense_network

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 32
QUICK_SIDE = 240  # shorter side of photographs in schedule quick
# The published schedules' sizes of images: multi-scale training, 800 pixels at most 1333 for scoring.
SIZES = {"voc_24k": tuple(range(480, 801, 32)), "coco_1x": tuple(range(640, 801, 32)), "coco_2x": tuple(range(640, 801, 32))}
LONGEST, TEST_SIDE = 1333, 800
# A small detector for two cores, in detectron2's keys.
QUICK = {
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 128,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 2,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 500,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 500,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 200,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 128,
}
QUICK_C4 = {"MODEL.RPN.POST_NMS_TOPK_TEST": 50, "MODEL.ROI_MASK_HEAD.NUM_CONV": 0}  # the last stage runs on every region


class Plan(plan.Plan):
    """Fine-tunings of one detector by detectron2."""

    data: DetectionData

    @staticmethod
    def check_network(finetuning: Finetuning, checkpoint: Checkpoint) -> None:
        """Raise :class:`UserError` if the detector cannot be built on the checkpoint's network."""
        Model.named(finetuning.model).on(checkpoint)

    @staticmethod
    def load(finetuning: Finetuning, where: Path, show: bool) -> DetectionData:
        """The data in ``where``, checked."""
        return data.load(finetuning.dataset, where, finetuning.clip_boxes, finetuning.exif, show)

    def check(self) -> None:
        """Raise :class:`UserError` for masks that are not there, and keys that detectron2's config does not have."""
        model, found = self.detector, self.data
        if model.masks and found.mask_format is None:
            which = f" of {len(found.unmasked)} objects ({some(found.unmasked)})" if found.unmasked else ""
            raise UserError(
                f"{found.name} has no masks{which}, which --model {model} is trained on; set --model "
                f"{self.finetuning.model.replace('mask_rcnn', 'faster_rcnn')}"
            )
        self.config(torch.device("cpu"))

    @cached_property
    def detector(self) -> Model:
        """The model on this checkpoint's network."""
        return Model.named(self.finetuning.model).on(self.checkpoint)

    @property
    def model(self) -> str:
        return str(self.detector)

    @property
    def images(self) -> tuple[int, int]:
        return len(self._trained_on), len(self.data.test.records)

    @property
    def _trained_on(self) -> list[dict]:
        return [record for record in self.data.train.records if has_box(record)]

    @cached_property
    def contents(self) -> str:
        return self.data.contents

    @property
    def side(self) -> int:
        """Shorter side of the images that are scored."""
        first = self.data.test.records[0]
        quick = min(first["height"], first["width"], QUICK_SIDE)
        return self.finetuning.size or (TEST_SIDE if self.finetuning.schedule in SIZES else quick)

    @property
    def small(self) -> dict[str, int]:
        """What schedule quick changes in detectron2's config."""
        if self.finetuning.schedule != "quick":
            return {}
        return QUICK | QUICK_C4 if self.detector.neck == "c4" else QUICK

    def config(self, device: torch.device) -> CfgNode:
        """detectron2's config of every width; the levels are entered when the model is built."""
        own, (mean, std) = self.finetuning, self.checkpoint.normalisation()
        cfg = config(self.detector, len(self.data.classes), self.data.mask_format if self.detector.masks else None, mean, std)
        cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = str(device), self.finetuning.workers, self.seed
        set_schedule(cfg, self.schedule)
        cfg.INPUT.MIN_SIZE_TRAIN = (own.size,) if own.size else SIZES.get(own.schedule, (self.side,))
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST = self.side, LONGEST, LONGEST
        cfg.INPUT.RANDOM_FLIP = "horizontal" if self.data.flip else "none"
        cfg.merge_from_list([word for pair in self.small.items() for word in pair])
        try:
            cfg.merge_from_list(self.overrides)
        except (AssertionError, KeyError, ValueError) as error:
            raise UserError(f"--set {' '.join(own.overrides)}: {error}; set KEY=VALUE of detectron2's config") from None
        return cfg

    @property
    def overrides(self) -> list[str]:
        """Keys and values of detectron2's config in turn, as its own tools take them; each two may be given as ``KEY=VALUE``."""
        found: list[str] = []
        for word in self.finetuning.overrides:
            found += word.split("=", 1) if len(found) % 2 == 0 and re.match(KEY, word) else [word]
        return found

    def encoder(self, width: Width) -> nn.Module:
        """The encoder at ``width``, whatever its weights."""
        return self.checkpoint.random_at(width, 0)

    @property
    def scored_size(self) -> tuple[int, int]:
        """A square of the shorter side; a ViT's is rounded up to whole patches."""
        patch = self.checkpoint.encoder.size_divisor
        return (-(-self.side // patch) * patch,) * 2

    @cached_property
    def settings(self) -> dict[str, Any]:
        own, found, schedule = self.finetuning, self.data, self.schedule
        return {
            "arch": self.checkpoint.arch,
            "weights": self.checkpoint.fingerprint() if own.initial == "pretrained" else None,
            "data": found.fingerprint,
            "metric": found.metric,
            "norm": own.norm,
            "size": self.side,
            "schedule": dataclasses.asdict(schedule) | {"milestones": list(schedule.milestones)},
            "adamw": adamw_rate(schedule, own.lr) if self.is_vit else None,
            "config": {**self.small},
            "overrides": self.overrides,
            **self.branch,
            **({"exif": STORED} if found.exif == STORED else {}),
        }

    def train(self, resolved: Resolved, run: RunDirectory, group: Processes) -> Scores:
        """Fine-tune and score one width in its run directory; what is there already is not done again."""
        for name in ("detectron2", "fvcore"):  # their warnings are for their developers
            logging.getLogger(name).setLevel(logging.ERROR)
        cfg, own = self.config(group.device), self.finetuning
        network = dense_network(self.checkpoint, resolved.network, own.initial, self.seed, self._calibration)
        detector, report = build(cfg, self.detector, network, own.norm, self.seed)
        if group.first:
            tell_weights(resolved, run, report)
            (run.path / "detectron2.yaml").write_text(cfg.dump(), encoding="utf-8")
        self._train(cfg, detector, resolved, run, group)
        result = evaluate(cfg, detector, self.data, self.detector.masks, run.path)
        if result is None:
            return Scores({}, 0)
        write_json(run, File.CLASSES, {"format": FORMAT, "classes": result.classes})
        if own.pictures:
            draw(cfg, detector, self.data, own.pictures, resolved.title, run.path / "predictions.png")
        return Scores(result.values, len(self.data.test.records))

    def _train(self, cfg: CfgNode, detector: torch.nn.Module, resolved: Resolved, run: RunDirectory, group: Processes) -> None:
        final = run.path / FINAL
        if final.is_file():  # interrupted while it was scored
            detector.load_state_dict(torch.load(final, map_location=group.device, weights_only=True)["model"])
            return
        start, state = finished_iterations(run.path)
        with journal(resolved, run, group, cfg.SOLVER.MAX_ITER, start) as log:
            train(
                cfg,
                detector,
                self._trained_on,
                run.path,
                self.seed,
                group,
                log,
                start,
                state,
                self.settings["adamw"],
                self.data.exif,
                self.finetuning.workers,
            )

    def _calibration(self) -> Iterator[Tensor]:
        """Training images as pretraining would see them, for a width without BatchNorm statistics."""
        backbone = self.checkpoint
        paths = [record["file_name"] for record in self.data.train.records[:CALIBRATION_IMAGES]]
        source = FolderSource(self.data.name, [""], torch.zeros(len(paths), dtype=torch.int64), *backbone.normalisation(), paths)
        device = next(backbone.encoder.parameters()).device
        for images, _ in evaluation_batches(source, backbone.config.data.size, CALIBRATION_BATCH, device):
            if len(images) > 1:  # one image is no batch
                yield images
