"""A run directory as plain rows: one of the run, one for each of its scores, one for each line that it logged.

Nothing here joins, filters or averages; :mod:`results.frame` does. A file that cannot be used raises :class:`rundir.files.Damaged`,
whose message is one line.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rundir import setting
from rundir.experiment import OTHER_RUNS, changes, file_name, listed, run_name
from rundir.files import Damaged, parse_yaml, read_json, read_text
from rundir.records import DEFAULTS, OWN_UNITS, content, has, image_error
from rundir.schema import FORMAT, File, State, is_fine_tuning

METHODS = {
    ("mse", "online"): "SimSiam",
    ("mse", "momentum"): "BYOL",
    ("infonce", "online"): "SimCLR",
    ("infonce", "momentum"): "momentum SimCLR",
}
# What a change of which means that a run has to be read again.
FILES = (File.CONFIG, File.STATUS, File.RESULT, File.PROVENANCE)
MOST_CONFIG, MOST_METRICS = 2**20, 2**30  # bytes

# Where a score stands. Equal in all of it and in what else its value depends on, two records are the same measurement.
PLACE = [
    "task",
    "dataset",
    "metric",
    "score",
    "label_fraction",
    "label_seed",
    "model",
    "schedule",
    "initial",
    "width",
    "subnet",
    "strategy",
    "budget",
    "seed",
]
RECORD_COLUMNS = [
    "task",
    "dataset",
    "metric",
    "score",
    "label_fraction",
    "label_seed",
    "width",
    "value",
    "chance",
    "count",
    "correct",
    "image_error",
    "flops",
    "parameters",
    "latency_ms",
    "latency_on",
    "model",
    "schedule",
    "initial",
    "variant",
    "extrapolated",
    "subnet",
    "strategy",
    "budget",
]
RECORD_NUMBERS = [
    "label_fraction",
    "label_seed",
    "width",
    "value",
    "chance",
    "count",
    "correct",
    "image_error",
    "flops",
    "parameters",
    "latency_ms",
]
RECORD_TEXTS = ["task", "dataset", "metric", "score", "latency_on", "model", "schedule", "initial", "subnet", "strategy", "budget"]
RECORD_FLAGS = ["extrapolated"]  # 0 or 1
EMPTY_TEXTS = ["score", "latency_on", "model", "schedule", "initial", "subnet", "strategy", "budget"]  # "" where a record has none
# What decides which runs and scores may be averaged (results.apart); other columns name it, and are what the frames have.
APART_RUNS, APART_RECORDS = ["alike", "others", "overrides"], ["rest", "standard"]
METRIC_COLUMNS = ["step", "epoch", "name", "width", "value"]
# Settings that experiments vary, by the column's name. Older runs lack some of them.
FACTORS = {
    "head": "objective.head",
    "ema_momentum": "objective.ema_momentum",
    "ema_schedule": "objective.ema_schedule",
    "update": "objective.update",
    "sampling": "widths.sampling",
    "per_step": "widths.per_step",
    "regularizer": "regularizer.kind",
    "groups": "regularizer.groups",
    "alpha": "regularizer.alpha",
    "epochs": "optimizer.epochs",
    "batch_size": "optimizer.batch_size",
    "image_size": "data.size",
    "baseline": "experiment.baseline",
}
FACTOR_NUMBERS = ["ema_momentum", "per_step", "groups", "alpha", "epochs", "batch_size", "image_size"]
_REQUIRED, _UNREADABLE = object(), object()

_TOP_LEVEL = re.compile(r"(?m)^(?=[A-Za-z_]\w*:)")
_ABSOLUTE = re.compile(r"^(?:[A-Za-z]:\\|/)\S*[/\\]")


class Fields:
    """The entries of one file, by dotted key, each of the type that is asked for. Raises :class:`rundir.files.Damaged`."""

    def __init__(self, entries: Mapping[str, Any], source: str):
        self.entries, self.source = entries, source

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The entry, ``default`` where there is none."""
        found: Any = self.entries
        for part in key.split("."):
            if not isinstance(found, Mapping) or part not in found:
                if default is _REQUIRED:
                    raise Damaged(f"{self.source} has no {key}")
                return default
            found = found[part]
        return found

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """A string; ``default`` for null too."""
        found = self.get(key, default)
        if found is None and default is not _REQUIRED:
            return default
        if found is not default and not (isinstance(found, str) and _encodable(found)):
            raise self._wrong(key, found, "text")
        return found

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """An int or float that float64 holds; ``default`` for null too."""
        found = self.get(key, default)
        if found is None and default is not _REQUIRED:
            return default
        if found is not default and (isinstance(found, bool) or not isinstance(found, (int, float)) or not abs(found) < 1e300):
            raise self._wrong(key, found, "a number")
        return found

    def flag(self, key: str) -> bool:
        """True or false; false where there is no entry, and for null."""
        found = self.get(key, None)
        if found is not None and not isinstance(found, bool):
            raise self._wrong(key, found, "true or false")
        return bool(found)

    def _wrong(self, key: str, found: Any, kind: str) -> Damaged:
        return Damaged(f"{self.source}: {key} is {reprlib.repr(found)}, not {kind}")


