"""The training loop: device, precision, data parallelism, checkpoint, resume, log.

All randomness is a function of the seed and the position in training (views, widths, order of images), so a resumed run is the
uninterrupted one: a checkpoint holds weights, optimizer, teacher, scaler, running means and diagnostics, and no generator.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.calibration import calibrate_on
from pretrain.checkpoints import files
from pretrain.config import Config, to_dict, to_yaml, usable_widths
from pretrain.config.elastic import width_varies
from pretrain.config.methods import failure_of, own_parts, parts_provenance
from pretrain.cost import training_flops
from pretrain.data import TwoViewBatches, fingerprint, load_for
from pretrain.derived import derive
from pretrain.diagnostics import Diagnostics, fixed_images
from pretrain.distributed import Processes, processes
from pretrain.identity import check_checkpoint, check_directory, identified
from pretrain.memory import keep_freed_memory
from pretrain.objective.elastic import sample_networks
from pretrain.objective.networks import Teacher
from pretrain.schedule import ema_momentum, learning_rate
from pretrain.scores import keep_those_of_the_weights
from pretrain.training import state
from pretrain.training.build import build_training
from rundir import method
from rundir.cli import is_interruption
from rundir.clock import now
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.progress import Reporter, reporting
from rundir.schema import State
from rundir.stopping import Interrupted, stop_requested

HEARTBEAT_SECONDS = 10.0
AGREE_STEPS = 10  # several processes ask each other whether to stop this often, and after every epoch


def pretrain(cfg: Config, directory: str | Path | RunDirectory) -> None:
    """Train ``cfg`` in run directory ``directory``; resumes what is there, and returns at once if it is finished.

    Raises:
        UserError: bad data or device, another experiment's directory, a directory in use, or training that diverged.
        Interrupted: it was asked to stop (rundir.stopping) and has saved.
    """
    keep_freed_memory()
    cfg = identified(cfg)
    with processes(cfg.train.device) as group, _threads(cfg.train.threads), tf32(cfg.train.tf32):
        _check_alike(cfg, group)
        run = directory if isinstance(directory, RunDirectory) else RunDirectory(directory)
        with run.lock() if group.first else nullcontext():
            check_directory(run, cfg)
            if run.status().get("trained"):
                if group.first and run.read_config() is None:  # lost
                    run.write_config(to_yaml(cfg))
                return
            try:
                if cfg.derived.network == "none":
                    Trainer(cfg, run, group).fit()
                elif group.first:
                    derive(cfg, run, group.device)
            except Interrupted:
                raise
            except BaseException as error:
                failed = failure_of(cfg, error)
                if group.first:
                    _record_end(run, failed or error)
                if failed:
                    raise failed from error
                raise


def _check_alike(cfg: Config, group: Processes) -> None:
    """Raise :class:`UserError` in every process of ``group`` where train.precision=auto has found different ones."""
    if group.any(cfg.train.precision == "bf16") and group.any(cfg.train.precision != "bf16"):
        raise UserError(
            "train.precision=auto is bf16 on some of these machines and fp32 on others; set train.precision=fp32 or bf16"
        )


def _record_end(run: RunDirectory, error: BaseException) -> None:
    """Leave the reason in ``status.json``, or no directory at all where the run never began."""
    if (isinstance(error, UserError) or is_interruption(error)) and run.read_config() is None:
        run.remove_if_unused()
        return
    run.set_ended(error)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tf32(asked: str) -> Iterator[None]:
    """float32 products of GPUs in TensorFloat-32 inside the block: ``all``, ``none``, or ``torch``: as it is."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        if asked != "torch":
            for place in places:
                place.allow_tf32 = asked == "all"
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


