"""What a launch would do: runs, fine-tunings, and on Slurm the graph of jobs, what sbatch gets, and what it may cost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablations.estimate import estimates
from ablations.grid import Run
from ablations.jobs import graph
from ablations.transfers import Transfer
from pretrain.cost import training_flops
from rundir.clock import duration
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.schema import File, Provenance
from rundir.wording import counted
from slurm import squeue
from slurm.arrays import Array, plan, spec
from slurm.ledger import Ledger
from slurm.settings import Cluster
from slurm.submit import MAX_INDEX, batch_lines, environment_lines, in_queue
from transfer.finetuning import Finetuning


@dataclass(frozen=True)
class Work:
    """What a launch is about: every run of the grid, those of them that are not finished, the jobs of ``--transfer``, finished ones
    too, and the number of training images.
    """

    runs: Sequence[Run]
    missing: Sequence[Run]
    transfers: Sequence[Transfer]
    images: int

    @property
    def open_transfers(self) -> list[Transfer]:
        """Those that are not finished."""
        return [one for one in self.transfers if not one.finished]

    @property
    def unfinished(self) -> list[Run]:
        """The runs that lack something, of their own or of other data."""
        waiting = {run.directory for run in (*self.missing, *(one.run for one in self.open_transfers))}
        return [run for run in self.runs if run.directory in waiting]

    def counted(self) -> str:
        """What there is and what is to do, in a line each."""
        runs, missing, every, left = (len(part) for part in (self.runs, self.missing, self.transfers, self.open_transfers))
        lines = [f"{counted(runs, 'run')}, {runs - missing} finished, {missing} to do"]
        if every:
            what = "1 fine-tuning or evaluation" if every == 1 else f"{every} fine-tunings and evaluations"
            lines.append(f"{what} of them on other data, {every - left} finished, {left} to do")
        return "\n".join(lines)


def show_plan(work: Work) -> None:
    """The dry run for this machine: every run with its state and the cost of training it, and the jobs of ``--transfer``."""
    costs, missing = estimates(work.runs, work.images), {run.directory for run in work.missing}
    table = Table("run", "state", "steps", "FLOPs", "time here", "directory", title=f"plan on {work.images} training images")
    for run in work.runs:
        cost = costs[run.name]
        table.add_row(
            run.name,
            "to do" if run.directory in missing else "finished",
            f"{cost.steps:,}",
            f"{cost.flops:.2e}",
            duration(cost.seconds),
            run.directory.name,
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    todo = [costs[run.name] for run in work.missing]
    console.print(
        f"to do: {counted(len(todo), 'run')}, {counted(sum(c.steps for c in todo), 'step')}, "
        f"{sum(c.flops for c in todo):.2e} FLOPs, about {duration(sum(c.seconds for c in todo))} of training "
        "on this machine one after another, without evaluation"
    )
    if work.transfers:
        show_transfers(
            work, {run.directory: costs[run.name].flops / costs[run.name].seconds for run in work.runs if costs[run.name].seconds}
        )


def show_transfers(work: Work, rates: Mapping[Path, float]) -> None:
    """A row per entry and width, and with ``rates`` (FLOP/s by run directory) about how long what is left of them takes."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("entry", "kind", "width", "jobs", "to do", "FLOPs of one", title="fine-tunings and evaluations on other data")
    groups: dict[tuple, list[Transfer]] = {}
    for one in work.transfers:
        width = (one.work.width,) if isinstance(one.work, Finetuning) else one.work.widths
        reference = " from random weights" if getattr(one.work, "initial", "") == "random" else ""
        groups.setdefault((one.entry + reference, one.kind, " ".join(f"{w:g}" for w in width)), []).append(one)
    for (entry, kind, widths), own in groups.items():
        left = sum(not one.finished for one in own)
        table.add_row(entry, kind, widths, str(len(own)), str(left), f"{own[0].flops:.2e}")
    console.print(table)
    flops, rate = sum((one.flops for one in work.open_transfers), 0.0), min(rates.values(), default=0.0)
    about = f", about {duration(flops / rate)} here one after another" if rate and flops else ""
    console.print(
        f"to do: {counted(len(work.open_transfers), 'job')}, {flops:.2e} FLOPs of the encoder{about}; detectors' and "
        "segmenters' own layers come on top",
        soft_wrap=True,
    )


