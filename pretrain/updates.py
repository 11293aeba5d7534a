"""How often training updated the channels of a width: the widths of every step are drawn again, nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.config import Config
from pretrain.objective.sampling import sample_widths


def channel_updates(cfg: Config, steps: int, widths: Sequence[float]) -> dict[float, int]:
    """By width of ``widths``, how many optimizer steps of a training of ``steps`` steps had gradients for its outermost channels.

    A pass at a width reaches the channels of all narrower ones, so that the first channels get most updates (METHOD sections 2 and
    4). With one optimizer step per width each pass counts, else each step in which one of the passes reaches them. What weight
    decay and momentum do to channels without gradient does not count.
    """
    counts = dict.fromkeys(widths, 0)
    per_update = cfg.optimizer.accumulate_steps
    for first in range(0, steps, per_update):
        passes = [
            width
            for step in range(first, min(first + per_update, steps))
            for width in sample_widths(cfg.widths, cfg.seed, step, steps, cfg.optimizer.epochs)
        ]
        for width in widths:
            reaching = sum(one >= width - 1e-9 for one in passes)
            counts[width] += reaching if cfg.objective.update == "per_width" else reaching > 0
    return counts
