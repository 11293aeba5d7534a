"""One fine-tuning: mmsegmentation's network trained, resumed and evaluated by mmengine's own runner."""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import mmcv
import mmengine
import mmseg
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import Tensor, nn

from pretrain.distributed import Processes, several
from rundir.directory import RunDirectory
from rundir.schema import FORMAT, File
from rundir.subnet import Width
from transfer.finetuning.runs import Resolved, Scores, journal, tell_weights, write_json
from transfer.finetuning.schedules import Schedule
from transfer.finetuning.trunk import dense_network
from transfer.finetuning.weights import weights_report
from transfer.segmentation.adapter import running_on
from transfer.segmentation.data import loaders
from transfer.segmentation.evaluation import SCORES
from transfer.segmentation.hooks import BeginHook, JournalHook, PictureHook, PlainCheckpointHook, SeedHook, StopHook

if TYPE_CHECKING:
    from transfer.segmentation.plan import Plan

FOLDER = "mmseg"  # of the run directory: mmengine's own files
CHECKPOINTS = 10  # in a training, at least
FARTHEST = 2000  # iterations between two
FROM_CONFIG = ("custom_imports", "model_wrapper_cfg", "sync_bn", "test_pipeline")  # not arguments of mmengine's runner


def train(plan: Plan, resolved: Resolved, run: RunDirectory, group: Processes) -> Scores:
    """Train and evaluate ``resolved`` in ``run``, from where an interrupted process left it.

    Writes ``mmseg/`` (mmengine's checkpoints, log and config), ``weights.json``, ``classes.json`` (scores by class, null where
    undefined) and ``predictions.png``.
    """
    folder = run.path / FOLDER
    if group.first:
        used = {package.__name__: package.__version__ for package in (mmengine, mmcv, mmseg)}
        run.add_provenance(packages={**run.provenance()["packages"], **used})
    found = latest_checkpoint(folder)
    source = pretrained_network(plan, resolved.network)
    weights = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    config = Config({"model": plan.model_config(resolved.network), **runner_config(plan, folder, group, found and str(found[0]))})
    torch.manual_seed(plan.seed)
    model = MODELS.build({**config.model, "backbone": {**config.model.backbone, "network": source}})

    def begin() -> None:
        inner = "backbone.trunk.trunk.network." if plan.is_vit and plan.model != "segmenter" else "backbone.trunk.network."
        tell_weights(resolved, run, weights_report(weights, model, {inner: ""}).complete())
        config.dump(folder / "config.py")

    pictures = PictureHook(plan.data.val, plan.finetuning.pictures, plan.data.layout.exif)
    with journal(resolved, run, group, plan.schedule.iterations, found[1] if found else 0) as log, running_on(group.device):
        hooks = [SeedHook(plan.seed), JournalHook(log), BeginHook(begin), PlainCheckpointHook(), StopHook(log), pictures]
        runner = Runner(
            **{**{name: config[name] for name in config if name not in FROM_CONFIG}, "model": model},
            cfg=config,
            custom_hooks=hooks,
            experiment_name=f"{resolved.name}-{time.time_ns()}",
        )
        _log_to_file(runner)
        runner.train()
        runner.test()
    return _finish(plan, resolved, run, runner, pictures) if group.first else Scores({}, 0)


def pretrained_network(plan: Plan, width: Width) -> nn.Module:
    """The dense network of ``width`` that training starts from."""

    def batches() -> Iterator[Tensor]:
        return loaders.calibration_batches(plan.data.layout, plan.data.train, *plan.checkpoint.normalisation())

    return dense_network(plan.checkpoint, width, plan.finetuning.initial, plan.seed, batches)


