"""Draws alone."""

from random import Random

from pretrain.config import WidthsConfig


def uniform(widths: WidthsConfig, draw: Random, progress: float) -> list[float]:
    """``per_step`` widths drawn uniformly (METHOD section 4)."""
    return sorted((draw.uniform(widths.min, widths.max) for _ in range(widths.per_step)), reverse=True)
