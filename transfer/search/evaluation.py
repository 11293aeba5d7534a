"""From a checkpoint and budgets to the best sub-networks: one call, and a folder beside the run that holds what was found."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoints import Checkpoint, open_checkpoint
from pretrain.data.sources import NAMES
from pretrain.distributed import choose_device
from pretrain.export import FILES as NETWORK_FILES
from pretrain.export import check_packages, export
from pretrain.hardware import hardware
from pretrain.memory import keep_freed_memory
from rundir.atomic import make_folder
from rundir.directory import RunDirectory
from rundir.errors import UserError, check_choice
from rundir.files import Damaged, read_json
from rundir.progress import reporting
from rundir.records import SEARCH
from rundir.schema import FORMAT
from rundir.subnet import Width
from transfer.classification.task import check_namesake
from transfer.search import checking, output, strategies
from transfer.search.budget import Budget
from transfer.search.options import EVOLUTIONARY, STRATEGIES, Options
from transfer.search.predictor import Prediction
from transfer.search.problem import Problem
from transfer.search.scoring import Scorer

FOLDER, NETWORKS, KNN = "search", "networks", "knn"
DEFAULT_BUDGETS = ("flops=0.15", "flops=0.25", "flops=0.35", "flops=0.5", "flops=0.7")
EXECUTION = {"processes": 1, "precision": "fp32", "memory_format": "channels_last"}
QUICK = 0.05  # seconds of measuring the latency of a sub-network that is only looked at


@dataclass(frozen=True)
class Found:
    """What a search leaves.

    Attributes:
        folder: where its files are.
        report: the content of ``search.json``.
        fresh: whether it was made now, or was there.
    """

    folder: Path
    report: dict[str, Any]
    fresh: bool


def search(
    checkpoint: str | Path,
    budgets: Sequence[Budget] = (),
    dataset: str | None = None,
    root: str | None = None,
    *,
    options: Options | None = None,
    formats: Sequence[str] = (),
    device: str = "auto",
    out: str | Path | None = None,
    force: bool = False,
    branch: str = "student",
    arch: str | None = None,
    wait: float = 0.0,
) -> Found:
    """Search a checkpoint for the sub-networks with the highest label-free score within each of ``budgets``.

    Args:
        checkpoint: a checkpoint file or a run directory, of a slimmable network.
        budgets: what the sub-networks may cost; [] those of :data:`DEFAULT_BUDGETS`.
        dataset, root: a data set of ``pretrain.data`` and where it is stored; None: those of pretraining.
        formats: files that the best sub-network of each budget is exported to (:func:`pretrain.export.export`).
        out: directory of the folder ``search`` and of ``result.json``; None: the checkpoint's run directory.
        force: search again where the same search has been made.
        branch, arch: as :func:`~pretrain.checkpoints.open_checkpoint` takes them.
        wait: for so many seconds another search may go on holding the folder.

    Raises:
        UserError: anything about the input that makes this impossible, found before anything long is computed.
        Busy: another search holds the folder.
    """
    options, budgets = options or Options(), list(budgets) or default_budgets()
    options.check()
    chosen = choose_device(device)
    backbone = open_checkpoint(checkpoint, chosen, branch=branch, arch=arch)
    scorer = Scorer(backbone, dataset, root, options, chosen)
    check(scorer, dataset)
    check_packages(formats)
    where = backbone.home(out)
    if not force:
        check_namesake(scorer.task, where)
    untrained = backbone.untrained(options.vary)
    if untrained:
        print(warning(untrained), file=sys.stderr, flush=True)
    told = described(scorer, budgets, formats)

    def found_before() -> Found | None:
        known = None if force else _known(where / FOLDER, told)
        return None if known is None else Found(where / FOLDER, known | {"untrained": untrained}, False)

    if before := found_before():
        return before
    keep_freed_memory()
    problem = problem_of(scorer, budgets)
    make_folder(where / FOLDER, "what is found")
    with RunDirectory(where / FOLDER).lock(wait):  # which may have been held by the same search
        return found_before() or _searched(checkpoint, scorer, problem, formats, where, told | {"untrained": untrained})


def _searched(
    checkpoint: str | Path, scorer: Scorer, problem: Problem, formats: Sequence[str], where: Path, told: Mapping[str, Any]
) -> Found:
    """The search itself, whose folder is held; ``told``: what its report says beside what is found."""
    kind = RunDirectory(where).add_stretch("evaluation", {"device": str(scorer.device), **EXECUTION}, [hardware()])
    predictor = run(scorer, problem)
    accuracies, ranks = checking.ranked(scorer, problem)
    picked = checking.picked(scorer, problem, accuracies)
    report = {**told, "count": scorer.count, "predictor": predictor, **ranks, **picked}
    (where / FOLDER / output.REPORT).unlink(missing_ok=True)
    shutil.rmtree(where / FOLDER / NETWORKS, ignore_errors=True)  # those of a search before
    report["networks"] = _export(checkpoint, scorer, problem, formats, where / FOLDER)
    output.write(where / FOLDER, problem, accuracies, report)
    RunDirectory(where).add_records(_records(scorer, report, kind))
    output.write_report(where / FOLDER, report)  # last: it says that all is there
    return Found(where / FOLDER, report, True)


def check(scorer: Scorer, dataset: str | None) -> None:
    """Raise :class:`UserError` where this checkpoint cannot be searched, or not on these images."""
    backbone, config = scorer.checkpoint, scorer.checkpoint.config
    if dataset is not None:
        check_choice("--dataset", dataset, NAMES, "data set")
    elif not config.data.name:
        raise UserError(f"{backbone.path} does not say which data it was trained on; set --dataset NAME")
    if backbone.dense or backbone.low == backbone.high:
        raise UserError(
            f"{backbone.path} works at width {backbone.high:g} alone, so there is nothing to search; give a checkpoint "
            "of a slimmable pretraining"
        )
    if config.model.switchable_bn:
        raise UserError(
            f"{backbone.path} has a BatchNorm for each of its widths (model.switchable_bn=true), so other sub-networks "
            "cannot be used; give a checkpoint without"
        )
    if EVOLUTIONARY in scorer.options.strategies and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "evolutionary search needs optuna, which is not installed; pip install 'us3l-bench[search]', or set "
            f"--strategies {' '.join(name for name in STRATEGIES if name != EVOLUTIONARY)}"
        )
    backbone.check_size(scorer.task.size, [backbone.space(scorer.options.vary).smallest], "--vary")
    scorer.check()


def warning(untrained: Sequence[str]) -> str:
    """That sub-networks differ in ``untrained`` dimensions, and what to do about it."""
    named = " and ".join(untrained)
    return (
        f"warning: this checkpoint was not trained to vary in {named}, so the scores of sub-networks that differ in {named} "
        f"say nothing about trained ones; leave {named} out of --vary, or train with elastic.vary"
    )


def described(scorer: Scorer, budgets: Sequence[Budget], formats: Sequence[str]) -> dict[str, Any]:
    """What a search depends on."""
    task, branch = scorer.task, scorer.checkpoint.branch
    return {
        "format": FORMAT,
        "dataset": task.dataset,
        "data": task.data,
        "weights": task.weights,
        "branch": branch,
        "size": task.size,
        "budgets": [str(budget) for budget in budgets],
        "formats": list(formats),
        **scorer.options.choices,
    }


def workload(checkpoint: Checkpoint, dataset: str | None, root: str | None, budgets: Sequence[Budget], options: Options) -> float:
    """FLOPs of the encoder, about, in a search of ``checkpoint`` (its weights do not matter).

    Raises:
        UserError: whatever :func:`search` would raise before it scores anything.
    """
    options.check()
    scorer = Scorer(checkpoint, dataset, root, options, torch.device("cpu"))
    check(scorer, dataset)
    check_namesake(scorer.task)
    problem = problem_of(scorer, budgets or default_budgets())
    return problem.full["flops"] * scorer.count * len(options.strategies) * options.evaluations


def is_searched(
    checkpoint: Checkpoint,
    dataset: str | None,
    root: str | None,
    budgets: Sequence[Budget],
    options: Options,
    where: Path,
    records: Iterable[Mapping[str, Any]],
) -> bool:
    """Whether a search with these settings of the checkpoint, whatever its weights, is among the ``records`` in ``where`` or has
    left its report there: the folder is of the last search, and records are of all. A report of weights that no record is of is
    from before the run was trained again.
    """
    scorer = Scorer(checkpoint, dataset, root, options, torch.device("cpu"))
    told = described(scorer, budgets or default_budgets(), ())
    told = {name: value for name, value in told.items() if name not in ("weights", "formats", "format")}
    every = [record | record.get("settings", {}) for record in map(dict, records)]
    if any(_says(record, told) for record in every if record["task"] == SEARCH):
        return True
    report, weights = _known(where / FOLDER, told), {record["weights"] for record in every if record.get("weights")}
    return report is not None and (not weights or report["weights"] in weights)


def _says(found: Mapping[str, Any], told: dict[str, Any]) -> bool:
    """Whether ``found`` has everything that is ``told``."""
    asked = json.loads(json.dumps(told))
    return {name: found.get(name) for name in asked} == asked


def default_budgets() -> list[Budget]:
    """Those of :data:`DEFAULT_BUDGETS`."""
    return [Budget.parse([word], default=True) for word in DEFAULT_BUDGETS]


def _known(folder: Path, told: dict[str, Any]) -> dict[str, Any] | None:
    """The report of the same search in ``folder``; None where there is none, or files of it are missing."""
    try:
        report = read_json(folder / output.REPORT)
    except (FileNotFoundError, Damaged):
        return None
    if not _says(report, told):
        return None
    exported = itertools.product(report["networks"].values(), (NETWORK_FILES[name] for name in report["formats"]))
    files = [*map(Path, output.FILES), *(Path(*parts) for parts in exported)]
    return report if all((folder / name).is_file() for name in files) else None


def problem_of(scorer: Scorer, budgets: Sequence[Budget]) -> Problem:
    """What is to be searched; nothing has been scored. Raises :class:`UserError` for a budget that nothing keeps."""
    backbone, size = scorer.checkpoint, scorer.task.size
    table = backbone.costs(size)

    def costs(width: Width) -> dict[str, float]:
        load = table.load(width)
        return {"flops": load.flops, "parameters": load.parameters, "memory": load.memory}

    def latency(width: Width) -> float:
        return scorer.latency(width, checking.SECONDS if width == backbone.high else QUICK)  # shares are of the full network's

    return Problem(backbone.space(scorer.options.vary), budgets, table.network, costs, latency, scorer.score)


def run(scorer: Scorer, problem: Problem) -> dict[str, Any]:
    """Let all strategies search; returns how good the predictor was."""
    options, predicted = scorer.options, dict[str, Any]()
    guess = len(options.strategies) * options.evaluations
    with reporting("sub-networks scored", guess) as reporter:
        problem.told = lambda done, text: reporter.update(min(done, guess), text)
        for name in (name for name in STRATEGIES if name in options.strategies):
            made = strategies.RUN[name](problem, options)
            if isinstance(made, Prediction):
                predicted = {"rho": output.finite(made.rho), "learned_from": made.count, "screened": made.screened}
    return predicted


def _export(source: str | Path, scorer: Scorer, problem: Problem, formats: Sequence[str], folder: Path) -> dict[str, str]:
    """The best sub-network of each budget as files, calibrated as every exported width is; their folders by budget."""
    backbone, task = scorer.checkpoint, scorer.task
    made, exported = dict[object, Path](), dict[str, str]()
    for budget in problem.budgets if formats else []:
        best = problem.best(budget)
        if best is None:
            continue
        place = folder / NETWORKS / str(budget).replace(" ", ",")
        key = problem.key(best.width)
        if key in made:
            shutil.copytree(made[key], place, dirs_exist_ok=True)
        else:
            arch = backbone.arch if backbone.foreign else None
            export(
                Path(source),
                best.width,
                place,
                formats,
                branch=backbone.branch,
                arch=arch,
                dataset=task.name,
                root=task.root,
                size=task.size,
            )
            made[key] = place
        exported[str(budget)] = str(place.relative_to(folder))
    return exported


def _records(scorer: Scorer, report: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """What ``result.json`` keeps: of every pick its score and k-NN accuracy, and how well scores rank."""
    task, backbone = scorer.task, scorer.checkpoint
    settings = {
        "weights": task.weights,
        "branch": backbone.branch,
        "size": task.size,
        "limit": task.limit,
        "budgets": report["budgets"],
        **scorer.options.choices,
        **task.pixels,
    }
    same = {
        "task": SEARCH,
        "dataset": task.dataset,
        "seed": backbone.seed,
        "width": backbone.high,
        "settings": settings,
        "chance": None,
        "count": scorer.count,
        "changed": scorer.changed,
        "data": task.data,
        "computed_on": kind,
    }
    found = []
    for pick in report["picks"]:
        own = same | {name: pick[name] for name in ("strategy", "budget", "flops", "parameters", "latency_ms")}
        own["found"] = pick["subnet"]
        found.append(own | {"metric": scorer.options.score, "value": pick["score"]})
        if pick["knn"] is not None:
            found.append(own | {"metric": KNN, "value": pick["knn"], "count": len(scorer.queries[1]), "chance": task.chance})
    ranks = {f"rank_{name}": rho for name, rho in report["ranks"].items()} | {"rank_predictor": report["predictor"].get("rho")}
    return found + [
        same | {"metric": name, "value": rho, "strategy": "", "budget": "", "count": report["ranked"]}
        for name, rho in ranks.items()
        if rho is not None
    ]
