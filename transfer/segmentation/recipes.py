"""What a ViT's training has otherwise than the schedules' SGD."""

from __future__ import annotations

from dataclasses import replace

from transfer.finetuning.schedules import Schedule

QUICK = "quick"


def for_vit(name: str, schedule: Schedule, model: str) -> Schedule:
    """``schedule``, called ``name`` and not changed yet, as mmsegmentation trains ``model`` on a ViT.

    UPerNet: AdamW at 6e-5 for 16 images, weight decay 0.01, warm-up of 1500 iterations, then linear to 0 (its ViT configs).
    Segmenter: SGD at 0.001 for 8 images without weight decay (its Segmenter configs). ``quick`` is AdamW at 1e-3 for both.
    """
    if name == QUICK:
        return replace(schedule, lr=1e-3)
    if model == "segmenter":
        return replace(schedule, lr=0.001 * schedule.batch_size / 8, weight_decay=0.0)
    return replace(schedule, optimizer="adamw", lr=6e-5 * schedule.batch_size / 16, lr_min=0.0, power=1.0, weight_decay=0.01,
                   warmup=1500, warmup_start=1e-6)
