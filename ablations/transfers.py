"""The jobs of ``--transfer``: for every entry the fine-tunings and evaluations of the cells' checkpoints, and the references.

A fine-tuning is one (cell, seed, entry, width, initial weights), a job of its own. The references are those of one more run per
seed, ``untrained``: a network that is made without training, as in the grid ``controls``, and whose fine-tunings start from fresh
weights at their own width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.cell import check_trained, trained
from ablations.entries import CLASSIFICATION, AnalysisEntry, FinetuningEntry, Placed, SearchEntry
from ablations.grid import Run, base_config, width_settings
from pretrain import config
from pretrain.checkpoints import Checkpoint, open_checkpoint, untrained
from pretrain.identity import own_directory
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError
from rundir.manifest import GridManifest
from rundir.records import ANALYSIS, SEARCH, asked_of
from rundir.stopping import Interrupted
from rundir.subnet import Subnet, Width, as_widths, label, narrowest
from slurm.calls import from_ledger
from slurm.jobs import Left, Unfinished
from transfer import analysis, finetuning, search
from transfer.classification import Options, evaluation
from transfer.finetuning import Finetuning

UNTRAINED = "untrained"
FINETUNE = "finetune"  # the kind of jobs that fine-tune classifiers, and that protocol
OTHER_VERSION = "another version of the project wrote this job; start the grid again"
SCENES = "scenes"  # below the grid's folder: digits scenes that have no place of their own


@dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint to be evaluated, whose scores go to the directory of ``run``.

    ``planned``: the run's config decides which network it is, whether it is trained or not; else the file ``checkpoint`` does, with
    ``branch`` and ``arch``. ``initial``: of the weights that fine-tunings start from. ``extrapolate``: classification may use
    widths narrower than those of pretraining. ``alone``: run directories of networks trained for one width each, by width, that an
    analysis compares with.
    """

    run: Run
    checkpoint: str
    planned: bool = True
    initial: str = "pretrained"
    branch: str = "student"
    arch: str | None = None
    extrapolate: bool = False
    alone: Mapping[float, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, alone: Mapping[float, Path]) -> Subject:
        """The network that ``run`` of a grid has trained, or will."""
        return cls(run, str(run.directory), initial="random" if run.cell == UNTRAINED else "pretrained", alone=alone)

    @property
    def where(self) -> dict[str, str | None]:
        """What a description of work says about the file, and where its scores go."""
        out = None if self.planned else str(self.run.directory)
        return {"checkpoint": self.checkpoint, "branch": self.branch, "arch": self.arch, "out": out}

    @property
    def ready(self) -> bool:
        """Whether there can be scores already."""
        return not self.planned or trained(self.run.directory)

    def network(self) -> Checkpoint:
        """The checkpoint; of one that is planned with untrained weights."""
        if self.planned:
            return untrained(self.run.cfg, self.run.directory)
        found = open_checkpoint(self.checkpoint, branch=self.branch, arch=self.arch)
        found.extrapolate = self.extrapolate
        return found


@dataclass(frozen=True)
class Scoring:
    """Classification of one checkpoint, in JSON's types but for the options."""

    checkpoint: str
    dataset: str | None
    root: str | None
    widths: tuple[Width, ...]
    protocols: tuple[str, ...]
    options: Options = dataclasses.field(hash=False)
    branch: str = "student"
    arch: str | None = None
    out: str | None = None
    extrapolate: bool = False


@dataclass(frozen=True)
class Analysing:
    """Analysis of one checkpoint, in JSON's types but for the options; ``against``: run directories of networks trained for one
    width each.
    """

    checkpoint: str
    dataset: str | None
    root: str | None
    widths: tuple[Width, ...]
    options: analysis.Options
    against: tuple[str, ...] = ()
    branch: str = "student"
    arch: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Searching:
    """Search of one checkpoint, in JSON's types but for the options; ``budgets``: each as it is written."""

    checkpoint: str
    dataset: str | None
    root: str | None
    budgets: tuple[str, ...]
    options: search.Options = dataclasses.field(hash=False)
    branch: str = "student"
    arch: str | None = None
    out: str | None = None

    @property
    def widths(self) -> tuple[float, ...]:
        """None: it finds its own."""
        return ()

    @property
    def parsed(self) -> list[search.Budget]:
        """The budgets."""
        return [search.Budget.parse(text.split()) for text in self.budgets]


