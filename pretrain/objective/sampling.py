"""Which widths a step trains (METHOD section 4)."""

from __future__ import annotations

import random

from pretrain.config import WidthsConfig

STAGES = 4


def lower_bound(low: float, high: float, progress: float) -> float:
    """Narrowest width of dynamic sampling at ``progress`` in [0, 1) through training (US3L section 3.4).

    Four equal stages: only ``high``, then low + (4 - stage) * (high - low) / 3.
    """
    stage = min(STAGES, 1 + int(progress * STAGES))
    if stage in (1, STAGES):  # exactly: rounding must not make a third width of the widest
        return high if stage == 1 else low
    return low + (STAGES - stage) * (high - low) / (STAGES - 1)


def sample_widths(cfg: WidthsConfig, seed: int, step: int, total_steps: int, epochs: int = 1) -> list[float]:
    """Widths of step ``step`` of ``total_steps`` in ``epochs``, widest first; the same on every process and after a resume.

    With ``doubled_ends`` they are in the order in which US-Net + BYOL was found to train them: the widest and the narrowest, both
    again, then those drawn (METHOD section 7). An elastic student (POA, arXiv 2408.01031) is drawn anew next to the widest.

    Before ``slow_start_epochs`` only the widest is trained (SlimCLR's slow start of sub-networks, arXiv 2209.15525).
    """
    if cfg.min == cfg.max or step * epochs < cfg.slow_start_epochs * total_steps:
        return [cfg.max]
    draw = random.Random(f"widths/{seed}/{step}")
    if cfg.sampling == "fixed":
        return sorted(cfg.fixed, reverse=True)
    if cfg.sampling == "uniform":
        return sorted((draw.uniform(cfg.min, cfg.max) for _ in range(cfg.per_step)), reverse=True)
    if cfg.sampling == "elastic":
        return [cfg.max, *sorted((draw.uniform(cfg.min, cfg.max) for _ in range(cfg.per_step - 1)), reverse=True)]
    low = cfg.min if cfg.sampling == "sandwich" else lower_bound(cfg.min, cfg.max, step / total_steps)
    if low >= cfg.max:
        return [cfg.max]
    between = sorted((draw.uniform(low, cfg.max) for _ in range(cfg.per_step - 2)), reverse=True)
    return [cfg.max, low, cfg.max, low, *between] if cfg.doubled_ends else [cfg.max, *between, low]
