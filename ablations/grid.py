"""Grids: a YAML file says which cells exist; expanding it gives one validated config for every cell and seed.

A grid file has a ``title`` and ``cells``. An entry of ``cells`` has a ``name`` with ``{factor}`` placeholders, ``factors`` (name ->
list of values, every combination is a cell; ``$widths`` is the list of evaluation widths), ``set`` (config key -> value, with
placeholders) and ``by`` (factor -> value -> further settings).
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pretrain import config
from pretrain.config import Config
from pretrain.errors import UserError

GRIDS = Path(__file__).parent / "grids"


@dataclass(frozen=True)
class Cell:
    """One experiment of a grid: its name and the ``key=value`` settings that make it."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One cell with one seed: its config and its run directory."""

    cell: str
    cfg: Config = field(repr=False)
    directory: Path

    @property
    def name(self) -> str:
        """Cell and seed, as shown to people."""
        return f"{self.cell} seed {self.cfg.seed}"

    @property
    def widths(self) -> list[float]:
        """Evaluation widths that this run was trained for, widest first."""
        return config.usable_widths(self.cfg, self.cfg.evaluation.widths)


def grids() -> list[str]:
    """Names of the grids that come with the project."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def cells(grid: str, widths: Sequence[float]) -> list[Cell]:
    """The cells of ``grid``, in the order of its file.

    Raises:
        UserError: there is no such grid.
    """
    if grid not in grids():
        near = difflib.get_close_matches(grid, grids(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(grids())}"
        raise UserError(f"unknown grid {grid!r}; {hint}")
    content = yaml.safe_load((GRIDS / f"{grid}.yaml").read_text())
    expanded = [cell for entry in content["cells"] for cell in _expand(entry, list(widths))]
    return list({cell.name: cell for cell in expanded}.values())


def _expand(entry: dict, widths: list[float]) -> list[Cell]:
    factors = {name: widths if values == "$widths" else values for name, values in entry.get("factors", {}).items()}
    found = []
    for values in itertools.product(*factors.values()):
        chosen = dict(zip(factors, values, strict=True))
        settings = dict(entry.get("set", {}))
        for factor, table in entry.get("by", {}).items():
            settings |= table.get(chosen[factor], {})
        found.append(Cell(entry["name"].format(**chosen),
                          tuple(f"{key}={_filled(value, chosen)}" for key, value in settings.items())))
    return found


def _filled(value: object, chosen: dict) -> object:
    return value.format(**chosen) if isinstance(value, str) else value


def select(every: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose names match one of ``patterns`` (shell wildcards allowed); all without any.

    Raises:
        UserError: a pattern matches nothing.
    """
    if not patterns:
        return list(every)
    names = [cell.name for cell in every]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the cells are {', '.join(names)}"
            raise UserError(f"--only {pattern} matches no cell; {hint}")
    return [cell for cell in every if any(fnmatch.fnmatch(cell.name, pattern) for pattern in patterns)]


def _check_free(overrides: Sequence[str], every: Sequence[Cell], grid: str) -> None:
    """An override of what the grid varies would make different cells the same experiment."""
    varied = {text.partition("=")[0] for cell in every for text in cell.overrides} - {"widths.min", "widths.max"}
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
    base = config.load(profile, overrides)
    widths = sorted(base.evaluation.widths if widths is None else widths, reverse=True)
    config.check_widths(base.model.arch, widths, base.widths.min, base.widths.max, "--widths")
    listed = "[" + ",".join(map(str, widths)) + "]"
    common = [f"evaluation.widths={listed}", f"calibration.widths={listed}", f"diagnostics.widths={listed}"]
    found = []
    every = cells(grid, widths)
    _check_free(overrides, every, grid)
    for cell, seed in itertools.product(select(every, only), seeds):
        label = [f"experiment.grid={grid}", f"experiment.cell={cell.name}", f"seed={seed}"]
        cfg = config.load(profile, [*common, *cell.overrides, *label, *overrides])
        found.append(Run(cell.name, cfg, runs / grid / f"{cell.name}-s{seed}-{config.config_hash(cfg)}"))
    return found
