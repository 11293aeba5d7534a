"""What the checkpoints of a grid are evaluated on besides their own data: the entries of ``--transfer``, each checked by name.

An entries file is a YAML list of mappings, one per task, data set and model (keys: docs/transfer.md). ``--transfer`` takes such
files, the names of those that come with the project (``ablations/evaluations``), and ``NAME=DIR``: the entries of the profile's
evaluation, or of the known short forms, whose data set is NAME, with their data in DIR.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.grid import meant_by
from pretrain.config import transfer_of
from rundir.arguments import LARGEST, LARGEST_SEED, MOST_BATCH, MOST_PIXELS, MOST_WORKERS
from rundir.errors import UserError, check_choice, suggestion
from rundir.fields import dotted_keys, network_list, number, whole_list
from rundir.files import Damaged, read_yaml
from rundir.records import ANALYSIS, SEARCH
from rundir.setting import OWN_IMAGES
from rundir.subnet import Width
from rundir.typed import check_values, typed
from rundir.wording import joined
from transfer.analysis import Options as Analysis
from transfer.classification import DEFAULT_PROTOCOLS, PROTOCOLS
from transfer.classification.options import Options, parse_overrides
from transfer.finetuning import TASKS, Finetuning
from transfer.search import Budget
from transfer.search import Options as Search

EVALUATIONS = Path(__file__).parent / "evaluations"
CLASSIFICATION = "classification"
# Data sets by name, for NAME=DIR where the profile's evaluation has no entry of that name: the published settings.
SHORT: dict[str, dict[str, Any]] = {
    "voc": {"task": "detection", "dataset": "voc", "model": "faster_rcnn_fpn", "schedule": "voc_24k"},
    "coco": {"task": "detection", "dataset": "coco", "model": "mask_rcnn_fpn", "schedule": "coco_1x"},
    "ade20k": {"task": "segmentation", "dataset": "ade20k", "model": "upernet", "schedule": "ade20k_80k"},
    "cityscapes": {"task": "segmentation", "dataset": "cityscapes", "model": "fcn", "schedule": "cityscapes_40k"},
    **{
        name: {"task": CLASSIFICATION, "dataset": name, "protocol": ["linear"]}
        for name in ("flowers102", "pets", "dtd", "aircraft", "caltech101", "food101")
    },
}
EVERYWHERE = ("digits", "")  # data sets that need no folder: the embedded one, and that of pretraining
OF_GRID = ("cells", "widths", "seeds", "reference", "data_dir", "workers", "pictures")  # which decide nothing about a score

COMMAND_LINE = "the command line"  # begins the place of an entry that no file has
# Config keys in messages that are options of transfer/run.py, and so keys of an entry.
OPTIONS = {"data.root": "--data-dir", "data.name": "--dataset", "data.limit": "--limit", "data.size": "--size"}


@dataclass
class Entry:
    """What all tasks have. ``widths`` [] are those of the launch, ``cells`` [] all; ``seeds``: only the first so many of the
    launch's; ``reference``: also from random weights, once per width and seed.
    """

    task: str = ""
    dataset: str = ""
    data_dir: str = ""
    widths: list[Any] = network_list()  # and sub-networks
    cells: list[str] = field(default_factory=list)
    seeds: int | None = number(None, 1, LARGEST)
    reference: bool = True
    workers: int | None = number(None, 0, MOST_WORKERS)

    def shared(self, kind: type) -> dict[str, Any]:
        """The values of the fields that the dataclass ``kind`` has, too."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(kind) if hasattr(self, each.name)}

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used whatever the checkpoint and the data are."""


@dataclass
class FinetuningEntry(Entry):
    """Detection or segmentation; the keys are :class:`transfer.finetuning.Finetuning`'s."""

    model: str = ""
    schedule: str = "quick"
    iterations: int | None = number(None, 1, LARGEST)
    batch_size: int | None = number(None, 1, MOST_BATCH)
    lr: float | None = number(None, above=0)
    norm: str = "auto"
    exif: str | None = None
    pictures: int = number(4, 0, LARGEST)
    size: int | None = number(None, 1, MOST_PIXELS)
    clip_boxes: bool = False
    overrides: list[str] = field(default_factory=list)
    inference: str | None = None
    scale: list[int] | None = None
    crop: list[int] | None = None
    output_stride: int | None = number(None, 1, LARGEST)

    def finetuning(self, checkpoint: str, width: Width, initial: str, scenes: str) -> Finetuning:
        """The one of ``checkpoint`` at ``width``; ``scenes``: where those of digits go unless the entry says it."""
        own = self.shared(Finetuning)
        own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items() if value is not None}
        return Finetuning(
            **own
            | {
                "checkpoint": checkpoint,
                "width": width,
                "initial": initial,
                "data_dir": self.data_dir or (scenes if self.dataset == "digits" else None),
            }
        )

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used whatever the checkpoint and the data are."""
        for name in ("scale", "crop"):
            pair = getattr(self, name)
            if pair is not None and (len(pair) != 2 or min(pair) < 1):
                raise UserError(f"{name}={pair} must be two numbers of pixels")
        self.finetuning("", 1.0, "pretrained", "scenes").check()


@dataclass
class ScoringEntry(Entry):
    """Classification; the keys are options of ``transfer/run.py classification``. Without ``dataset``: the data of pretraining."""

    protocol: list[str] = field(default_factory=list)
    label_fraction: list[float] = field(default_factory=lambda: [1.0])
    label_seed: list[int] = whole_list(0, high=LARGEST_SEED)
    recipe: str | None = None
    score: str | None = None
    size: int | None = number(None, 1, MOST_PIXELS)
    batch_size: int = number(256, 1, MOST_BATCH)
    limit: int | None = number(None, 0, LARGEST)
    k: int | None = number(None, 1, LARGEST)
    set: list[str] = field(default_factory=list)

    @property
    def protocols(self) -> list[str]:
        """Those asked for, or as on the command line."""
        return self.protocol or (["finetune"] if self.label_fraction != [1.0] else list(DEFAULT_PROTOCOLS))

    def options(self) -> Options:
        """The options of the evaluation. Raises :class:`UserError`."""
        return parse_overrides(self.set, label_fractions=self.label_fraction, label_seeds=self.label_seed, **self.shared(Options))

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used whatever the checkpoint and the data are."""
        for protocol in self.protocols:
            check_choice("protocol", protocol, PROTOCOLS)
        self.options()