@dataclass(frozen=True)
class Transfer:
    """One job: what ``run`` is scored on, by which ``entry``. ``flops``: of the encoder in it; ``finished``: its scores are there;
    ``needs``: other run directories that must be trained before.
    """

    name: str
    kind: str
    entry: str
    run: Run
    work: Finetuning | Scoring | Analysing | Searching
    flops: float
    finished: bool
    needs: tuple[Path, ...] = ()


def reference_runs(profile: str, overrides: Sequence[str], widths: Sequence[Width] | None, runs: Sequence[Run]) -> list[Run]:
    """The runs whose fine-tunings are the references, one per seed: those of the grid's own cell ``untrained`` where it has one."""
    own = [run for run in runs if run.cell == UNTRAINED]
    if own:
        return own
    first, (base, every), found = runs[0], base_config(profile, widths, overrides), []
    for seed in dict.fromkeys(run.cfg.seed for run in runs):
        cfg = config.load(
            profile,
            [
                *width_settings(every),
                "experiment.recipe=individual-momentum-simclr",
                "derived.network=untrained",
                f"widths.min={min(map(narrowest, every))}",
                f"widths.max={base.widths.max}",
                f"seed={seed}",
                *overrides,
            ],
        )
        cfg.evaluation.protocols = []  # its own data are the grid controls' subject
        same = first.cfg.experiment
        cfg.experiment.grid, cfg.experiment.cell = same.grid, UNTRAINED
        cfg.experiment.setting, cfg.experiment.overrides = same.setting, same.overrides
        cfg.data.fingerprint = first.cfg.data.fingerprint
        found.append(Run(UNTRAINED, cfg, own_directory(first.directory.parent, UNTRAINED, cfg), command=first.command))
    return found


def transfers(
    entries: Sequence[Placed],
    runs: Sequence[Run],
    references: Sequence[Run],
    described: GridManifest,
    processes: dict[str, int],
    folder: Path,
) -> list[Transfer]:
    """The jobs of ``entries`` for ``runs`` and ``references`` of the grid in ``folder``, everything about them checked.

    Args:
        described: the grid with all its cells, whichever are run, and which of them stand against which.
        processes: those of a job, by kind.

    Raises:
        UserError: what is wrong, after the place of the entry.
    """
    found: dict[str, Transfer] = {}
    records: dict[Path, list[dict]] = {}
    for placed in entries:
        placed.check_cells(described.cells)
        with placed.told():
            pairs = [(Subject.of(run, alone_of(run, runs, described)), own) for run, own in _widths(placed, runs, references)]
            for transfer in of_entry(placed, pairs, processes, folder, records):
                found.setdefault(transfer.name, transfer)
    return list(found.values())


def of_entry(
    placed: Placed,
    pairs: Sequence[tuple[Subject, list[Width]]],
    processes: dict[str, int],
    folder: Path,
    known: dict[Path, list[dict]],
) -> list[Transfer]:
    """The jobs of one entry for these checkpoints and widths, checked; see :func:`transfers`. ``known``: records already read."""
    make = {FinetuningEntry: _finetunings, AnalysisEntry: _analyses, SearchEntry: _searches}.get(type(placed.entry), _scorings)
    return make(placed, pairs, processes, folder, known)


def alone_of(run: Run, runs: Sequence[Run], described: GridManifest) -> dict[float, Path]:
    """By width the directories of the ``runs`` that stand against ``run`` in the grid's table: the same seed, one width each."""
    rows = [row for row in described.rows if row.against == run.cell]
    of_cell = {cell: width for row in rows for cell, width in row.cells.items() if width is not None}
    return {of_cell[one.cell]: one.directory for one in runs if one.cell in of_cell and one.cfg.seed == run.cfg.seed}


def _widths(placed: Placed, runs: Sequence[Run], references: Sequence[Run]) -> list[tuple[Run, list[Width]]]:
    """The runs that are evaluated on an entry, each with the widths that it has of those asked for; the references last."""
    entry = placed.entry
    seeds = list(dict.fromkeys(run.cfg.seed for run in runs))[: entry.seeds]
    chosen = [run for run in runs if placed.matches(run.cell) and run.cfg.seed in seeds and run.cell != UNTRAINED]
    pairs = [(run, config.usable_widths(run.cfg, entry.widths or run.widths)) for run in chosen]
    every = sorted({width for _, own in pairs for width in own}, reverse=True)
    for width in as_widths(entry.widths):
        if chosen and not any(config.usable_widths(run.cfg, [width]) for run in chosen):
            if isinstance(width, Subnet):
                first = chosen[0].cfg
                config.check_widths(first.model.arch, [width], first.widths.min, first.widths.max)
            raise UserError(f"widths={entry.widths}: no network of this launch has {width:g}; set widths within those trained")
    if entry.reference:
        pairs += [(run, every) for run in references if run.cfg.seed in seeds]
    return [(run, own) for run, own in pairs if own]


