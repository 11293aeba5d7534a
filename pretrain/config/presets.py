"""Presets, files like them, and ``key=value`` overrides, made into one config.

A preset may stand on another one (``base: cifar100``, a name or a path from its own folder) and says only what differs.
Settings that METHOD section 6 gives per base loss stand in a preset under ``by_base_loss`` and are chosen by
``objective.base_loss``; those of a method compared with stand under ``by_baseline`` and are chosen by ``experiment.baseline``.
A file's settings by base loss beat its plain ones, a preset beats its base, those of the baseline beat both, and an override beats
all.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.config.fields import constraints
from pretrain.config.schema import Config, ExperimentConfig, ObjectiveConfig
from pretrain.config.typed import check_keys, typed
from pretrain.config.validation import validate
from pretrain.errors import UserError, suggestion

PRESETS = Path(__file__).resolve().parent.parent / "presets"
# Parts of a preset that a setting chooses from: which section and key, and what that is where nothing says it.
CHOSEN = {"by_base_loss": ("objective", "base_loss", ObjectiveConfig.base_loss),
          "by_baseline": ("experiment", "baseline", ExperimentConfig.baseline)}


def presets() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(preset: str, overrides: Sequence[str] = ()) -> Config:
    """The validated config of ``preset`` (a name or a YAML file) with ``key=value`` ``overrides``.

    Raises:
        UserError: unknown preset, key or value, or an impossible combination.
    """
    layers = _layers(preset)
    tables = {key: [layer.pop(key, {}) for layer in layers] for key in CHOSEN}
    _check_tables(tables)
    try:
        chosen = OmegaConf.to_container(OmegaConf.from_dotlist([_checked_override(text) for text in overrides]))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"cannot read the overrides {list(overrides)}: {_first_line(error)}") from None
    for layer in (*layers, chosen):
        check_keys(Config, layer)
    loss, baseline = (_chosen_by(key, [*layers, chosen]) for key in CHOSEN)
    by_loss = [table.get(loss, {}) for table in tables["by_base_loss"]]
    by_baseline = [table[baseline] for table in tables["by_baseline"] if baseline in table]
    if baseline and not by_baseline:
        known = sorted({name for table in tables["by_baseline"] for name in table})
        instead = f"set one of {', '.join(known)}" if known else "choose another preset, or give it by_baseline settings"
        raise UserError(f"experiment.baseline={baseline}: the preset {preset} has no settings for it; {instead}")
    pairs = [part for pair in zip(layers, by_loss, strict=True) for part in pair]
    return from_dict(_merged(*pairs, *by_baseline, {"experiment": {"preset": Path(preset).stem}}, chosen))


def _chosen_by(key: str, layers: Sequence[dict]) -> str:
    """The value, in the last of ``layers`` that has one, of the setting that chooses among a preset's ``key``."""
    section, name, default = CHOSEN[key]
    values = [default] + [layer[section][name] for layer in layers if name in (layer.get(section) or {})]
    return str(values[-1])


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are options, and those that are ``key=value``, wherever they stand."""
    is_override = [re.match(r"[A-Za-z_][\w.]*=", word) is not None for word in argv]
    return ([word for word, yes in zip(argv, is_override, strict=True) if not yes],
            [word for word, yes in zip(argv, is_override, strict=True) if yes])


def from_dict(raw: dict) -> Config:
    """The validated config of a plain mapping, for example one read from ``config.yaml``."""
    cfg = typed(Config, raw)
    validate(cfg)
    return cfg


def _layers(preset: str) -> list[dict]:
    """``preset`` and what it stands on, the lowest base first; nothing is chosen yet."""
    found: list[dict] = []
    path, seen = _preset_path(preset), []
    while path is not None:
        if path in seen:
            raise UserError(f"presets stand on each other in a circle: {' -> '.join(p.stem for p in [*seen, path])}; "
                            "remove one base:")
        seen.append(path)
        raw = _read_preset(path)
        base = raw.pop("base", None)
        found.append(raw)
        path = None if base is None else _preset_path(str(base), path.parent)
    return found[::-1]


def _preset_path(preset: str, folder: Path = Path()) -> Path:
    """The file of a preset's name, or of a path (from ``folder``)."""
    path = (folder / preset if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml").resolve()
    if not path.is_file():
        otherwise = f"choose one of {', '.join(presets())}, or give a .yaml file"
        raise UserError(f"unknown preset {preset!r}; {suggestion(preset, presets(), otherwise=otherwise)}")
    return path


def _read_preset(path: Path) -> dict:
    """One preset file. Raises :class:`UserError` where it is no mapping of sections."""
    try:
        raw = _parsed(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {_first_line(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of sections, not a {type(raw).__name__}")
    return copy.deepcopy(raw)


@functools.cache
def _parsed(text: str):
    return yaml.safe_load(text) or {}


def _check_tables(tables: dict[str, list]) -> None:
    """:class:`UserError` unless each of a preset's chosen parts maps what may be chosen to sections of the config."""
    losses = constraints(Config)["objective.base_loss"].allowed
    for key, found in tables.items():
        for table in found:
            if not isinstance(table, dict) or (key == "by_base_loss" and not set(table) <= set(losses)):
                names = f"{' and '.join(losses)}, or one of them," if key == "by_base_loss" else "names of baselines"
                raise UserError(f"{key} must map {names} to sections of their own")
            for section in table.values():
                if not isinstance(section, dict):
                    raise UserError(f"{key}: below each name stand sections, as at the top of the preset")
                check_keys(Config, section)


def _merged(*layers: dict) -> dict:
    """Nested mappings joined, later ones winning; lists are replaced whole."""
    joined: dict = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(joined.get(key), dict)
            joined[key] = _merged(joined[key], value) if both else value
    return joined


def _checked_override(text: str) -> str:
    if "=" not in text:
        raise UserError(f"override {text!r} is not of the form key=value, for example optimizer.epochs=20")
    return text


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
