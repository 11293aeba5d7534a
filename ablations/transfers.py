"""The jobs of ``--transfer``: for every entry the fine-tunings and evaluations of the cells' checkpoints, and the references.

A fine-tuning is one (cell, seed, entry, width, initial weights), a job of its own. The references are those of one more run per
seed, ``untrained``: a network that is made without training, as in the grid ``controls``, and whose fine-tunings start from fresh
weights at their own width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ablations.cell import check_trained, trained
from ablations.entries import CLASSIFICATION, AnalysisEntry, FinetuningEntry, Placed, ScoringEntry, SearchEntry
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
Read = TypeVar("Read", bound="Work")
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

    def shared(self, entry: ScoringEntry | AnalysisEntry | SearchEntry) -> dict[str, Any]:
        """What every :class:`Work` of an entry says of this checkpoint."""
        return {**self.where, "dataset": entry.dataset or None, "root": entry.data_dir or None, "options": entry.options()}

    @property
    def alike(self) -> tuple[str, ...]:
        """The same of checkpoints that cost the same and have the same data."""
        cfg = self.run.cfg
        return tuple(map(repr, (cfg.model, cfg.widths, cfg.elastic, cfg.data))) if self.planned else (self.checkpoint,)

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


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job computes from one checkpoint, in JSON's types but for the options. (Detection and segmentation are a Finetuning.)

    Each kind has ``of``, those of an entry and a checkpoint; ``check``, which gives the encoder's FLOPs and the fingerprint of the
    data, and raises :class:`UserError` for all that would fail later; and ``is_done``: are these scores in the run directory?
    """

    OPTIONS: ClassVar[type]
    checkpoint: str
    dataset: str | None
    root: str | None
    options: Any = field(hash=False)
    widths: tuple[Width, ...] = ()
    branch: str = "student"
    arch: str | None = None
    out: str | None = None

    @property
    def needs(self) -> tuple[Path, ...]:
        """Run directories that must be trained before, besides the checkpoint's own."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Scoring(Work):
    """Classification: the frozen protocols of all widths in one job, fine-tuning in one per width."""

    OPTIONS = Options
    protocols: tuple[str, ...]
    extrapolate: bool = False

    @classmethod
    def of(cls, entry: ScoringEntry, one: Subject, widths: Sequence[Width]) -> list[Scoring]:
        """Those of one checkpoint."""
        make = functools.partial(cls, **one.shared(entry), extrapolate=one.extrapolate)
        frozen = tuple(name for name in entry.protocols if name != FINETUNE)
        tuned = widths if FINETUNE in entry.protocols else ()
        found = [make(widths=tuple(widths), protocols=frozen)] if frozen else []
        return found + [make(widths=(width,), protocols=(FINETUNE,)) for width in tuned]

    @property
    def kind(self) -> str:
        return FINETUNE if self.protocols == (FINETUNE,) else CLASSIFICATION

    def check(self, network: Checkpoint) -> tuple[float, str]:
        loads = evaluation.check(network, self.dataset, self.root, self.widths, self.protocols, self.options)
        return sum(load.encoder_flops for load in loads), loads[0].data

    def is_done(self, one: Subject, data: str, launch: Launch) -> bool:
        checkpoint, records = Checkpoint.unloaded(one.run.cfg), launch.records(one.run)
        for protocol, labels in itertools.product(self.protocols, self.options.labels()):
            own = evaluation.planned_record(checkpoint, self.dataset, self.root, protocol, self.options, *labels)
            have = {
                asked_of(record)
                for record in records
                if record["metric"] == protocol and evaluation.is_own(record, own) and record.get("data", data) == data
            }
            if not have.issuperset(self.widths):
                return False
        return True


@dataclass(frozen=True, kw_only=True)
class Analysing(Work):
    """Analysis; ``against``: run directories of networks trained for one width each."""

    OPTIONS = analysis.Options
    kind = ANALYSIS
    against: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: AnalysisEntry, one: Subject, widths: Sequence[Width]) -> list[Analysing]:
        """That of one checkpoint."""
        against = tuple(str(path) for width, path in one.alone.items() if width in widths)
        return [cls(**one.shared(entry), widths=tuple(widths), against=against)]

    @property
    def needs(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.against))

    def check(self, network: Checkpoint) -> tuple[float, str]:
        load = analysis.evaluation.check(network, self.dataset, self.root, self.widths, self.options)
        return load.encoder_flops, load.data

    def is_done(self, one: Subject, data: str, launch: Launch) -> bool:
        place = Checkpoint.unloaded(one.run.cfg), self.dataset, self.root
        return analysis.evaluation.is_analysed(*place, self.widths, self.options, data, launch.records(one.run), tuple(one.alone))


@dataclass(frozen=True, kw_only=True)
class Searching(Work):
    """Search, which finds its own widths, of a network with more than one; ``budgets``: each as it is written."""

    OPTIONS = search.Options
    kind = SEARCH
    budgets: tuple[str, ...]

    @classmethod
    def of(cls, entry: SearchEntry, one: Subject, widths: Sequence[Width]) -> list[Searching]:
        """That of one checkpoint, if any."""
        single = one.planned and one.run.cfg.widths.min == one.run.cfg.widths.max
        return [] if single else [cls(**one.shared(entry), budgets=tuple(entry.budgets))]

    @property
    def parsed(self) -> list[search.Budget]:
        """The budgets."""
        return [search.Budget.parse(text.split()) for text in self.budgets]

    def check(self, network: Checkpoint) -> tuple[float, str]:
        return search.evaluation.workload(network, self.dataset, self.root, self.parsed, self.options), ""

    def is_done(self, one: Subject, data: str, launch: Launch) -> bool:
        place = one.network(), self.dataset, self.root
        return search.evaluation.is_searched(*place, self.parsed, self.options, one.run.directory, launch.records(one.run))


WORKS: dict[type, type[Scoring] | type[Analysing] | type[Searching]] = {
    ScoringEntry: Scoring,
    AnalysisEntry: Analysing,
    SearchEntry: Searching,
}


@dataclass(frozen=True)
class Launch:
    """What the jobs of all entries share: the folder of their grid, and processes of a job by kind."""

    folder: Path
    processes: Mapping[str, int]
    _known: dict[Path, list[dict]] = field(default_factory=dict)

    def records(self, run: Run) -> list[dict]:
        """The records of a run directory, which is read once."""
        if run.directory not in self._known:
            self._known[run.directory] = RunDirectory(run.directory).records() if run.directory.is_dir() else []
        return self._known[run.directory]


@dataclass(frozen=True)
class Transfer:
    """One job: what ``run`` is scored on, by which ``entry``. ``flops``: of the encoder in it; ``finished``: its scores are there;
    ``needs``: other run directories that must be trained before.
    """

    name: str
    kind: str
    entry: str
    run: Run
    work: Finetuning | Work
    flops: float
    finished: bool
    needs: tuple[Path, ...] = ()


def reference_runs(profile: str, overrides: Sequence[str], widths: Sequence[Width] | None, runs: Sequence[Run]) -> list[Run]:
    """The runs whose fine-tunings are the references, one per seed: those of the grid's own cell ``untrained`` where it has one.
    Else they are of the cells' network, or of the profile's where cells have several.
    """
    own = [run for run in runs if run.cell == UNTRAINED]
    if own:
        return own
    first, (base, every), found = runs[0], base_config(profile, widths, overrides), []
    networks = {run.cfg.model.arch for run in runs}
    for seed in dict.fromkeys(run.cfg.seed for run in runs):
        cfg = config.load(
            profile,
            [
                *width_settings(every),
                "experiment.recipe=individual-momentum-simclr",
                "derived.network=untrained",
                *(f"model.arch={arch}" for arch in networks if len(networks) == 1),
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
    launch: Launch,
) -> list[Transfer]:
    """The jobs of ``entries`` for ``runs`` and ``references`` of a grid, everything about them checked.

    Args:
        described: the grid with all its cells, whichever are run, and which of them stand against which.

    Raises:
        UserError: what is wrong, after the place of the entry.
    """
    found: dict[str, Transfer] = {}
    for placed in entries:
        placed.check_cells(described.cells)
        with placed.told():
            pairs = [(Subject.of(run, alone_of(run, runs, described)), own) for run, own in _widths(placed, runs, references)]
            for transfer in of_entry(placed, pairs, launch):
                found.setdefault(transfer.name, transfer)
    return list(found.values())


def of_entry(placed: Placed, pairs: Sequence[tuple[Subject, list[Width]]], launch: Launch) -> list[Transfer]:
    """The jobs of one entry for these checkpoints and widths, checked; see :func:`transfers`."""
    if isinstance(placed.entry, FinetuningEntry):
        return _finetunings(placed, pairs, launch)
    found, checked = [], dict[tuple, tuple[float, str]]()
    for one, widths in pairs:
        for work in WORKS[type(placed.entry)].of(placed.entry, one, widths):
            key = work.kind, work.widths, *one.alike
            if key not in checked:
                checked[key] = work.check(one.network())
            flops, data = checked[key]
            name = f"{one.run.directory.name}.{placed.name}" + (f".{label(work.widths[0])}" if work.kind == FINETUNE else "")
            done = one.ready and work.is_done(one, data, launch)
            found.append(Transfer(name, work.kind, placed.name, one.run, work, flops, done, work.needs))
    return found


def _finetunings(placed: Placed, pairs: Sequence[tuple[Subject, list[Width]]], launch: Launch) -> list[Transfer]:
    entry = placed.entry
    works = [
        (one, dataclasses.replace(entry.finetuning(one.checkpoint, width, one.initial, str(launch.folder / SCENES)), **one.where))
        for one, widths in pairs
        for width in widths
    ]
    planned = {one.checkpoint: one.run.cfg for one, _ in pairs if one.planned}
    workloads = finetuning.check([work for _, work in works], planned, launch.processes.get(entry.task, 1))
    found = []
    for (one, work), load in zip(works, workloads, strict=True):
        resolved = dataclasses.replace(load.resolved, initial=work.initial, seed=one.run.cfg.seed)
        name = f"{one.run.directory.name}.{placed.name}.{label(work.width)}"
        done = one.ready and resolved.is_scored(launch.records(one.run))
        found.append(Transfer(name, entry.task, placed.name, one.run, work, load.encoder_flops, done))
    return found


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


# -- what a job's process does --------------------------------------------------------------------------------------------


def to_plain(work: Finetuning | Work) -> dict:
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


def _read(kind: type[Read], plain: dict) -> Read:
    try:
        own = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        options, widths = kind.OPTIONS(**plain["options"]), tuple(as_widths(plain.get("widths", ())))
        return kind(**own | {"options": options, "widths": widths})
    except (KeyError, TypeError):
        raise UserError(OTHER_VERSION) from None


@from_ledger
def scoring_job(work: dict) -> None:
    """The job of this classification."""
    own = _read(Scoring, work)
    _check_ready(own.checkpoint)
    more = {name: getattr(own, name) for name in ("options", "branch", "arch", "out", "extrapolate")}
    evaluation.evaluate(own.checkpoint, own.dataset, own.root, own.widths, own.protocols, **more)


@from_ledger
def analysis_job(work: dict) -> None:
    """The job of this analysis."""
    own = _read(Analysing, work)
    for place in (own.checkpoint, *own.against):
        _check_ready(place)
    more = {name: getattr(own, name) for name in ("options", "branch", "arch", "out", "against")}
    analysis.analyse(own.checkpoint, own.dataset, own.root, own.widths, **more)


@from_ledger
def search_job(work: dict) -> None:
    """The job of this search; it waits for another one of the same run, which has the same folder."""
    own = _read(Searching, work)
    _check_ready(own.checkpoint)
    more = {name: getattr(own, name) for name in ("options", "branch", "arch", "out")}
    search.search(own.checkpoint, own.parsed, own.dataset, own.root, **more, wait=math.inf)


JOBS = {Scoring: scoring_job, Analysing: analysis_job, Searching: search_job}


def _check_ready(checkpoint: str) -> None:
    if not Path(checkpoint).is_file():  # the directory of a run
        check_trained(Path(checkpoint))