def _encodable(text: str) -> bool:
    """Whether ``text`` can be written to a file: JSON may hold halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A path, or a message with one, as text: file names not in the locale's encoding hold bytes as halves of characters."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_run(path: str) -> dict[str, Any] | None:
    """The row of one run: its cell, its factors, its state and what its training took. Raises :class:`rundir.files.Damaged`.

    ``path`` is absolute. None where the directory is that of a fine-tuning job, whose config names its ``task``: its scores are
    records of the pretraining run.
    """
    config = Fields(_config(f"{path}{os.sep}{File.CONFIG}"), f"{path}{os.sep}{File.CONFIG}")
    if is_fine_tuning(config.entries):
        return None
    grid, name = shown(path).split(os.sep)[-2:]
    status, provenance = (
        Fields(_object(f"{path}{os.sep}{file}") or {}, f"{path}{os.sep}{file}") for file in (File.STATUS, File.PROVENANCE)
    )
    factors = {
        name: config.number(key, None) if name in FACTOR_NUMBERS else _named(config.text(key, None))
        for name, key in FACTORS.items()
    }
    return {
        "run": name,
        **_cell(config, provenance),
        **factors,
        "pretrained_on": _pretrained_on(config),
        **_same(config),
        "state": status.text("state", State.PENDING),
        "why": status.text("why", ""),
        "started": status.text("started", None),
        "finished": status.text("finished", None) or provenance.text("finished", None),
        "train_seconds": provenance.number("train_seconds", None),
        "train_flops": provenance.number("train_flops", None),
        "method_version": provenance.number("method_version", 1),
        "commit": provenance.text("git_commit", ""),
        "hardware": _hardware(provenance),
        "command": _command(provenance),
        "place": f"{grid}/{name}",
        "path": shown(path),
    }


def read_records(path: str, seed: int) -> list[dict[str, Any]]:
    """The records of one run's result.json, what they leave out filled in; none where there is no such file.

    ``seed``: the run's. ``variant`` names the settings that are not those of the grid's own evaluation, ``rest`` (JSON) is all else
    that the value depends on, ``standard`` whether the record says that it is the grid's own. Of records that differ in weights or
    data alone the last counts. Raises :class:`rundir.files.Damaged`.
    """
    source = f"{path}{os.sep}{File.RESULT}"
    result = _object(source)
    if result is None:
        return []
    records = result.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise Damaged(f"{source} has no list of records; delete it and evaluate the run again")
    newest = {}
    for record in records:
        row = _record(Fields(record, source), seed)
        lasting = {name: said for name, said in row["rest"].items() if name != "data"}
        name = json.dumps([row.get(name) for name in PLACE] + [row["variant"], lasting], sort_keys=True, default=str)
        newest.pop(name, None)
        newest[name] = row | {"rest": json.dumps(row["rest"], sort_keys=True)}
    return list(newest.values())


def _record(record: Fields, seed: int) -> dict[str, Any]:
    task = record.text("task", None)
    meant = {name: default for name, default in DEFAULTS.items() if has(task, name)}
    row = {name: record.text(name, meant.get(name)) for name in RECORD_TEXTS}
    row |= {name: "" for name in EMPTY_TEXTS if row[name] is None}
    row |= {name: record.number(name, meant.get(name)) for name in RECORD_NUMBERS}
    row |= {name: int(record.flag(name)) for name in RECORD_FLAGS}
    if row["width"] is None and not row["subnet"]:
        raise Damaged(f"{record.source} has a record without a width; delete the file and evaluate the run again")
    if task not in OWN_UNITS and not 0 <= (0 if row["value"] is None else row["value"]) <= 1:
        raise Damaged(f"{record.source}: value {row['value']} is not between 0 and 1; scores are fractions, not per cent")
    if row["score"] == "top1" and row["value"] is not None and row["count"]:  # of a version that did not say so
        row["correct"] = round(row["value"] * row["count"]) if row["correct"] is None else row["correct"]
        row["image_error"] = image_error(row["correct"], row["count"]) if row["image_error"] is None else row["image_error"]
    row["seed"] = record.number("seed", seed)
    changed, settings = (record.get(name, None) for name in ("changed", "settings"))
    for name, found in (("changed", changed), ("settings", settings)):
        if found is not None and not isinstance(found, dict):
            raise Damaged(f"{record.source}: {name} of a record is {reprlib.repr(found)}, not a mapping")
    if changed is None and task == "classification" and row["seed"] != seed:  # of a version that did not say so
        changed = {"seed": row["seed"]}
    said = content(record.entries)
    rest = {name: entry for name, entry in said.items() if name not in (*PLACE, "settings")} | said.get("settings", {})
    rest.pop("weights", None)
    rest |= {"data": record.entries["data"]} if record.entries.get("data") is not None else {}
    return row | {"variant": listed(changed or {}), "standard": changed == {}, "rest": rest}


def read_metrics(path: str) -> tuple[list[dict[str, Any]], str]:
    """The lines of metrics.jsonl, and what is wrong with those that are left out; "" where nothing is.

    A last line that a killed job cut short is left out silently. Raises :class:`rundir.files.Damaged`.
    """
    source = f"{path}{os.sep}{File.METRICS}"
    try:
        lines = read_text(source, MOST_METRICS).splitlines()
    except FileNotFoundError:
        return [], ""
    try:  # one call for all lines is several times faster than one for each
        values = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        values = list(map(_line, lines))
        if lines and values[-1] is _UNREADABLE:
            values.pop()
    faults = [(number, fault) for number, value in enumerate(values, start=1) if (fault := _metric_fault(value))]
    more = f", and {len(faults) - 1} more lines like it" if len(faults) > 1 else ""
    note = f"{source}, line {faults[0][0]} {faults[0][1]}{more}: left out" if faults else ""
    wrong = {number for number, _ in faults}
    return [_finite(value) for number, value in enumerate(values, start=1) if number not in wrong], note


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _UNREADABLE


def _metric_fault(value: Any) -> str:
    """Why this is no line of metrics.jsonl; "" where it is one."""
    if value is _UNREADABLE or not isinstance(value, dict):
        return "is not a JSON object"
    if not isinstance(value.get("name"), str) or not _encodable(value["name"]):
        return f"has the name {reprlib.repr(value.get('name'))}, not text"
    for name in ("step", "epoch", "width", "value"):
        found = value.get(name)
        if found is not None and (
            isinstance(found, bool) or not isinstance(found, (int, float)) or (isinstance(found, int) and abs(found) > 1e300)
        ):
            return f"has the {name} {reprlib.repr(found)}, not a number"
    return ""


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    logged = value.get("value")
    return value if logged is None or math.isfinite(logged) else value | {"value": None}


def guidelines(base_loss: str, distill_loss: str, teacher: str) -> str:
    """Which of the three guidelines (US3L, arXiv 2303.06870) a cell satisfies: ``none``, ``G2``, ``G1+G3``, …"""
    satisfied = {"G1": base_loss == "infonce", "G2": distill_loss == "infonce", "G3": teacher == "momentum"}
    return "+".join(name for name, holds in satisfied.items() if holds) or "none"


def _named(name: str | None) -> str | None:
    """A setting that may name a file of the user's own in short: without its directory and digest."""
    return file_name(name).partition("@")[0] if name else name


