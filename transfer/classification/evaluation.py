"""One call: a checkpoint, a data set, widths and protocols to score records."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from pretrain.data.sources import NAMES
from pretrain.distributed import choose_device
from pretrain.errors import UserError
from pretrain.rundir import RunDirectory
from transfer.backbone import Backbone, load_backbone
from transfer.classification import linear_fast as logistic
from transfer.classification.finetune import finetune
from transfer.classification.knn import K, knn_predict
from transfer.classification.linear import linear
from transfer.classification.options import Options
from transfer.classification.task import Task, check_data

TASK = "classification"
Scores = dict[float, float | None]


def knn(task: Task, widths: list[float]) -> Scores:
    """Weighted k-NN accuracy by width."""
    def predict(train: Tensor, labels: Tensor, val: Tensor) -> Tensor:
        k = task.options.k or min(K, len(labels))
        return knn_predict(train, labels, val, task.classes, k, task.options.temperature)
    return _on_features(task, widths, predict)


def linear_fast(task: Task, widths: list[float]) -> Scores:
    """Accuracy of logistic regression on cached features by width."""
    def predict(train: Tensor, labels: Tensor, val: Tensor) -> Tensor:
        return logistic.fit(train, labels, task.classes, task.options.C).predict(val)
    return _on_features(task, widths, predict)


def _on_features(task: Task, widths: list[float], predict: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Scores:
    scores: Scores = {}
    for width in widths:
        train, val = task.features.train[width], task.features.val[width]
        if not (train.isfinite().all() and val.isfinite().all()):
            scores[width] = None
            continue
        right = predict(train, task.features.train_labels, val) == task.features.val_labels
        scores[width] = int(right.sum()) / len(right)
    return scores


PROTOCOLS: dict[str, Callable[[Task, list[float]], Scores]] = {
    "knn": knn, "linear_fast": linear_fast, "linear": linear, "finetune": finetune,
}
DEFAULT_PROTOCOLS = ("knn", "linear_fast")


def evaluate(checkpoint: str | Path, dataset: str | None = None, root: str | None = None,
             widths: Sequence[float] | None = None, protocols: Sequence[str] = DEFAULT_PROTOCOLS, *,
             device: str = "auto", options: Options | None = None, out: str | Path | None = None,
             force: bool = False, branch: str = "student", arch: str | None = None) -> list[dict]:
    """Score a checkpoint on a data set at several widths.

    Args:
        checkpoint: a checkpoint file or a run directory.
        dataset, root: a data set of ``pretrain.data`` and where it lies; None: those of pretraining (not of others' files,
            which do not say it).
        widths: within the trained range; None: those the checkpoint was calibrated for.
        protocols: some of ``PROTOCOLS``.
        out: directory of ``result.json``; None: the checkpoint's run directory.
        force: score anew what is there already.
        branch, arch: as :func:`~transfer.backbone.load_backbone` takes them.

    Records are written as soon as a protocol has finished, and what is there already for the same weights and settings
    is not computed again. ``value`` and ``chance`` are fractions; ``value`` is None where outputs were not finite;
    ``seed`` is that of the evaluation; ``settings`` says what the score depends on beside the record's key.

    Returns:
        The records of all asked (protocol, width), new and old, in the order asked.

    Raises:
        UserError: anything about the input that makes this impossible, found before anything long is computed.
    """
    options = options or Options()
    options.check()
    _check_names(dataset, protocols)
    chosen = choose_device(device)
    backbone = load_backbone(checkpoint, chosen, branch=branch, arch=arch)
    if dataset is None and not backbone.config.data.name:
        raise UserError(f"{backbone.path} does not say which data it was trained on; write --dataset NAME")
    widths = [float(w) for w in (backbone.default_widths() if widths is None else widths)]
    backbone.check_widths(widths)
    where = _destination(backbone, out)
    task = Task(backbone, dataset, root, options, chosen)
    backbone.check_size(task.size)
    records = {} if force else _known(task, where, widths, protocols)
    missing = {p: [w for w in widths if (p, w) not in records] for p in protocols}
    if any(missing.values()):
        check_data(task)
        run = _made(where)
        task.prepare(sorted({w for some in missing.values() for w in some}, reverse=True))
    for protocol in (p for p in dict.fromkeys(protocols) if missing[p]):
        scores = PROTOCOLS[protocol](task, missing[protocol])
        fresh = {(protocol, w): _record(task, protocol, w, value) for w, value in scores.items()}
        run.add_records(fresh.values())
        records |= fresh
    return [records[p, w] for p in protocols for w in widths]


def _check_names(dataset: str | None, protocols: Sequence[str]) -> None:
    if dataset is not None and dataset not in NAMES:
        raise UserError(_unknown("data set", dataset, NAMES, "--dataset"))
    if not protocols:
        raise UserError(f"--protocol names none; choose from {', '.join(PROTOCOLS)}")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise UserError(_unknown("protocol", protocol, PROTOCOLS, "--protocol"))


def _unknown(kind: str, name: str, known: Sequence[str], option: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {option} {near[0]}?" if near else f"write {option} with one of {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def _destination(backbone: Backbone, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if backbone.run_dir is None:
        raise UserError(f"{backbone.path} does not lie in the run directory it was trained in, or is its teacher; "
                        "write --out DIR for its scores")
    if not backbone.finished:
        raise UserError(f"pretraining of {backbone.path} has not finished (epoch {backbone.epoch} of "
                        f"{backbone.config.optimizer.epochs}); finish it, or write --out DIR to score it as it is")
    return backbone.run_dir


def _made(where: Path) -> RunDirectory:
    try:
        return RunDirectory(where)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"cannot write scores to {where} ({error.strerror}); write another --out DIR") from None


def _known(task: Task, where: Path, widths: Sequence[float], protocols: Sequence[str]) -> dict:
    """Records in ``where`` by (protocol, width) that are what would be computed now."""
    found = {}
    for record in RunDirectory(where).records() if where.is_dir() else []:
        same = (record["task"], record["dataset"], record["seed"]) == (TASK, task.dataset, task.seed)
        wanted = record["metric"] in protocols and record["width"] in widths
        if same and wanted and record.get("settings") == _settings(task, record["metric"]):
            found[record["metric"], record["width"]] = record
    return found


def _settings(task: Task, protocol: str) -> dict:
    """What a score depends on beside the key of its record, as it comes back from JSON."""
    own = {"knn": {"k": task.options.k, "temperature": task.options.temperature}, "linear_fast": {"C": task.options.C},
           "linear": dataclasses.asdict(task.recipe(task.options.linear)),
           "finetune": dataclasses.asdict(task.recipe(task.options.finetune))}[protocol]
    common = {"weights": task.fingerprint, "size": task.size, "limit": task.options.limit}
    return json.loads(json.dumps({**common, **own}))


def _record(task: Task, protocol: str, width: float, value: float | None) -> dict:
    cost = task.cost(width)
    return {"task": TASK, "dataset": task.dataset, "metric": protocol, "width": width, "seed": task.seed,
            "value": value, "chance": task.chance, "count": len(task.val), "flops": cost.flops,
            "parameters": cost.parameters, "settings": _settings(task, protocol)}
