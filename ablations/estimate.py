"""What a grid will cost, before it is launched: steps, floating-point operations, and time on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ablations.grid import Run
from pretrain import config
from pretrain.config import Config
from pretrain.cost import training_flops
from pretrain.data import batch_sizes
from pretrain.distributed import choose_device
from pretrain.training import build_training

TIMED_BATCH = 64
TIMED_STEPS = 3  # of which the fastest counts: other programs make any of them slow, on two threads a hundredfold


@dataclass(frozen=True)
class Estimate:
    """Cost of training one run, evaluation not included."""

    steps: int
    flops: float
    seconds: float


def estimates(runs: Sequence[Run], images: int) -> dict[str, Estimate]:
    """Cost of each of ``runs`` on ``images`` training images, by run name.

    The rate in FLOP/s is what real training steps on random images of a small batch reach here, measured once for each range of
    widths, since narrow networks reach less; runs that differ in their seed only are counted once.
    """
    rates: dict[tuple, float] = {}
    flops: dict[str, float] = {}
    found = {}
    for run in runs:
        cfg = run.cfg
        same = _without_seed(cfg)
        if same not in flops:
            flops[same] = training_flops(cfg, images)
        key = (cfg.widths.min, cfg.widths.max)
        if flops[same] and key not in rates:  # a network that is made without training has no rate
            rates[key] = measured_rate(cfg)
        sizes = batch_sizes(images, cfg.optimizer.batch_size, cfg.data.drop_last, cfg.optimizer.virtual_processes)
        steps = 0 if cfg.derived.network != "none" else cfg.optimizer.epochs * len(sizes)
        found[run.name] = Estimate(steps, flops[same], flops[same] / rates[key] if flops[same] else 0.0)
    return found


def _without_seed(cfg: Config) -> str:
    content = config.to_dict(cfg)
    content.pop("seed")
    content.pop("experiment")
    return json.dumps(content, sort_keys=True)


def measured_rate(cfg: Config) -> float:
    """FLOP/s of a training step of ``cfg`` on this machine, the fastest of three after a warm-up one.

    Measured without what is not there yet or has no weight in it: SEED's teacher, a queue, switchable BatchNorm, a slow start,
    parts of a batch.
    """
    device = choose_device(cfg.train.device)
    cfg = _without_extras(cfg, device)
    training = build_training(cfg, device)
    batch = min(TIMED_BATCH, cfg.optimizer.batch_size)
    x1, x2 = (torch.randn(batch, 3, cfg.data.size, cfg.data.size, device=device) for _ in range(2))
    widths = sorted({cfg.widths.max, (cfg.widths.min + cfg.widths.max) / 2, cfg.widths.min}, reverse=True)

    def seconds() -> float:
        start = time.monotonic()
        training.step(x1, x2, widths, cfg.optimizer.lr, cfg.objective.ema_momentum)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic() - start

    seconds()
    return _flops_of_steps(cfg, widths, batch, 1) / min(seconds() for _ in range(TIMED_STEPS))


def _without_extras(cfg: Config, device: torch.device) -> Config:
    content = config.to_dict(cfg)
    content["train"] |= {"compile": False}
    if device.type == "cpu" and cfg.train.precision == "fp16":  # for a GPU elsewhere
        content["train"] |= {"precision": "fp32"}
    content["objective"] |= {"queue": 0, "seed_teacher": "", "shuffle": False}
    if cfg.objective.teacher == "frozen":  # costs what a momentum teacher does
        content["objective"] |= {"teacher": "momentum"}
    if cfg.objective.base_loss == "seed":
        content["objective"] |= {"base_loss": "infonce", "pairings": "mean"}
    content["model"] |= {"switchable_bn": False}
    content["widths"] |= {"slow_start_epochs": 0, "doubled_ends": False}
    content["optimizer"] |= {"virtual_processes": 0}
    return config.from_dict(content)


def _flops_of_steps(cfg: Config, widths: list[float], batch: int, steps: int) -> float:
    fixed = config.to_dict(cfg)
    fixed["widths"] |= {"sampling": "fixed", "fixed": widths, "options": {}}
    fixed["optimizer"] |= {"epochs": 1, "warmup_epochs": 0, "batch_size": batch}
    fixed["regularizer"] |= {"kind": "none", "options": {}}
    return training_flops(config.from_dict(fixed), batch * steps)
