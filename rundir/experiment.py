"""What makes two runs the same experiment but for the seed: their configs, without what changes no number.

``defaults.yaml`` in this folder holds every default of the config: a run's name leaves out what is at its default, and a key that
an older run's config.yaml does not have is at its default. So a default never changes, and a new key is added there.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rundir.files import read_yaml

DEFAULTS = Path(__file__).with_name("defaults.yaml")
# What decides neither the data nor the mathematics of a run.
NOT_HASHED = (
    "experiment",
    "calibration.widths",
    "data.root",
    "data.workers",
    "train.device",
    "train.channels_last",
    "train.threads",
    "train.compile",
    "train.graphs",
    "train.reduce_once",
    "train.recompute",
    "train.checkpoint_minutes",
    "train.checkpoint_epochs",
    "train.tensorboard",
    "diagnostics",
    "evaluation",
)
# Keys that name another run, of the same seed, by its directory or a checkpoint in it. Its weights are checked in training.
OTHER_RUNS = ("objective.seed_teacher", "derived.source")
# Keys that may name a function or class in a file of the user's own, as FILE.py:NAME@DIGEST.
OWN_FILES = ("objective.base_loss", "objective.distill_loss", "objective.teacher", "widths.sampling", "regularizer.kind")


@functools.cache
def defaults() -> dict[str, Any]:
    """Every key of the config, dotted, with its default."""
    return dict(_flat(read_yaml(DEFAULTS)))


def changes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a resolved config differs from the defaults, by dotted key; lists count whole.

    Two runs with equal changes are one experiment with two seeds, if they learned from the same data, and of equal teachers.
    """
    known = defaults()
    said = {key: file_name(value) if key in OWN_FILES else value for key, value in _flat(config) if counts(key)}
    return {
        key: value
        for key, value in said.items()
        if key not in known or known[key] != value or isinstance(known[key], bool) != isinstance(value, bool)
    }  # True == 1


def run_name(place: str) -> str:
    """The name of the run directory that ``place`` is, or is a checkpoint of; "" for none."""
    path = Path(place)
    return path.parent.name if path.suffix == ".pt" else path.name


def file_name(value: Any) -> Any:
    """A setting that may name a file of the user's own without the file's directory: ``FILE.py:NAME@DIGEST``."""
    own = isinstance(value, str) and ".py:" in value
    return re.split(r"[/\\]", value)[-1] if own else value


@functools.lru_cache(10_000)
def counts(key: str) -> bool:
    """Whether runs that differ in this key, dotted, differ in more than the seed and other runs' names."""
    return not any(key == name or key.startswith(f"{name}.") for name in (*NOT_HASHED, *OTHER_RUNS, "format", "seed"))


def listed(settings: Mapping[str, Any]) -> str:
    """All settings in words: ``C=1e-06, limit=20``."""
    texts = (f"{name}={_text(value)}".encode("utf-8", "backslashreplace").decode() for name, value in sorted(settings.items()))
    return ", ".join(texts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
