"""What the campaign starts from: tiny finished runs and scenes, made once; and what of a run must be equal to the bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import transfer.run as transfer_run
from ablations import run as ablations_run
from pretrain import run as pretrain_run
from pretrain.checkpoints import files as checkpoint
from results import report as results_report
from rundir.records import MEASURED
from tests.faults.fork import Ended, child, program
from tests.pretrain import tiny
from tests.transfer.finetuning import networks  # noqa: F401 (registers a network of four stages that detectors can stand on)

SETTINGS = tiny.OVERRIDES
TRAIN = ["--preset", "digits", "--out", "run", *SETTINGS]
EVALUATE = ["classification", "--checkpoint", "run", "--widths", "1.0", "0.25", "--protocol", "knn", "linear_fast"]
CELLS = ["mse-mse-online", "mse-infonce-momentum"]
GRID = [
    "--grid",
    "guidelines",
    "--profile",
    "digits",
    "--only",
    *CELLS,
    "--widths",
    "1.0",
    "0.5",
    "--runs",
    "runs",
    "--executor",
    "inline",
    "evaluation.protocols=[knn]",
    *[
        text
        for text in SETTINGS
        if text.split("=")[0]
        not in (
            "objective.teacher",
            "objective.distill_loss",
            "diagnostics.widths",
            "calibration.widths",
            "widths.sampling",
            "optimizer.epochs",
        )
    ],
    "optimizer.epochs=1",
]
FOUR_STAGES = [text for text in TRAIN if not text.startswith(("model.arch", "optimizer.epochs"))] + [
    "model.arch=resnet_tiny_of_tests",
    "optimizer.epochs=1",
]
SCENES = [
    "scenes",
    "--out",
    "scenes",
    "--train",
    "8",
    "--test",
    "4",
    "--size",
    "48",
    "--smallest",
    "14",
    "--largest",
    "20",
    "--fewest",
    "1",
    "--most",
    "3",
]
DETECT = [
    "detection",
    "--checkpoint",
    "run",
    "--data-dir",
    "scenes",
    "--widths",
    "1.0",
    "--iterations",
    "3",
    "--batch-size",
    "2",
    "--pictures",
    "0",
    "--workers",
    "0",
    "--set",
    "MODEL.FPN.OUT_CHANNELS",
    "8",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "16",
]
REPORT = ["--runs", "runs", "--out", "report", "--small", "--no-keep"]


class Failed(Exception):
    """What the campaign starts from could not be made."""


@dataclass(frozen=True)
class Ground:
    """Folders to copy from; nobody writes in them.

    Attributes:
        events: of the training of ``trained``.
        trained: holds ``run``, pretrained. evaluated: the same, evaluated. detected: ``run`` of another network and ``scenes``.
        grid: holds ``runs`` of a finished grid. reported: the same, and its ``report``.
    """

    folder: Path
    events: int = 0

    @property
    def trained(self) -> Path:
        return self.folder / "trained"

    @property
    def evaluated(self) -> Path:
        return self.folder / "evaluated"

    @property
    def detected(self) -> Path:
        return self.folder / "detected"

    @property
    def reported(self) -> Path:
        return self.folder / "reported"

    @property
    def grid(self) -> Path:
        return self.folder / "grid"


def make(folder: Path, detection: bool) -> Ground:
    """Make everything in ``folder``. Raises :class:`Failed`."""
    ground = Ground(folder, _done(pretrain_run.main, TRAIN, folder / "trained", count=True).events)
    shutil.copytree(ground.trained, ground.evaluated)
    _done(transfer_run.main, EVALUATE, ground.evaluated)
    _done(ablations_run.main, GRID, ground.grid)
    shutil.copytree(ground.grid, ground.reported)
    _done(results_report.main, REPORT, ground.reported)
    if detection:
        _done(pretrain_run.main, FOUR_STAGES, ground.detected)
        _done(transfer_run.main, SCENES, ground.detected)
    return ground


def _done(main: Callable, argv: list[str], folder: Path, **options) -> Ended:
    ended = program(main, argv, folder, **options)
    if ended.code != 0:
        raise Failed(f"{argv[:2]} ended with {ended.code}: {ended.last()}")
    return ended


# -- what must be equal ---------------------------------------------------------------------------------------------------


def asked(function: Callable[[Path], object], folder: Path) -> str:
    """What ``function(folder)`` returns, as JSON; computed in a child, so that the campaign's own process computes nothing."""
    ended = child(lambda: print(json.dumps(function(folder), sort_keys=True)), folder.parent / f"{folder.name}-asked")
    return ended.out if ended.code == 0 else f"not to be read: {ended.last()}"


def of_training(folder: Path) -> dict:
    """Weights, optimizer, teacher, calibration, metrics and state of ``run`` in ``folder``; and what is left over of a write."""
    run = folder / "run"
    return {"checkpoint": digest(run), "metrics": tiny.metrics(run), "state": state(run), "left over": left_over(folder)}


def digest(run: Path) -> str:
    """All numbers of a run's checkpoint in one."""
    found = hashlib.sha256()
    content = tiny.flattened(
        {key: value for key, value in checkpoint.load(run / "checkpoint.pt").items() if key not in ("config", "data")}
    )  # what it was made with
    for key in sorted(content):
        value = content[key]
        found.update(
            key.encode()
            + (
                value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                if torch.is_tensor(value)
                else repr(value).encode()
            )
        )
    return found.hexdigest()


def state(run: Path) -> str:
    """What status.json says."""
    return json.loads((run / "status.json").read_text())["state"]


def left_over(folder: Path) -> list[str]:
    """Temporary files."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith((".tmp", ".partial")))


def records(run: Path) -> list[dict]:
    """Score records without what the clock decides."""
    measured = {"latency_ms", "latency_on", "changed"} & set(MEASURED)
    found = [
        {key: value for key, value in record.items() if key not in measured}
        for record in json.loads((run / "result.json").read_text())["records"]
    ]
    return sorted(found, key=lambda record: json.dumps(record, sort_keys=True))


def of_evaluation(folder: Path) -> dict:
    """Scores of ``run`` in ``folder``."""
    return {"records": records(folder / "run"), "state": state(folder / "run"), "left over": left_over(folder)}


def of_report(folder: Path) -> dict:
    """The tables of ``report`` in ``folder`` word for word, and the names of all its files."""
    report = folder / "report"
    files = sorted(str(path.relative_to(report)) for path in report.rglob("*") if path.is_file())
    return {"tables": tables(report), "files": files}


def tables(report: Path) -> dict[str, str]:
    """The text of each table of a report."""
    return {path.name: path.read_text() for path in sorted(report.glob("table-*")) if path.suffix in (".csv", ".md", ".tex")}


def of_grid(folder: Path) -> dict:
    """Weights, scores and tables of the grid ``runs`` in ``folder``."""
    grid = folder / "runs" / "guidelines"
    runs = sorted(path.parent for path in grid.glob("*/config.yaml"))
    return {
        "runs": {run.name: [digest(run), tiny.metrics(run), records(run), state(run)] for run in runs},
        "tables": tables(grid / "report"),
        "left over": left_over(folder),
    }
