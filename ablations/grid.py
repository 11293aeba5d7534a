"""Grids: a YAML file says which cells exist; expanding it gives one validated config for every cell and seed.

A grid file has a ``title`` and ``cells``. An entry of ``cells`` has a ``name`` with ``{factor}`` placeholders, ``factors`` (name ->
list of values, every combination is a cell), ``recipe`` (of ``pretrain/recipes``; what follows changes it), ``set`` (config key ->
value, with placeholders), ``by`` (factor -> value -> further settings) and ``needs``: the cell whose run, of the same seed, must be
trained first; ``{needs}`` in a setting is its directory.
``flops_of`` names a cell whose training takes as many FLOPs: the epochs of this one are chosen so (to half an epoch).
``where`` names what the network or the launch must have for these cells, of ``batch_norm`` and ``several_widths``; where that is
missing they are left out unless they are asked for by name. A factor's values or a setting may be ``$widths``, the list of
evaluation widths from wide to narrow; a setting may be one of them, ``$widths[0]`` or ``$widths[-1]``, or ``$epochs/N``, a part of
the training, rounded down.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pretrain import config
from pretrain.config import Config
from pretrain.cost import epochs_of_equal_flops
from pretrain.identity import identified, own_directory
from pretrain.slimmable import has_batch_norm
from results.apart import listed
from rundir.errors import UserError, suggestion
from rundir.experiment import counts

GRIDS = Path(__file__).parent / "grids"
# What the words of a launch's setting say.
IN_SETTING = ("data.name", "data.limit", "data.size", "model.arch", "optimizer.epochs", "optimizer.batch_size")
NEEDS = "{needs}"  # stays in a setting until the seed, and so the run directory, is known


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid: its name and the ``key=value`` settings that make it."""

    name: str
    overrides: tuple[str, ...]
    needs: str = ""
    where: tuple[str, ...] = ()
    flops_of: str = ""


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
    def widths(self) -> list[float]:
        """Evaluation widths that this run was trained for, widest first."""
        return config.usable_widths(self.cfg, self.cfg.evaluation.widths)


def to_plain(run: Run) -> dict:
    """``run`` in JSON's types, from which :func:`from_plain` makes it again: its config by what differs from the defaults."""
    return {"cell": run.cell, "config": config.changed(run.cfg), "directory": str(run.directory),
            "needs": None if run.needs is None else str(run.needs), "command": list(run.command)}


def from_plain(plain: dict) -> Run:
    """The run of which :func:`to_plain` made this. Raises :class:`UserError` where the config is wrong."""
    try:
        needs = None if plain["needs"] is None else Path(plain["needs"])
        return Run(str(plain["cell"]), config.from_dict(plain["config"]), Path(plain["directory"]), needs,
                   tuple(map(str, plain["command"])))
    except (AttributeError, KeyError, TypeError):
        raise UserError("this is not a run of a grid; start the grid again") from None


