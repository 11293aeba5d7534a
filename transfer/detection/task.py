"""One detector at one width: from the checkpoint to scores, pictures and what arrived of its weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from pretrain.data import evaluation_batches
from pretrain.data.images import STORED
from pretrain.data.sources import FolderSource
from pretrain.distributed import Processes
from rundir.directory import RunDirectory
from rundir.errors import UserError
from transfer.dense.job import Job, Scores, journal, write_json
from transfer.dense.options import Setup, branch_setting
from transfer.dense.trunk import dense_network
from transfer.detection.data import DetectionData
from transfer.detection.evaluation import evaluate
from transfer.detection.faults import has_box
from transfer.detection.models import Model, build, config
from transfer.detection.pictures import draw
from transfer.detection.training import FINAL, adamw_rate, finished_iterations, set_schedule, train

TASK = "detection"
CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 32
QUICK_SIDE = 240  # shorter side of photographs in schedule quick
# The published schedules' sizes of images: multi-scale training, 800 pixels at most 1333 for scoring.
SIZES = {"voc_24k": tuple(range(480, 801, 32)), "coco_1x": tuple(range(640, 801, 32)), "coco_2x": tuple(range(640, 801, 32))}
LONGEST, TEST_SIDE = 1333, 800
# A small detector for two cores, in detectron2's keys.
QUICK = {"MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_BOX_HEAD.FC_DIM": 128, "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
         "MODEL.ROI_MASK_HEAD.NUM_CONV": 2, "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 500, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 200,
         "MODEL.RPN.PRE_NMS_TOPK_TEST": 500, "MODEL.RPN.POST_NMS_TOPK_TEST": 200, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
         "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 128}
QUICK_C4 = {"MODEL.RPN.POST_NMS_TOPK_TEST": 50, "MODEL.ROI_MASK_HEAD.NUM_CONV": 0}  # the last stage runs on every region


@dataclass(frozen=True)
class Task:
    """What fine-tunings at all widths have in common.

    Attributes:
        size: shorter side of images in training and scoring; None: the schedule's.
        overrides: words of detectron2's keys and values, in turn, on top of its config.
        lr: what was asked for, None if nothing was.
        contents: fingerprint of the data.
    """

    setup: Setup
    data: DetectionData
    model: Model
    schedule: str
    initial: str
    norm: str
    size: int | None
    lr: float | None
    overrides: Sequence[str]
    workers: int
    pictures: int
    contents: str = ""

    @property
    def vit(self) -> bool:
        """Whether the network is a plain ViT."""
        return self.setup.backbone.encoder.is_vit

    @property
    def side(self) -> int:
        """Shorter side of the images that are scored."""
        first = self.data.test.records[0]
        quick = min(first["height"], first["width"], QUICK_SIDE)
        return self.size or (TEST_SIDE if self.schedule in SIZES else quick)

    @property
    def small(self) -> dict[str, int]:
        """What schedule quick changes in detectron2's config."""
        if self.schedule != "quick":
            return {}
        return QUICK | QUICK_C4 if self.model.neck == "c4" else QUICK

    def config(self, device: torch.device) -> CfgNode:
        """detectron2's config of every width; the levels are entered when the model is built."""
        mean, std = self.setup.backbone.normalisation()
        cfg = config(self.model, len(self.data.classes), self.data.mask_format if self.model.masks else None, mean, std)
        cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = str(device), self.workers, self.setup.seed
        set_schedule(cfg, self.setup.schedule)
        cfg.INPUT.MIN_SIZE_TRAIN = (self.size,) if self.size else SIZES.get(self.schedule, (self.side,))
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST = self.side, LONGEST, LONGEST
        cfg.INPUT.RANDOM_FLIP = "horizontal" if self.data.flip else "none"
        cfg.merge_from_list([word for pair in self.small.items() for word in pair])
        try:
            cfg.merge_from_list(list(self.overrides))
        except (AssertionError, KeyError, ValueError) as error:
            raise UserError(f"--set {' '.join(self.overrides)}: {error}; write KEY VALUE pairs of detectron2's config") from None
        return cfg

    def jobs(self) -> list[Job]:
        """A job a width."""
        return [self._job(width) for width in self.setup.widths]

    def _job(self, width: float) -> Job:
        backbone, setup = self.setup.backbone, self.setup
        patch = backbone.encoder.size_divisor
        cost = backbone.cost(width, -(-self.side // patch) * patch)
        settings = {"arch": backbone.arch, "weights": backbone.fingerprint() if self.initial == "pretrained" else None,
                    "data": self.data.fingerprint, "metric": self.data.metric, "norm": self.norm, "size": self.side,
                    "schedule": dataclasses.asdict(setup.schedule) | {"milestones": list(setup.schedule.milestones)},
                    "adamw": adamw_rate(setup.schedule, self.lr) if self.vit else None,
                    "config": {**self.small}, "overrides": list(self.overrides), **branch_setting(backbone),
                    **({"exif": STORED} if self.data.exif == STORED else {})}
        return Job(TASK, self.data.name, str(self.model), self.schedule, self.initial, width, setup.seed, cost.flops,
                   cost.parameters, settings, self.contents)

    def run(self, job: Job, run: RunDirectory, group: Processes) -> Scores:
        """Fine-tune and score one width in its run directory; what is there already is not done again."""
        for name in ("detectron2", "fvcore"):  # what they say is for their developers
            logging.getLogger(name).setLevel(logging.ERROR)
        cfg = self.config(group.device)
        network = dense_network(self.setup.backbone, job.width, self.initial, job.seed, self._calibration)
        detector, report = build(cfg, self.model, network, self.norm, job.seed)
        if group.first:
            print(f"{job.title}: {report}", flush=True)
            write_json(run, "weights.json", report.to_dict())
            (run.path / "detectron2.yaml").write_text(cfg.dump(), encoding="utf-8")
        self._train(cfg, detector, job, run, group)
        result = evaluate(cfg, detector, self.data, self.model.masks, run.path)
        if result is None:
            return Scores({}, 0)
        write_json(run, "classes.json", {"format": 1, "classes": result.classes})
        if self.pictures:
            draw(cfg, detector, self.data, self.pictures, job.title, run.path / "predictions.png")
        return Scores(result.values, len(self.data.test.records))

    def _train(self, cfg: CfgNode, detector: torch.nn.Module, job: Job, run: RunDirectory, group: Processes) -> None:
        final = run.path / FINAL
        if final.is_file():  # interrupted while it was scored
            detector.load_state_dict(torch.load(final, map_location=group.device, weights_only=True)["model"])
            return
        start, state = finished_iterations(run.path)
        records = [record for record in self.data.train.records if has_box(record)]
        with journal(job, run, group, cfg.SOLVER.MAX_ITER, start) as log:
            train(cfg, detector, records, run.path, job.seed, group, log, start, state,
                  job.settings["adamw"], self.data.exif, self.workers)

    def _calibration(self) -> Iterator[Tensor]:
        """Training images as pretraining would see them, for a width without BatchNorm statistics."""
        backbone = self.setup.backbone
        paths = [record["file_name"] for record in self.data.train.records[:CALIBRATION_IMAGES]]
        source = FolderSource(self.data.name, [""], torch.zeros(len(paths), dtype=torch.int64), *backbone.normalisation(), paths)
        device = next(backbone.encoder.parameters()).device
        for images, _ in evaluation_batches(source, backbone.config.data.size, CALIBRATION_BATCH, device):
            if len(images) > 1:  # one image is no batch
                yield images
