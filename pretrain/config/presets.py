"""Presets, recipes, and ``key=value`` overrides, made into one config.

A preset (a profile: data, network and sizes) may extend another one (``base: cifar100``, a name or a path from its own
folder) and says only what differs. Settings that METHOD section 6 gives per base loss are in a preset under ``by_base_loss``
and are chosen by ``objective.base_loss``. A recipe (``pretrain/recipes/``: a method, METHOD section 7) is chosen by
``experiment.recipe``, may extend another one too, and layers between the preset and the overrides. What a recipe needs on a
preset's data is in the preset under ``by_recipe``, by the recipe's name, or under ``any`` for whichever is chosen.
``transfer`` is not a setting: it names what a grid under the preset is evaluated on besides its own data.
``$epochs/N`` is a part of the training, rounded down.

From weak to strong: a preset's base, the preset, each with its settings by base loss; ``any``; for a recipe's base and then the
recipe: its settings, then what the presets say of it; overrides.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.config.methods import settle
from pretrain.config.schema import Config, ExperimentConfig, ObjectiveConfig, OptimizerConfig
from pretrain.config.validation import validate
from rundir.errors import UserError, suggestion
from rundir.fields import constraints
from rundir.files import Damaged, parse_yaml, read_text
from rundir.overrides import read_overrides
from rundir.typed import check_keys, typed

PRESETS = Path(__file__).resolve().parent.parent / "presets"
RECIPES = PRESETS.parent / "recipes"
TABLES = ("by_base_loss", "by_recipe")  # parts of a preset that a setting chooses from
ANY = "any"  # of by_recipe: with whichever recipe
TRANSFER = "transfer"  # what grids under a preset are evaluated on besides their own data; no part of the config


def presets() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def recipes() -> dict[str, str]:
    """The recipes that come with the project, and what each is in words."""
    return {path.stem: _read(path, RECIPES)["about"] for path in sorted(RECIPES.glob("*.yaml"))}


def load(preset: str, overrides: Sequence[str] = ()) -> Config:
    """The validated config of ``preset`` (a name or a YAML file) with ``key=value`` ``overrides``.

    Raises:
        UserError: unknown preset, key or value, or an impossible combination.
    """
    layers = [layer for _, layer in _layers(preset, PRESETS)]
    for layer in layers:
        layer.pop(TRANSFER, None)
    tables = {key: [layer.pop(key, {}) for layer in layers] for key in TABLES}
    _check_tables(tables)
    chosen = read_overrides(overrides)
    for layer in (*layers, chosen):
        _check_layer(layer)
    recipe = _last([*layers, chosen], "experiment", "recipe", ExperimentConfig.recipe)
    steps = _recipe(recipe, tables["by_recipe"]) if recipe else []
    loss = _last([*layers, *steps, chosen], "objective", "base_loss", ObjectiveConfig.base_loss)
    by_loss = [table.get(loss, {}) for table in tables["by_base_loss"]]
    pairs = [part for pair in zip(layers, by_loss, strict=True) for part in pair]
    preset_label, label = {"experiment": {"preset": Path(preset).stem}}, {"experiment": {"recipe": Path(recipe).stem}}
    merged = _merged(*pairs, *steps, preset_label, chosen, label)
    epochs = _merged({"optimizer": {"epochs": OptimizerConfig.epochs}}, merged)["optimizer"]["epochs"]
    return from_dict(_with_epochs(merged, epochs))


def transfer_of(preset: str) -> tuple[object, Path]:
    """What ``preset``, or the nearest one it extends, says under ``transfer`` (ablations/entries.py), unchecked, and its file;
    None where none does.

    Raises:
        UserError: unknown preset.
    """
    path, found = _path(preset, PRESETS), (None, Path())
    while found[0] is None and path is not None:
        raw = _read(path, PRESETS)
        found = raw.get(TRANSFER), path
        path = _path(str(raw["base"]), PRESETS, path.parent) if "base" in raw else None
    return found


def _recipe(name: str, tables: Sequence[dict]) -> list[dict]:
    """The layers of recipe ``name``: its bases and itself, each followed by what the presets' ``tables`` say of it."""
    found = [table[ANY] for table in tables if ANY in table]
    for step, layer in _layers(name, RECIPES):
        layer.pop("about", None)
        _check_layer(layer)
        found += [layer, *(table[step] for table in tables if step in table)]
    return found