def _records(run: Run, known: dict[Path, list[dict]]) -> list[dict]:
    """The records of a run directory, which is read once."""
    if run.directory not in known:
        known[run.directory] = RunDirectory(run.directory).records() if run.directory.is_dir() else []
    return known[run.directory]


def _finetunings(
    placed: Placed,
    pairs: Sequence[tuple[Subject, list[Width]]],
    processes: dict[str, int],
    folder: Path,
    known: dict[Path, list[dict]],
) -> list[Transfer]:
    entry = placed.entry
    works = [
        (one, dataclasses.replace(entry.finetuning(one.checkpoint, width, one.initial, str(folder / SCENES)), **one.where))
        for one, widths in pairs
        for width in widths
    ]
    planned = {one.checkpoint: one.run.cfg for one, _ in pairs if one.planned}
    workloads = finetuning.check([work for _, work in works], planned, processes.get(entry.task, 1))
    found = []
    for (one, work), load in zip(works, workloads, strict=True):
        run = one.run
        resolved = dataclasses.replace(load.resolved, initial=work.initial, seed=run.cfg.seed)
        name = f"{run.directory.name}.{placed.name}.{label(work.width)}"
        found.append(
            Transfer(
                name, entry.task, placed.name, run, work, load.encoder_flops, one.ready and resolved.is_scored(_records(run, known))
            )
        )
    return found


def _scorings(
    placed: Placed,
    pairs: Sequence[tuple[Subject, list[Width]]],
    processes: dict[str, int],
    folder: Path,
    known: dict[Path, list[dict]],
) -> list[Transfer]:
    entry, options, found = placed.entry, placed.entry.options(), []
    frozen = tuple(name for name in entry.protocols if name != FINETUNE)
    checked: dict[tuple, list[evaluation.Workload]] = {}
    for one, widths in pairs:
        run = one.run
        parts = [(CLASSIFICATION, frozen, tuple(widths))] if frozen else []
        parts += [(FINETUNE, (FINETUNE,), (width,)) for width in widths if FINETUNE in entry.protocols]
        for kind, protocols, some in parts:
            work = Scoring(
                dataset=entry.dataset or None,
                root=entry.data_dir or None,
                widths=some,
                protocols=protocols,
                options=options,
                extrapolate=one.extrapolate,
                **one.where,
            )
            network = (run.cfg.model.arch, run.cfg.widths.min, run.cfg.widths.max) if one.planned else one.checkpoint
            key = kind, some, network
            if key not in checked:
                checked[key] = evaluation.check(one.network(), work.dataset, work.root, some, protocols, options)
            loads = checked[key]
            name = f"{run.directory.name}.{placed.name}" + (f".{label(some[0])}" if kind == FINETUNE else "")
            done = one.ready and _is_scored(run, work, loads[0].data, _records(run, known))
            found.append(Transfer(name, kind, placed.name, run, work, sum(load.encoder_flops for load in loads), done))
    return found


def _analyses(
    placed: Placed,
    pairs: Sequence[tuple[Subject, list[Width]]],
    processes: dict[str, int],
    folder: Path,
    known: dict[Path, list[dict]],
) -> list[Transfer]:
    entry, options, found = placed.entry, placed.entry.options(), []
    checked: dict[tuple, analysis.evaluation.Workload] = {}
    for one, widths in pairs:
        run, alone = one.run, {width: path for width, path in one.alone.items() if width in widths}
        work = Analysing(
            dataset=entry.dataset or None,
            root=entry.data_dir or None,
            widths=tuple(widths),
            options=options,
            against=tuple(map(str, alone.values())),
            **one.where,
        )
        key = work.widths, (run.cfg.model.arch, run.cfg.widths.min, run.cfg.widths.max) if one.planned else one.checkpoint
        if key not in checked:
            checked[key] = analysis.evaluation.check(one.network(), work.dataset, work.root, widths, options)
        done = one.ready and analysis.evaluation.is_analysed(
            Checkpoint.unloaded(run.cfg),
            work.dataset,
            work.root,
            widths,
            options,
            checked[key].data,
            _records(run, known),
            tuple(alone),
        )
        found.append(
            Transfer(
                f"{run.directory.name}.{placed.name}",
                ANALYSIS,
                placed.name,
                run,
                work,
                checked[key].encoder_flops,
                done,
                tuple(alone.values()),
            )
        )
    return found


