"""Dynamic sampling."""

from random import Random

from pretrain.config import WidthsConfig
from pretrain.objective.width_rules.sandwich import between

STAGES = 4


def dynamic(widths: WidthsConfig, draw: Random, progress: float) -> list[float]:
    """The sandwich rule with a lower bound that falls in stages (US3L section 3.4; METHOD section 4)."""
    return between(lower_bound(widths.min, widths.max, progress), widths, draw)


def lower_bound(low: float, high: float, progress: float) -> float:
    """Narrowest width at ``progress`` in [0, 1) through training: of four equal stages the first trains only ``high``, the others
    from low + (4 - stage) * (high - low) / 3.
    """
    stage = min(STAGES, 1 + int(progress * STAGES))
    if stage in (1, STAGES):  # exactly: rounding must not make a third width of the widest
        return high if stage == 1 else low
    return low + (STAGES - stage) * (high - low) / (STAGES - 1)
