"""The networks, the optimizer and the objective of a config, assembled in one place for all code that takes training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain.averaging import Averaging, same_everywhere
from pretrain.calibration import calibrate_on
from pretrain.compiled import compile_at
from pretrain.config import Config, trained_widths
from pretrain.config.methods import REGULARIZER, TEACHER, make
from pretrain.data import ImageSource
from pretrain.graphs import RECORDERS, Graphs
from pretrain.objective.frozen import FrozenTeacher, load_teacher
from pretrain.objective.gradients import Gradients
from pretrain.objective.networks import Student
from pretrain.objective.queue import Queue
from pretrain.objective.regularization import Regularizer
from pretrain.objective.sampling import try_rule
from pretrain.objective.step import Objective
from pretrain.objective.teaching import Guide, TeacherSetting
from pretrain.slimmable import Width
from pretrain.slimmable.calibrate import batch_norms
from rundir.errors import UserError

LOW_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Training:
    """Takes the training steps of ``cfg`` on ``device``; :func:`build_training` makes one.

    Attributes:
        teacher: None where the student is its own.
        scaler: of gradients, of float16 only.
        gradients: their buffer, where they must stay in one place: with graphs, and of several processes.
        averaging: of gradients over processes, where there are several.
    """

    cfg: Config
    device: torch.device
    student: Student
    teacher: Guide | None
    queue: Queue | None
    optimizer: torch.optim.Optimizer
    regularizer: Regularizer
    scaler: torch.amp.GradScaler
    objective: Objective
    gradients: Gradients | None = None
    averaging: Averaging | None = None

    @property
    def frozen(self) -> bool:
        """Whether the teacher is a trained network that stays as it is (SEED)."""
        return isinstance(self.teacher, FrozenTeacher)

    @property
    def guide(self) -> Guide | None:
        """The teacher, where it is a network of its own."""
        return self.teacher if self.teacher is not None and self.teacher.has_network else None

    def step(
        self, x1: Tensor, x2: Tensor, widths: Sequence[Width], rate: float, momentum: float, gather: bool = False
    ) -> list[Tensor]:
        """One training step on two views (B, 3, H, W) at ``widths``, widest first; the loss at each, without gradient.

        rate: learning rate; momentum: of a momentum teacher; gather: leave the weights, keep the gradients for a later step.
        """
        layout = memory_format(self.cfg)
        x1, x2 = (x.contiguous(memory_format=layout) for x in (x1, x2))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return self.objective.step(x1, x2, widths, momentum, self._backward, _keep if gather else self.update)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss / self.cfg.optimizer.accumulate_steps).backward()
        if self.averaging is not None and self.averaging.early:
            self.averaging.finish()

    def update(self, width: Width) -> None:
        """One step of regularizer and optimizer by the gradients that are there, the last of them of a pass at ``width``."""
        if self.averaging is not None:
            self.averaging.finish()
        self.scaler.unscale_(self.optimizer)
        widest = width == self.cfg.widths.max
        self.regularizer.add_gradient(widest)
        if self.cfg.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.cfg.optimizer.clip_norm, foreach=True)
        if self.cfg.regularizer.decoupled:
            self.regularizer.shrink(self.optimizer.param_groups[0]["lr"], widest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.gradients is None:
            self.optimizer.zero_grad(set_to_none=True)
        else:
            self.gradients.clear()


def _keep(width: Width) -> None:
    """Keep the gradients for the next step."""


def build_training(cfg: Config, device: torch.device, source: ImageSource | None = None, world_size: int = 1) -> Training:
    """Networks with weights drawn from ``cfg.seed``, and all that trains them.

    Args:
        source: training images, on which a frozen teacher (SEED) is calibrated; others need none.
        world_size: processes that train together; more than one must have joined a group.

    Raises:
        UserError: the device, the processes or a frozen teacher do not suit ``cfg``.
    """
    if cfg.train.precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16 needs a GPU and there is none; set train.precision=bf16 or fp32")
    if cfg.train.precision == "auto":
        raise ValueError("train.precision=auto is to be settled first, by pretrain.identity.with_precision")
    try_rule(cfg.widths, cfg.seed)
    torch.manual_seed(cfg.seed)
    student = Student(cfg).to(device, memory_format=memory_format(cfg))
    student.chunks = chunks(cfg, world_size)
    if world_size > 1:
        same_everywhere(student)
    for norm in batch_norms(student).values():
        norm.synchronized = cfg.train.synchronized_bn
    teacher = _teacher(cfg, student, source, device)
    queue = Queue(cfg.objective.queue, student.dim, cfg.seed).to(device) if cfg.objective.queue else None
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.train.precision == "fp16")  # only its range is too small for gradients
    forward: Callable = student
    if cfg.train.compile:
        forward = compile_at(student, student, trained_widths(cfg.widths) or (cfg.widths.min, cfg.widths.max))
        if teacher is not None and teacher.has_network:
            teacher.compile(dynamic=False)

    def autocast() -> AbstractContextManager:
        kind = LOW_PRECISION.get(cfg.train.precision)
        return nullcontext() if kind is None else torch.autocast(device.type, kind)

    regularizer, stay = _regularizer(cfg, student), cfg.train.graphs or world_size > 1
    gradients = Gradients(regularizer.parameters, late=regularizer.authors) if stay else None
    averaging = Averaging(gradients, early=not (cfg.train.reduce_once or cfg.train.graphs)) if world_size > 1 else None
    recorded = {"run": _graphs(cfg, device, gradients, world_size)} if cfg.train.graphs else {}
    objective = Objective(cfg.objective, student, forward, teacher, cfg.widths.max, autocast, queue, **recorded)
    return Training(
        cfg, device, student, teacher, queue, make_optimizer(cfg, student), regularizer, scaler, objective, gradients, averaging
    )


def _graphs(cfg: Config, device: torch.device, gradients: Gradients, world_size: int) -> Graphs:
    if device.type not in RECORDERS:
        raise UserError(f"train.graphs=true needs a GPU, and the device is {device.type}; set train.graphs=false")
    if world_size > 1 and (cfg.train.synchronized_bn or cfg.objective.gather_negatives):
        raise UserError(
            "train.graphs=true records no exchange between processes; set train.synchronized_bn=false and "
            "objective.gather_negatives=false, or train.graphs=false"
        )
    return Graphs(gradients, RECORDERS[device.type]())


def memory_format(cfg: Config) -> torch.memory_format:
    """The layout of images and convolutions' weights."""
    return torch.channels_last if cfg.train.channels_last else torch.contiguous_format


