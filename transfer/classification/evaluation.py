"""One call: a checkpoint, a data set, widths and protocols to score records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pretrain.checkpoints import Checkpoint, open_checkpoint
from pretrain.data.sources import NAMES
from pretrain.distributed import choose_device
from pretrain.hardware import hardware
from rundir.arguments import Spread
from rundir.atomic import make_folder
from rundir.directory import RunDirectory
from rundir.errors import UserError, check_choice
from rundir.records import entry, identity, of_width
from rundir.setting import OWN_IMAGES
from rundir.subnet import Width
from transfer.classification import linear_fast as logistic
from transfer.classification.finetune import finetune
from transfer.classification.knn import K, knn_predict
from transfer.classification.linear import linear
from transfer.classification.options import TRAINING_PROTOCOLS, Options, recipe_of
from transfer.classification.rows import Rows, Storage, are_finite, select
from transfer.classification.scores import Scores, measured
from transfer.classification.task import Task, check_data, check_namesake
from transfer.latency import device_name

TASK = "classification"


def knn(task: Task, widths: list[Width]) -> Scores:
    """Weighted k-NN accuracy by width."""

    def predict(train: Rows, labels: Tensor, val: Rows) -> Tensor:
        k = min(task.options.k or K, len(labels))
        return knn_predict(train, labels, val, task.classes, k, task.options.temperature)

    return _on_features(task, widths, predict)


def linear_fast(task: Task, widths: list[Width]) -> Scores:
    """Accuracy of logistic regression on cached features by width."""

    def predict(train: Rows, labels: Tensor, val: Rows) -> Tensor:
        return logistic.fit(train, labels, task.classes, task.options.C).predict(val)

    return _on_features(task, widths, predict)


def _on_features(task: Task, widths: list[Width], predict: Callable[[Rows, Tensor, Rows], Tensor]) -> Scores:
    scores: Scores = {}
    features, chosen = task.features, task.labelled_indices
    for width in widths:
        train, val = select(features.train[width], chosen), features.val[width]
        if not (are_finite(train) and are_finite(val)):
            scores[width] = None
            continue
        predicted = predict(train, features.train_labels[chosen], val)
        scores[width] = measured(task.score, predicted, features.val_labels)
    return scores


PROTOCOLS: dict[str, Callable[[Task, list[Width]], Scores]] = {
    "knn": knn,
    "linear_fast": linear_fast,
    "linear": linear,
    "finetune": finetune,
}
DEFAULT_PROTOCOLS = ("knn", "linear_fast")
EXECUTION = {"processes": 1, "precision": "fp32", "memory_format": "channels_last"}
Key = tuple[str, tuple[float, int | None], Width]  # protocol, share of the labels and its seed, width


def evaluate(
    checkpoint: str | Path,
    dataset: str | None = None,
    root: str | None = None,
    widths: Sequence[Width | Spread] | None = None,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    *,
    device: str = "auto",
    options: Options | None = None,
    out: str | Path | None = None,
    force: bool = False,
    branch: str = "student",
    arch: str | None = None,
    extrapolate: bool = False,
) -> list[dict]:
    """Score a checkpoint on a data set at several widths.

    Args:
        checkpoint: a checkpoint file or a run directory.
        dataset, root: a data set of ``pretrain.data`` and where it is stored; None: those of pretraining (not of others' files,
            which do not say it).
        widths: within the trained range, sub-networks, or spreads of widths; None: those the checkpoint was calibrated for.
        protocols: some of ``PROTOCOLS``.
        out: directory of ``result.json``; None: the checkpoint's run directory.
        force: score anew what is there already.
        branch, arch: as :func:`~pretrain.checkpoints.open_checkpoint` takes them.
        extrapolate: allow widths narrower than those of pretraining; their records say ``extrapolated``.

    Records are written as soon as a protocol has finished, and what is there already for the same weights and settings
    is not computed again. ``score`` says what ``value`` is of, ``label_fraction`` and ``label_seed`` which labels were used.
    ``value`` and ``chance`` are fractions; ``value`` is None where outputs were not finite;
    ``latency_ms`` is the time of one image through the extracted network on ``latency_on``; older records without it get it;
    ``seed`` is that of the evaluation; ``settings`` says what else the score depends on, and ``changed`` which of it is not
    as a grid evaluates the run; ``data`` is the fingerprint of the images and labels, and ``computed_on`` the kind of machine. A
    score of data that have changed is computed again.

    Returns:
        The records of all asked (protocol, fraction of the labels, width), new and old, in the order asked.

    Raises:
        UserError: anything about the input that makes this impossible, found before anything long is computed.
    """
    options = options or Options()
    options.check()
    _check_names(dataset, protocols)
    chosen = choose_device(device)
    backbone = open_checkpoint(checkpoint, chosen, branch=branch, arch=arch)
    if dataset is None and not backbone.config.data.name:
        raise UserError(f"{backbone.path} does not say which data it was trained on; set --dataset NAME")
    backbone.extrapolate = extrapolate
    named = backbone.default_widths() if widths is None else backbone.chosen_widths(widths)
    _check_extrapolation(backbone, named)
    backbone.check_widths(named)
    stands = _stand_ins(backbone, named, widths is None)
    taken = list(stands)
    backbone.check_widths(taken)
    where = backbone.home(out)
    task = Task(backbone, dataset, root, options, chosen)
    task.stands = stands
    backbone.check_size(task.size, taken)
    asked = [(p, labels, w) for p in protocols for labels in options.labels() for w in taken]
    if not force:
        check_namesake(task, where)
    records = {} if force else _known(task, where, asked)
    missing: dict[tuple, list[Width]] = {}
    for protocol, labels, width in dict.fromkeys(asked):
        if (protocol, labels, width) not in records:
            missing.setdefault((protocol, labels), []).append(width)
    if missing:
        check_data(task)
        run = _made(where)
        kind = run.add_stretch("evaluation", {"device": str(chosen), **EXECUTION}, [hardware()])
        noted = {"data": task.data, "computed_on": kind}
        task.prepare(sorted({w for some in missing.values() for w in some}, reverse=True))
        task.storage = Storage(where)
    for (protocol, labels), some in missing.items():
        part = task.with_labels(*labels)
        scores = PROTOCOLS[protocol](part, some)
        fresh = {(protocol, labels, w): {**_record(part, protocol, w, found), **noted} for w, found in scores.items()}
        run.add_records(fresh.values())
        records |= fresh
    for key, record in records.items():  # of those from before this was recorded
        own = task.with_labels(*key[1])
        timed = {} if "latency_ms" in record else _latency(task, key[2])
        records[key] = {**record, **timed, "changed": _changed(own, key[0])}
    found = [records[key] for key in asked]
    if RunDirectory(where).records()[-len(found) :] != found:  # the last evaluation of several counts
        RunDirectory(where).add_records(found)
    return found


def _stand_ins(backbone: Checkpoint, widths: Sequence[Width], skip: bool) -> dict[Width, Width]:
    """As :meth:`Checkpoint.stand_ins`; says which they are, where they differ."""
    found = backbone.stand_ins(widths, skip=skip)
    for network, width in found.items():
        if network != width:
            shares = [100 * backbone.cost(each).flops / backbone.cost(backbone.high).flops for each in (width, network)]
            print(f"width {width:g} ({shares[0]:.1f} % of the FLOPs) is scored by {network} ({shares[1]:.1f} %)", flush=True)
    return found


def _check_extrapolation(backbone: Checkpoint, widths: Sequence[Width]) -> None:
    """Raise :class:`UserError` if widths below those of pretraining are asked for without saying so."""
    below = [width for width in widths if not backbone.dense and backbone.is_extrapolated(width)]
    if below and not backbone.extrapolate:
        raise UserError(
            f"--widths: {below[0]} is below the trained range [{backbone.low}, {backbone.high}]; set widths within it, or add "
            "--extrapolate to score it anyway"
        )


def _check_names(dataset: str | None, protocols: Sequence[str]) -> None:
    if dataset is not None:
        check_choice("--dataset", dataset, NAMES, "data set")
    if not protocols:
        raise UserError(f"--protocol names none; choose from {', '.join(PROTOCOLS)}")
    for protocol in protocols:
        check_choice("--protocol", protocol, PROTOCOLS)


def _made(where: Path) -> RunDirectory:
    make_folder(where, "scores")
    return RunDirectory(where)


def _known(task: Task, where: Path, asked: Sequence[Key]) -> dict[Key, dict]:
    """Records in ``where`` of what is ``asked`` that are what would be computed now."""
    stored = {identity(record): record for record in RunDirectory(where).records()} if where.is_dir() else {}
    wanted = {key: identity(_named(task.with_labels(*key[1]), key[0], key[2])) for key in asked}
    found = {key: stored[name] for key, name in wanted.items() if name in stored}
    outdated = _outdated(task, found)
    return {key: record for key, record in found.items() if key not in outdated}


def _outdated(task: Task, found: dict[Key, dict]) -> set[Key]:
    """Which of the records were computed on images or labels that have changed since; says so, and what is not known of others."""
    if not found:
        return set()
    data = task.data
    if data is None:
        print(f"{task.dataset} is not there now; these are the scores of when it was", flush=True)
        return set()
    old = {key for key, record in found.items() if record.get("data") not in (None, data)}
    if old:
        check_namesake(task)
        print(
            f"{task.dataset}: its images or labels have changed since {len(old)} of {len(found)} scores were computed; "
            "computing these again",
            flush=True,
        )
    if task.name in OWN_IMAGES and any("data" not in record for record in found.values()):
        print(
            f"{task.dataset}: an earlier version computed scores without noting which images these were; --force computes them "
            "again",
            flush=True,
        )
    return old


def own_record(checkpoint: Checkpoint, protocol: str, fraction: float = 1.0, seed: int | None = None) -> dict:
    """:func:`planned_record` of a grid's own evaluation; ``fraction``: share of the labels, chosen by ``seed``."""
    return planned_record(checkpoint, None, None, protocol, Options(label_fractions=[fraction]), fraction, seed)


