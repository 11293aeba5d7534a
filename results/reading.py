"""One run directory (format 1) -> plain rows. The only file of this room that knows the files of a run.

Nothing here joins, filters or averages; :mod:`results.frame` does.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rundir.errors import UserError

FORMAT = 1
METHODS = {("mse", "online"): "SimSiam", ("mse", "momentum"): "BYOL",
           ("infonce", "online"): "SimCLR", ("infonce", "momentum"): "momentum SimCLR"}
# What a change of which means that a run has to be read again.
FILES = ("config.yaml", "status.json", "result.json", "provenance.json")

RECORD_COLUMNS = ["task", "dataset", "metric", "score", "label_fraction", "label_seed", "width", "value", "chance", "count",
                  "flops", "parameters", "latency_ms", "latency_on", "model", "schedule", "initial"]
# What a record means that does not say so: top-1 accuracy, trained on all labels, of the bare encoder.
RECORD_DEFAULTS = {"label_fraction": 1.0, "latency_on": "", "model": "", "schedule": "", "initial": ""}
RECORD_NUMBERS = ["label_fraction", "label_seed", "width", "value", "chance", "count", "flops", "parameters", "latency_ms"]
METRIC_COLUMNS = ["step", "epoch", "name", "width", "value"]
# Settings that experiments vary, by the column's name. Older runs lack some of them.
FACTORS = {"head": "objective.head", "ema_momentum": "objective.ema_momentum", "ema_schedule": "objective.ema_schedule",
           "update": "objective.update", "sampling": "widths.sampling", "per_step": "widths.per_step",
           "regularizer": "regularizer.kind", "groups": "regularizer.groups", "alpha": "regularizer.alpha",
           "epochs": "optimizer.epochs", "batch_size": "optimizer.batch_size", "image_size": "data.size",
           "baseline": "experiment.baseline"}
FACTOR_NUMBERS = ["ema_momentum", "per_step", "groups", "alpha", "epochs", "batch_size", "image_size"]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOP_LEVEL = re.compile(r"(?m)^(?=[A-Za-z_]\w*:)")
_ABSOLUTE = re.compile(r"^(?:[A-Za-z]:\\|/)\S*[/\\]")


class InputError(UserError):
    """Run directories that cannot be read. The message is one line: what is wrong, and what to do about it."""


def read_run(path: str) -> dict[str, Any] | None:
    """The row of one run: its cell, its factors, its state and what its training took. Raises :class:`InputError`.

    ``path`` is absolute. None where the directory is that of a fine-tuning job, whose config names its ``task``: its scores are
    records of the pretraining run.
    """
    config = _config(f"{path}{os.sep}config.yaml")
    if "task" in config:
        return None
    grid, name = path.split(os.sep)[-2:]
    status = _json(f"{path}{os.sep}status.json") or {}
    provenance = _json(f"{path}{os.sep}provenance.json") or {}
    return {"run": name, **_cell(config, f"{path}{os.sep}config.yaml"), "state": status.get("state", "pending"),
            **{name: _optional(config, key) for name, key in FACTORS.items()}, "pretrained_on": _pretrained_on(config),
            "why": status.get("why") or "", "started": status.get("started"),
            "finished": status.get("finished") or provenance.get("finished"),
            "train_seconds": provenance.get("train_seconds"), "train_flops": provenance.get("train_flops"),
            "commit": provenance.get("git_commit") or "", "hardware": _hardware(provenance.get("hardware")),
            "command": portable(provenance.get("command") or []), "place": f"{grid}/{name}", "path": path}


def read_records(path: str) -> Iterator[dict[str, Any]]:
    """The records of one run's result.json, what they leave out filled in; none where there is no such file."""
    source = f"{path}{os.sep}result.json"
    result = _json(source)
    if result is None:
        return
    records = result.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{source} has no list of records; delete it and evaluate the run again")
    for record in records:
        _check_record(record, source)
        row = RECORD_DEFAULTS | record
        row.setdefault("score", "top1" if record.get("task") == "classification" else "")
        yield row


