"""Which sub-networks a step trains, where more than one width for all stages varies (docs/subnetworks.md).

The width rule says how many networks a step has and where they stand: the widest is the largest network, the narrowest the
smallest one, and those between are drawn in every dimension (the sandwich rule over all dimensions). Where the rule lowers its
bound in stages (dynamic sampling), the other dimensions get their smaller values by the same share. ``progressive`` adds one
dimension after the other (progressive shrinking, once-for-all, arXiv 1908.09791, section 3.2).
"""

from __future__ import annotations

import dataclasses
import functools
from random import Random
from typing import Any

from pretrain.config import Config, ElasticConfig
from pretrain.config.elastic import elastic_space
from pretrain.objective.sampling import sample_widths
from pretrain.slimmable import Space, Subnet, Width

TRIES = 100  # draws that are not the largest network again


def sample_networks(cfg: Config, step: int, total_steps: int) -> list[Width]:
    """The networks of step ``step`` of ``total_steps``, the largest first: widths, or with ``elastic.vary`` sub-networks, each
    once. The same on every process and after a resume.

    Raises:
        UserError: as :func:`~pretrain.objective.sampling.sample_widths`.
    """
    widths = sample_widths(cfg.widths, cfg.seed, step, total_steps, cfg.optimizer.epochs)
    names = varying(cfg.elastic, step / total_steps)
    if not cfg.elastic.vary or len(widths) == 1 or not names:
        return list(widths if not cfg.elastic.vary else widths[:1])
    share = (cfg.widths.max - min(widths)) / (cfg.widths.max - cfg.widths.min)
    own, draw = cfg.widths if "width" in names else None, Random(f"elastic/{cfg.seed}/{step}")
    part = limited(elastic_space(cfg), tuple(names), share)
    found: list[Width] = []
    for width in widths:
        if width == widths[0]:
            found.append(width)
        elif width == min(widths):
            found.append(_at(part, part.smallest, width if own else cfg.widths.max))
        else:
            found.append(_drawn(part, draw, cfg, width if own else None, min(widths)))
    smallest = found[-1]
    return [*dict.fromkeys(network for network in found if network != smallest), smallest]


def varying(cfg: ElasticConfig, progress: float) -> list[str]:
    """The dimensions that vary at ``progress`` in [0, 1) through training: all, or of equal stages the first none, the second the
    first of ``vary``, and so on.
    """
    if cfg.schedule == "together":
        return list(cfg.vary)
    return cfg.vary[: int(progress * (len(cfg.vary) + 1))]


@functools.lru_cache(maxsize=256)
def limited(space: Space, names: tuple[str, ...], share: float) -> Space:
    """``space`` where the dimensions ``names`` alone vary, each down to ``share`` of its choices; the width is the largest."""
    part = dataclasses.replace(space, width=tuple(choices[:1] for choices in space.width))
    for name in space.dimensions:
        kept = share if name in names else 0.0
        if name not in ("width", *([] if kept else ["heads"])):
            choices = tuple(each[: 1 + round(kept * (len(each) - 1))] for each in getattr(space, name))
            changed: dict[str, Any] = {name: choices}
            part = dataclasses.replace(part, **changed)
    return part if "heads" in names else dataclasses.replace(part, heads=())


def _at(space: Space, network: Width, width: float | tuple[float, ...]) -> Width:
    subnet = network if isinstance(network, Subnet) else Subnet(network)
    return space.structure.canonical(dataclasses.replace(subnet, width=width))


def _drawn(space: Space, draw: Random, cfg: Config, width: float | None, low: float) -> Width:
    """A network between the ends, of ``width`` or with a width for each stage, other than the largest where there are others."""
    found: Width = cfg.widths.max
    for _ in range(TRIES):
        widths: float | tuple[float, ...] = cfg.widths.max if width is None else width
        if width is not None and cfg.elastic.by_stage:
            widths = tuple(draw.uniform(low, cfg.widths.max) for _ in range(space.structure.stages))
        found = _at(space, space.random(draw), widths)
        if found != cfg.widths.max:
            break
    return found