def planned_record(
    checkpoint: Checkpoint,
    dataset: str | None,
    root: str | None,
    protocol: str,
    options: Options,
    fraction: float = 1.0,
    seed: int | None = None,
) -> dict:
    """What the records of :func:`evaluate` with these arguments say of ``checkpoint`` (it may be unloaded), but for the width and
    the weights; see :func:`is_own`. ``fraction``, ``seed``: one of ``options.labels()``.
    """
    task = Task(checkpoint, dataset, root, options, torch.device("cpu")).with_labels(fraction, seed)
    return _place(task) | {"metric": protocol, "settings": _choices(task, protocol)}


@dataclass(frozen=True)
class Workload:
    """What an evaluation at one width will do.

    ``flops``: of the encoder on one image; ``passes`` of the training images through it, a backward pass as two; ``data``: the
    fingerprint of the images and labels.
    """

    train_images: int
    test_images: int
    flops: int
    passes: float
    data: str

    @property
    def encoder_flops(self) -> float:
        """FLOPs of the encoder."""
        return self.flops * (self.passes * self.train_images + self.test_images)


def check(
    checkpoint: Checkpoint,
    dataset: str | None,
    root: str | None,
    widths: Sequence[Width],
    protocols: Sequence[str],
    options: Options,
) -> list[Workload]:
    """Check what :func:`evaluate` would of ``checkpoint`` (its weights do not matter) and the data; what each width will cost.

    Raises:
        UserError: whatever :func:`evaluate` would raise before it computes anything.
    """
    options.check()
    _check_names(dataset, protocols)
    if dataset is None and not checkpoint.config.data.name:
        raise UserError(f"{checkpoint.path} does not say which data it was trained on; set --dataset NAME")
    checkpoint.check_widths(widths)
    task = Task(checkpoint, dataset, root, options, torch.device("cpu"))
    checkpoint.check_size(task.size, widths)
    check_data(task)
    check_namesake(task)
    passes = float(any(protocol not in TRAINING_PROTOCOLS for protocol in protocols))
    for protocol in (name for name in protocols if name in TRAINING_PROTOCOLS):
        each = task.recipe(protocol).epochs * (3 if protocol == "finetune" else 1)
        passes += sum(each * fraction for fraction, _ in options.labels())
    return [Workload(len(task.train), len(task.val), task.cost(width).flops, passes, task.data or "") for width in widths]


