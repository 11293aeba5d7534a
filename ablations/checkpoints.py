"""Any checkpoints, ours or from elsewhere, evaluated as jobs: what ``transfer/run.py`` does with ``--executor``, one job per
checkpoint and width.

    python transfer/run.py detection --checkpoint A B C --executor slurm --dataset voc --data-dir VOCdevkit --out runs/others
    python transfer/run.py all --checkpoint A B --name "DINO R-50" "MoCo v2 R-50" --transfer mine.yaml --out runs/others
    python results/report.py --runs runs/others

Each checkpoint has a run directory of its own below ``--out``, with its scores; it says the name, the network and where the weights
are. The reference from random weights is trained once per network and width.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ablations import launching
from ablations.entries import CLASSIFICATION, KINDS, Placed, entries, placed
from ablations.grid import Run
from ablations.jobs import missing_lines
from ablations.plan import Work, show_graph, show_transfers
from ablations.transfers import UNTRAINED, Launch, Subject, of_entry
from pretrain.checkpoints import Checkpoint, open_checkpoint
from pretrain.config import ExperimentConfig, to_yaml
from pretrain.export import DEFAULT_FORMATS
from results import report
from rundir.directory import RunDirectory
from rundir.errors import UserError, settings_are_options
from rundir.manifest import GridManifest, GridRow, read, write
from rundir.overrides import is_setting
from rundir.records import SEARCH
from rundir.schema import State
from rundir.subnet import Width, as_widths
from rundir.wording import counted
from slurm.settings import Cluster
from transfer import ALL
from transfer.finetuning import TASKS

OUT = Path("runs/checkpoints")
MOST_NAME = 100  # characters


def main(argv: Sequence[str], parser: Callable[[Callable], argparse.ArgumentParser], options: Mapping[str, str]) -> int:
    """Evaluate as jobs what a command line of ``transfer/run.py`` asks for; the exit code, 1 if a job failed.

    ``parser``: makes that program's, with the options that a function adds; ``options``: those that stand for settings.
    """
    words, checkpoints = _checkpoints(launching.joined(argv))
    arguments = parser(_add_arguments).parse_args(words)
    if arguments.task not in (ALL, *KINDS):
        raise UserError(f"{arguments.task} evaluates no checkpoint; leave out --executor, --transfer and --name")
    arguments.checkpoint, arguments.command = checkpoints, ("transfer/run.py", *argv)
    with settings_are_options(options):
        return evaluate(arguments)


def _checkpoints(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line with one checkpoint, and all of them."""
    words, found, inside = [], [], False
    for word in argv:
        name, sign, value = word.partition("=")
        if name == "--checkpoint":
            inside = not sign
            found += [value] if sign else []
        elif inside and not word.startswith("--") and not (found and is_setting(word)):
            found.append(word)
        else:
            inside = False
            words.append(word)
    return [*words, *(["--checkpoint", found[0]] if found else [])], found


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of evaluation as jobs to those of a task."""
    parser.add_argument(
        "--name",
        nargs="+",
        default=[],
        metavar="N",
        help="what tables call the checkpoints, in order; default: the names of run directories or files",
    )
    launching.add_arguments(parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluate ``arguments.checkpoint``, several, on ``arguments.transfer`` or on what the task's own options say.

    Raises:
        UserError: anything about them that is wrong; nothing is written then.
    """
    cluster = launching.choose(arguments)
    arguments.folder = Path(os.path.abspath(arguments.out or OUT))
    arguments.runs = arguments.folder.parent
    wanted = entries(arguments.transfer, "")[0] if arguments.transfer else [_of_options(arguments)]
    subjects = _subjects(arguments)
    launch = Launch(arguments.folder, cluster.processes if cluster else {})
    transfers = []
    for entry in wanted:
        if not any(entry.matches(one.run.cell) for one, _ in subjects):
            print(f"{entry.where} is left out: no checkpoint is called as its cells say ({', '.join(entry.entry.cells)})")
        with entry.told():
            transfers += of_entry(entry, _pairs(entry, subjects, arguments), launch)
    work = Work([], [], transfers, 0)
    left = len(work.open_transfers)
    print(
        f"{counted(len(subjects), 'checkpoint')}, {counted(len(transfers), 'job')}, {len(transfers) - left} finished, {left} to do",
        flush=True,
    )
    if arguments.dry_run:
        show_graph(work, cluster, arguments.folder) if cluster else show_transfers(work, {})
        return 0
    return _launched(work, cluster, arguments)


def _launched(work: Work, cluster: Cluster | None, arguments: argparse.Namespace) -> int:
    runs = list({one.run.directory: one.run for one in work.transfers}.values())
    for run in runs:
        _write_run(run, arguments.command)
    _write_manifest(arguments.folder, runs, arguments.command)
    if cluster:
        failed = launching.submit(work, cluster, arguments, lambda: None)
        if failed is None:
            return 0
    else:
        failed = len(launching.launch(work, arguments))
    for line in missing_lines(arguments.folder, []) if cluster else []:
        print(line, file=sys.stderr)
    report.show(report.build(arguments.folder), asked={run.cell for run in runs})
    return 1 if failed else 0


