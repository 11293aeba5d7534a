"""Training by detectron2's trainer, so that an interrupted run ends with the numbers of an uninterrupted one.

All randomness is a function of the seed and the iteration: order of images, augmentation (detectron2 draws it from numpy's global
generator) and sampling of regions (from torch's). What a batch is depends neither on the number of processes nor of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from torch import nn
from torch.utils.data import DataLoader, Dataset

from pretrain.distributed import Processes
from rundir.atomic import replacing
from rundir.errors import UserError
from transfer.detection.data.mapper import Mapper
from transfer.finetuning.runs import Journal
from transfer.finetuning.schedules import Schedule

FINAL = "detector.pth"  # weights of a finished training
STATES = "model_*.pth"  # detectron2's checkpoints of one that goes on
CHECKPOINTS = 8  # in a training; every 1000 iterations at least
# A plain ViT is tuned by AdamW: ViTDet's rate and batch size (arXiv 2203.16527, appendix A.1).
ADAMW_LR, ADAMW_BATCH, ADAMW_DECAY = 1e-4, 64, 0.1


def set_schedule(cfg: CfgNode, schedule: Schedule) -> None:
    """Enter ``schedule`` in detectron2's config."""
    solver = cfg.SOLVER
    solver.MAX_ITER, solver.IMS_PER_BATCH, solver.BASE_LR = schedule.iterations, schedule.batch_size, schedule.lr
    solver.STEPS, solver.GAMMA = schedule.steps, 0.1
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = schedule.warmup, schedule.warmup_start
    solver.WEIGHT_DECAY, solver.MOMENTUM = schedule.weight_decay, schedule.momentum
    solver.CHECKPOINT_PERIOD = min(1000, max(1, schedule.iterations // CHECKPOINTS))


def adamw_rate(schedule: Schedule, lr: float | None) -> float:
    """Learning rate of a plain ViT: what was asked for, or ViTDet's for the schedule's batch size."""
    return ADAMW_LR * schedule.batch_size / ADAMW_BATCH if lr is None else lr


class Batches(Dataset):
    """Batch of every iteration: index i to the mapped records of this process's share, a list of ``batch / world_size`` dicts.

    An epoch shows every image once; images that are wide and those that are tall come in batches of their own as far as possible,
    so that little is padded.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[[dict], dict],
        batch_size: int,
        iterations: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.records, self.mapper, self.seed = records, mapper, seed
        self.batch_size, self.iterations, self.rank, self.world_size = batch_size, iterations, rank, world_size
        self.wide = np.array([record["width"] >= record["height"] for record in records])
        self.per_epoch = -(-len(records) // batch_size)
        self.epoch, self.order = -1, np.empty(0)

    def __len__(self) -> int:
        return self.iterations

    def indices(self, iteration: int) -> np.ndarray:
        """Records of the whole batch (batch_size,) of ``iteration``."""
        epoch = iteration // self.per_epoch
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(self.wide, self.batch_size, self.seed, epoch)
        return self.order[iteration % self.per_epoch]

    def __getitem__(self, iteration: int) -> list[dict]:
        share = self.batch_size // self.world_size
        rows = range(self.rank * share, (self.rank + 1) * share)
        chosen, batch = self.indices(iteration), []
        for row in rows:
            np.random.seed(np.random.SeedSequence([self.seed, iteration, row]).generate_state(4))
            batch.append(self.mapper(self.records[chosen[row]]))
        return batch


def epoch_order(wide: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Indices (B, batch_size) of an epoch's batches: every image once, a last batch filled up with images drawn anew."""
    random = np.random.default_rng([seed, epoch])
    groups = [random.permutation(np.flatnonzero(wide == side)) for side in (True, False)]
    whole = [group[: len(group) // batch_size * batch_size] for group in groups]
    rest = np.concatenate([group[len(part) :] for group, part in zip(groups, whole, strict=True)])
    lacking = -len(rest) % batch_size
    batches = np.concatenate([*whole, rest, random.integers(0, len(wide), lacking)]).astype(int).reshape(-1, batch_size)
    return batches[random.permutation(len(batches))]


class _Reseed(HookBase):
    """torch's generator as a function of seed, iteration and process: regions are sampled from it."""

    def __init__(self, seed: int, rank: int):
        self.seed, self.rank = seed, rank

    def before_step(self) -> None:
        state = np.random.SeedSequence([self.seed, self.trainer.iter, self.rank]).generate_state(2)
        torch.manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


class _Log(HookBase):
    """Losses and learning rate of every iteration to the run directory."""

    def __init__(self, journal: Journal, optimizer: torch.optim.Optimizer):
        self.journal, self.optimizer = journal, optimizer

    def after_step(self) -> None:
        losses = {name: value for name, (value, _) in self.trainer.storage.latest().items() if "loss" in name}
        if "total_loss" in losses:
            values = {"loss": losses.pop("total_loss"), **losses, "lr": self.optimizer.param_groups[0]["lr"]}
            self.journal.iteration(self.trainer.iter + 1, values)


class _Stop(HookBase):
    """Saves and ends the training where it is asked to; the last hook, since what it saves is what the others left."""

    def __init__(self, journal: Journal, checkpointer: DetectionCheckpointer):
        self.journal, self.checkpointer = journal, checkpointer

    def after_step(self) -> None:
        done = self.trainer.iter
        self.journal.stop_if_asked(done + 1, lambda: self.checkpointer.save(f"model_{done:07d}", iteration=done))


def finished_iterations(directory: Path) -> tuple[int, Path | None]:
    """Iterations behind the newest whole checkpoint of a training that was interrupted, and its file; 0 and None without one."""
    for path in sorted(directory.glob(STATES), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return int(state["iteration"]) + 1, path
        except Exception:  # cut short while it was written
            print(f"warning: {path} is damaged; trying the one before", flush=True)
    return 0, None


def train(
    cfg: CfgNode,
    model: nn.Module,
    records: Sequence[dict],
    directory: Path,
    seed: int,
    group: Processes,
    journal: Journal,
    start: int,
    state: Path | None,
    adamw: float | None,
    exif: str,
    workers: int = 0,
) -> None:
    """Train ``model`` on ``records`` from iteration ``start`` (whose checkpoint is ``state``) to the end; weights go to ``FINAL``.

    ``adamw``: learning rate of AdamW in place of the config's SGD; None: SGD. ``exif``: as :class:`Mapper` takes it.

    Raises:
        UserError: the loss is not finite.
        Interrupted: it was asked to stop (rundir.stopping) and has saved.
    """
    parallel = model
    if group.world_size > 1:
        ids = [group.device.index] if group.device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    optimizer = build_optimizer(cfg, model) if adamw is None else _adamw(model, adamw)
    scheduler = build_lr_scheduler(cfg, optimizer)
    batches = Batches(
        records, Mapper(cfg, True, exif), cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, seed, group.rank, group.world_size
    )
    loader = DataLoader(batches, batch_size=None, sampler=range(start, cfg.SOLVER.MAX_ITER), num_workers=workers)
    trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(parallel, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, str(directory), trainer=trainer)
    trainer.register_hooks([_Reseed(seed, group.rank), hooks.LRScheduler(optimizer, scheduler), _Log(journal, optimizer)])
    if group.first:
        trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=2)])
    trainer.register_hooks([_Stop(journal, checkpointer)])
    if state is not None:
        checkpointer.load(str(state))
    logging.getLogger("detectron2.engine.train_loop").setLevel(logging.CRITICAL)  # the caller reports what ended a training
    try:
        trainer.train(start, cfg.SOLVER.MAX_ITER)
    except FloatingPointError:
        raise UserError(f"{journal.resolved.title}: the loss is not finite; set a lower --lr") from None
    if group.first:
        _keep_weights(model, directory)


def _adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    parameters = get_default_optimizer_params(model, base_lr=lr, weight_decay_norm=0.0)
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=ADAMW_DECAY)


def _keep_weights(model: nn.Module, directory: Path) -> None:
    """The weights alone, as a file of detectron2; the states of training are no longer needed."""
    with replacing(directory / FINAL) as file:
        torch.save({"model": model.state_dict()}, file)
    for path in (*directory.glob(STATES), directory / "last_checkpoint"):
        path.unlink(missing_ok=True)