def is_own(record: dict, own: dict) -> bool:
    """Whether ``record`` is a score of the evaluation that ``own`` (:func:`planned_record`) is of: no setting is another one.

    What an old record does not say counts as the default.
    """
    choices, settings = own["settings"], record.get("settings") or {}
    place = [name for name in own if name != "settings"]
    return all(entry(record, name) == own[name] for name in place) and all(
        settings.get(name, choice) == choice for name, choice in choices.items()
    )


def _place(task: Task) -> dict:
    """What a task's records are of, but for protocol and width."""
    return {
        "task": TASK,
        "dataset": task.dataset,
        "score": task.score,
        "label_fraction": task.fraction,
        "label_seed": task.label_seed,
        "seed": task.seed,
    }


def _choices(task: Task, protocol: str) -> dict:
    """The settings that a user may choose and a score of ``protocol`` depends on, as they come back from JSON."""
    if protocol in TRAINING_PROTOCOLS:
        own = dataclasses.asdict(task.recipe(protocol))
    else:
        own = {"knn": {"k": task.options.k, "temperature": task.options.temperature}, "linear_fast": {"C": task.options.C}}[
            protocol
        ]
    common = {"branch": task.backbone.branch, "size": task.size, "limit": task.limit} | task.pixels
    return json.loads(json.dumps({**common, **own}))