def chunks(cfg: Config, world_size: int) -> int:
    """The virtual processes that each of ``world_size`` simulates.

    Raises:
        UserError: they cannot be shared out evenly.
    """
    parts = cfg.optimizer.virtual_processes
    if parts and parts % world_size:
        raise UserError(
            f"optimizer.virtual_processes={parts} cannot be shared evenly by {world_size} processes; set "
            f"optimizer.virtual_processes={world_size}"
        )
    return max(1, parts // world_size)


def _teacher(cfg: Config, student: Student, source: ImageSource | None, device: torch.device) -> Guide | None:
    """The teacher on ``device``; None where the student is its own."""
    objective = cfg.objective
    if objective.base_loss == "seed":
        made: Guide = load_teacher(cfg, student.chunks)
    elif objective.teacher == "online":
        return None
    else:
        made = make(TEACHER, objective.teacher, objective.teacher_options, TeacherSetting(cfg, student))
    made = made.to(device, memory_format=memory_format(cfg))
    if isinstance(made, FrozenTeacher) and not made.batch_statistics:
        calibrate_on(made, [made.width], source, cfg)
    return made


def _regularizer(cfg: Config, student: Student) -> Regularizer:
    regularizer = cfg.regularizer
    if regularizer.kind == "none":
        return Regularizer(regularizer, student)
    return make(REGULARIZER, regularizer.kind, regularizer.options, regularizer, student)


def make_optimizer(cfg: Config, student: Student) -> torch.optim.Optimizer:
    """The optimizer of METHOD section 6; decay is the regularizer's, so there is none here."""
    parameters = list(student.parameters())
    if cfg.optimizer.name == "adamw":
        return torch.optim.AdamW(parameters, cfg.optimizer.lr, weight_decay=0.0, fused=True)
    optimizer = torch.optim.SGD(parameters, cfg.optimizer.lr, momentum=cfg.optimizer.momentum, fused=True)
    if cfg.regularizer.variant == "authors" and cfg.optimizer.momentum:
        # Some parameters have their first gradient late, where the fused step cannot start a buffer: one of zeros is the same.
        optimizer.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in parameters if p.requires_grad})
    return optimizer
