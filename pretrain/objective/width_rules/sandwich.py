"""The sandwich rule."""

from random import Random

from pretrain.config import WidthsConfig


def sandwich(widths: WidthsConfig, draw: Random, progress: float) -> list[float]:
    """The widest, the narrowest, and ``per_step`` - 2 drawn uniformly between them (US-Nets; METHOD section 4).

    With ``doubled_ends`` they are in the order in which US-Net + BYOL was found to train them: the widest and the narrowest, both
    again, then those drawn (METHOD section 7).
    """
    return between(widths.min, widths, draw)


def between(low: float, widths: WidthsConfig, draw: Random) -> list[float]:
    """The sandwich rule from ``low``; the widest alone where ``low`` is no narrower."""
    if low >= widths.max:
        return [widths.max]
    drawn = sorted((draw.uniform(low, widths.max) for _ in range(widths.per_step - 2)), reverse=True)
    return [widths.max, low, widths.max, low, *drawn] if widths.doubled_ends else [widths.max, *drawn, low]
