"""The name of an experiment: a hash of what its config says."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from pretrain.config.schema import Config, to_dict

# What decides neither the data nor the mathematics of a run is left out of its hash.
NOT_HASHED = ("experiment", "calibration.widths", "data.root", "data.workers", "train.device", "train.channels_last",
              "train.threads", "train.compile", "train.recompute", "train.checkpoint_minutes", "train.checkpoint_epochs",
              "train.tensorboard", "diagnostics", "evaluation")
# Other runs count by name: a moved tree of runs is the same. A teacher's weights are checked in training.
OTHER_RUNS = (("objective", "seed_teacher"), ("derived", "source"))


def config_hash(cfg: Config) -> str:
    """Eight hex digits that name the experiment: equal for equal results, whatever the machine or the labels.

    Only what differs from the defaults of the dataclasses counts, so a run keeps its name when a later version adds keys. A default
    must therefore never change: a new behaviour is a new key whose default is the old one.
    """
    content = to_dict(cfg)
    for dotted in NOT_HASHED:
        *parents, last = dotted.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section.pop(last)
    for section, key in OTHER_RUNS:
        if content[section][key]:
            other = Path(content[section][key])
            content[section][key] = (other.parent if other.suffix == ".pt" else other).name
    return hashlib.sha256(json.dumps(_difference(content, _defaults(type(cfg))), sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def _defaults(kind: type[Config]) -> dict:
    return to_dict(kind())


def _difference(content: dict, default: dict) -> dict:
    """What ``content`` says otherwise than ``default``, sections without any left out; lists count whole."""
    found = {key: _difference(value, default[key]) if isinstance(value, dict) else value
             for key, value in content.items() if value != default[key]}
    return {key: value for key, value in found.items() if value != {}}