class Trainer:
    """One run: networks, data and optimizer of ``cfg`` on this process of ``group``, and their loop."""

    def __init__(self, cfg: Config, run: RunDirectory, group: Processes):
        self.cfg, self.run, self.group, self.device = cfg, run, group, group.device
        self.source = load_for(cfg.data, "train", self.device)
        self.batches = TwoViewBatches(
            self.source,
            cfg.augment,
            cfg.data.size,
            cfg.optimizer.batch_size,
            cfg.seed,
            self.device,
            group.rank,
            group.world_size,
            cfg.data.workers,
            cfg.data.drop_last,
            cfg.optimizer.virtual_processes,
        )
        self.data = cfg.data.fingerprint or fingerprint.of_dataset(cfg.data.name, "train", cfg.data.root)
        self.total_steps = cfg.optimizer.epochs * self.batches.steps_per_epoch
        self.training = build_training(cfg, self.device, self.source, group.world_size)
        measured = cfg.diagnostics.images and group.first
        self.diagnostics = Diagnostics(cfg, fixed_images(self.source, cfg, self.device)) if measured else None
        self.step_count = 0
        self.method_version = method.VERSION
        self.meter: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # name -> [sum, count] of the epoch so far

    # -- the loop -------------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end from wherever the run directory is, calibrate, and write the final checkpoint."""
        cfg, per_epoch = self.cfg, self.batches.steps_per_epoch
        self._begin()
        self.started = time.monotonic()
        title = f"{cfg.experiment.cell or cfg.experiment.preset or cfg.model.arch} seed {cfg.seed}"
        with reporting(title, self.total_steps, self.group.first) as reporter, self._tensorboard() as board:
            self.last_saved = self.last_beat = time.monotonic()
            for epoch in range(self.step_count // per_epoch, cfg.optimizer.epochs):
                self._train_epoch(epoch, reporter)
                means = self._epoch_means() | {"penalty": float(self.training.regularizer.penalty())}
                self._check_finite(means, epoch)
                if self.group.first:
                    self._log_epoch(epoch, means, board)
                last = epoch + 1 == cfg.optimizer.epochs
                if self.group.first and (last or (epoch + 1) % cfg.train.checkpoint_epochs == 0):
                    self._save()
                if not last:
                    self._stop_if_asked()
        self._finish(time.monotonic() - self.started)

    def _begin(self) -> None:
        found = files.latest(self.run.path)
        if found is not None:
            check_checkpoint(*found, self.cfg, self.data)
            self._restore(found[1])
        machines = self.group.machines()
        if not self.group.first:
            return
        if found is None or self.run.read_config() is None:
            self.run.write_config(to_yaml(self.cfg))
        self.run.add_provenance(method_version=self.method_version)
        if found is None:
            self.run.add_provenance(**parts_provenance(self.cfg))
            self.run.add_provenance(
                started=now(), train_flops=training_flops(self.cfg, len(self.source)), train_seconds=0.0, data=self.data
            )
        self.run.add_stretch("pretraining", self._execution(), machines, step=self.step_count)
        self.run.truncate_metrics(self.step_count)
        self.run.set_status(State.RUNNING, epoch=self.step_count // self.batches.steps_per_epoch, epochs=self.cfg.optimizer.epochs)

    def _execution(self) -> dict:
        train = self.cfg.train
        return {
            "device": str(self.device),
            "processes": self.group.world_size,
            "precision": train.precision,
            "memory_format": "channels_last" if train.channels_last else "contiguous",
            "compile": train.compile,
            **({"graphs": True} if train.graphs else {}),
            **({"tf32": train.tf32} if train.tf32 != "torch" else {}),
        }

    def _train_epoch(self, epoch: int, reporter: Reporter) -> None:
        per_epoch, cfg = self.batches.steps_per_epoch, self.cfg
        self.training.regularizer.set_epoch(epoch, cfg.optimizer.epochs)
        first_step, self.epoch_started = self.step_count - epoch * per_epoch, time.monotonic()
        self.epoch_first_step = first_step
        for _, x1, x2 in self.batches.epoch(epoch, start=first_step):
            self.train_step(x1, x2)
            reporter.update(self.step_count, f"epoch {epoch + 1}/{cfg.optimizer.epochs}")
            self._keep_alive(epoch)
            # Not after an epoch's last step, as in _keep_alive.
            within = self.step_count % per_epoch != 0
            if within and (self.group.world_size == 1 or self.step_count % AGREE_STEPS == 0):
                self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Save and raise :class:`Interrupted` if a process of the group was asked to stop; all of them do it at the same step."""
        if not self.group.any(stop_requested()):
            return
        if self.group.first:
            self._save()
            self._add_train_seconds(time.monotonic() - self.started)
            self.run.set_status(State.PENDING, why="stopped on request, to be continued", step=self.step_count)
        raise Interrupted(f"stopped at step {self.step_count} of {self.total_steps}")

    def _add_train_seconds(self, seconds: float, **details) -> None:
        self.run.add_provenance(train_seconds=self.run.provenance().get("train_seconds", 0.0) + seconds, **details)

    def train_step(self, x1: Tensor, x2: Tensor) -> None:
        """The next step, on two views (B, 3, H, W) of a batch."""
        cfg, step = self.cfg, self.step_count
        rate = learning_rate(cfg.optimizer, step / self.batches.steps_per_epoch)
        widths = sample_networks(cfg, step, self.total_steps)
        momentum = ema_momentum(cfg.objective, step, self.total_steps)
        self.step_count += 1
        losses = self.training.step(x1, x2, widths, rate, momentum, gather=self._pending(self.step_count))
        for width, loss in zip(widths, losses, strict=True):
            self._add("loss/base" if width == widths[0] else "loss/distill", loss)
        self._add("widths_per_step", len(widths))

    def _add(self, name: str, value: float | Tensor) -> None:
        entry = self.meter[name]
        entry[0], entry[1] = entry[0] + value, entry[1] + 1

    def _keep_alive(self, epoch: int) -> None:
        clock = time.monotonic()
        if not self.group.first:
            return
        # Not after an epoch's last step: its means and diagnostics are to be logged before it counts as done.
        within = self.step_count % self.batches.steps_per_epoch != 0
        if within and clock - self.last_saved >= 60 * self.cfg.train.checkpoint_minutes:
            self._save()
        if clock - self.last_beat >= HEARTBEAT_SECONDS:
            self.last_beat = clock
            self._tell(epoch, self._rate(epoch))

    def _tell(self, epoch: int, rate: float) -> None:
        left = (self.total_steps - self.step_count) * self.cfg.optimizer.batch_size / rate if rate else None
        self.run.set_status(
            State.RUNNING, epoch=epoch, step=self.step_count, steps=self.total_steps, images_per_second=rate, seconds_left=left
        )

    def _rate(self, epoch: int) -> float:
        steps = self.step_count - epoch * self.batches.steps_per_epoch - self.epoch_first_step
        return steps * self.cfg.optimizer.batch_size / max(time.monotonic() - self.epoch_started, 1e-9)

    def _epoch_means(self) -> dict[str, float]:
        """Means over the epoch's steps and all processes, by name."""
        names = sorted(self.meter)
        means = torch.tensor([float(self.meter[n][0]) / self.meter[n][1] for n in names], dtype=torch.float64)
        self.meter.clear()
        if self.group.world_size > 1:
            means = means.to(self.device)  # nccl reduces tensors on a GPU only
            dist.all_reduce(means)
            means = means / self.group.world_size
        return dict(zip(names, means.tolist(), strict=True))

    def _check_finite(self, means: dict[str, float], epoch: int) -> None:
        for name, value in means.items():
            if not math.isfinite(value):
                own = own_parts(self.cfg)
                raise UserError(
                    f"training diverged: {name} is not finite in epoch {epoch + 1}; lower optimizer.lr "
                    f"(now {self.cfg.optimizer.lr}){f' or correct {own[0]}' if own else ''} and train in another run "
                    "directory"
                )

    def _log_epoch(self, epoch: int, means: dict[str, float], board) -> None:
        rate = self._rate(epoch)
        values = means | {"lr": self.training.optimizer.param_groups[0]["lr"]}
        if isinstance(self.training.teacher, Teacher):
            values["ema_momentum"] = ema_momentum(self.cfg.objective, self.step_count - 1, self.total_steps)
        rows = [(name, self.cfg.widths.max if name == "loss/base" else None, value) for name, value in values.items()]
        if self.diagnostics and ((epoch + 1) % self.cfg.diagnostics.every == 0 or epoch + 1 == self.cfg.optimizer.epochs):
            rows += self.diagnostics.measure(self.training.student, self.training.guide)
        rows.append(("images_per_second", None, rate))
        self.run.append_metrics(
            {"step": self.step_count, "epoch": epoch + 1, "name": name, "width": width, "value": value}
            for name, width, value in rows
        )
        if board is not None:
            for name, width, value in rows:
                if value is not None:
                    board.add_scalar(name if width is None else f"{name}/width {width}", value, self.step_count)
        self._tell(epoch + 1, rate)

    def _finish(self, seconds: float) -> None:
        if not self.group.first:
            return
        ends = [self.cfg.widths.max, *([self.cfg.widths.min] if width_varies(self.cfg) else [])]
        widths = usable_widths(self.cfg, [*self.cfg.calibration.widths, *ends])
        calibrate_on(self.training.student.encoder, widths, self.source, self.cfg)
        self._save()
        self._add_train_seconds(seconds, finished=now())
        keep_those_of_the_weights(self.run)
        self.run.set_status(State.DONE, trained=True)

    def _pending(self, steps: int) -> bool:
        """Whether gradients are still being gathered after so many steps."""
        return steps % self.cfg.optimizer.accumulate_steps != 0 and steps < self.total_steps

    # -- state ----------------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        files.save(
            self.run.path,
            {
                "config": to_dict(self.cfg),
                "data": self.data,
                "method_version": self.method_version,
                "step": self.step_count,
                "epoch": self.step_count // self.batches.steps_per_epoch,
                **state.of(self.training, gathering=self._pending(self.step_count)),
                "meter": {name: [float(total), count] for name, (total, count) in self.meter.items()},
                "guidance": self.diagnostics.guidance if self.diagnostics else {},
            },
        )
        self.last_saved = time.monotonic()

    def _restore(self, payload: dict) -> None:
        self.method_version = min(method.VERSION, payload.get("method_version", 1))  # numbers of two versions are the older's
        state.restore(self.training, payload)
        self.step_count = payload["step"]
        self.meter.update({name: list(entry) for name, entry in payload["meter"].items()})
        if self.diagnostics:
            self.diagnostics.guidance = payload["guidance"]
        if self.group.first:
            print(f"resuming at step {self.step_count} of {self.total_steps}", flush=True)

    @contextmanager
    def _tensorboard(self) -> Iterator[object | None]:
        if not (self.cfg.train.tensorboard and self.group.first):
            yield None
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and an option

        with SummaryWriter(self.run.path / "tensorboard", purge_step=self.step_count + 1) as board:
            yield board