def _searches(
    placed: Placed,
    pairs: Sequence[tuple[Subject, list[Width]]],
    processes: dict[str, int],
    folder: Path,
    known: dict[Path, list[dict]],
) -> list[Transfer]:
    """Those of networks with more than one width."""
    entry, options, found = placed.entry, placed.entry.options(), []
    for one, _ in pairs:
        if one.planned and one.run.cfg.widths.min == one.run.cfg.widths.max:
            continue
        work = Searching(
            dataset=entry.dataset or None, root=entry.data_dir or None, budgets=tuple(entry.budgets), options=options, **one.where
        )
        network = one.network()
        load = search.evaluation.workload(network, work.dataset, work.root, work.parsed, options)
        done = one.ready and search.evaluation.is_searched(
            network, work.dataset, work.root, work.parsed, options, one.run.directory
        )
        found.append(Transfer(f"{one.run.directory.name}.{placed.name}", SEARCH, placed.name, one.run, work, load, done))
    return found


def _is_scored(run: Run, work: Scoring, data: str, records: Sequence[dict]) -> bool:
    checkpoint = Checkpoint.unloaded(run.cfg)
    for protocol in work.protocols:
        for labels in work.options.labels():
            own = evaluation.planned_record(checkpoint, work.dataset, work.root, protocol, work.options, *labels)
            have = {
                asked_of(record)
                for record in records
                if record["metric"] == protocol and evaluation.is_own(record, own) and record.get("data", data) == data
            }
            if not have.issuperset(work.widths):
                return False
    return True


# -- what a job's process does --------------------------------------------------------------------------------------------


def to_plain(work: Finetuning | Scoring | Analysing | Searching) -> dict:
    """``work`` in JSON's types, sub-networks as text."""
    own = {each.name: getattr(work, each.name) for each in dataclasses.fields(work)}
    return {name: _plain(value) for name, value in own.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Subnet):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


@from_ledger
def finetune_job(work: dict, wait: float = 0.0) -> None:
    """The job of this fine-tuning, in all processes of it.

    Raises:
        Left: another process holds its run directory, and still after ``wait`` seconds.
        Unfinished: it was asked to stop and has saved.
    """
    try:
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in work.items()}
        (plain["width"],) = as_widths([plain["width"]])
        described = Finetuning(**plain)
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None
    _check_ready(described.checkpoint)
    try:
        finetuning.run(described, wait)
    except Busy as busy:
        raise Left(str(busy).partition(";")[0]) from None
    except Interrupted as stopped:
        raise Unfinished(str(stopped)) from None


@from_ledger
def scoring_job(work: dict) -> None:
    """The job of this classification."""
    try:
        options = Options(**work["options"])
        place = [work[name] for name in ("checkpoint", "dataset", "root")]
        arguments = [*place, as_widths(work["widths"]), work["protocols"]]
        more = {name: work[name] for name in ("branch", "arch", "out")} | {"extrapolate": work.get("extrapolate", False)}
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None
    _check_ready(arguments[0])
    evaluation.evaluate(*arguments, options=options, **more)


@from_ledger
def analysis_job(work: dict) -> None:
    """The job of this analysis."""
    try:
        options = analysis.Options(**work["options"])
        arguments = [*(work[name] for name in ("checkpoint", "dataset", "root")), as_widths(work["widths"])]
        more = {name: work[name] for name in ("against", "branch", "arch", "out")}
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None
    for place in (arguments[0], *more["against"]):
        _check_ready(place)
    analysis.analyse(*arguments, options=options, **more)


@from_ledger
def search_job(work: dict) -> None:
    """The job of this search."""
    try:
        options = search.Options(**work["options"])
        budgets = [search.Budget.parse(text.split()) for text in work["budgets"]]
        arguments, more = (
            (work["checkpoint"], budgets, work["dataset"], work["root"]),
            {name: work[name] for name in ("branch", "arch", "out")},
        )
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None
    _check_ready(arguments[0])
    search.search(*arguments, options=options, **more)


def _check_ready(checkpoint: str) -> None:
    if not Path(checkpoint).is_file():  # the directory of a run
        check_trained(Path(checkpoint))
