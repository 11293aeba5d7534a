"""Controls that need no training: the full width of another run, sliced or pruned, or the initial weights.

They end as a run directory like any other.
"""

from __future__ import annotations

import torch
from torch import nn

from pretrain.calibration import calibrate_on, calibration_images
from pretrain.checkpoints import Checkpoint, files, open_pretrained
from pretrain.checkpoints.weights import load_weights
from pretrain.config import Config, ModelConfig, to_dict, to_yaml, usable_widths
from pretrain.data import ImageSource, fingerprint, load_for
from pretrain.diagnostics import Diagnostics, fixed_images
from pretrain.hardware import hardware
from pretrain.importance import channel_orders
from pretrain.objective.networks import Student
from pretrain.scores import keep_those_of_the_weights
from pretrain.slimmable import calibration_state, cut_statistics, reorder, width_key
from pretrain.slimmable.calibrate import batch_norms
from rundir import method
from rundir.clock import now
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.schema import State


def derive(cfg: Config, run: RunDirectory, device: torch.device) -> None:
    """Make the network that ``cfg.derived`` describes and write it to ``run`` as a finished pretraining, which cost nothing.

    Raises:
        UserError: the network that it is made from is missing, unfinished, of another kind or width, or the data cannot be read.
    """
    torch.manual_seed(cfg.seed)
    student = Student(cfg)
    if cfg.derived.source:
        made_from = _source(cfg)
        load_weights(student.encoder, made_from.encoder.state_dict(), made_from.path, "this run's encoder")
        load_weights(student.projector, made_from.behind, made_from.path, "this run's projector")
    layout = torch.channels_last if cfg.train.channels_last else torch.contiguous_format
    student = student.to(device, memory_format=layout).requires_grad_(False)
    source = load_for(cfg.data, "train", device)
    run.write_config(to_yaml(cfg))
    run.set_status(State.RUNNING)
    run.add_provenance(started=now(), train_flops=0.0, train_seconds=0.0, method_version=method.VERSION)
    run.add_stretch(
        "pretraining",
        {
            "device": str(device),
            "processes": 1,
            "precision": "fp32",
            "compile": False,
            "memory_format": "channels_last" if cfg.train.channels_last else "contiguous",
        },
        [hardware()],
    )
    full, widths = cfg.widths.max, usable_widths(cfg, [*cfg.calibration.widths, cfg.widths.min, cfg.widths.max])
    if cfg.derived.network == "pruned":
        calibrate_on(student.encoder, [full], source, cfg)
        _sort_channels(student, source, cfg)
    if cfg.derived.calibrate:
        calibrate_on(student.encoder, widths, source, cfg)
    else:
        calibrate_on(student.encoder, [full], source, cfg)
        cut_statistics(batch_norms(student.encoder).values(), widths, full)
    if cfg.diagnostics.images:
        measured = Diagnostics(cfg, fixed_images(source, cfg, device)).measure(student, None)
        run.append_metrics({"step": 0, "epoch": 0, "name": name, "width": width, "value": value} for name, width, value in measured)
    files.save(
        run.path,
        {
            "config": to_dict(cfg),
            "data": fingerprint.of_dataset(cfg.data.name, "train", cfg.data.root),
            "step": 0,
            "epoch": 0,
            "method_version": method.VERSION,
            "encoder": student.encoder.state_dict(),
            "projector": student.projector.state_dict(),
            "calibration": calibration_state(student.encoder),
        },
    )
    run.add_provenance(finished=now())
    keep_those_of_the_weights(run)
    run.set_status(State.DONE, trained=True)


def _source(cfg: Config) -> Checkpoint:
    """The checkpoint that ``cfg`` is made from, of a finished training of the same network at the same full width."""
    path = cfg.derived.source
    found = open_pretrained("derived.source", path)
    different = _first_difference(found.config.model, cfg.model)
    if different:
        raise UserError(f"derived.source={path} is another network; set {different}")
    if width_key(found.high) != width_key(cfg.widths.max):
        raise UserError(f"widths.max={cfg.widths.max} is not the full width of derived.source={path}; set widths.max={found.high}")
    if not found.finished:
        raise UserError(
            f"derived.source={path} has trained {found.epoch} of {found.config.optimizer.epochs} epochs; finish it first"
        )
    return found


def _first_difference(theirs: ModelConfig, ours: ModelConfig) -> str:
    """The setting of the first key of the model in which ``ours`` differs from ``theirs``; "" if none does."""
    return next((f"model.{name}={value}" for name, value in vars(theirs).items() if value != getattr(ours, name)), "")


@torch.no_grad()
def _sort_channels(student: Student, source: ImageSource, cfg: Config) -> None:
    """The channels of ``student`` by ``cfg.derived.importance``, the most important first; it computes what it did before."""
    first: nn.Module = student.projector[0]
    groups = student.encoder.channel_groups([first])
    images = calibration_images(source, cfg, next(student.parameters()).device)
    orders = channel_orders(student.encoder, groups, cfg.derived.importance, images, cfg.widths.min, first)
    for group, order in zip(groups, orders, strict=True):
        reorder(group, order)
