"""Score records of ``result.json``: which two are the same measurement, and what an entry means that is not there.

Fields are described in docs/formats.md. A record's identity is everything it says but the numbers that were measured, so a setting
that is added to records later is part of it without a change here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rundir.subnet import Subnet, Width, parse_width

# What a record means that does not say so: trained on all labels; of classification, top-1 accuracy; of a fine-tuned network, that
# it began from the pretrained encoder. Records of the other kind of task have no such entry.
OF_CLASSIFICATION = {"score": "top1"}
OF_FINE_TUNING = {"model": None, "schedule": None, "initial": "pretrained"}
ANALYSIS, SEARCH = OWN_UNITS = ("analysis", "search")  # whose values are in units of their own, all others' are fractions
OF_TASK: dict[str, dict[str, Any]] = {"classification": OF_CLASSIFICATION, ANALYSIS: {}, SEARCH: {}}  # all others fine-tune
DEFAULTS = {"label_fraction": 1.0, "label_seed": None, **OF_CLASSIFICATION, **OF_FINE_TUNING}
# The same of a record's ``settings``: each was added later, with the value that all records before were computed with.
SETTINGS_DEFAULTS = {
    "schedule": "step",
    "branch": "student",
    "optimizer": "sgd",
    "trust": 0.001,
    "start": "normal",
    "test_scale": 8 / 7,
    "test_interpolation": "bilinear",
}
# Measured, or derived from what the identity holds already; ``data``, ``computed_on`` and ``against`` (another network) say on
# what: a score of data that have changed since takes the place of the old one.
MEASURED = (
    "data",
    "computed_on",
    "against",
    "value",
    "chance",
    "count",
    "flops",
    "parameters",
    "latency_ms",
    "latency_on",
    "changed",
    "extrapolated",
    "correct",
    "image_error",
    "found",
)


def of_width(width: Width, like: float | None = None) -> dict[str, Any]:
    """The entries of a record that say which network it is of: ``width``, and of a sub-network ``subnet``; its ``width`` is then
    the plain width ``like`` that it stands for, or null.
    """
    return {"width": like, "subnet": str(width)} if isinstance(width, Subnet) else {"width": width}


def width_of(record: Mapping[str, Any]) -> Width:
    """The network that a record is of."""
    return parse_width(record["subnet"]) if record.get("subnet") else record["width"]


def asked_of(record: Mapping[str, Any]) -> Width:
    """The width or sub-network that a record answers for: of a sub-network that stands for a plain width that width."""
    return record["width"] if record["width"] is not None else width_of(record)


def entry(record: Mapping[str, Any], name: str) -> Any:
    """An entry of a record, or what its absence means. Raises KeyError where it must be there."""
    return record.get(name, DEFAULTS[name]) if name in DEFAULTS else record[name]


def has(task: str | None, name: str) -> bool:
    """Whether records of ``task`` can have the entry ``name``."""
    return name not in {**OF_CLASSIFICATION, **OF_FINE_TUNING} or name in OF_TASK.get(task or "", OF_FINE_TUNING)


def content(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says but for what was measured, without what is at its default; numbers that are equal are written alike."""
    said = {name: said for name, said in record.items() if name not in MEASURED and not _default(name, said, DEFAULTS)}
    settings = said.get("settings")
    if isinstance(settings, Mapping):
        said["settings"] = {name: said for name, said in settings.items() if not _default(name, said, SETTINGS_DEFAULTS)}
    return _plain(said)


def identity(record: Mapping[str, Any]) -> str:
    """Names the measurement: equal for two records exactly where all that their values depend on is equal."""
    return json.dumps(content(record), sort_keys=True)


def _default(name: str, said: Any, defaults: Mapping[str, Any]) -> bool:
    return name in defaults and said == defaults[name] and isinstance(said, bool) == isinstance(defaults[name], bool)  # True == 1.0


def _plain(said: Any) -> Any:
    """``said`` as JSON has it, whole numbers as integers: 1 and 1.0 are the same width."""
    if isinstance(said, Mapping):
        return {str(name): _plain(inner) for name, inner in said.items()}
    if isinstance(said, (list, tuple)):
        return [_plain(inner) for inner in said]
    if isinstance(said, float) and said.is_integer():
        return int(said)
    return said


def image_error(correct: float, count: float) -> float:
    """Standard error of a share of ``count`` images, of which ``correct`` are right, that comes from their choice alone: the
    standard deviation of its Jeffreys posterior, Beta(correct + 1/2, count - correct + 1/2), which is not 0 where all are right.
    """
    right, wrong, total = correct + 0.5, count - correct + 0.5, count + 1
    return math.sqrt(right * wrong / (total**2 * (total + 1)))