def portable(command: list[str]) -> str:
    """A command line without the places of one machine: of an absolute path only its last part is kept."""
    words = [_ABSOLUTE.sub("", str(word)) for word in command]
    return _escaped(" ".join(words))


def _escaped(text: str) -> str:
    """``text`` with escapes for halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _command(provenance: Fields) -> str:
    words = provenance.get("command", None) or []
    if not isinstance(words, list):
        raise Damaged(f"{provenance.source}: command is {reprlib.repr(words)}, not a list of words")
    return portable(words)


def _cell(config: Fields, provenance: Fields) -> dict[str, Any]:
    names = [config.text(f"objective.{name}") for name in ("base_loss", "distill_loss", "teacher")]
    satisfied = provenance.text("guidelines", None) or guidelines(*names)
    base, distill, teacher = map(_named, names)
    low, high = float(config.number("widths.min")), float(config.number("widths.max"))
    kind = _kind(config, low == high, distill == "none")
    trained = setting.in_words(
        _pretrained_on(config),
        config.number("data.limit", None),
        config.number("data.size"),
        config.text("model.arch"),
        config.number("optimizer.epochs"),
        config.number("optimizer.batch_size"),
    )
    if not _pretrained_on(config):  # a checkpoint from elsewhere does not say its data
        trained = f"data that the checkpoint does not name, {config.text('model.arch')}"
    seed = config.number("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise Damaged(f"{config.source}: seed is {reprlib.repr(seed)}, not a whole number of 63 bits")
    # A run started by hand belongs to no grid: its place names it.
    folder, name = shown(config.source).split(os.sep)[-3:-1]
    return {
        "grid": config.text("experiment.grid", "") or folder,
        "cell": config.text("experiment.cell", "") or name,
        "base_loss": base,
        "distill_loss": distill,
        "teacher": teacher,
        "method": METHODS.get((base, teacher), f"{base}, {teacher}"),
        "guidelines": satisfied if kind == "us3l" else "",
        "kind": kind,
        "arch": config.text("model.arch"),
        "width_min": low,
        "width_max": high,
        # Cells of one launch belong together, though their own epochs or batches may differ (by base loss, by baseline).
        "setting": setting.as_now(config.text("experiment.setting", ""), _pretrained_on(config)) or trained,
        "trained": trained,
        "preset": config.text("experiment.preset", ""),
        "needs": run_name(_needed(config)),
        "seed": seed,
        "scored_at": json.dumps(_scored_at(config)),
    }


def _scored_at(config: Fields) -> list[float]:
    """The plain widths at which the grid's own evaluation scores the run, before those that it was not trained for are left out."""
    widths = config.get("evaluation.widths", [])
    if not isinstance(widths, list):
        raise config._wrong("evaluation.widths", widths, "a list of widths")
    return [float(width) for width in widths if isinstance(width, (int, float)) and not isinstance(width, bool)]


