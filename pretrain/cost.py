"""What a training run costs, known before it starts."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from pretrain.checkpoints import open_pretrained
from pretrain.config import Config
from pretrain.config.methods import TEACHER, find
from pretrain.data import batch_sizes
from pretrain.objective.elastic import sample_networks
from pretrain.objective.features import with_stage_norms
from pretrain.objective.frozen import SETTING
from pretrain.objective.masked import Masked
from pretrain.objective.networks import Student
from pretrain.slimmable import channel_signature, dense_cost, extract
from rundir.errors import UserError
from rundir.subnet import Width

SAMPLES = 48
EPOCH_STEPS, MANY_SAMPLES = 100, 480  # of the training that two costs are compared on
BACKWARD = 2  # a backward pass costs two forward passes: one product for the input, one for the weight


def training_flops(cfg: Config, images: int, samples: int = SAMPLES) -> float:
    """Floating-point operations of the whole run on ``images`` images (two per multiply-add; convolutions and products).

    The views (two, or one) through the network forward and backward at each width of a step, and the teacher's forward passes at
    its width; a SEED teacher that is not trained yet counts as the student's network at full width. Widths that are drawn at random
    enter by the mean over ``samples`` steps spread evenly over the run. A network that is made without training costs nothing.
    """
    if cfg.derived.network != "none":
        return 0.0
    sizes = batch_sizes(images, cfg.optimizer.batch_size, cfg.data.drop_last, cfg.optimizer.virtual_processes)
    total = cfg.optimizer.epochs * len(sizes)
    student = Student(cfg).to("meta")

    teacher = find(TEACHER, cfg.objective.teacher)
    frozen = _frozen_teacher_flops(cfg) if cfg.objective.seed_teacher else 0
    counted: dict[tuple, int] = {}

    def forward(width: Width, part: str) -> int:
        same = (part, channel_signature(student, width))  # many widths are one network
        if same not in counted:
            head = {"base": student.predictor, "distill": student.sub_head, "teacher": None}[part]
            layers = [student.encoder, student.projector] + ([head] if head is not None else [])
            network = nn.Sequential(*layers)
            if student.decoder is not None:
                network = Masked(student.encoder, student.decoder)
            if part == "distill" and student.adapters is not None:
                network = _Adapted(network, student.adapters)
            counted[same] = dense_cost(extract(network, width), cfg.data.size).flops
        return counted[same]

    naive = cfg.objective.distill_loss == "none"
    guided = not naive and cfg.objective.ema_update == "step"
    spent = 0.0
    chosen = [int((i + 0.5) * total / samples) for i in range(samples)] if total > samples else list(range(total))
    for step in chosen:
        widths = sample_networks(cfg, step, total)
        parts = ["base" if w == widths[0] or naive else "distill" for w in widths]
        spent += sum((1 + BACKWARD) * forward(w, part) for w, part in zip(widths, parts, strict=True))
        spent += sum(forward(w, "teacher") for w in teacher.passes(cfg, widths))  # type: ignore[attr-defined, misc]
        spent += (widths.count(widths[0]) if guided else len(widths)) * frozen
    views = 1 if cfg.objective.pairings == "one" else 2
    return spent / max(len(chosen), 1) * views * sum(sizes) * cfg.optimizer.epochs


class _Adapted(nn.Module):
    """A network whose first layer is an encoder, and the adapters of feature distillation on that."""

    def __init__(self, network: nn.Sequential, adapters: nn.ModuleList):
        super().__init__()
        self.network, self.adapters = network, adapters

    def forward(self, x: Tensor) -> Tensor:
        features, maps = with_stage_norms(self.network[0], x)
        for adapter, inner in zip(self.adapters, maps, strict=True):
            adapter(inner)
        return self.network[1:](features)


def epochs_of_equal_flops(cfg: Config, like: Config) -> int:
    """The number of epochs in which training ``cfg`` takes about as many FLOPs as training ``like``; at least one.

    The same for every seed: widths that are drawn at random are those of seed 0.
    """
    images = EPOCH_STEPS * max(cfg.optimizer.batch_size, like.optimizer.batch_size)
    wanted, own = (training_flops(replace(one, seed=0), images, MANY_SAMPLES) for one in (like, cfg))
    return max(1, round(wanted / own * cfg.optimizer.epochs))


def _frozen_teacher_flops(cfg: Config) -> int:
    """Of one image through the encoder and projector of SEED's teacher at its widest."""
    try:
        own = open_pretrained(SETTING, cfg.objective.seed_teacher).config
        student, width = Student(own), own.widths.max
    except UserError:  # found again, and said, where the training starts
        student, width = Student(cfg), 1.0
    return dense_cost(extract(nn.Sequential(student.encoder, student.projector).to("meta"), width), cfg.data.size).flops
