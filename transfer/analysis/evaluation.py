"""From a checkpoint and widths to records of what its features are like: one call, and a result file beside the run.

Nothing is trained and no label is used. All features are the encoder's, of the training images of a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.checkpoints import Checkpoint, open_checkpoint
from pretrain.data import TwoViewBatches
from pretrain.data.sources import NAMES
from pretrain.distributed import choose_device
from pretrain.hardware import hardware
from rundir.arguments import Spread
from rundir.atomic import make_folder
from rundir.directory import RunDirectory
from rundir.errors import UserError, check_choice
from rundir.records import ANALYSIS, identity, of_width, width_of
from rundir.subnet import Width
from transfer.analysis import measures
from transfer.analysis.options import Options
from transfer.classification.options import Options as TaskOptions
from transfer.classification.task import Task, check_namesake
from transfer.image_arguments import check_neighbours

# Every measure by its name in records, and what it says.
MEASURES = {
    "alignment": "distance between two views of an image (less is closer)",
    "uniformity": "how evenly images spread over the sphere (less is more even)",
    "rankme": "effective rank of the features",
    "lidar": "effective rank of what tells images apart, however they are augmented",
    "cka_full": "similarity to the full width (linear CKA)",
    "overlap_full": "share of an image's nearest neighbours that are those at full width",
    "order_first": "how far the first channels of the full width's features put images in the same order as all of them",
    "cka_individual": "similarity to the network trained for that width alone (linear CKA)",
    "overlap_individual": "share of an image's nearest neighbours that are those of the network trained for that width alone",
    "updates": "optimizer steps that reached the outermost channels of that width",
}
TO_INDIVIDUAL = ("cka_individual", "overlap_individual")
EXECUTION = {"processes": 1, "precision": "fp32", "memory_format": "channels_last"}
Key = tuple[str, Width]  # measure, width


def analyse(
    checkpoint: str | Path,
    dataset: str | None = None,
    root: str | None = None,
    widths: Sequence[Width | Spread] | None = None,
    *,
    against: Sequence[str | Path] = (),
    device: str = "auto",
    options: Options | None = None,
    out: str | Path | None = None,
    force: bool = False,
    branch: str = "student",
    arch: str | None = None,
) -> list[dict]:
    """Measure the features of a checkpoint at several widths, without labels.

    Args:
        checkpoint: a checkpoint file or a run directory.
        dataset, root: a data set of ``pretrain.data`` and where it is stored; None: those of pretraining (not of others' files,
            which do not say it).
        widths: within the trained range, or spreads of such; None: those the checkpoint was calibrated for.
        against: networks trained for one width each, of which those of these widths are compared with.
        out: directory of ``result.json``; None: the checkpoint's run directory.
        force: measure again what is there already.
        branch, arch: as :func:`~pretrain.checkpoints.open_checkpoint` takes them.

    Returns:
        The records of all measures (:data:`MEASURES`) and widths. ``value`` is in the measure's own unit, no fraction, and None
        where it is undefined; ``count`` is the number of images. What is there already for the same weights, images and settings is
        not computed again.

    Raises:
        UserError: anything about the input that makes this impossible, found before anything long is computed.
    """
    options = options or Options()
    options.check()
    chosen = choose_device(device)
    backbone = open_checkpoint(checkpoint, chosen, branch=branch, arch=arch)
    taken = backbone.default_widths() if widths is None else backbone.chosen_widths(widths)
    subject = Subject(backbone, dataset, root, options, chosen)
    subject.check(taken)
    where = backbone.home(out)
    alone, updates = individual(against, subject, taken), backbone.updates(taken) or {}
    wanted = {
        (name, width): subject.described(name, width) | _against(name, width, alone)
        for name, width in asked(subject, taken, alone, updates)
    }
    if not force:
        check_namesake(subject.task, where)
    records = {} if force else _known(where, wanted, subject.task.data)
    if len(records) < len(wanted):
        make_folder(where, "scores")
        kind = RunDirectory(where).add_stretch("evaluation", {"device": str(chosen), **EXECUTION}, [hardware()])
        noted = {"count": subject.count, "chance": None, "changed": subject.changed, "data": subject.task.data, "computed_on": kind}
        values = measured(subject, wanted, alone) | {("updates", width): float(count) for width, count in updates.items()}
        records = {key: {**record, "value": values[key], **_cost(subject.task, key[1]), **noted} for key, record in wanted.items()}
        RunDirectory(where).add_records(records.values())
    return list(records.values())


def asked(subject: Subject, widths: Sequence[Width], alone: Iterable[Width], updates: Iterable[Width]) -> list[Key]:
    """The measures that there are at ``widths``: what compares with the full width not of that itself, the order of the first
    channels where a width has fewer features, and the last ones of widths ``alone`` and with known ``updates``.
    """
    backbone, found = subject.backbone, list[Key]()
    full = backbone.high
    fewer = [width for width in widths if backbone.feature_dim(width) < backbone.feature_dim(full)]
    narrower, alone = [width for width in widths if width != full], list(alone)
    of: dict[str, Sequence[Width]] = {
        "cka_full": narrower,
        "overlap_full": narrower,
        "order_first": fewer,
        "cka_individual": alone,
        "overlap_individual": alone,
        "updates": list(updates),
    }
    for name in MEASURES:
        found += [(name, width) for width in widths if width in of.get(name, widths)]
    return found


class Subject:
    """A checkpoint on the images that its features are of."""

    def __init__(self, backbone: Checkpoint, dataset: str | None, root: str | None, options: Options, device: torch.device):
        if dataset is not None:
            check_choice("--dataset", dataset, NAMES, "data set")
        elif not backbone.config.data.name:
            raise UserError(f"{backbone.path} does not say which data it was trained on; set --dataset NAME")
        self.backbone, self.options, self.device = backbone, options, device
        plain = TaskOptions(size=options.size, batch_size=options.batch_size, workers=options.workers)
        self.task = Task(backbone, dataset, root, plain, device)

    def check(self, widths: Sequence[Width]) -> None:
        """Raise :class:`UserError` where these widths, or the images, cannot be analysed."""
        self.backbone.check_widths(widths)
        self.backbone.check_size(self.task.size, widths)
        check_neighbours(self.task, self.count, self.options.neighbours)

    @property
    def count(self) -> int:
        """Number of images; the last batch of views has at least two."""
        count = min(self.options.images, len(self.task.train))
        return count - (count % self.options.batch_size == 1)

    @property
    def indices(self) -> Tensor:
        """Which of the training images these are, int64: the same for all checkpoints of a data set."""
        return torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(0))[: self.count]

    @property
    def changed(self) -> dict[str, Any]:
        """The choices that are not the defaults."""
        usual = Options().choices | {"size": self.backbone.config.data.size, "branch": "student"}
        chosen = self.options.choices | {"size": self.task.size, "branch": self.backbone.branch}
        return {name: value for name, value in chosen.items() if usual[name] != value}

    def planned(self, name: str, width: Width) -> dict[str, Any]:
        """What a record says before there are weights, without what is measured."""
        settings = {
            "branch": self.backbone.branch,
            "size": self.task.size,
            "limit": self.task.limit,
            **self.options.choices,
            **self.task.pixels,
        }
        return {
            "task": ANALYSIS,
            "dataset": self.task.dataset,
            "seed": self.backbone.seed,
            "metric": name,
            **of_width(width),
            "settings": settings,
        }

    def described(self, name: str, width: Width) -> dict[str, Any]:
        """A record without what is measured: all that its value depends on."""
        planned = self.planned(name, width)
        return planned | {"settings": {"weights": self.task.weights, **planned["settings"]}}

    def plain(self, widths: Sequence[Width]) -> dict[Width, Tensor]:
        """By width the features (N, D) of the images as they are, float32."""
        self.task.prepare(list(widths))
        found: dict[Width, list[Tensor]] = {width: [] for width in widths}
        for images, _ in self.task.batches(self.task.train, self.indices):
            for width, parts in found.items():
                parts.append(self.task.frozen(width)(images).float())
        return {width: torch.cat(parts) for width, parts in found.items()}

    def views(self, widths: Sequence[Width]) -> dict[Width, Tensor]:
        """By width the features (N, 2 pairs, D) of augmented views, drawn from a fixed seed as pretraining draws them."""
        networks: dict[Width, nn.Module] = {width: self.task.frozen(width) for width in widths}
        found: dict[Width, Tensor] = {}
        for column, (index, batch) in self._batches():
            for width, network in networks.items():
                features = network(batch).float()
                if width not in found:
                    found[width] = features.new_empty(self.count, 2 * self.options.pairs, features.shape[1])
                found[width][index, column] = features
        return found

    @torch.no_grad()
    def _batches(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        source, batch = self.task.train.subset(self.indices), min(self.options.batch_size, self.count)
        batches = TwoViewBatches(
            source, self.backbone.config.augment, self.task.size, batch, 0, self.device, workers=self.task.workers, drop_last=False
        )
        for pair in range(self.options.pairs):
            for index, *views in batches.epoch(pair):
                for second, view in enumerate(views):
                    yield 2 * pair + second, (index.to(self.device), view)


def individual(paths: Sequence[str | Path], subject: Subject, widths: Sequence[Width]) -> dict[Width, Subject]:
    """The networks trained for one width each, by the width of ``widths`` that they are of.

    Raises:
        UserError: one is not for one width, or two are for the same.
    """
    found: dict[float, Subject] = {}
    for path in paths:
        other = open_checkpoint(path, subject.device)
        if other.low != other.high:
            raise UserError(
                f"--against {path} works at widths {other.low:g} to {other.high:g}; give networks trained for one width each"
            )
        if other.high in found:
            raise UserError(
                f"--against {path} and {found[other.high].backbone.path} are both of width {other.high:g}; give one of them"
            )
        found[other.high] = Subject(other, subject.task.name, subject.task.root, subject.options, subject.device)
    for width in sorted(found.keys() - set(widths)):
        print(f"--against {found[width].backbone.path} is of width {width:g}, which is not analysed", flush=True)
    return {width: other for width, other in found.items() if width in widths}


def measured(subject: Subject, keys: Iterable[Key], alone: Mapping[Width, Subject]) -> dict[Key, float | None]:
    """The values of those of ``keys`` that are measured on features; None where one is undefined."""
    keys, full, k = set(keys), subject.backbone.high, subject.options.neighbours
    widths = sorted({width for _, width in keys}, reverse=True)
    features = subject.plain(sorted({*widths, full}, reverse=True))
    views, others = subject.views(widths), {width: other.plain([width])[width] for width, other in alone.items()}

    def value(name: str, width: Width) -> float | None:
        own, seen, whole = features[width], views[width], features[full]
        against = others[width] if name in TO_INDIVIDUAL else whole
        if name == "alignment":
            return measures.alignment(seen[:, ::2], seen[:, 1::2])
        if name == "uniformity":
            return measures.uniformity(seen[:, 0])
        if name == "lidar":
            return measures.lidar(seen)
        if name == "rankme":
            return measures.rankme(own)
        if name == "order_first":
            return measures.order_agreement(whole[:, : own.shape[1]], whole)
        return measures.linear_cka(own, against) if name.startswith("cka") else measures.neighbour_overlap(own, against, k)

    return {key: value(*key) for key in keys if key[0] != "updates"}


@dataclass(frozen=True)
class Workload:
    """What an analysis will do: FLOPs of the encoder, and the fingerprint of the images."""

    encoder_flops: float
    data: str


def check(checkpoint: Checkpoint, dataset: str | None, root: str | None, widths: Sequence[Width], options: Options) -> Workload:
    """Check what :func:`analyse` would of ``checkpoint`` (its weights do not matter) and the data; what it will cost.

    Raises:
        UserError: whatever :func:`analyse` would raise before it computes anything.
    """
    options.check()
    subject = Subject(checkpoint, dataset, root, options, torch.device("cpu"))
    subject.check(widths)
    check_namesake(subject.task)
    passes = subject.count * (1 + 2 * options.pairs)
    return Workload(passes * sum(subject.task.cost(width).flops for width in widths), subject.task.data or "")


def is_analysed(
    checkpoint: Checkpoint,
    dataset: str | None,
    root: str | None,
    widths: Sequence[Width],
    options: Options,
    data: str,
    records: Sequence[Mapping[str, Any]],
    against: Sequence[float] = (),
) -> bool:
    """Whether ``records`` hold an analysis of the (unloaded) ``checkpoint`` with these settings and ``data``; ``against``: the
    widths whose networks trained for one width it has to be compared with.
    """
    subject = Subject(checkpoint, dataset, root, options, torch.device("cpu"))
    have = set()
    for record in records:
        settings = {name: value for name, value in record.get("settings", {}).items() if name != "weights"}
        said = {**record, "settings": settings}
        of_analysis = record.get("task") == ANALYSIS
        own = subject.planned(record.get("metric", ""), width_of({"width": 0.0, **record})) if of_analysis else None
        if own is not None and identity(said) == identity(own) and record.get("data") == data:
            have.add((record["metric"], width_of(record)))
    return have >= {("rankme", width) for width in widths} | {("cka_individual", width) for width in against if width in widths}


def _against(name: str, width: Width, alone: Mapping[Width, Subject]) -> dict[str, str]:
    """Names the weights that a measure compares with."""
    return {"against": alone[width].task.weights} if name in TO_INDIVIDUAL else {}


def _cost(task: Task, width: Width) -> dict[str, int]:
    cost = task.cost(width)
    return {"flops": cost.flops, "parameters": cost.parameters}


def _known(where: Path, wanted: Mapping[Key, dict], data: str | None) -> dict[Key, dict]:
    """Records in ``where`` of what is ``wanted``, of the same images and compared with the same networks."""
    stored = {identity(record): record for record in RunDirectory(where).records()} if where.is_dir() else {}
    found = {key: stored.get(identity(record)) for key, record in wanted.items()}
    return {
        key: record
        for key, record in found.items()
        if record is not None and record.get("data") == data and record.get("against") == wanted[key].get("against")
    }