def _last(layers: Sequence[dict], section: str, name: str, default: str) -> str:
    """The value of a key in the last of ``layers`` that has it."""
    values = [default] + [layer[section][name] for layer in layers if name in (layer.get(section) or {})]
    return str(values[-1])


def _with_epochs(content: Any, epochs: object) -> Any:
    """``content`` with each ``$epochs/N`` in it as a number."""
    if isinstance(content, dict):
        return {key: _with_epochs(value, epochs) for key, value in content.items()}
    part = re.fullmatch(r"\$epochs/([1-9]\d*)", content) if isinstance(content, str) else None
    return epochs // int(part[1]) if part and isinstance(epochs, int) else content


def from_dict(raw: dict) -> Config:
    """The validated config of a plain mapping, for example one read from ``config.yaml``."""
    cfg = typed(Config, raw)
    settle(cfg)
    validate(cfg)
    return cfg


def _layers(name: str, home: Path) -> list[tuple[str, dict]]:
    """The preset or recipe ``name`` of ``home`` and what it extends, with their names, the lowest base first."""
    found: list[tuple[str, dict]] = []
    path, seen = _path(name, home), []
    while path is not None:
        if path in seen:
            raise UserError(
                f"{home.name} extend each other in a circle: {' -> '.join(p.stem for p in [*seen, path])}; remove one base:"
            )
        seen.append(path)
        raw = _read(path, home)
        base = raw.pop("base", None)
        found.append((path.stem, raw))
        path = None if base is None else _path(str(base), home, path.parent)
    return found[::-1]


def _path(name: str, home: Path, folder: Path = Path()) -> Path:
    """The file of a name in ``home``, or of a path (from ``folder``)."""
    path = (folder / name if name.endswith((".yaml", ".yml")) else home / f"{name}.yaml").resolve()
    if not path.is_file():
        known = sorted(other.stem for other in home.glob("*.yaml"))
        otherwise = f"choose one of {', '.join(known)}, or give a .yaml file"
        raise UserError(f"unknown {home.name[:-1]} {name!r}; {suggestion(name, known, otherwise=otherwise)}")
    return path


def _read(path: Path, home: Path) -> dict:
    """One file of a preset or recipe. Raises :class:`UserError` where it is no mapping of sections."""
    try:
        raw = _parsed(read_text(path), str(path))
    except (Damaged, FileNotFoundError) as error:
        raise UserError(str(error)) from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of sections, not a {type(raw).__name__}")
    return copy.deepcopy(raw)


@functools.cache
def _parsed(text: str, name: str) -> object:
    content = parse_yaml(text, name)
    return {} if content is None else content


def _check_layer(layer: dict) -> None:
    """Raise :class:`UserError` for keys of a preset, a recipe or overrides that do not exist, or no longer."""
    experiment = layer.get("experiment")
    if (isinstance(experiment, dict) and experiment.get("baseline")) or "by_baseline" in layer:
        raise UserError(
            "experiment.baseline and by_baseline were replaced by recipes; set experiment.recipe=individual-mocov2 or "
            "seed, and by_recipe"
        )
    check_keys(Config, layer)


def _check_tables(tables: dict[str, list]) -> None:
    """Raise :class:`UserError` unless each of a preset's chosen parts maps what may be chosen to sections of the config."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    known = {"by_base_loss": constraints(Config)["objective.base_loss"].allowed, "by_recipe": (ANY, *names)}
    for key, found in tables.items():
        for table in found:
            if not isinstance(table, dict) or not set(table) <= set(known[key]):
                raise UserError(f"{key} must map {', '.join(known[key])}, or some of them, to sections of their own")
            for section in table.values():
                if not isinstance(section, dict):
                    raise UserError(f"{key}: put sections below each name, as at the top of the preset")
                _check_layer(section)


def _merged(*layers: dict) -> dict:
    """Nested mappings joined, later ones winning; lists are replaced whole."""
    joined: dict = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(joined.get(key), dict)
            joined[key] = _merged(joined[key], value) if both else value
    return joined
