"""One run of a grid: train, then evaluate. Picklable callables, so that any executor can run them: a whole run as one
(``execute``), or its stages (``train``, ``score``) as jobs of their own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ablations.grid import Run
from pretrain.checkpoints import Checkpoint
from pretrain.training import pretrain
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError
from rundir.records import asked_of, entry
from rundir.schema import State
from rundir.stopping import Interrupted
from rundir.subnet import Width
from slurm.jobs import Left, Unfinished
from transfer.classification import Options, evaluate
from transfer.classification.evaluation import is_own, own_record

LOCK_SECONDS = 300.0  # a node that was lost may hold the run directory for a while after its job was queued again


def missing_scores(run: Run) -> list[tuple[str, float, int | None, Width]]:
    """Protocol, share of the labels and its seed, width: what the run directory has no score of yet, on its own data and by the
    grid's own settings.

    A score that somebody computed with others (``transfer/run.py classification --set C=0.1``) is not one of them, nor is one of
    images or labels that have changed since.
    """
    records = RunDirectory(run.directory).records() if run.directory.exists() else []
    checkpoint = Checkpoint.unloaded(run.cfg)
    own = {
        (protocol, *labels): own_record(checkpoint, protocol, *labels)
        for protocol in run.cfg.evaluation.protocols
        for labels in _options(run, run.cfg.evaluation.label_fractions).labels()
    }
    places = [(r["metric"], entry(r, "label_fraction"), entry(r, "label_seed")) for r in records]
    have = {
        (*place, asked_of(r))
        for place, r in zip(places, records, strict=True)
        if place in own and is_own(r, own[place]) and (not run.data or r.get("data") in (None, run.data))
    }
    return [(*place, w) for place in own for w in run.widths if (*place, w) not in have]


def finished(run: Run) -> bool:
    """Whether nothing of ``run`` is left to do."""
    return trained(run.directory) and not missing_scores(run)


def trained(directory: Path) -> bool:
    """Whether the pretraining of this run directory is complete."""
    return directory.exists() and bool(RunDirectory(directory).status().get("trained"))


def execute(run: Run) -> None:
    """Train ``run`` if it is not trained and evaluate what has no score; holds the run directory throughout.

    Raises:
        Left: another process holds the run directory: the run is left to it.
        UserError: the run that this one needs is not trained.
    """
    if run.needs is not None:
        check_trained(run.needs)
    directory = RunDirectory(run.directory)
    try:
        with directory.lock():
            pretrain(run.cfg, directory)
            _record_command(run, directory)
            if missing_scores(run):
                _evaluate(run, directory, run.cfg.evaluation.protocols)
    except Busy:
        status = directory.status()
        who = f"process {status['pid']} on {status['host']}" if status.get("pid") and status.get("host") else "another process"
        raise Left(f"{who} holds {directory.path}") from None


def train(run: Run) -> None:
    """The first stage alone: pretraining with its calibration, in this process or in all that the environment describes.

    Raises:
        Unfinished: it was asked to stop and has saved.
        UserError: the run that this one needs is not trained.
    """
    if run.needs is not None:
        check_trained(run.needs)
    directory = RunDirectory(run.directory)
    first = int(os.environ.get("RANK", 0)) == 0
    try:
        with directory.lock(wait=LOCK_SECONDS) if first else nullcontext():
            pretrain(run.cfg, directory)
            if first:
                _record_command(run, directory)
    except Interrupted as stopped:
        raise Unfinished(str(stopped)) from None


def score(run: Run, protocols: Sequence[str]) -> None:
    """A later stage: evaluation of the trained ``run`` by these protocols at all its widths. Others may run at the same time."""
    _evaluate(run, RunDirectory(run.directory), protocols)


def _options(run: Run, fractions: Sequence[float]) -> Options:
    return Options(label_fractions=list(fractions), label_seeds=run.cfg.evaluation.label_seeds)


def check_trained(directory: Path) -> None:
    """Raise :class:`UserError` where the run that a job needs is not trained."""
    if not trained(directory):
        raise UserError(
            f"it needs {directory.name}, which is not trained: that run failed, or another launcher is at it; "
            "run the same command again when it is done"
        )


def _record_command(run: Run, directory: RunDirectory) -> None:
    if run.command:  # not that of the job, which says nothing of how to make the run
        directory.add_provenance(command=list(run.command))


def _evaluate(run: Run, directory: RunDirectory, protocols: Sequence[str]) -> None:
    try:
        every = run.cfg.evaluation.label_fractions  # together, but for data.limit: it holds with all labels only
        for fractions in [[one] for one in every] if run.cfg.data.limit else [every]:
            evaluate(
                directory.path,
                root=run.cfg.data.root or None,
                widths=run.widths,
                protocols=protocols,
                device=run.cfg.train.device,
                options=_options(run, fractions),
            )
    except BaseException as error:
        if not isinstance(error, Unfinished):
            directory.set_ended(error, "evaluation: ")
        raise
    if not missing_scores(run) or directory.status()["state"] != State.FAILED:
        directory.set_status(State.DONE)
