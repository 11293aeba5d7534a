"""Which widths a step trains (METHOD section 4)."""

from __future__ import annotations

import random
from typing import Any

from pretrain.config import WidthsConfig, width_grid
from pretrain.config.methods import WIDTH_RULE, failure, is_own, make
from rundir.errors import UserError

TRIED = 16  # steps that a rule of the user's own is tried on


def sample_widths(cfg: WidthsConfig, seed: int, step: int, total_steps: int, epochs: int = 1) -> list[float]:
    """Widths of step ``step`` of ``total_steps`` in ``epochs``, the widest first; the same on every process and after a resume.

    Before ``slow_start_epochs`` only the widest is trained (SlimCLR's slow start of sub-networks, arXiv 2209.15525).

    Raises:
        UserError: a rule of the user's own gives widths out of the range, or the widest of them not first.
    """
    if cfg.min == cfg.max or step * epochs < cfg.slow_start_epochs * total_steps:
        return [cfg.max]
    rule = make(WIDTH_RULE, cfg.sampling, cfg.options)
    found = rule(cfg, random.Random(f"widths/{seed}/{step}"), step / total_steps)
    if is_own(cfg.sampling):
        _check(found, cfg)
    return _on_grid(found, cfg) if cfg.grid else found


def _on_grid(found: list[float], cfg: WidthsConfig) -> list[float]:
    """The nearest widths of the grid. What lay between the step's widest and its narrowest does so still, if the grid allows."""

    def nearest(width: float, points: list[float]) -> float:
        return min(points, key=lambda point: abs(point - width))

    points, high, low = width_grid(cfg), max(found), min(found)
    top = nearest(high, points if high == low else points[1:])
    bottom = nearest(low, [point for point in points if point < top or high == low])
    inside = [point for point in points if bottom < point < top] or [bottom]
    return [top if width == high else bottom if width == low else nearest(width, inside) for width in found]


def try_rule(cfg: WidthsConfig, seed: int) -> None:
    """Draw some widths by a rule of the user's own. Raises :class:`UserError` as :func:`sample_widths` does, and where it fails."""
    if not is_own(cfg.sampling):
        return
    for step in range(TRIED):
        try:
            sample_widths(cfg, seed, step, TRIED)
        except UserError:
            raise
        except Exception as error:
            raise failure(WIDTH_RULE, cfg.sampling, error) from error


def _check(found: Any, cfg: WidthsConfig) -> None:
    numbers = isinstance(found, list) and found and all(isinstance(w, float | int) and cfg.min <= w <= cfg.max for w in found)
    if not numbers or found[0] != max(found):
        raise UserError(
            f"widths.sampling={cfg.sampling} gives {found!r}; let it return a list of widths within [{cfg.min}, "
            f"{cfg.max}], the widest first"
        )
