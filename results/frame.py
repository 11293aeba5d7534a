"""Run directories -> tidy pandas frames.

The only place of this room that knows how a run lies on the disk (run-directory format 1): config.yaml, status.json,
result.json, provenance.json and metrics.jsonl. Everything else works on the three frames made here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FORMAT = 1

# What names an experiment; these columns are the same in all three frames.
CELL_COLUMNS = ["run", "grid", "cell", "base_loss", "distill_loss", "teacher", "method", "guidelines", "kind", "arch",
                "width_min", "width_max", "setting", "trained", "preset", "needs", "seed", "state"]
RUN_COLUMNS = [*CELL_COLUMNS, "why", "started", "finished", "train_seconds", "train_flops", "path"]
RECORD_COLUMNS = ["task", "dataset", "metric", "width", "value", "chance", "count", "flops", "parameters"]
METRIC_COLUMNS = ["step", "epoch", "name", "width", "value"]

METHODS = {("mse", "online"): "SimSiam", ("mse", "momentum"): "BYOL",
           ("infonce", "online"): "SimCLR", ("infonce", "momentum"): "momentum SimCLR"}

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InputError(Exception):
    """Run directories that cannot be read. The message is one line: what is wrong, and what to do about it."""


def load(runs: Path) -> pd.DataFrame:
    """One row per result record of every run under ``runs`` (a run, a grid's directory, or a directory of grids).

    Columns: ``CELL_COLUMNS``, ``RECORD_COLUMNS``, ``train_seconds`` and ``train_flops``. ``value`` and ``chance`` are
    fractions in 0..1, ``flops`` counts 2 x multiply-adds of one image; what is missing or undefined is NaN. A run
    without results has no rows here; :func:`load_runs` knows it. Raises :class:`InputError`.
    """
    rows = []
    for run in _read_runs(runs):
        for record in _records(Path(run["path"]) / "result.json"):
            # The record's own seed is the evaluation's; the run's is the one that tables average over.
            scores = {name: record.get(name) for name in RECORD_COLUMNS}
            rows.append({**{name: run[name] for name in CELL_COLUMNS}, **scores,
                         "train_seconds": run["train_seconds"], "train_flops": run["train_flops"]})
    columns = [*CELL_COLUMNS, *RECORD_COLUMNS, "train_seconds", "train_flops"]
    return _numbers(pd.DataFrame(rows, columns=columns),
                    ["width", "value", "chance", "count", "flops", "parameters", "train_seconds", "train_flops"])


def load_runs(runs: Path) -> pd.DataFrame:
    """One row per run directory under ``runs``, finished or not: ``RUN_COLUMNS``. Raises :class:`InputError`."""
    return _numbers(pd.DataFrame(_read_runs(runs), columns=RUN_COLUMNS), ["train_seconds", "train_flops"])


def load_metrics(runs: Path) -> pd.DataFrame:
    """The logged values of every run under ``runs`` in long form: ``CELL_COLUMNS`` and ``METRIC_COLUMNS``.

    ``width`` is NaN where a value belongs to no width. Where a resumed run logged the same (step, name, width) again,
    the last line counts. A line cut short by a killed job is skipped. Raises :class:`InputError`.
    """
    frames = []
    for run in _read_runs(runs):
        lines = _lines(Path(run["path"]) / "metrics.jsonl")
        if lines:
            values = pd.DataFrame(lines, columns=METRIC_COLUMNS)
            values = values.drop_duplicates(["step", "name", "width"], keep="last")
            frames.append(values.assign(**{name: run[name] for name in CELL_COLUMNS}))
    columns = [*CELL_COLUMNS, *METRIC_COLUMNS]
    table = pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
    return _numbers(table, ["step", "epoch", "width", "value"])


def current(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`load_runs` that count: one run per (grid, cell, setting, seed).

    The same cell may lie there twice, run with other options under another hash. Averaging both as if they were seeds
    would be wrong, so the newest counts, a finished one before an unfinished one.
    """
    order = runs.assign(_done=runs["state"].eq("done"), _when=runs["finished"].fillna(runs["started"]).fillna(""))
    order = order.sort_values(["_done", "_when"], kind="stable")
    keep = order.drop_duplicates(["grid", "cell", "setting", "seed"], keep="last").index
    return runs.loc[runs.index.isin(keep)]


def run_directories(runs: Path) -> list[Path]:
    """The directories at ``runs`` or up to two levels below that hold a config.yaml. Raises :class:`InputError`."""
    runs = Path(runs)
    if not runs.is_dir():
        raise InputError(f"no directory {runs}; give the directory that holds a grid's runs, such as runs/guidelines")
    return sorted(path.parent for depth in ("", "*/", "*/*/") for path in runs.glob(f"{depth}config.yaml"))


def _read_runs(runs: Path) -> list[dict[str, Any]]:
    return [_read_run(path) for path in run_directories(runs)]


def _read_run(path: Path) -> dict[str, Any]:
    config = _config(path / "config.yaml")
    status = _json(path / "status.json") or {}
    provenance = _json(path / "provenance.json") or {}
    return {"run": path.name, **_factors(config, path / "config.yaml"), "state": status.get("state", "pending"),
            "why": status.get("why") or "", "started": status.get("started"),
            "finished": status.get("finished") or provenance.get("finished"),
            "train_seconds": provenance.get("train_seconds"), "train_flops": provenance.get("train_flops"),
            "path": str(path)}


def _factors(config: dict[str, Any], source: Path) -> dict[str, Any]:
    def get(key: str) -> Any:
        value: Any = config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise InputError(f"{source} has no {key}; it is not the resolved configuration of a run")
            value = value[part]
        return value

    def optional(key: str) -> Any:
        section, name = key.split(".")
        return config[section].get(name) if isinstance(config.get(section), dict) else None

    base, distill, teacher = get("objective.base_loss"), get("objective.distill_loss"), get("objective.teacher")
    low, high = float(get("widths.min")), float(get("widths.max"))
    kind = "individual" if low == high else "naive" if distill == "none" else "us3l"
    limit = optional("data.limit")
    trained = (f"{get('data.name')}{f' ({limit} images)' if limit else ''} at {get('data.size')} pixels, "
               f"{get('model.arch')}, {get('optimizer.epochs')} epochs, batch {get('optimizer.batch_size')}")
    # A run started by hand belongs to no grid: its place names it.
    place = source.parent.resolve()
    return {"grid": get("experiment.grid") or place.parent.name, "cell": get("experiment.cell") or place.name,
            "base_loss": base, "distill_loss": distill, "teacher": teacher,
            "method": METHODS.get((base, teacher), f"{base}, {teacher}"),
            "guidelines": guidelines(base, distill, teacher) if kind == "us3l" else "", "kind": kind,
            "arch": get("model.arch"), "width_min": low, "width_max": high,
            # Cells of one launch belong together, though their own epochs or batches may differ (by base loss, by baseline).
            "setting": optional("experiment.setting") or trained, "trained": trained, "preset": get("experiment.preset"),
            "needs": _run_of(optional("objective.seed_teacher") or ""), "seed": int(get("seed"))}


def _run_of(checkpoint: str) -> str:
    """The name of the run directory that a checkpoint lies in, which may be given by the directory itself; "" for none."""
    path = Path(checkpoint)
    return path.parent.name if path.suffix == ".pt" else path.name


def guidelines(base_loss: str, distill_loss: str, teacher: str) -> str:
    """Which of the three guidelines (US3L, arXiv 2303.06870) a cell satisfies: ``none``, ``G2``, ``G1+G3``, …"""
    satisfied = {"G1": base_loss == "infonce", "G2": distill_loss == "infonce", "G3": teacher == "momentum"}
    return "+".join(name for name, holds in satisfied.items() if holds) or "none"


def _records(path: Path) -> list[dict[str, Any]]:
    result = _json(path)
    if result is None:
        return []
    records = result.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path} has no list of records; delete it and evaluate the run again")
    return records


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({_first_line(error)}); delete the run and start it again") from None
    return _known_format(config, path)


def _json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None where there is no such file (the run has not come that far)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({_first_line(error)}); delete it and run the cell again") from None
    return _known_format(content, path)


def _known_format(content: Any, path: Path) -> dict[str, Any]:
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise InputError(f"{path} has format {number!r}, this version reads format {FORMAT}; "
                         f"use the version that wrote it, or run the cell again")
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except ValueError:
            # The last line may be cut short at any time. Inside the file it means a job was killed and appended to.
            if number < len(lines) and line.strip():
                warnings.warn(f"{path}, line {number} is not readable and is left out", stacklevel=2)
    return [value for value in values if isinstance(value, dict)]


def _numbers(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return frame.astype(dict.fromkeys(columns, "float64"))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
