"""A list of widths."""

from random import Random

from pretrain.config import WidthsConfig


def fixed(widths: WidthsConfig, draw: Random, progress: float) -> list[float]:
    """The widths of ``widths.fixed``, all in every step (slimmable networks; METHOD section 4)."""
    return sorted(widths.fixed, reverse=True)
