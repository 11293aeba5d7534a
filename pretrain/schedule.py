"""Schedules over training: learning rate and momentum of the teacher (METHOD section 6)."""

from __future__ import annotations

import math

from pretrain.config import ObjectiveConfig, OptimizerConfig


def learning_rate(cfg: OptimizerConfig, epoch: float) -> float:
    """Rate at ``epoch`` (from 0): linear up to ``lr`` in the warm-up epochs, then cosine towards 0.

    Schedule ``epoch`` is constant within an epoch. ``step`` counts fractions of epochs and warms up from 0, as MoCo v3
    (arXiv 2104.02057, its code) has it.
    """
    if cfg.schedule == "epoch":
        epoch = math.floor(epoch)
    if epoch < cfg.warmup_epochs:
        return cfg.lr * ((epoch + 1) / (cfg.warmup_epochs + 1) if cfg.schedule == "epoch" else epoch / cfg.warmup_epochs)
    progress = (epoch - cfg.warmup_epochs) / (cfg.epochs - cfg.warmup_epochs)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * progress))


def ema_momentum(cfg: ObjectiveConfig, step: int, total_steps: int) -> float:
    """m in ``step`` (from 0): constant, or rising to 1 by half a cosine (BYOL, MoCo v3)."""
    if cfg.ema_schedule == "constant":
        return cfg.ema_momentum
    return 1 - (1 - cfg.ema_momentum) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