def grids() -> list[str]:
    """Names of the grids that come with the project."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def cells(grid: str, widths: Sequence[float], epochs: int) -> list[Cell]:
    """The cells of ``grid``, in the order of its file, for these evaluation widths and a training of ``epochs``.

    Raises:
        UserError: there is no such grid.
    """
    if grid not in grids():
        raise UserError(f"unknown grid {grid!r}; {suggestion(grid, grids())}")
    content = yaml.safe_load((GRIDS / f"{grid}.yaml").read_text(encoding="utf-8"))
    expanded = [cell for entry in content["cells"] for cell in _expand(entry, list(widths), epochs)]
    return list({cell.name: cell for cell in expanded}.values())


def _expand(entry: dict, widths: list[float], epochs: int) -> list[Cell]:
    factors = {name: widths if values == "$widths" else values for name, values in entry.get("factors", {}).items()}
    found = []
    for values in itertools.product(*factors.values()):
        chosen = dict(zip(factors, values, strict=True))
        recipe = {"experiment.recipe": entry["recipe"]} if "recipe" in entry else {}
        settings = recipe | entry.get("set", {})
        for factor, table in entry.get("by", {}).items():
            settings |= table.get(chosen[factor], {})
        found.append(Cell(entry["name"].format(**chosen),
                          tuple(f"{key}={_filled(value, chosen, widths, epochs)}" for key, value in settings.items()),
                          entry.get("needs", "").format(**chosen), tuple(entry.get("where", ())),
                          entry.get("flops_of", "")))
    return found


def _filled(value: object, chosen: dict, widths: list[float], epochs: int) -> object:
    if not isinstance(value, str):
        return value
    if value == "$widths":
        return "[" + ",".join(map(str, widths)) + "]"
    if place := re.fullmatch(r"\$widths\[(0|-1)\]", value):
        return widths[int(place[1])]
    if part := re.fullmatch(r"\$epochs/(\d+)", value):
        return epochs // int(part[1])
    return value.format(**chosen, needs=NEEDS)


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
            otherwise = f"the cells are {', '.join(names)}"
            raise UserError(f"--only {pattern} matches no cell; {suggestion(pattern, names, otherwise=otherwise)}")
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


def expand(grid: str, profile: str, only: Sequence[str], seeds: Sequence[int], widths: Sequence[float] | None,
           overrides: Sequence[str], runs: Path) -> list[Run]:
    """Every run of ``grid`` under preset ``profile``; the user's ``overrides`` come last and win.

    Raises:
        UserError: unknown grid, cell, preset or key, an impossible config, or widths that cannot be told apart.
    """
    base = identified(config.load(profile, overrides))
    widths = sorted(base.evaluation.widths if widths is None else widths, reverse=True)
    config.check_widths(base.model.arch, widths, base.widths.min, base.widths.max, "--widths")
    listed = "[" + ",".join(map(str, widths)) + "]"
    common = [f"evaluation.widths={listed}", f"calibration.widths={listed}", f"diagnostics.widths={listed}"]
    found = []
    every = cells(grid, widths, base.optimizer.epochs)
    _check_free(overrides, every, grid)
    setting, otherwise = _setting(base), _otherwise(base, overrides)
    directories: dict[tuple[str, int], Path] = {}
    given = {"batch_norm": has_batch_norm(config.skeleton(base.model.arch)), "several_widths": len(widths) > 1}
    chosen = [cell for cell in select(every, only) if only or all(given[thing] for thing in cell.where)]
    of_first_seed: dict[str, Config] = {}
    for cell, seed in itertools.product(_needed_first(chosen), seeds):
        label = [f"experiment.grid={grid}", f"experiment.cell={cell.name}", f"seed={seed}"]
        needed = directories[cell.needs, seed] if cell.needs else None
        own = [text.replace(NEEDS, str(needed)) for text in cell.overrides]
        cfg = _loaded(profile, [*common, *own, *label, *overrides], seed, None if cell.needs else of_first_seed.get(cell.name))
        if cell.flops_of and cell.name not in of_first_seed:
            like = next(other for other in every if other.name == cell.flops_of)
            cfg.optimizer.epochs = epochs_of_equal_flops(cfg, config.load(profile, [*common, *like.overrides, *overrides]))
            config.validate(cfg)
        of_first_seed.setdefault(cell.name, cfg)
        cfg.experiment.setting, cfg.experiment.overrides, cfg.data.fingerprint = setting, otherwise, base.data.fingerprint
        directories[cell.name, seed] = own_directory(runs / grid, cell.name, cfg)
        found.append(Run(cell.name, cfg, directories[cell.name, seed], needed))
    return found


def _loaded(profile: str, texts: Sequence[str], seed: int, alike: Config | None) -> Config:
    """The config of ``profile`` with these overrides; quickly where it is ``alike`` but for the seed."""
    if alike is None:
        return config.load(profile, texts)
    cfg = pickle.loads(pickle.dumps(alike))  # ten times as fast as copy.deepcopy
    cfg.seed = seed
    config.validate(cfg)
    return cfg


def _setting(base: Config) -> str:
    """The setting of a launch in words: its tables are headed by this, and its cells are compared with each other only."""
    images = f" ({base.data.limit} images)" if base.data.limit else ""
    return (f"{base.data.name}{images} at {base.data.size} pixels, {base.model.arch}, {base.optimizer.epochs} epochs, batch "
            f"{base.optimizer.batch_size}")


def _otherwise(base: Config, overrides: Sequence[str]) -> str:
    """What a launch overrides that changes its runs and is not in :func:`_setting`: tables name it, and keep its runs apart."""
    keys = {text.partition("=")[0] for text in overrides} - set(IN_SETTING)
    return listed({key: functools.reduce(getattr, key.split("."), base) for key in keys if counts(key)})


def _needed_first(chosen: Sequence[Cell]) -> list[Cell]:
    """``chosen`` in its order, but every cell behind the one it needs."""
    ordered: list[Cell] = []
    while len(ordered) < len(chosen):
        done = {cell.name for cell in ordered}
        ordered += [cell for cell in chosen if cell.name not in done and (not cell.needs or cell.needs in done)]
    return ordered
