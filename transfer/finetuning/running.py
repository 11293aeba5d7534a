"""From descriptions of fine-tunings to what they will cost, or to their scores."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pretrain.checkpoints import Checkpoint, Config, open_checkpoint, untrained
from pretrain.distributed import Processes, processes
from rundir.errors import UserError
from rundir.subnet import Width
from transfer.finetuning.description import Finetuning, room
from transfer.finetuning.plan import Plan
from transfer.finetuning.runs import Resolved, run_all
from transfer.finetuning.scenes import SceneConfig, read_config, write_scenes
from transfer.finetuning.trunk import check_norm, check_subnets

ENCODER_PASSES = 3  # a forward and a backward pass, of twice its cost


@dataclass(frozen=True)
class Workload:
    """What a fine-tuning will do.

    Attributes:
        iterations, batch_size: of training, over all processes.
        train_images, test_images: in the data.
        flops, parameters: of the encoder at the width: one image of the size that is scored, forward.
        resolved: what directory and records will say, but for weights, seed and initial weights.
        notes: what is odd about the data but not wrong, a line each.
    """

    iterations: int
    batch_size: int
    train_images: int
    test_images: int
    flops: int
    parameters: int
    resolved: Resolved = field(compare=False, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def encoder_flops(self) -> int:
        """FLOPs of the encoder in training and in scoring; necks and heads come on top, and training images may be smaller."""
        return self.flops * (ENCODER_PASSES * self.iterations * self.batch_size + self.test_images)


def run(finetuning: Finetuning, wait: float = 0.0) -> list[dict]:
    """Fine-tune and score, or take up what was interrupted; the score records, also where it was finished before.

    Where torchrun or Slurm says that there are several processes, all of them call this. ``wait``: for so many seconds another
    process may go on holding the run directory.

    Raises:
        UserError: whatever is wrong with options, checkpoint or data; nothing is written then.
        Busy: another process holds the run directory.
        Interrupted: it was asked to stop (rundir.stopping) and has saved.
    """
    with processes(finetuning.device) as group:
        return run_widths(finetuning, [finetuning.width], group, wait).records


@dataclass(frozen=True)
class Done:
    """Finished fine-tunings: where their scores are, each with what it depends on, and the records of all in order."""

    home: Path
    every: list[Resolved]
    records: list[dict]


def run_widths(finetuning: Finetuning, widths: Sequence[Width] | None, group: Processes, wait: float = 0.0) -> Done:
    """As :func:`run`, at each of ``widths`` (None: those the checkpoint is calibrated for); checkpoint and data are read once."""
    _check(finetuning, group.world_size)
    check_norm(finetuning.norm, group.device)
    checkpoint = open_checkpoint(finetuning.checkpoint, group.device, branch=finetuning.branch, arch=finetuning.arch)
    widths = checkpoint.default_widths() if widths is None else checkpoint.chosen_widths(widths)
    check_subnets(widths)
    checkpoint.check_widths(widths)
    home = checkpoint.home(finetuning.out)
    kind = _plan_of(finetuning)
    kind.check_network(finetuning, checkpoint)
    where = scenes_at(finetuning.data_dir, home) if finetuning.dataset == "digits" else Path(finetuning.data_dir)
    data = kind.load(finetuning, where, group.first)
    for note in data.notes if group.first else ():
        print(f"{data.name}: {note}", flush=True)
    plan = kind(finetuning, checkpoint, data, group.world_size)
    plan.check()
    every = [plan.resolved(width) for width in widths]
    return Done(home, every, run_all(every, home, group, plan.train_and_time, finetuning.force, wait))


def check(finetunings: Sequence[Finetuning], planned: Mapping[str, Config] = {}, processes: int = 1) -> list[Workload]:
    """Check options, networks and data of all ``finetunings``, and what each will cost, in order; nothing is written or trained.

    Each data set is read whole once, and each kind of network built once.

    Args:
        planned: configs of checkpoints that are not there yet, by :attr:`Finetuning.checkpoint`.
        processes: those that each will run on.

    Raises:
        UserError: whatever :func:`run` would raise before it trains, but for a GPU that is not there.
    """
    checker = _Checker(planned, processes)
    for finetuning in finetunings:
        _check(finetuning, processes)
    for finetuning in finetunings:
        _plan_of(finetuning).check_network(finetuning, checker.checkpoint(finetuning))
    return [checker.workload(finetuning) for finetuning in finetunings]


class _Checker:
    """Checkpoints, data and workloads of fine-tunings that are only checked, each found once."""

    def __init__(self, planned: Mapping[str, Config], processes: int):
        self.planned, self.processes = planned, processes
        self.checkpoints: dict[tuple, Checkpoint] = {}
        self.data: dict[Finetuning, object] = {}
        self.workloads: dict[tuple, Workload] = {}

    def _network(self, finetuning: Finetuning) -> tuple:
        """What decides which network it is; of a planned checkpoint not which run it will be of."""
        config = self.planned.get(finetuning.checkpoint)
        if config is None:
            return finetuning.checkpoint, finetuning.branch, finetuning.arch
        return repr((config.model, config.widths, config.data.name, config.data.size, config.calibration.widths)), finetuning.branch

    def checkpoint(self, finetuning: Finetuning) -> Checkpoint:
        key = self._network(finetuning)
        if key not in self.checkpoints:
            config = self.planned.get(finetuning.checkpoint)
            self.checkpoints[key] = (
                open_checkpoint(finetuning.checkpoint, branch=finetuning.branch, arch=finetuning.arch)
                if config is None
                else untrained(config, finetuning.checkpoint)
            )
        return self.checkpoints[key]

    def workload(self, finetuning: Finetuning) -> Workload:
        checkpoint = self.checkpoint(finetuning)
        if finetuning.checkpoint not in self.planned:
            checkpoint.home(finetuning.out)
        check_subnets([finetuning.width])
        checkpoint.check_widths([finetuning.width], "width")
        same = replace(finetuning, checkpoint="", seed=0, out=None, force=False, initial="", pictures=0, device="", workers=0)
        key = self._network(finetuning), same
        if key not in self.workloads:
            self.workloads[key] = self._workload(finetuning, checkpoint)
        return self.workloads[key]

    def _workload(self, finetuning: Finetuning, checkpoint: Checkpoint) -> Workload:
        kind, data = _plan_of(finetuning), self._data(finetuning)
        plan = kind(finetuning, checkpoint, data, self.processes)
        plan.check()
        resolved, (train, test) = plan.resolved(finetuning.width), plan.images
        schedule = plan.schedule
        return Workload(
            schedule.iterations, schedule.batch_size, train, test, resolved.flops, resolved.parameters, resolved, tuple(data.notes)
        )

    def _data(self, finetuning: Finetuning) -> Any:
        read = {
            name: getattr(finetuning, name)
            for name in ("dataset", "data_dir", "exif", "clip_boxes", "scale", "crop", "output_stride")
        }
        key = Finetuning(finetuning.task, "", **read)
        if key not in self.data:
            with TemporaryDirectory(prefix="scenes-") as folder:
                where: Any = finetuning.data_dir
                if finetuning.dataset == "digits" and not (where and read_config(Path(where))):
                    with contextlib.redirect_stdout(io.StringIO()):  # nobody asked for these
                        where = write_scenes(Path(folder) / "scenes", SceneConfig())
                self.data[key] = _plan_of(finetuning).load(finetuning, Path(where), False)
                _ = self.data[key].contents  # type: ignore[attr-defined]  # while the files are there
        return self.data[key]


def _check(finetuning: Finetuning, processes: int) -> None:
    finetuning.check()
    batch = finetuning.asked_schedule.batch_size
    if batch % processes:
        raise UserError(
            f"--batch-size {batch} cannot be shared by {processes} processes; set --batch-size "
            f"{math.ceil(batch / processes) * processes}"
        )


def _plan_of(finetuning: Finetuning) -> type[Plan]:
    """The plan of its task, whose library is imported by this."""
    room(finetuning.task).prepare()
    return importlib.import_module(f"transfer.{finetuning.task}.plan").Plan


def scenes_at(data_dir: str | None, home: Path) -> Path:
    """The directory of the digits scenes: those in ``data_dir`` whatever their settings, or else those of the default settings,
    written to ``data_dir`` or next to the scores if they are not there yet."""
    where = Path(data_dir) if data_dir else home / "transfer" / "scenes"
    return write_scenes(where, read_config(where) or SceneConfig())