def _subjects(arguments: argparse.Namespace) -> list[tuple[Subject, Checkpoint]]:
    """The checkpoints with their run directories, names all different."""
    paths = [Path(os.path.abspath(os.path.expanduser(path))) for path in arguments.checkpoint]
    names = arguments.name or [path.name if path.is_dir() else path.stem for path in paths]
    if len(names) != len(paths):
        raise UserError(f"--name names {len(names)} of {len(paths)} checkpoints; set one name for each, or none")
    files = [re.sub(r"[^\w.+-]+", "-", name).strip("-")[:MOST_NAME] for name in names]
    for name, file in zip(names, files, strict=True):
        wrong = "has no letter or digit" if not file else "is that of another checkpoint too" if files.count(file) > 1 else ""
        wrong = f"begins with {UNTRAINED}, as references do" if file.startswith(UNTRAINED) else wrong
        if wrong:
            raise UserError(f"{'--name' if arguments.name else 'the name'} {name!r} {wrong}; set --name to names that differ")
    found = []
    for path, name, file in zip(paths, names, files, strict=True):
        checkpoint = open_checkpoint(path, branch=arguments.branch, arch=arguments.arch)
        run = _run(checkpoint, name, arguments.folder / file)
        _check_weights(run, checkpoint, path)
        initial = getattr(arguments, "initial", "pretrained")
        checkpoint.extrapolate = getattr(arguments, "extrapolate", False)
        subject = Subject(run, str(path), False, initial, arguments.branch, arguments.arch, checkpoint.extrapolate)
        found.append((subject, checkpoint))
    return found


def _check_weights(run: Run, checkpoint: Checkpoint, path: Path) -> None:
    """Raise :class:`UserError` where the run directory holds scores of other weights, which would pass for this checkpoint's."""
    for record in RunDirectory(run.directory).records() if run.directory.is_dir() else []:
        settings = record.get("settings") or {}
        others = settings.get("weights") not in (None, checkpoint.fingerprint())
        if others and settings.get("branch", "student") == checkpoint.branch and record.get("initial") != "random":
            raise UserError(
                f"{run.directory} holds scores of other weights than {path} has now (or of another --arch); set --name or --out to "
                "others, or remove that directory"
            )


def _run(checkpoint: Checkpoint, name: str, directory: Path) -> Run:
    cfg = copy.deepcopy(checkpoint.config)
    cfg.experiment = ExperimentConfig(grid=directory.parent.name, cell=name, setting="as each checkpoint says")
    return Run(name, cfg, directory)


def _pairs(
    entry: Placed, subjects: Sequence[tuple[Subject, Checkpoint]], arguments: argparse.Namespace
) -> list[tuple[Subject, list[Width]]]:
    """The checkpoints with their widths of the entry; behind them one per network whose fine-tunings start from random weights."""
    asked = as_widths(entry.entry.widths) or getattr(arguments, "widths", None)
    pairs, references = [], {}
    for one, checkpoint in subjects:
        if not entry.matches(one.run.cell):
            continue
        widths = checkpoint.chosen_widths(asked or checkpoint.default_widths())
        pairs.append((one, widths))
        if entry.entry.reference and entry.entry.task in TASKS:
            run = _run(checkpoint, f"{UNTRAINED} {checkpoint.arch}", arguments.folder / f"{UNTRAINED}-{checkpoint.arch}")
            _, known = references.get(run.directory, (None, []))
            every = sorted({*known, *widths}, reverse=True)
            references[run.directory] = (dataclasses.replace(one, run=run, initial="random"), every)
    return [*pairs, *references.values()]


def _write_run(run: Run, command: Sequence[str]) -> None:
    """The run directory of a checkpoint from elsewhere: its config and that it is trained, where that is not said already."""
    directory = RunDirectory(run.directory)
    written = directory.read_config()
    if written is None:
        directory.write_config(to_yaml(run.cfg))
        directory.add_provenance(command=list(command))
    elif written.get("experiment", {}).get("cell") != run.cell:
        raise UserError(f"{run.directory} is of {written.get('experiment', {}).get('cell')!r}; set --name or --out to others")
    if directory.status()["state"] != State.DONE:
        directory.set_status(State.DONE, trained=True)


def _write_manifest(folder: Path, runs: Sequence[Run], command: Sequence[str]) -> None:
    """The ``grid.json`` of the checkpoints: one row each, networks of one architecture together, with those of earlier calls."""
    own = [GridRow(run.cfg.model.arch, (run.cell,), run.cell, {run.cell: None}, run.cell, run.cfg.model.arch) for run in runs]
    old, names = read(folder), {run.cell for run in runs}
    every = [row for row in (old.rows if old else ()) if not names & set(row.cells)] + own
    rows = tuple(sorted(every, key=lambda row: row.section))
    write(folder, GridManifest(folder.name, "Checkpoints", ("Checkpoint",), rows, command=shlex.join(["python", *command])))


def _of_options(arguments: argparse.Namespace) -> Placed:
    """The entry that a task's own options are."""
    if arguments.task == ALL:
        raise UserError(f"{ALL} evaluates on what --transfer says; set it to entries files, or NAME=DIR")
    for name in ("seed", "force", "against"):
        if getattr(arguments, name, None):
            raise UserError(f"--{name} is not for evaluation as jobs; leave it out, or evaluate one checkpoint without --executor")
    own = {each.name for each in dataclasses.fields(KINDS[arguments.task])} - {"widths", "task"}
    given = {name: getattr(arguments, name) for name in own if getattr(arguments, name, None) is not None}
    if arguments.task == SEARCH:
        if arguments.format != list(DEFAULT_FORMATS):
            raise UserError(
                "--format is not for searches as jobs, which export nothing; leave it out, or search one checkpoint "
                "without --executor"
            )
        given["budgets"] = [" ".join(words) for words in arguments.budget]
    if arguments.task == CLASSIFICATION:
        given["set"] = arguments.overrides
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return placed({**plain, "task": arguments.task, "reference": False})
