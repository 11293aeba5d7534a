"""The name of an experiment: a hash of what its config says."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator

from pretrain.config.schema import Config, to_dict
from rundir.experiment import NOT_HASHED, OTHER_RUNS, OWN_FILES, file_name, run_name


def config_hash(cfg: Config) -> str:
    """Eight hex digits that name the experiment: equal for equal results, whatever the machine or the labels.

    Only what differs from the defaults of the dataclasses counts, so a run keeps its name when a later version adds keys. A default
    must therefore never change: a new behaviour is a new key whose default is the old one.
    """
    counted = _difference(_counted(cfg), _defaults(type(cfg)))  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]


def differences(there: Config, here: Config, most: int = 3) -> str:
    """The first keys in which two experiments differ, in words: ``seed=100, not 7``."""
    theirs, ours = (dict(_flat(_counted(cfg))) for cfg in (there, here))
    keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    shown = [f"{key}={theirs.get(key, 'its default')}, not {ours.get(key, 'its default')}" for key in keys[:most]]
    return "; ".join([*shown, *([f"{len(keys) - most} more"] if len(keys) > most else [])])


def _counted(cfg: Config) -> dict:
    """What counts of a config."""
    content = to_dict(cfg)
    for dotted in NOT_HASHED:
        *parents, last = dotted.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section.pop(last)
    for section, key in (dotted.split(".") for dotted in OTHER_RUNS):  # type: ignore[assignment]
        content[section][key] = run_name(content[section][key])  # a moved tree of runs is the same
    for section, key in (dotted.split(".") for dotted in OWN_FILES):  # type: ignore[assignment]
        content[section][key] = file_name(content[section][key])  # and so is a moved file
    return content


def _flat(content: dict, before: str = "") -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, dict):
            continue  # options, all at their defaults
        else:
            yield f"{before}{key}", value


def changed(cfg: Config) -> dict:
    """Where ``cfg`` differs from the defaults, in plain types; ``from_dict`` makes ``cfg`` of it again."""
    return _difference(to_dict(cfg), _defaults(type(cfg)))  # type: ignore[arg-type]


@functools.cache
def _defaults(kind: type[Config]) -> dict:
    return to_dict(kind())


def _difference(content: dict, default: dict) -> dict:
    """Where ``content`` differs from ``default``, empty sections left out; lists count whole, and so do options."""
    found = {
        key: _difference(value, default[key]) if isinstance(value, dict) and default[key] else value
        for key, value in content.items()
        if value != default[key]
    }
    return {key: value for key, value in found.items() if value != {}}
