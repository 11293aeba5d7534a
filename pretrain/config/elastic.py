"""What ``elastic`` says of a network: the space of its sub-networks, and what cannot be."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pretrain.config.schema import Config
from pretrain.config.skeleton import skeleton
from rundir.errors import UserError

if TYPE_CHECKING:
    from pretrain.slimmable import Space

ALL, WIDTH = "all", "width"  # of evaluation.dimension
WIDTHS = 49  # of the space, evenly spread; training draws any
RULES = ("sandwich", "dynamic")  # that train the widest and the narrowest in every step


def elastic_space(cfg: Config) -> Space:
    """The sub-networks of ``cfg.model.arch`` that ``cfg.elastic`` lets vary, within ``cfg.widths``.

    Raises:
        ValueError: the network has not got one of the dimensions.
    """
    return _space(cfg.model.arch, cfg.widths.min, cfg.widths.max, tuple(cfg.elastic.vary), tuple(cfg.elastic.resolutions))


@functools.cache
def _space(arch: str, low: float, high: float, vary: tuple[str, ...], resolutions: tuple[int, ...]) -> Space:
    from pretrain.slimmable import space_of  # imports torch

    return space_of(skeleton(arch), low, high, vary=vary, widths=WIDTHS, resolutions=resolutions)


def width_varies(cfg: Config) -> bool:
    """Whether training has narrower networks, and not only such as differ from the widest in something else."""
    return not cfg.elastic.vary or WIDTH in cfg.elastic.vary


def check_elastic(cfg: Config) -> None:
    """Raise :class:`UserError` for an ``elastic`` section, or an ``evaluation.dimension``, that cannot be."""
    own = cfg.elastic
    if not own.vary:
        for key, idle in (("by_stage", own.by_stage), ("schedule", own.schedule != "together"), ("resolutions", own.resolutions)):
            if idle:
                raise UserError(
                    f"elastic.{key} has no effect where nothing varies; set for example elastic.vary=[depth,width], or "
                    f"leave out elastic.{key}"
                )
        if cfg.evaluation.dimension != WIDTH:
            raise UserError(
                f"evaluation.dimension={cfg.evaluation.dimension} scores sub-networks that were not trained; set "
                f"evaluation.dimension={WIDTH}, or elastic.vary"
            )
        return
    _check_rule(cfg)
    _check_resolutions(cfg)
    try:
        space = elastic_space(cfg)
    except ValueError as error:
        raise UserError(f"elastic.vary=[{','.join(own.vary)}] does not suit model.arch={cfg.model.arch}: {error}") from None
    if own.by_stage and (WIDTH not in own.vary or space.structure.stages == 1):
        raise UserError(
            f"elastic.by_stage=true draws a width for each stage; set elastic.vary with {WIDTH} and a convolutional "
            "model.arch, or elastic.by_stage=false"
        )
    if cfg.evaluation.dimension not in (*own.vary, ALL, WIDTH):
        raise UserError(
            f"evaluation.dimension={cfg.evaluation.dimension} is not trained; set it to one of "
            f"{', '.join(dict.fromkeys([*own.vary, ALL, WIDTH]))}"
        )
    _check_patches(cfg, space)
    _check_others(cfg)


def _check_rule(cfg: Config) -> None:
    if cfg.widths.sampling not in RULES:
        raise UserError(
            f"elastic.vary needs the largest and the smallest network in every step; set widths.sampling={RULES[0]} or "
            f"{RULES[1]} (now {cfg.widths.sampling})"
        )
    if cfg.widths.min == cfg.widths.max:
        raise UserError(
            "elastic.vary draws networks between widths.min and widths.max, which are equal; set widths.min below "
            "widths.max (where width is not in elastic.vary, every network has the widest)"
        )
    if cfg.widths.doubled_ends:
        raise UserError("elastic.vary trains each network of a step once; set widths.doubled_ends=false")
    if cfg.elastic.schedule == "progressive" and cfg.widths.sampling != RULES[0]:
        raise UserError(
            "elastic.schedule=progressive and widths.sampling=dynamic both say which networks come when; set "
            "elastic.schedule=together or widths.sampling=sandwich"
        )


def _check_resolutions(cfg: Config) -> None:
    own, asked = cfg.elastic, "resolution" in cfg.elastic.vary
    if asked != bool(own.resolutions):
        raise UserError(
            f"elastic.resolutions={own.resolutions} are the sides of images where resolution is in elastic.vary, now "
            f"[{','.join(own.vary)}]; set both or neither"
        )
    if asked and max(own.resolutions) != cfg.data.size:
        raise UserError(
            f"elastic.resolutions={own.resolutions} must have data.size={cfg.data.size} as the largest; set for "
            f"example elastic.resolutions=[{cfg.data.size},{cfg.data.size // 2}]"
        )
    if asked and cfg.objective.base_loss == "mae":
        raise UserError(
            "elastic.vary=[resolution]: objective.base_loss=mae predicts the pixels of images as they come; leave resolution out"
        )


def _check_patches(cfg: Config, space: Space) -> None:
    if "patches" not in cfg.elastic.vary:
        return
    if cfg.objective.base_loss == "mae":
        raise UserError("elastic.vary=[patches]: objective.base_loss=mae hides patches itself; leave patches out")
    try:
        space.structure.check_size(space.smallest, cfg.data.size)
    except ValueError:
        smallest = min(cfg.elastic.resolutions, default=cfg.data.size)
        raise UserError(
            f"elastic.vary=[patches]: images of {smallest} pixels have too few patches of {space.structure.multiple} "
            f"pixels to keep a share of {space.patches[0][-1]:g}; set larger ones, or leave patches out"
        ) from None


def _check_others(cfg: Config) -> None:
    if cfg.model.switchable_bn:
        raise UserError(
            "elastic.vary trains more networks than model.switchable_bn=true has BatchNorms for; set model.switchable_bn=false"
        )
    if cfg.objective.width_weights != "none":
        raise UserError(
            f"objective.width_weights={cfg.objective.width_weights} weighs widths, and elastic.vary trains "
            "sub-networks; set objective.width_weights=none"
        )
    if cfg.train.graphs:
        raise UserError("train.graphs=true records a pass for each network, and elastic.vary draws any; set train.graphs=false")
