"""Schedules of fine-tuning by name, and what changing their length or batch size does to them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rundir.errors import UserError, check_choice


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum (or AdamW), a linear warm-up, then steps or a polynomial decay.

    Attributes:
        iterations: optimizer steps.
        batch_size: images per step, over all processes.
        lr: at ``batch_size``.
        policy: ``step`` (times 0.1 at each of ``milestones``) or ``poly`` (from lr to ``lr_min`` with (1 - t) ** power).
        milestones: shares of ``iterations``, so that another length keeps the shape.
        warmup: iterations in which the rate rises from ``warmup_start`` of itself.
        weight_decay, momentum: of SGD.
        optimizer: ``sgd`` or ``adamw``.
    """

    iterations: int
    batch_size: int
    lr: float
    policy: str = "step"
    milestones: tuple[float, ...] = ()
    power: float = 0.9
    lr_min: float = 0.0
    warmup: int = 0
    warmup_start: float = 0.001
    weight_decay: float = 1e-4
    momentum: float = 0.9
    optimizer: str = "sgd"

    def changed(self, iterations: int | None = None, batch_size: int | None = None, lr: float | None = None) -> Schedule:
        """The schedule with another length or batch size; None keeps.

        The learning rate follows the batch size linearly (arXiv 1706.02677) unless ``lr`` says it. A warm-up takes at most a tenth
        of a shortened schedule.

        Raises:
            UserError: a number that cannot be used.
        """
        for option, value in (("--iterations", iterations), ("--batch-size", batch_size)):
            if value is not None and value < 1:
                raise UserError(f"{option} {value} must be at least 1")
        if lr is not None and not 0 < lr < math.inf:
            raise UserError(f"--lr {lr} must be above 0 and finite")
        length, batch = iterations or self.iterations, batch_size or self.batch_size
        rate = self.lr * batch / self.batch_size if lr is None else lr
        warmup = min(self.warmup, max(1, length // 10)) if length < self.iterations else self.warmup
        return replace(self, iterations=length, batch_size=batch, warmup=warmup, lr=rate, lr_min=self.lr_min * rate / self.lr)

    @property
    def steps(self) -> tuple[int, ...]:
        """The iterations at which the rate falls; in a very short schedule those that are left."""
        steps = (round(share * self.iterations) for share in self.milestones)
        return tuple(sorted({step for step in steps if 0 < step < self.iterations}))


# MoCo's settings in detectron2 (arXiv 1911.05722, section 4.2), which the transfer literature follows (METHOD section 6).
DETECTION = {
    "voc_24k": Schedule(24_000, 16, 0.02, milestones=(0.75, 11 / 12), warmup=100),
    "coco_1x": Schedule(90_000, 16, 0.02, milestones=(2 / 3, 8 / 9), warmup=1000),
    "coco_2x": Schedule(180_000, 16, 0.02, milestones=(2 / 3, 8 / 9), warmup=1000),
    # Minutes on two cores.
    "quick": Schedule(400, 4, 0.02, milestones=(0.7, 0.9), warmup=40),
}
# mmsegmentation's 1.x: schedules 20k, 40k, 80k and the batch sizes of its VOC, ADE20K and Cityscapes configs.
SEGMENTATION = {
    "voc_20k": Schedule(20_000, 16, 0.01, "poly", lr_min=1e-4, weight_decay=5e-4),
    "ade20k_80k": Schedule(80_000, 16, 0.01, "poly", lr_min=1e-4, weight_decay=5e-4),
    "cityscapes_40k": Schedule(40_000, 8, 0.01, "poly", lr_min=1e-4, weight_decay=5e-4),
    # Minutes on two cores; AdamW leaves the start, where all is background, sooner than SGD.
    "quick": Schedule(300, 8, 0.005, "poly", warmup=15, weight_decay=0.01, optimizer="adamw"),
}


def named(name: str, table: dict[str, Schedule]) -> Schedule:
    """The schedule called ``name``; :class:`UserError` names the others."""
    check_choice("--schedule", name, table)
    return table[name]
