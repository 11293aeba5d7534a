"""The description of one fine-tuning: plain values, to be compared, pickled and sent to another machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from types import ModuleType

from rundir.errors import UserError, check_choice
from rundir.subnet import Width
from transfer.finetuning.looking import EXIF
from transfer.finetuning.schedules import Schedule, named
from transfer.finetuning.trunk import INITIALS, NORMS

TASKS = ("detection", "segmentation")


def room(task: str) -> ModuleType:
    """The package of ``task``: its MODELS and DATASETS (defaults first), SCHEDULES by name, and the OPTIONS that it alone has."""
    return importlib.import_module(f"transfer.{task}")


@dataclass(frozen=True)
class Finetuning:
    """One fine-tuning: of a checkpoint, at one width, on one data set. Fields are the command line's options of the same names.

    Attributes:
        task: one of :data:`TASKS`.
        checkpoint, branch, arch: as :func:`~pretrain.checkpoints.open_checkpoint` takes them.
        data_dir: where the data are stored; of ``digits`` None: next to the scores, written if they are not there.
        model: "" becomes the task's first.
        schedule, iterations, batch_size, lr: a schedule's name, and what it is changed to; ``batch_size`` is over all processes.
        initial: ``pretrained``, or ``random`` for the reference.
        norm: ``frozen``, ``bn``, ``syncbn`` or ``auto``.
        seed: of fine-tuning; None: that of pretraining.
        exif: ``displayed`` or ``stored``: the pixels that annotations belong to where EXIF orientations leave it open.
        out: where scores and runs go; None: the checkpoint's run directory.
        force: train again what is finished.
        pictures: number of images shown with their predictions.
        size, clip_boxes, overrides: of detection: shorter side of images in pixels, whether boxes are cut at their image's edge,
            and detectron2's keys and values in turn.
        inference, scale, crop, output_stride: of segmentation: ``whole`` or ``slide``, (width, height), (height, width), and the
            largest stride of a dilated backbone.
    """

    task: str
    checkpoint: str
    width: Width = 1.0
    dataset: str = "digits"
    data_dir: str | None = None
    model: str = ""
    schedule: str = "quick"
    iterations: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    initial: str = "pretrained"
    norm: str = "auto"
    seed: int | None = None
    exif: str | None = None
    branch: str = "student"
    arch: str | None = None
    out: str | None = None
    force: bool = False
    device: str = "auto"
    workers: int = 0
    pictures: int = 4
    size: int | None = None
    clip_boxes: bool = False
    overrides: tuple[str, ...] = ()
    inference: str | None = None
    scale: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    output_stride: int | None = None

    def __post_init__(self):
        if not self.model and self.task in TASKS:
            object.__setattr__(self, "model", room(self.task).MODELS[0])

    @property
    def asked_schedule(self) -> Schedule:
        """The schedule with the length, batch size and rate that are asked for.

        Raises:
            UserError: there is no such schedule, or it cannot be changed so.
        """
        return named(self.schedule, room(self.task).SCHEDULES).changed(self.iterations, self.batch_size, self.lr)

    def check(self) -> None:
        """Raise :class:`UserError` for an option that is wrong whatever the checkpoint and the data are."""
        check_choice("--task", self.task, TASKS)
        own = room(self.task)
        check_choice("--model", self.model, own.MODELS)
        check_choice("--dataset", self.dataset, own.DATASETS)
        check_choice("--initial", self.initial, INITIALS)
        check_choice("--norm", self.norm, NORMS)
        if self.exif is not None:
            check_choice("--exif", self.exif, EXIF)
        _ = self.asked_schedule
        if self.dataset != "digits" and self.data_dir is None:
            raise UserError(f"{self.dataset} is not part of this project; set --data-dir DIR to the folder that holds it")
        others = {name for task in TASKS for name in room(task).OPTIONS} - set(own.OPTIONS)
        for field in fields(self):
            if field.name in others and getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name.replace('_', '-')} is not an option of {self.task}; leave it out")
        own.check(self)
