"""From a grid file to runs: one validated config and one run directory for every cell and seed."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablations.gridfile import NEEDS, Cell, load
from pretrain import config
from pretrain.checkpoints import Checkpoint
from pretrain.config import Config
from pretrain.cost import epochs_of_equal_flops
from pretrain.identity import AUTO, identified, own_directory, tell_precision, with_precision
from pretrain.slimmable import canonical, has_batch_norm
from rundir import setting
from rundir.errors import UserError, suggestion
from rundir.experiment import counts, listed
from rundir.subnet import Width, as_text, as_widths, plain_widths
from rundir.wording import joined


@dataclass(frozen=True)
class Run:
    """One cell with one seed: its config, its run directory and that of the run that must be trained before, if any."""

    cell: str
    cfg: Config = field(repr=False)
    directory: Path
    needs: Path | None = None
    command: tuple[str, ...] = ()  # that launched it, for its provenance
    data: str = ""  # fingerprint of the data that it is scored on; "": not asked for

    @property
    def name(self) -> str:
        """Cell and seed, as shown to people."""
        return f"{self.cell} seed {self.cfg.seed}"

    @property
    def widths(self) -> list[Width]:
        """Evaluation widths that this run was trained for, widest first."""
        return config.usable_widths(self.cfg, self.cfg.evaluation.widths)


def to_plain(run: Run) -> dict:
    """``run`` in JSON's types, from which :func:`from_plain` makes it again: its config by what differs from the defaults."""
    return {
        "cell": run.cell,
        "config": config.changed(run.cfg),
        "directory": str(run.directory),
        "needs": None if run.needs is None else str(run.needs),
        "command": list(run.command),
    }


def from_plain(plain: dict) -> Run:
    """The run of which :func:`to_plain` made this. Raises :class:`UserError` where the config is wrong."""
    try:
        needs = None if plain["needs"] is None else Path(plain["needs"])
        return Run(
            str(plain["cell"]),
            config.from_dict(plain["config"]),
            Path(plain["directory"]),
            needs,
            tuple(map(str, plain["command"])),
        )
    except (AttributeError, KeyError, TypeError):
        raise UserError("another version of the project wrote this job; start the grid again") from None


def meant_by(pattern: str, cells: Sequence[str]) -> str:
    """What somebody may have meant by a ``pattern`` that matches none of the ``cells``."""
    parts = pattern.split(",")
    if len(parts) > 1 and all(fnmatch.filter(cells, part) for part in parts):
        return f"did you mean {joined(parts)}, each by itself?"
    inside = f"did you mean '*{pattern}*'? The" if fnmatch.filter(cells, f"*{pattern}*") else "the"
    return suggestion(pattern, cells, otherwise=f"{inside} cells are {', '.join(cells)}")