def _same(config: Fields) -> dict[str, Any]:
    """What must be equal in runs that differ only in the seed: ``alike`` (JSON), other runs by name (JSON), and what the launch
    changed, None where it did not say so.
    """
    alike = changes(config.entries)
    if config.get("data.name", None) in setting.OWN_IMAGES:
        alike["data.root"] = _pretrained_on(config)
    others = {key: run_name(place) for key in OTHER_RUNS if (place := config.text(key, ""))}
    return {
        "alike": json.dumps(alike, sort_keys=True, default=str),
        "others": json.dumps(others, sort_keys=True) if others else "",
        "overrides": config.text("experiment.overrides", None),
    }


def _pretrained_on(config: Fields) -> str:
    """The name that records of evaluation on the pretraining data have: an image folder is called by its directory."""
    return setting.data_name(config.text("data.name"), config.text("data.root", ""))


def _kind(config: Fields, one_width: bool, naive: bool) -> str:
    """``derived`` (made without training), ``individual``, ``naive``, ``usnet`` (the authors' baselines: the predictor shared, and
    with it more that is no cell of the guidelines grid) or ``us3l``.
    """
    if config.text("derived.network", "none") != "none":
        return "derived"
    usnet = config.text("experiment.recipe", "").startswith("usnet-")
    return "individual" if one_width else "naive" if naive else "usnet" if usnet else "us3l"