def _check_record(record: dict[str, Any], source: str) -> None:
    for name in RECORD_NUMBERS:
        value = record.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InputError(f"{source}: {name} of a record is {value!r}, not a number; delete the file and evaluate the run again")
    if record.get("width") is None:
        raise InputError(f"{source} has a record without a width; delete the file and evaluate the run again")
    if not 0 <= (record.get("value") or 0) <= 1:
        raise InputError(f"{source}: value {record['value']} is not between 0 and 1; scores are fractions, not per cent")


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. One that a killed job cut short is left out."""
    source = f"{path}{os.sep}metrics.jsonl"
    try:
        with open(source, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    try:  # one call for all lines is several times faster than one a line
        values = json.loads(f"[{','.join(lines)}]")
    except ValueError:
        values = list(_line_by_line(lines, source))
    return [value for value in values if isinstance(value, dict)]


def guidelines(base_loss: str, distill_loss: str, teacher: str) -> str:
    """Which of the three guidelines (US3L, arXiv 2303.06870) a cell satisfies: ``none``, ``G2``, ``G1+G3``, …"""
    satisfied = {"G1": base_loss == "infonce", "G2": distill_loss == "infonce", "G3": teacher == "momentum"}
    return "+".join(name for name, holds in satisfied.items() if holds) or "none"


def portable(command: list[str]) -> str:
    """A command line without the places of one machine: of an absolute path only its last part is kept."""
    words = [_ABSOLUTE.sub("", str(word)) for word in command]
    return " ".join(words)


def _cell(config: dict[str, Any], source: str) -> dict[str, Any]:
    def get(key: str) -> Any:
        value: Any = config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise InputError(f"{source} has no {key}; it is not the resolved configuration of a run")
            value = value[part]
        return value

    base, distill, teacher = get("objective.base_loss"), get("objective.distill_loss"), get("objective.teacher")
    low, high = float(get("widths.min")), float(get("widths.max"))
    kind = _kind(config, low == high, distill == "none")
    limit = _optional(config, "data.limit")
    trained = (f"{_pretrained_on(config)}{f' ({limit:,} images)' if limit else ''} at {get('data.size')} pixels, "
               f"{get('model.arch')}, {get('optimizer.epochs')} epochs, batch {get('optimizer.batch_size')}")
    # A run started by hand belongs to no grid: its place names it.
    folder, name = source.split(os.sep)[-3:-1]
    return {"grid": get("experiment.grid") or folder, "cell": get("experiment.cell") or name,
            "base_loss": base, "distill_loss": distill, "teacher": teacher,
            "method": METHODS.get((base, teacher), f"{base}, {teacher}"),
            "guidelines": guidelines(base, distill, teacher) if kind == "us3l" else "", "kind": kind,
            "arch": get("model.arch"), "width_min": low, "width_max": high,
            # Cells of one launch belong together, though their own epochs or batches may differ (by base loss, by baseline).
            "setting": _optional(config, "experiment.setting") or trained, "trained": trained,
            "preset": get("experiment.preset"), "needs": _run_of(_needed(config)),
            "seed": int(get("seed"))}


def _optional(config: dict[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return config[section].get(name) if isinstance(config.get(section), dict) else None


def _pretrained_on(config: dict[str, Any]) -> str:
    """The name that records of evaluation on the pretraining data have: an image folder is called by its directory."""
    name = str(_optional(config, "data.name"))
    return Path(_optional(config, "data.root") or name).name if name == "folder" else name


def _kind(config: dict[str, Any], one_width: bool, naive: bool) -> str:
    """``derived`` (made without training), ``individual``, ``naive``, ``usnet`` (the authors' baselines: the predictor shared, and
    with it more that is no cell of the guidelines grid) or ``us3l``.
    """
    if (_optional(config, "derived.network") or "none") != "none":
        return "derived"
    usnet = str(_optional(config, "experiment.recipe") or "").startswith("usnet-")
    return "individual" if one_width else "naive" if naive else "usnet" if usnet else "us3l"


def _needed(config: dict[str, Any]) -> str:
    """The run or checkpoint that this run was made from or learned from; "" for none."""
    return _optional(config, "objective.seed_teacher") or _optional(config, "derived.source") or ""


def _run_of(checkpoint: str) -> str:
    """The name of the run directory that a checkpoint lies in, which may be given by the directory itself; "" for none."""
    path = Path(checkpoint)
    return path.parent.name if path.suffix == ".pt" else path.name


def _hardware(known: dict[str, Any] | None) -> str:
    """``x86_64, 2 cores`` or ``8 x NVIDIA A100``."""
    if not isinstance(known, dict):
        return ""
    gpus = known.get("gpus") or []
    if gpus:
        return f"{len(gpus)} x {gpus[0]}" if len(set(map(str, gpus))) == 1 else ", ".join(map(str, gpus))
    return f"{known.get('machine', 'unknown')}, {known.get('cores', '?')} cores"


def _config(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            config = _yaml(file.read())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({_first_line(error)}); delete the run and start it again") from None
    return _known_format(config, path)


def _yaml(text: str) -> Any:
    """A YAML document. Most sections of a configuration are those of other runs too: each is parsed once.

    A section is what follows a key at the beginning of a line. Where a text is not made so, it is parsed as a whole.
    """
    merged: dict[str, Any] = {}
    try:
        for section in _TOP_LEVEL.split(text):
            parsed = _section(section)
            if isinstance(parsed, dict):
                merged |= parsed
            elif parsed is not None:
                return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError:
        return yaml.load(text, Loader=_LOADER)
    return merged


@lru_cache(maxsize=4096)
def _section(text: str) -> Any:
    return yaml.load(text, Loader=_LOADER)


def _json(path: str) -> dict[str, Any] | None:
    """The object in ``path``; None where there is no such file (the run has not come that far)."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({_first_line(error)}); delete it and run the cell again") from None
    return _known_format(content, path)


def _known_format(content: Any, path: str) -> dict[str, Any]:
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise InputError(f"{path} has format {number!r}, this version reads format {FORMAT}; "
                         f"use the version that wrote it, or run the cell again")
    return content


def _line_by_line(lines: list[str], source: str) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError:
            # The last line may be cut short at any time. Inside the file it means a job was killed and appended to.
            if number < len(lines) and line.strip():
                warnings.warn(f"{source}, line {number} is not readable and is left out", stacklevel=2)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