def runner_config(plan: Plan, folder: Path, group: Processes, resume_from: str | None) -> dict:
    """The config of mmengine's runner, except for the model."""
    schedule = plan.schedule
    interval = max(1, min(FARTHEST, schedule.iterations // CHECKPOINTS))
    config = {
        "work_dir": str(folder),
        "default_scope": "mmseg",
        "log_level": "ERROR",
        "launcher": "pytorch" if several() else "none",
        "randomness": {"seed": plan.seed},
        "load_from": resume_from,
        "resume": resume_from is not None,
        "custom_imports": {"imports": ["transfer.segmentation.registered"], "allow_failed_imports": False},
        "train_dataloader": loaders.train_loader(plan.data.layout, plan.batch_size, plan.finetuning.workers, plan.seed),
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": schedule.iterations, "val_interval": schedule.iterations + 1},
        "test_dataloader": loaders.test_loader(plan.data.layout, plan.finetuning.workers),
        "test_cfg": {"type": "TestLoop"},
        "test_evaluator": {"type": "ExactIoU"},
        "test_pipeline": loaders.test_pipeline(plan.data.layout),  # for mmseg.apis
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": optimizer_config(schedule), **_decays(plan)},
        "param_scheduler": scheduler_config(schedule),
        "log_processor": {"by_epoch": False},
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 50, "log_metric_by_epoch": False},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": interval, "max_keep_ckpts": 2},
        },
    }
    if several():
        gpu = group.device.type == "cuda"
        config["model_wrapper_cfg"] = {
            "type": "MMDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": True,
            "device_ids": [torch.cuda.current_device()] if gpu else None,
        }
        config["sync_bn"] = "torch" if gpu and plan.finetuning.norm in ("auto", "syncbn") else None
    return config


def optimizer_config(schedule: Schedule) -> dict:
    """SGD, or AdamW where the schedule says so."""
    if schedule.optimizer == "adamw":
        return {"type": "AdamW", "lr": schedule.lr, "weight_decay": schedule.weight_decay, "betas": (0.9, 0.999)}
    return {"type": "SGD", "lr": schedule.lr, "momentum": schedule.momentum, "weight_decay": schedule.weight_decay}


def for_vit(name: str, schedule: Schedule, model: str) -> Schedule:
    """``schedule``, called ``name`` and not changed yet, as mmsegmentation trains ``model`` on a ViT.

    UPerNet: AdamW at 6e-5 for 16 images, weight decay 0.01, warm-up of 1500 iterations, then linear to 0 (its ViT configs).
    Segmenter: SGD at 0.001 for 8 images without weight decay (its Segmenter configs). ``quick`` is AdamW at 1e-3 for both.
    """
    if name == "quick":
        return replace(schedule, lr=1e-3)
    if model == "segmenter":
        return replace(schedule, lr=0.001 * schedule.batch_size / 8, weight_decay=0.0)
    return replace(
        schedule,
        optimizer="adamw",
        lr=6e-5 * schedule.batch_size / 16,
        lr_min=0.0,
        power=1.0,
        weight_decay=0.01,
        warmup=1500,
        warmup_start=1e-6,
    )


def scheduler_config(schedule: Schedule) -> list[dict]:
    """mmengine's polynomial decay, after a linear warm-up if there is one."""
    begin = min(schedule.warmup, schedule.iterations - 1)  # mmengine wants one iteration of decay at least
    decay = {
        "type": "PolyLR",
        "power": schedule.power,
        "eta_min": schedule.lr_min,
        "begin": begin,
        "end": schedule.iterations,
        "by_epoch": False,
    }
    if not begin:
        return [decay]
    return [{"type": "LinearLR", "start_factor": schedule.warmup_start, "begin": 0, "end": begin, "by_epoch": False}, decay]


def _decays(plan: Plan) -> dict:
    """mmsegmentation's exceptions from a ViT's weight decay."""
    if not plan.is_vit:
        return {}
    names = ("pos_embed", "cls_token", "norm")
    return {"paramwise_cfg": {"custom_keys": {name: {"decay_mult": 0.0} for name in names}}}


def latest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint in ``folder`` that can be read, and its iteration; a torn or strange one is passed over."""
    places = sorted(folder.glob("iter_*.pth"), key=lambda path: int(path.stem.removeprefix("iter_")), reverse=True)
    for path in places:
        with contextlib.suppress(OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
            content = torch.load(path, map_location="cpu", weights_only=True)
            return path, int(content["meta"]["iter"])
    return None


def _log_to_file(runner: Runner) -> None:
    """mmengine's log goes to its file only; the terminal shows this project's progress."""
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.INFO)


def _finish(plan: Plan, resolved: Resolved, run: RunDirectory, runner: Runner, pictures: PictureHook) -> Scores:
    scores = runner.test_loop.evaluator.metrics[0].scores
    by_class = [
        {"class": name, "IoU": iou, "accuracy": accuracy}
        for name, iou, accuracy in zip(plan.data.val.classes, scores["IoU"], scores["Acc"], strict=True)
    ]
    write_json(run, File.CLASSES, {"format": FORMAT, "classes": by_class})
    pictures.write(run.path / "predictions.png", resolved.title)
    return Scores({name: scores[name] for name in SCORES}, scores["count"])