def _settings(task: Task, protocol: str) -> dict:
    """What a score depends on besides the place of its record."""
    return {"weights": task.weights, **_choices(task, protocol)}


def _changed(task: Task, protocol: str) -> dict:
    """The choices, and the seed, that are not those of a grid's own evaluation: what tells its scores and these apart."""
    plain, recipe = task.as_a_grid_does(), {}
    if protocol == "linear" and task.options.recipe not in (None, recipe_of(task.dataset, task.backbone.arch)):
        plain.options.recipe, recipe = task.options.recipe, {"recipe": task.options.recipe}  # shown by its name instead
    usual, chosen = (
        _choices(each, protocol) | {"branch": branch, "seed": each.seed}
        for each, branch in ((plain, "student"), (task, task.backbone.branch))
    )
    return recipe | {name: choice for name, choice in chosen.items() if usual[name] != choice}


def _named(task: Task, protocol: str, width: Width) -> dict:
    """A record without what was measured: all that its score depends on."""
    return {**_place(task), "metric": protocol, **of_width(width, task.stands_for(width)), "settings": _settings(task, protocol)}


def _record(task: Task, protocol: str, width: Width, found: dict | None) -> dict:
    cost = task.cost(width)
    about = {
        **(found or {"value": None}),
        "chance": task.chance,
        "count": len(task.val),
        "flops": cost.flops,
        "parameters": cost.parameters,
        **_latency(task, width),
    }
    if task.backbone.is_extrapolated(width):
        about["extrapolated"] = True
    return {**_named(task, protocol, width), **about, "changed": _changed(task, protocol)}


def _latency(task: Task, width: Width) -> dict:
    return {"latency_ms": round(task.latency(width), 4), "latency_on": device_name(task.device)}
