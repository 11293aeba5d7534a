"""What a run directory is, in names: its files, the states of a run, and the versions of every format (docs/formats.md).

A run directory is that of a pretraining, ``runs/GRID/CELL-HASH``, or of a fine-tuning, ``transfer/TASK/NAME`` below it. The
``config.yaml`` of a fine-tuning is no config of pretraining: it holds the fields of its score records, ``task`` among them, by
which :func:`is_fine_tuning` tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

FORMAT = 1  # of every JSON and YAML file of a run directory
CHECKPOINT_FORMAT = 1
EXPORT_FORMAT = 1  # of an exported network's config.json
REPORT_FORMAT = 1  # of claims.json and of the list of files that a report consists of
PUBLISHED_FORMAT = 1  # of a list of published numbers
LEDGER_FORMAT = 1  # of what slurm/ notes of jobs
MANIFEST_FORMAT = 1  # of grid.json
LABEL_LIST_FORMAT = 1
SCENES_FORMAT = 1  # of the description of scenes of digits


class File:
    """Names of the files of a run directory."""

    CONFIG = "config.yaml"
    STATUS = "status.json"
    METRICS = "metrics.jsonl"
    CHECKPOINT = "checkpoint.pt"
    PREVIOUS_CHECKPOINT = "checkpoint.previous.pt"
    RESULT = "result.json"
    PROVENANCE = "provenance.json"
    CLASSES = "classes.json"  # scores by class, of a fine-tuning
    MANIFEST = "grid.json"  # of a grid, next to its runs
    LOCK = ".lock"
    RESULT_LOCK = ".result.lock"


# Replaced in one move, so that a kill may leave a temporary file of that name.
WRITTEN = (File.CHECKPOINT, File.CONFIG, File.STATUS, File.RESULT, File.PROVENANCE, File.METRICS)
FINE_TUNINGS = "transfer"  # directory of a run's fine-tunings, one directory per task


class State:
    """The states of a run, named as in ``status.json``."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Status(TypedDict, total=False):
    """``status.json``; times are UTC, ISO 8601. Details of the training come as it goes on."""

    format: int
    state: str  # of State
    why: str
    host: str
    pid: int
    started: str
    heartbeat: str
    finished: str | None
    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    seconds_left: float
    trained: bool


class Score(TypedDict, total=False):
    """One record of ``result.json``. What it means where an entry is missing: :data:`rundir.records.DEFAULTS`."""

    task: str
    dataset: str
    metric: str
    width: float | None
    subnet: str  # in place of a width, or with the width that it stands for
    seed: int
    value: float | None  # a fraction, None where undefined
    score: str
    label_fraction: float
    label_seed: int | None
    model: str
    schedule: str
    initial: str
    chance: float | None
    count: int
    flops: int
    parameters: int
    latency_ms: float
    latency_on: str
    settings: dict[str, Any]
    data: str
    computed_on: str
    strategy: str  # of a search; "" of what is of no pick
    budget: str
    found: str  # the sub-network that a search has picked
    against: str  # of an analysis: weights of the network that is compared with
    changed: dict[str, Any]
    extrapolated: bool
    correct: int  # of ``count`` images
    image_error: float  # standard error of ``value`` that comes from the choice of images alone


class Provenance(TypedDict, total=False):
    """``provenance.json``."""

    format: int
    git_commit: str | None
    packages: dict[str, str | None]
    command: list[str]
    hardware: dict[str, Any]
    data: str
    started: str
    finished: str
    train_seconds: float
    train_flops: float
    stretches: list[dict[str, Any]]
    kinds: dict[str, list[str]]
    method_version: int  # rundir/method.py; 1 where it is missing


def is_fine_tuning(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.yaml`` is that of a fine-tuning, whose scores are records of the pretraining run too."""
    return "task" in config
