"""One fine-tuning is one run directory, and its scores go where the checkpoint's other scores are.

What is finished is skipped; what was interrupted is trained again in the same directory, in which it finds what it left. The
directory is ``HOME/transfer/TASK/NAME`` with the files of any run (docs/formats.md).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml

from pretrain.distributed import Processes, several
from rundir.atomic import write_atomically
from rundir.clock import now
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.progress import Reporter, reporting
from rundir.records import content, of_width, width_of
from rundir.schema import FINE_TUNINGS, FORMAT, File, State
from rundir.stopping import Interrupted, stop_requested
from rundir.subnet import Width, label
from transfer.finetuning.weights import WeightsReport

HEARTBEAT_SECONDS = 10.0
LOG_EVERY = 20  # iterations
AGREE_EVERY = 10  # iterations: how often several processes ask each other whether one is to stop
NO_SUBNET = ("subnet", "")
UNSAID = (("data", ""), NO_SUBNET)  # left out of a name: earlier versions did not have it


@dataclass(frozen=True)
class Resolved:
    """One fine-tuning with all that its scores depend on: what its directory is named after, and its records say.

    ``width`` is None where ``subnet``, a sub-network, stands in its place.

    ``settings``: what the other fields do not say, plain types (weights, schedule, sizes, ...).

    ``flops`` and ``parameters`` are the encoder's at that width and at the image size that is scored; ``data`` is the fingerprint
    of images and annotations.
    """

    task: str
    dataset: str
    model: str
    schedule: str
    initial: str
    width: float | None
    seed: int
    flops: int
    parameters: int
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    subnet: str = ""

    @property
    def network(self) -> Width:
        """The width, or the sub-network in its place."""
        return width_of(asdict(self))

    @property
    def name(self) -> str:
        """The directory's name: what it is, and eight hex digits of everything its scores depend on."""
        content = {
            key: value for key, value in asdict(self).items() if key not in ("flops", "parameters") and (key, value) not in UNSAID
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.what}-{digest}"

    @property
    def said(self) -> dict[str, Any]:
        """Its fields in plain types; ``subnet`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if (key, value) != NO_SUBNET}

    @property
    def what(self) -> str:
        """The readable beginning of the directory's name."""
        return f"{self.dataset}-{self.model}-{self.schedule}-{self.initial}-{label(self.network)}-s{self.seed}"

    @property
    def title(self) -> str:
        """Its description in messages: model, data set and width."""
        return f"{self.model} on {self.dataset}, width {self.network:g}, {self.initial}"

    def directory(self, home: str | Path) -> Path:
        """Its run directory below ``home``, the pretraining run's directory or ``--out``.

        Where an earlier version, which did not ask for the data's fingerprint, has trained it, that is the one.
        """
        every = Path(home) / FINE_TUNINGS / self.task
        own, former = every / self.name, every / replace(self, data="").name
        return former if not own.exists() and _data_of(former) == "" and not self.trained_on_other_data(home) else own

    def trained_on_other_data(self, home: str | Path) -> bool:
        """Whether there is a run directory below ``home`` of the same network on data that have changed since."""
        every = Path(home) / FINE_TUNINGS / self.task
        alike = [path for path in every.iterdir() if path.name.startswith(f"{self.what}-")] if every.is_dir() else []
        return any(_data_of(path) not in (None, "", self.data) for path in alike)

    def is_scored(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether one of ``records`` is a score of this fine-tuning, of whatever weights; those that do not say their data are of
        the same.
        """
        own = _without_weights(self.record("", None, 0))
        return any(_without_weights(record) == own and record.get("data", self.data) == self.data for record in records)

    def record(self, metric: str, value: float | None, count: int) -> dict:
        """One score record: ``value`` a fraction, None where it is undefined; ``count``: images scored."""
        return {
            "task": self.task,
            "dataset": self.dataset,
            "metric": metric,
            "model": self.model,
            "schedule": self.schedule,
            "initial": self.initial,
            **of_width(self.network),
            "seed": self.seed,
            "value": value,
            "chance": None,
            "count": count,
            "flops": self.flops,
            "parameters": self.parameters,
            "settings": self.settings,
            **({"data": self.data} if self.data else {}),
        }


@dataclass(frozen=True)
class Scores:
    """What a task returns of a fine-tuning: values by metric, fractions or None where undefined, of ``count`` images.

    ``latency_ms``: of one image through the encoder on the device ``latency_on``; None where it was not measured.
    """

    values: Mapping[str, float | None]
    count: int
    latency_ms: float | None = None
    latency_on: str = ""


def _without_weights(record: Mapping[str, Any]) -> str:
    """What ``record`` is a score of, metric and weights left out."""
    said = content(record)
    settings = {name: value for name, value in said.get("settings", {}).items() if name != "weights"}
    return json.dumps({**said, "metric": "", "settings": settings}, sort_keys=True)


def _data_of(directory: Path) -> str | None:
    """The fingerprint of the data that a run directory is of; "" where an earlier version made it, None where there is none."""
    config = RunDirectory(directory).read_config() if (directory / File.CONFIG).is_file() else None
    return None if config is None else config.get("data", "")


Train = Callable[[Resolved, RunDirectory, Processes], Scores]


def run_all(
    every: Sequence[Resolved], home: str | Path, group: Processes, train: Train, force: bool = False, wait: float = 0.0
) -> list[dict]:
    """Fine-tune and score each of ``every`` that is not finished; the records of all, in order.

    ``train(resolved, run, group)`` is called in every process, with the directory locked and its status ``running``; it resumes
    from what is in ``run.path`` and returns the scores (those of the first process count). ``force`` starts finished ones again.
    ``wait``: for so many seconds another process may go on holding a directory, then :class:`Busy` is raised.
    """
    return [record for resolved in every for record in _fine_tune(resolved, Path(home), group, train, force, wait)]


def _fine_tune(resolved: Resolved, home: Path, group: Processes, train: Train, force: bool, wait: float) -> list[dict]:
    path = resolved.directory(home)
    run = RunDirectory(path.with_name(resolved.name) if force else path)
    with run.lock(wait) if group.first else nullcontext():
        done = run.status()["state"] == State.DONE and not force
        if several():
            dist.barrier()  # all have read the state before the first process changes it
        if not done:
            if group.first and run.read_config() is None and resolved.trained_on_other_data(home):
                print(
                    f"{resolved.title}: the images or annotations have changed since it was trained; training it again", flush=True
                )
            try:
                _train(resolved, run, group, train, force)
            except Interrupted:
                if group.first:
                    run.set_status(State.PENDING, why="stopped on request, to be continued")
                raise
            except BaseException as error:
                if group.first:
                    run.set_ended(error)
                raise
        records = run.records()
        if group.first and done:
            print(f"{resolved.title}: finished before, in {run.path}", flush=True)
            if resolved.data and _data_of(run.path) == "":
                print(
                    f"{resolved.title}: an earlier version trained it without noting what the data were; --force trains it again",
                    flush=True,
                )
        if group.first:
            RunDirectory(home).add_records(records)
    return records


def _train(resolved: Resolved, run: RunDirectory, group: Processes, train: Train, force: bool) -> None:
    machines, execution = group.machines(), {"device": str(group.device), "processes": group.world_size}
    if group.first:
        if force:
            _empty(run)
        run.write_config(yaml.safe_dump({"format": FORMAT, **resolved.said}, sort_keys=False))
        run.add_provenance(started=run.provenance().get("started") or now())
        kind = run.add_stretch("fine-tuning", execution, machines)
        run.set_status(State.RUNNING)
    if several():
        dist.barrier()
    began = time.monotonic()

    def seconds() -> float:
        return run.provenance().get("train_seconds", 0.0) + time.monotonic() - began

    try:
        scores = train(resolved, run, group)
    except Interrupted:
        if group.first:
            run.add_provenance(train_seconds=seconds())
        raise
    if group.first:
        timed = {} if scores.latency_ms is None else {"latency_ms": scores.latency_ms, "latency_on": scores.latency_on}
        run.add_records(
            {**resolved.record(metric, finite(value), scores.count), **timed, "computed_on": kind}
            for metric, value in scores.values.items()
        )
        run.add_provenance(finished=now(), train_seconds=seconds())
        run.set_status(State.DONE)
    if several():
        dist.barrier()


def _empty(run: RunDirectory) -> None:
    """Remove all that an earlier run left but the lock, which is held."""
    for entry in run.path.iterdir():
        if entry.name != File.LOCK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def finite(value: float | None) -> float | None:
    """``value`` as a float, None where it is undefined (None or not finite)."""
    return None if value is None or not math.isfinite(value) else float(value)


def tell_weights(resolved: Resolved, run: RunDirectory, report: WeightsReport) -> None:
    """Print what of the checkpoint arrived, and write it to ``weights.json``."""
    print(f"{resolved.title}: {report}", flush=True)
    write_json(run, "weights.json", report.to_dict())


def write_json(run: RunDirectory, name: str, content: Mapping) -> None:
    """Write ``content`` to the file ``name`` of a run directory in one move."""
    write_atomically(run.path / name, json.dumps(content, indent=1))


class Journal:
    """Progress, heartbeat and ``metrics.jsonl`` of one fine-tuning, silent in all processes but the first; its stop on request."""

    def __init__(self, resolved: Resolved, run: RunDirectory, iterations: int, reporter: Reporter, group: Processes):
        self.resolved, self.run, self.iterations, self.reporter, self.group = resolved, run, iterations, reporter, group
        self.last_beat = float("-inf")
        self.begun: tuple[float, int] | None = None  # when the first iteration of this process had ended, and which it was

    def iteration(self, done: int, values: Mapping[str, float]) -> None:
        """``done`` iterations are finished; ``values`` (loss, lr, ...) are of the last.

        Raises:
            UserError: the loss is not finite.
        """
        loss = values.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise UserError(f"{self.resolved.title}: the loss is {loss} after {done} iterations; set a lower --lr")
        if not self.group.first:
            return
        self.reporter.update(done, "" if loss is None else f"loss {loss:.3f}")
        if done % LOG_EVERY == 0 or done == self.iterations:
            self.run.append_metrics(
                {"step": done, "epoch": None, "name": name, "width": self.resolved.width, "value": finite(value)}
                for name, value in values.items()
            )
        if time.monotonic() - self.last_beat >= HEARTBEAT_SECONDS:
            self.last_beat = time.monotonic()
            self.run.set_status(State.RUNNING, step=done, steps=self.iterations, seconds_left=self._seconds_left(done))

    def _seconds_left(self, done: int) -> float | None:
        """Of training, by the rate of this process so far; None before its second iteration."""
        if self.begun is None:
            self.begun = time.monotonic(), done
            return None
        since, first = self.begun
        return round((time.monotonic() - since) / (done - first) * (self.iterations - done), 1)

    def stop_if_asked(self, done: int, save: Callable[[], object]) -> None:
        """After ``done`` iterations: ``save()`` in the first process, and :class:`Interrupted`, if one was asked to stop.

        All processes stop after the same iteration; after the last one nothing does.
        """
        due = self.group.world_size == 1 or done % AGREE_EVERY == 0
        if done == self.iterations or not due or not self.group.any(stop_requested()):
            return
        if self.group.first:
            save()
        raise Interrupted(f"stopped after iteration {done} of {self.iterations}")


@contextmanager
def journal(resolved: Resolved, run: RunDirectory, group: Processes, iterations: int, start: int) -> Iterator[Journal]:
    """The :class:`Journal` of a training that begins or resumes after ``start`` iterations."""
    if group.first:
        run.truncate_metrics(start)
    with reporting(resolved.title, iterations, group.first) as reporter:
        yield Journal(resolved, run, iterations, reporter, group)