@dataclass
class AnalysisEntry(Entry):
    """What features are like; the keys are options of ``transfer/run.py analysis``. Without ``dataset``: pretraining's data."""

    images: int = Analysis.images
    pairs: int = Analysis.pairs
    neighbours: int = Analysis.neighbours
    size: int | None = None
    batch_size: int = Analysis.batch_size

    def options(self) -> Analysis:
        """The options of the analysis."""
        return Analysis(**self.shared(Analysis))

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used whatever the checkpoint and the data are."""
        self.options().check()


@dataclass
class SearchEntry(Entry):
    """Search for sub-networks; the keys are options of ``transfer/run.py search``, each budget one text. Nothing is exported."""

    reference: bool = False  # there is nothing to find in random weights
    budgets: list[str] = field(default_factory=list)
    score: str = Search.score
    vary: list[str] = field(default_factory=lambda: list(Search().vary))
    strategies: list[str] = field(default_factory=lambda: list(Search().strategies))
    evaluations: int = Search.evaluations
    images: int = Search.images
    calibration: int = Search.calibration
    neighbours: int = Search.neighbours
    pool: int = Search.pool
    checked: int = Search.checked
    size: int | None = None

    def options(self) -> Search:
        """The options of the search."""
        return Search(**self.shared(Search))

    def check(self) -> None:
        """Raise :class:`UserError` for a value that cannot be used whatever the checkpoint and the data are."""
        self.options().check()
        for text in self.budgets:
            Budget.parse(text.split())


KINDS: dict[str, type[Entry]] = {
    **dict.fromkeys(TASKS, FinetuningEntry),
    CLASSIFICATION: ScoringEntry,
    ANALYSIS: AnalysisEntry,
    SEARCH: SearchEntry,
}


@dataclass(frozen=True)
class Placed:
    """An entry and where it stands: ``where`` begins each message about it."""

    entry: Any  # of :data:`KINDS`
    where: str
    short: str = ""  # its short form NAME, where only NAME=DIR was typed

    @property
    def name(self) -> str:
        """Names the entry among all that a grid has ever had: task, data set, and six hex digits of all that a score depends on."""
        content = {key: value for key, value in dataclasses.asdict(self.entry).items() if key not in OF_GRID}
        content["folder"] = self.entry.data_dir if self.entry.dataset in OWN_IMAGES else ""
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:6]
        return f"{self.entry.task}-{self.entry.dataset or 'own'}-{digest}"

    def matches(self, cell: str) -> bool:
        """Whether ``cell`` is evaluated on it."""
        return not self.entry.cells or any(fnmatch.fnmatch(cell, pattern) for pattern in self.entry.cells)

    def check_cells(self, cells: Sequence[str]) -> None:
        """Raise :class:`UserError` for a pattern that none of the grid's ``cells`` matches."""
        for pattern in self.entry.cells:
            if not fnmatch.filter(cells, pattern):
                raise UserError(f"{self.where}: cells: {pattern} matches no cell; {meant_by(pattern, cells)}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors about this entry of a file name it, and its keys instead of a command line's options."""
        try:
            yield
        except UserError as error:
            if self.where.startswith(COMMAND_LINE):
                raise
            message = _keys(str(error.with_options(OPTIONS)))
            if self.short:
                message = re.sub(r"\bset data_dir(=DIR)?", f"set --transfer {self.short}=DIR", message)
            raise UserError(f"{self.where}: {message}") from error


def entries(words: Sequence[str], profile: str) -> tuple[list[Placed], list[str]]:
    """What ``--transfer`` with these ``words`` asks for, without any what the ``profile`` carries (of "" nothing); and the names of
    data sets that it carries but whose data are not given.

    Raises:
        UserError: a file or an entry that is wrong, or a name that nothing has.
    """
    carried = _carried(profile) if profile else []
    if not words:
        found = [placed for placed in carried if placed.entry.dataset in EVERYWHERE]
        return _different(found), list(dict.fromkeys(p.entry.dataset for p in carried if p not in found))
    found = []
    for word in words:
        name, sign, folder = word.partition("=")
        found += _named(name, folder, carried) if sign else _file(word)
    return _different(found), []


def evaluations() -> list[str]:
    """The names of the entries files that come with the project."""
    return sorted(path.stem for path in EVALUATIONS.glob("*.yaml"))


def _carried(profile: str) -> list[Placed]:
    """What a preset's key ``transfer`` says, data folders not asked for."""
    carried, path = transfer_of(profile)
    if carried is None:
        return []
    if isinstance(carried, list):
        return _placed(carried, f"{path}: transfer", False)
    if not isinstance(carried, str):
        raise UserError(f"{path}: transfer must be the name of an entries file or a list of entries")
    return _file(carried, path.parent, False)


def _named(name: str, folder: str, carried: Sequence[Placed]) -> list[Placed]:
    found = [placed for placed in carried if placed.entry.dataset == name] or [
        _one(SHORT[name], f"--transfer {name}={folder}", False) for _ in range(name in SHORT)
    ]
    if not found:
        known = list(dict.fromkeys([*(placed.entry.dataset for placed in carried), *SHORT]))
        raise UserError(f"--transfer {name}={folder}: no data set is called {name} here; {suggestion(name, known)}")
    if not folder:
        raise UserError(f"--transfer {name}=: the folder is missing; set --transfer {name}=DIR")
    where = f"--transfer {name}={folder}"
    return [Placed(dataclasses.replace(placed.entry, data_dir=_absolute(folder)), where, name) for placed in found]


def _file(name: str, folder: Path = Path(), with_data: bool = True) -> list[Placed]:
    path = EVALUATIONS / f"{name}.yaml" if name in evaluations() else folder / os.path.expanduser(name)
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        names = [*evaluations(), *(f"{short}=DIR" for short in SHORT)]
        known = suggestion(name, names, otherwise=f"give a YAML file, NAME=DIR, or one of {', '.join(evaluations())}")
        raise UserError(f"--transfer {name}: there is no such file; {known}") from None
    except Damaged as error:
        raise UserError(str(error)) from None
    return _placed(content, str(path if name not in evaluations() else name), with_data)


def _placed(content: object, where: str, with_data: bool) -> list[Placed]:
    if not isinstance(content, list) or not content:
        raise UserError(f"{where} must be a list of entries, such as - {{task: detection, dataset: voc, data_dir: DIR}}")
    return [_one(raw, f"{where}, entry {number}", with_data) for number, raw in enumerate(content, start=1)]


def placed(raw: dict[str, Any]) -> Placed:
    """The entry that the options of a command line are, checked. Raises :class:`UserError`."""
    return _one(raw, COMMAND_LINE, True)


def _one(raw: object, where: str, with_data: bool) -> Placed:
    if not isinstance(raw, dict):
        raise UserError(f"{where} must be a mapping, such as {{task: detection, dataset: voc, data_dir: DIR}}")
    task = raw.get("task")
    if not isinstance(task, str) or task not in KINDS:
        said = "task is missing" if task is None else f"task={task} is not known"
        raise UserError(f"{where}: {said}; set one of {', '.join(KINDS)}")
    where = f"{where} ({task})"
    try:
        _check_keys(KINDS[task], raw)
        entry = typed(KINDS[task], raw)
        check_values(entry)
        entry.data_dir = _absolute(entry.data_dir)
        if isinstance(entry, FinetuningEntry):
            entry.dataset = entry.dataset or "digits"
        if with_data or entry.dataset in EVERYWHERE:
            entry.check()
    except UserError as error:
        if where.startswith(COMMAND_LINE):
            raise
        raise UserError(f"{where}: {_keys(str(error))}") from None
    return Placed(entry, where)


def _check_keys(kind: type[Entry], raw: dict) -> None:
    """Raise :class:`UserError` for a key that only entries of other tasks have."""
    for key in [key for key in raw if key not in dotted_keys(kind)]:  # type: ignore[arg-type]
        others = [task for task, other in KINDS.items() if key in dotted_keys(other)]  # type: ignore[arg-type]
        if others:
            raise UserError(f"unknown key {key}; it is a key of {joined(others)}: leave it out, or set task={others[0]}")


def _different(found: Sequence[Placed]) -> list[Placed]:
    """``found``, refused where two entries are the same work for the same cells."""
    seen: dict[tuple, Placed] = {}
    for placed in found:
        key = placed.name, tuple(placed.entry.cells)
        if key in seen:
            raise UserError(f"{placed.where} is the same as {seen[key].where}; leave one out")
        seen[key] = placed
    return list(found)


def _absolute(folder: str) -> str:
    return os.path.abspath(os.path.expanduser(folder)) if folder else ""


def _keys(message: str) -> str:
    """A message about options, told of keys: ``--data-dir DIR`` becomes ``data_dir=DIR``, ``--model 'x'`` ``model 'x'``."""
    message = re.sub(r"--([a-z][\w-]*) ([A-Z]+)\b", lambda found: f"{found[1].replace('-', '_')}={found[2]}", message)
    return re.sub(r"--([a-z][\w-]*)", lambda found: found[1].replace("-", "_"), message)