def select(every: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose names match one of ``patterns`` (shell wildcards allowed), and what they need; all without any.

    Raises:
        UserError: a pattern matches nothing.
    """
    if not patterns:
        return list(every)
    names = [cell.name for cell in every]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"--only {pattern} matches no cell; {meant_by(pattern, names)}")
    chosen = {cell.name for cell in every if any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns)}
    while missing := {cell.needs for cell in every if cell.name in chosen and cell.needs} - chosen:
        chosen |= missing
    return [cell for cell in every if cell.name in chosen]


def _check_free(overrides: Sequence[str], every: Sequence[Cell], grid: str) -> None:
    """An override of what the grid varies would make different cells the same experiment."""
    settings = [dict(text.split("=", 1) for text in cell.overrides) for cell in every]
    keys = {key for cell in settings for key in cell} - {"widths.min", "widths.max"}
    varied = {key for key in keys if len({cell.get(key) for cell in settings}) > 1}
    for text in overrides:
        key = text.partition("=")[0]
        if key in varied | {"seed"}:
            instead = "--seeds" if key == "seed" else "--only to choose cells"
            raise UserError(f"override {text}: {key} is what the grid {grid} varies; use {instead}")


def expand(
    grid: str,
    profile: str,
    only: Sequence[str],
    seeds: Sequence[int],
    widths: Sequence[Width] | None,
    overrides: Sequence[str],
    runs: Path,
    elsewhere: bool = False,
) -> list[Run]:
    """Every run of ``grid``, a name or a user's file, under preset ``profile``; the user's ``overrides`` come last and win.

    elsewhere: runs are trained on other machines than this one.

    Raises:
        UserError: unknown grid, cell, preset or key, an impossible config, or widths that cannot be told apart; or elsewhere a
            config that depends on the machine.
    """
    file = load(grid)
    asked = config.load(profile, overrides)
    _settled(asked, elsewhere)
    tell_precision(asked)
    base, widths = base_config(profile, widths, overrides)
    common, found = width_settings(widths), []
    every = file.cells(plain_widths(widths), base.optimizer.epochs)
    file.manifest(every)  # raises for rows that cannot be
    _check_free(overrides, every, file.name)
    said, otherwise = setting_of(base), _otherwise(base, overrides)
    directories: dict[tuple[str, int], Path] = {}
    network = config.skeleton(base.model.arch)
    given = {"batch_norm": has_batch_norm(network), "patches": network.is_vit, "several_widths": len(plain_widths(widths)) > 1}
    chosen = [cell for cell in select(every, only) if only or all(given[thing] for thing in cell.where)]
    of_first_seed: dict[str, Config] = {}
    for cell, seed in itertools.product(_needed_first(chosen), seeds):
        needed = directories[cell.needs, seed] if cell.needs else None
        own = [text.replace(NEEDS, str(needed)) for text in cell.overrides]
        alike = None if cell.needs else of_first_seed.get(cell.name)
        try:
            cfg = _loaded(profile, [*common, *own, f"seed={seed}", *overrides], seed, alike)
            if alike is None:
                _check_stand_ins(cfg)
        except UserError as error:
            raise UserError(f"{file.path}, cell {cell.name}: {error}") from None
        if cell.flops_of and cell.name not in of_first_seed:
            like = next(other for other in every if other.name == cell.flops_of)
            cfg.optimizer.epochs = epochs_of_equal_flops(cfg, config.load(profile, [*common, *like.overrides, *overrides]))
            config.validate(cfg)
        of_first_seed.setdefault(cell.name, cfg)
        cfg = _settled(cfg, elsewhere)
        cfg.experiment.grid, cfg.experiment.cell = file.name, cell.name
        cfg.experiment.setting, cfg.experiment.overrides, cfg.data.fingerprint = said, otherwise, base.data.fingerprint
        directories[cell.name, seed] = own_directory(runs / file.name, cell.name, cfg)
        found.append(Run(cell.name, cfg, directories[cell.name, seed], needed))
    return found


def base_config(profile: str, widths: Sequence[Width] | None, overrides: Sequence[str]) -> tuple[Config, list[Width]]:
    """What all cells start from, and the evaluation widths from wide to narrow; sub-networks are among them."""
    base = identified(config.load(profile, overrides))
    what = "evaluation.widths" if widths is None else "--widths"
    asked = as_widths(base.evaluation.widths) if widths is None else list(widths)
    config.check_widths(base.model.arch, asked, base.widths.min, base.widths.max, what)
    own = [canonical(config.skeleton(base.model.arch), width) for width in asked]
    if not plain_widths(own):
        raise UserError(f"{what} names sub-networks alone, and tables are by width; add a width, such as {base.widths.max:g}")
    return base, sorted(own, reverse=True)


def width_settings(widths: Sequence[Width]) -> list[str]:
    """The settings of a cell that is evaluated at ``widths``: it is calibrated for the plain ones, and sub-networks later."""
    plain = as_text(plain_widths(widths))
    return [f"evaluation.widths={as_text(widths)}", f"calibration.widths={plain}", f"diagnostics.widths={plain}"]


def _check_stand_ins(cfg: Config) -> None:
    """Raise :class:`UserError` where ``evaluation.dimension`` has one sub-network for two of the widths."""
    network = Checkpoint(config.skeleton(cfg.model.arch), cfg, Path())
    network.stand_ins(config.usable_widths(cfg, cfg.evaluation.widths), "evaluation.widths")


def _settled(cfg: Config, elsewhere: bool) -> Config:
    """``cfg`` in the precision that is best on this machine, where it asks for that.

    Raises:
        UserError: it asks for that, and is trained ``elsewhere``.
    """
    if elsewhere and cfg.train.precision == AUTO:
        raise UserError(
            "train.precision=auto depends on the machine that trains, and jobs go to Slurm's, which are unknown here; "
            "set train.precision=bf16 or fp32"
        )
    return with_precision(cfg)


def _loaded(profile: str, texts: Sequence[str], seed: int, alike: Config | None) -> Config:
    """The config of ``profile`` with these overrides; quickly where it is ``alike`` but for the seed."""
    if alike is None:
        return config.load(profile, texts)
    cfg = pickle.loads(pickle.dumps(alike))  # ten times as fast as copy.deepcopy
    cfg.seed = seed
    config.validate(cfg)
    return cfg


def setting_of(base: Config) -> str:
    """The setting of a launch in words: its tables are headed by this, and its cells are compared with each other only."""
    return setting.in_words(
        setting.data_name(base.data.name, base.data.root),
        base.data.limit,
        base.data.size,
        base.model.arch,
        base.optimizer.epochs,
        base.optimizer.batch_size,
    )


def _otherwise(base: Config, overrides: Sequence[str]) -> str:
    """What a launch overrides that changes its runs and is not in :func:`_setting`: tables name it, and keep its runs apart."""
    keys = {text.partition("=")[0] for text in overrides} - set(setting.SETTING_KEYS)
    return listed({key: functools.reduce(getattr, key.split("."), base) for key in keys if counts(key)})


def _needed_first(chosen: Sequence[Cell]) -> list[Cell]:
    """``chosen`` in its order, but every cell behind the one it needs."""
    ordered: list[Cell] = []
    while len(ordered) < len(chosen):
        done = {cell.name for cell in ordered}
        ordered += [cell for cell in chosen if cell.name not in done and (not cell.needs or cell.needs in done)]
    return ordered
