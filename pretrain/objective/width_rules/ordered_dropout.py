"""Ordered dropout (FjORD, arXiv 2102.13451)."""

from random import Random
from typing import Annotated

from pretrain.config import WidthsConfig
from rundir.fields import Number


def ordered_dropout(widths: WidthsConfig, draw: Random, progress: float, *, levels: Annotated[int, Number(2)] = 4) -> list[float]:
    """One width a step, drawn from ``levels`` equally spaced ones from the narrowest to the widest (section 3.1).

    It is the widest of its step and so takes the base loss: the channels behind it are dropped for that step.
    """
    place = draw.randrange(levels)
    return [widths.max if place == levels - 1 else widths.min + place * (widths.max - widths.min) / (levels - 1)]