def _needed(config: Fields) -> str:
    """The run or checkpoint that this run was made from or learned from; "" for none."""
    return config.text("objective.seed_teacher", "") or config.text("derived.source", "")


def _hardware(provenance: Fields) -> str:
    """What the run was made on, as far as its numbers depend on it: ``AMD EPYC (26/2/1) AVX512, 1 thread, fp32``; of a run that
    moved, ``A, then B``; where its scores were computed elsewhere, ``A; evaluated on B``. Of older runs ``x86_64, 2 cores``.
    """
    kinds = provenance.get("kinds", None)
    if not isinstance(kinds, Mapping) or not kinds:
        return _escaped(_machine(provenance.get("hardware", None)))
    trained, scored = (_kinds(kinds, work) for work in ("pretraining", "evaluation"))
    return _escaped("; evaluated on ".join(filter(None, dict.fromkeys([trained, scored]))))


def _kinds(kinds: Mapping[str, Any], work: str) -> str:
    found = kinds.get(work)
    return ", then ".join(map(str, found)) if isinstance(found, list) else ""


def _machine(known: Any) -> str:
    if not isinstance(known, Mapping):
        return ""
    gpus = known.get("gpus")
    gpus = [str(gpu) for gpu in gpus] if isinstance(gpus, list) else []
    if gpus:
        return f"{len(gpus)} x {gpus[0]}" if len(set(gpus)) == 1 else ", ".join(gpus)
    return f"{known.get('machine', 'unknown')}, {known.get('cores', '?')} cores"


def _config(path: str) -> dict[str, Any]:
    try:
        return _known_format(_yaml(read_text(path, MOST_CONFIG), path), path)
    except FileNotFoundError:
        raise Damaged(f"{path} is a broken link") from None


def _yaml(text: str, path: str = "") -> Any:
    """A YAML document. Most sections of a configuration are those of other runs too: each is parsed once.

    A section is what follows a key at the beginning of a line. Where a text is not made so, it is parsed as a whole.
    """
    merged: dict[str, Any] = {}
    try:
        for section in _TOP_LEVEL.split(text):
            parsed = _section(section)
            if parsed is None:
                continue
            if not isinstance(parsed, dict) or parsed.keys() & merged.keys():
                return parse_yaml(text, path)
            merged |= parsed
    except Damaged:
        return parse_yaml(text, path)  # for the line in the whole
    return merged


@lru_cache(maxsize=4096)
def _section(text: str) -> Any:
    return parse_yaml(text)


def _object(path: str) -> dict[str, Any] | None:
    """The object in ``path``; None where there is no such file (the run has not come that far)."""
    try:
        return _known_format(read_json(path), path)
    except FileNotFoundError:
        return None


def _known_format(found: Any, path: str) -> dict[str, Any]:
    number = found.get("format") if isinstance(found, dict) else None
    if number != FORMAT or isinstance(number, bool):
        raise Damaged(
            f"{path} has format {reprlib.repr(number)}, this version reads format {FORMAT}; "
            f"use the version that wrote it, or run the cell again"
        )
    return found
