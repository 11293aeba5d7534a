"""An elastic student next to the widest network."""

from random import Random

from pretrain.config import WidthsConfig


def elastic(widths: WidthsConfig, draw: Random, progress: float) -> list[float]:
    """The widest, and ``per_step`` - 1 widths drawn anew (POA, arXiv 2408.01031)."""
    return [widths.max, *sorted((draw.uniform(widths.min, widths.max) for _ in range(widths.per_step - 1)), reverse=True)]