def show_graph(work: Work, cluster: Cluster, folder: Path) -> None:
    """Print arrays with what each waits for, sbatch's parameters by kind of job, and GPU-hours. Submits and writes nothing."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    queued, largest = _from_slurm(folder)
    new = [job for job in graph(work.missing, work.runs, folder, work.transfers) if job.name not in queued]
    if all(job.last for job in new):
        nothing = not work.missing and not work.open_transfers
        console.print("nothing to submit" if nothing else "all of it is in the queue already; nothing to submit")
        return
    arrays = plan(new, queued, largest)
    table = Table(
        "array",
        "kind",
        "tasks",
        "at once",
        "waits for",
        "first task",
        title=f"{counted(len(new), 'job')} in {counted(len(arrays), 'array')}",
    )
    for number, array in enumerate(arrays):
        first = next(iter(array.jobs.values()))
        table.add_row(
            str(number),
            array.kind,
            spec(list(array.jobs)),
            str(cluster.kinds[array.kind].array_parallelism),
            _waits(array),
            first.name,
        )
    console.print(table)
    for line in environment_lines(cluster, sorted({array.kind for array in arrays})):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for kind in dict.fromkeys(array.kind for array in arrays):
        console.print(f"sbatch parameters of {kind} jobs:", markup=False, highlight=False)
        for line in batch_lines(cluster, kind, folder.name, folder / "slurm"):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if work.transfers:
        show_transfers(work, {})
    for line in cost_lines(work.missing, arrays, cluster, work.images, folder):
        console.print(line, markup=False, highlight=False)


def _from_slurm(folder: Path) -> tuple[dict[str, str], int]:
    """What is in the queue already and how large an array may be; Slurm's defaults where it cannot be asked."""
    ledger = Ledger(folder / "slurm")
    if not squeue.available():
        return {}, MAX_INDEX
    try:
        return in_queue(ledger, settle=False) if ledger.path.exists() else {}, squeue.largest_array()
    except UserError:
        return {}, MAX_INDEX


def _waits(array: Array) -> str:
    if array.last:
        return "the end of all, however they end"
    if array.behind is None:
        return ""
    behind = f"array {array.behind}" if isinstance(array.behind, int) else f"array {array.behind} in the queue"
    return f"the same task of {behind}" + (f" and {', '.join(array.also)}" if array.also else "")


def cost_lines(missing: Sequence[Run], arrays: Sequence[Array], cluster: Cluster, images: int, folder: Path) -> list[str]:
    """The most that the time limits allow, and what training will take by the rate of a finished run or of the settings."""
    tasks = Counter()
    for array in arrays:
        tasks[array.kind] += len(array.jobs)
    lines = []
    for unit, each in (("GPU", lambda own: own.nodes * own.gpus), ("CPU", lambda own: own.processes * own.cpus)):
        hours = {kind: count * each(cluster.kinds[kind]) * cluster.kinds[kind].minutes / 60 for kind, count in tasks.items()}
        parts = ", ".join(f"{kind} {value:,.1f}" for kind, value in hours.items() if value)
        lines.append(
            f"time limits of all jobs together: {sum(hours.values()):,.1f} {unit}-hours, the most that Slurm can charge "
            "without requeues" + (f" ({parts})" if parts else "")
        )
    flops = {}
    for run in missing:
        if run.cell not in flops:
            flops[run.cell] = training_flops(run.cfg, images)
    total = sum(flops[run.cell] for run in missing)
    rate, source = _rate(cluster, folder)
    if not total:
        return lines
    if rate:
        seconds = total / rate
        unit = "GPU-hours" if cluster.gpu_tflops else "hours"
        lines.append(
            f"training itself: {total:.2e} FLOPs, about {seconds / 3600:,.2f} {unit} ({duration(seconds)}) at "
            f"{rate / 1e12:,.3g} TFLOP/s, {source}"
        )
    else:
        lines.append(f"training itself: {total:.2e} FLOPs; for hours set --slurm gpu_tflops=N, what one GPU reaches in training")
    return lines


def _rate(cluster: Cluster, folder: Path) -> tuple[float, str]:
    """FLOP/s of one training, and where it is known from; 0 where it is not."""
    if cluster.gpu_tflops:
        return cluster.gpu_tflops * 1e12, "as gpu_tflops says"
    for path in sorted(folder.glob(f"*/{File.PROVENANCE}")):
        try:
            known = RunDirectory(path.parent).provenance()
        except UserError:
            continue
        if known.get("finished") and known.get("train_seconds"):
            return known["train_flops"] / known["train_seconds"], f"as {path.parent.name} reached on {_hardware(known)}"
    return 0.0, ""


def _hardware(known: Provenance) -> str:
    hardware = known.get("hardware", {})
    gpus = Counter(hardware.get("gpus") or [])
    return ", ".join(f"{count} {name}" for name, count in gpus.items()) or f"{hardware.get('cores', '?')} CPU cores"
