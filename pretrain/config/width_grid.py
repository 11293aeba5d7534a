"""Which widths a config can ask for, where they are few."""

from __future__ import annotations

from pretrain.config.schema import WidthsConfig

FIXED, SANDWICH = "fixed", "sandwich"


def width_grid(cfg: WidthsConfig) -> list[float]:
    """``widths.grid`` equally spaced widths, narrowest first; none where widths are as they are drawn."""
    step = (cfg.max - cfg.min) / max(1, cfg.grid - 1)
    return [cfg.max if place == cfg.grid - 1 else cfg.min + place * step for place in range(cfg.grid)]


def trained_widths(cfg: WidthsConfig) -> list[float]:
    """All widths that training may ask for, widest first; empty where they are not known to be few."""
    if cfg.min == cfg.max:
        return [cfg.max]
    if cfg.sampling == FIXED:
        return sorted({cfg.max, *cfg.fixed}, reverse=True)
    if cfg.sampling == SANDWICH and cfg.per_step == 2:
        return [cfg.max, cfg.min]
    return width_grid(cfg)[::-1]
