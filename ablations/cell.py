"""One run of a grid: train, then evaluate. A picklable callable, so that any executor can run it."""

from __future__ import annotations

from pathlib import Path

from ablations.grid import Run
from pretrain.errors import UserError
from pretrain.rundir import Busy, RunDirectory, record_value
from pretrain.train import pretrain
from transfer.classification import Options, evaluate
from transfer.classification.task import dataset_name


def missing_scores(run: Run) -> list[tuple[str, float]]:
    """(protocol, width) pairs that the run directory has no score on its own data for yet."""
    own = dataset_name(run.cfg.data.name, run.cfg.data.root)
    records = RunDirectory(run.directory).records() if run.directory.exists() else []
    have = {(r["metric"], r["width"]) for r in records
            if r["dataset"] == own and record_value(r, "label_fraction") == 1}
    return [(p, w) for p in run.cfg.evaluation.protocols for w in run.widths if (p, w) not in have]


def finished(run: Run) -> bool:
    """Whether nothing of ``run`` is left to do."""
    return trained(run.directory) and not missing_scores(run)


def trained(directory: Path) -> bool:
    """Whether the pretraining of this run directory is complete."""
    return directory.exists() and bool(RunDirectory(directory).status().get("trained"))


def execute(run: Run) -> None:
    """Train ``run`` if it is not trained and evaluate what has no score; holds the run directory throughout.

    A run that another launcher holds is left to it.

    Raises:
        UserError: the run that this one needs is not trained.
    """
    if run.needs is not None and not trained(run.needs):
        raise UserError(f"it needs {run.needs.name}, which is not trained: that run failed, or another launcher is at it; "
                        "run the same command again when it is done")
    directory = RunDirectory(run.directory)
    try:
        with directory.lock():
            pretrain(run.cfg, directory)
            if missing_scores(run):
                _evaluate(run, directory)
    except Busy as busy:
        print(f"left alone: {busy}", flush=True)


def _evaluate(run: Run, directory: RunDirectory) -> None:
    try:
        evaluate(directory.path, widths=run.widths, protocols=run.cfg.evaluation.protocols, device=run.cfg.train.device,
                 options=Options(limit=run.cfg.data.limit))
    except Exception as error:
        directory.set_status("failed", why=f"evaluation: {type(error).__name__}: {error}".splitlines()[0])
        raise
    directory.set_status("done")
