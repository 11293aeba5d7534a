"""Everything that only a GPU can say, in at most nine minutes: one table, and the checks of ``pytest -m gpu``.

    python benchmarks/gpu.py [--minutes 9] [--out DIR]
    python benchmarks/gpu.py --quick --device cpu        # does it run? tiny networks, and recordings in the place of CUDA graphs

Rows: the step's speed in every way of executing it, each against float32 as torch has it; operators and kernels that a step starts,
with and without graphs; that steps and their views never wait for the device; that graphs and low precision train as they should.
What there is no time for is left out and said. Writes gpu.md and gpu.csv.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import limits, recorded, step
from benchmarks.measure import Row, faster, markdown, peak_bytes, table_csv
from pretrain import graphs
from pretrain.distributed import processes
from pretrain.training import Trainer
from pretrain.training.loop import tf32
from rundir.arguments import Parser, place, real
from rundir.atomic import make_folder
from rundir.cli import cli
from rundir.directory import RunDirectory

ROOT = Path(__file__).resolve().parents[1]
# By name: overrides. Each is measured against the first.
WAYS = {
    "fp32": [],
    "fp32, graphs": ["train.graphs=true"],
    "fp32, TF32": ["train.tf32=all"],
    "fp32, TF32, graphs": ["train.tf32=all", "train.graphs=true"],
    "bf16": ["train.precision=bf16"],
    "bf16, graphs": ["train.precision=bf16", "train.graphs=true"],
    "fp16, graphs": ["train.precision=fp16", "train.graphs=true"],
    "bf16, compiled": ["train.precision=bf16", "train.compile=true"],
    "bf16, compiled, graphs": ["train.precision=bf16", "train.compile=true", "train.graphs=true"],
}
BATCHES = (128, 512)
CELLS = [
    [f"objective.base_loss={base}", f"objective.distill_loss={distill}", f"objective.teacher={teacher}"]
    for base, distill, teacher in itertools.product(["mse", "infonce"], ["mse", "infonce"], ["online", "momentum"])
]
# What is compared takes small steps in full float32: at the setting's own rate a change of one in 10^6 in the weights moves the
# losses of six steps by up to 9 % (benchmarks/README.md), and a comparison says nothing.
CAREFUL = ["optimizer.lr=1e-3", "train.tf32=none"]
RESERVED = 100.0  # seconds for the checks at the end


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


@contextlib.contextmanager
def trainer(device: str, quick: bool, *more: str) -> Iterator[Trainer]:
    """A trainer of the step benchmark's CIFAR setting, on noise, at the end of its training."""
    with processes(device) as group, tempfile.TemporaryDirectory() as folder:
        step.write_images(Path(folder) / "images", 32 if quick else max(BATCHES))
        cfg = step.config("cifar", f"{folder}/images", quick, device, "diagnostics.images=0", *more)
        with tf32(cfg.train.tf32):
            made = Trainer(cfg, RunDirectory(Path(folder) / "run"), group)
            made.training.regularizer.set_epoch(cfg.optimizer.epochs - 1, cfg.optimizer.epochs)
            yield made


def wait(device: str) -> None:
    """Until the device has done all that it was asked."""
    if device != "cpu":
        torch.cuda.synchronize()


# -- speed -----------------------------------------------------------------------------------------------------------------


def speed(device: str, quick: bool, batch: int, clock: Clock) -> list[Row]:
    """Images per second and memory in every way there is time for, views ready."""
    part, found, first = f"Step of {'a tiny ResNet' if quick else 'ResNet-18 at 32 pixels'}, batch {batch}, three widths", [], None
    for name, more in WAYS.items():
        if device == "cpu" and ("fp16" in name or ("compiled" in name and quick)):
            continue
        if clock.left < RESERVED + (120 if "compiled" in name else 20):
            found.append(Row(part, name, "images/s", None, note="no time left"))
            continue
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with trainer(device, quick, f"optimizer.batch_size={batch}", *more) as made:
            rate, start = images_per_second(made, device, quick)
        row = Row(part, name, "images/s", rate) if first is None else faster(part, name, "images/s", rate, first)
        first = first or rate
        found.append(row)
        found.append(Row(part, f"{name}: before the first full-speed step; peak memory", "s; MiB", start, peak_bytes() / 2**20))
    return found


def images_per_second(made: Trainer, device: str, quick: bool) -> tuple[float, float]:
    """The rate of the fastest of five turns, and the seconds that the first steps took (recording, compiling)."""
    x1, x2 = step.views(made)
    begin = time.perf_counter()
    for _ in range(2):
        made.train_step(x1, x2)
    wait(device)
    start, steps, best = time.perf_counter() - begin, 1 if quick else 10, float("inf")
    for _ in range(1 if quick else 5):
        begin = time.perf_counter()
        for _ in range(steps):
            made.train_step(x1, x2)
        wait(device)
        best = min(best, (time.perf_counter() - begin) / steps)
    return len(x1) / best, start


# -- what is asked of the device -------------------------------------------------------------------------------------------


def asked(device: str, quick: bool) -> list[Row]:
    """Events of one step by the profiler: operators of the host, kernels of the device, calls that wait."""
    found, counts = [], {}
    for name in ("fp32", "fp32, graphs"):
        with trainer(device, quick, "optimizer.batch_size=16", *WAYS[name]) as made:
            x1, x2 = step.views(made)
            for _ in range(2):
                made.train_step(x1, x2)
            wait(device)
            kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
            with profile(activities=kinds) as profiler:
                made.train_step(x1, x2)
                wait(device)
        events = profiler.key_averages()
        counts[name] = {
            "operators": sum(e.count for e in events if e.key.startswith("aten::")),
            "kernel launches": sum(e.count for e in events if e.key.startswith(("cudaLaunch", "cuLaunch"))),
            "graph launches": sum(e.count for e in events if e.key.startswith("cudaGraphLaunch")),
            "waits": sum(e.count for e in events if "Synchronize" in e.key) - (device != "cpu"),
        }
    part = "What a step asks of the device (profiler)"
    for what in counts["fp32"]:
        found.append(Row(part, f"{what}, with graphs against without", "", counts["fp32, graphs"][what], counts["fp32"][what]))
    return found


def never_waits(device: str, quick: bool) -> list[Row]:
    """Steps with their views under torch's check that an operation which waits is an error (a GPU only)."""
    found = []
    for name in ("fp32", "bf16, graphs", "fp16, graphs"):
        if device == "cpu" and "fp16" in name:
            continue
        with trainer(device, quick, "optimizer.batch_size=16", *WAYS[name]) as made:
            for _, x1, x2 in made.batches.epoch(0):  # recordings and libraries' choices may wait
                made.train_step(x1, x2)
            note, met = "", True
            try:
                if device != "cpu":
                    torch.cuda.set_sync_debug_mode("error")
                for _, x1, x2 in made.batches.epoch(1):
                    made.train_step(x1, x2)
            except RuntimeError as error:
                note, met = str(error).splitlines()[0][:150], False
            finally:
                if device != "cpu":
                    torch.cuda.set_sync_debug_mode("default")
        found.append(
            Row(
                "Steps and views never wait for the device",
                name,
                "",
                None,
                target="no wait",
                met=met if device != "cpu" or not met else None,
                note=note if device != "cpu" else "not checked on a CPU",
            )
        )
    return found


# -- the same numbers ------------------------------------------------------------------------------------------------------


def losses(device: str, *more: str, steps: int = 6) -> list[float]:
    """The sum of the losses so far after each of the first steps, of a tiny network."""
    with trainer(device, True, "optimizer.batch_size=16", *CAREFUL, *more) as made:
        seen = []
        for epoch in range(steps):
            for _, x1, x2 in made.batches.epoch(epoch):
                if len(seen) < steps:
                    made.train_step(x1, x2)
                    seen.append(sum(float(total) for name, (total, _) in made.meter.items() if name.startswith("loss")))
    return seen


def same_numbers(device: str) -> list[Row]:
    """Largest relative difference of the losses so far over a few steps: graphs against none in all eight cells; precisions against
    float32.
    """
    part, found = "The same training", []

    def compared(name: str, one: Sequence[str], other: Sequence[str], limit: float) -> Row:
        difference = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses(device, *one), losses(device, *other), strict=True))
        return Row(part, name, "loss", difference, 0.0, None, f"≤ {limit:g}", difference <= limit)

    for cell in CELLS:
        short = "-".join(word.split("=")[1] for word in cell)
        limit = 2e-3 if device != "cpu" else 0.0
        found.append(compared(f"graphs against none, {short}", [*cell, "train.graphs=true"], cell, limit))
    for name in ("fp32, TF32", "bf16", "bf16, graphs", "fp16, graphs"):
        if device != "cpu" or "fp16" not in name:
            found.append(compared(f"{name} against fp32", WAYS[name], WAYS["fp32"], 0.05))
    return found


def gpu_tests(device: str, seconds: float) -> Row:
    """The tests that need a GPU, by pytest."""
    part, what = "Tests", "pytest -m gpu"
    if device == "cpu":
        return Row(part, what, "", None, note="needs a GPU")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(10.0, seconds),
        )
    except subprocess.TimeoutExpired:
        return Row(part, what, "", None, target="all pass", met=False, note="not done in time")
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
    last = done.stdout.strip().splitlines()[-1:] or ["it says nothing"]
    return Row(part, what, "", None, target="all pass", met=done.returncode == 0, note=last[0].strip("= "))


# -- all -------------------------------------------------------------------------------------------------------------------


def sections(device: str, quick: bool, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """What is measured, in this order, by name."""
    yield "never waits", lambda: never_waits(device, quick)
    yield "the same numbers", lambda: same_numbers(device)
    yield "what is asked", lambda: asked(device, quick)
    yield "tests", lambda: [gpu_tests(device, min(150.0, clock.left - 150))]
    for batch in (16,) if quick else BATCHES:
        yield f"speed, batch {batch}", lambda batch=batch: speed(device, quick, batch, clock)
    yield "limits", lambda: limits.rows(quick, device) if clock.left > 60 or quick else []


def heading(device: str) -> str:
    """What the numbers were measured on."""
    name = limits.device_name(device)
    return f"Measured {time.strftime('%Y-%m-%d %H:%M')} on {name}, torch {torch.__version__}, CUDA {torch.version.cuda}.\n\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 where something that is checked is not as it should be."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and single steps: does it run, not how fast")
    parser.add_argument("--minutes", type=real(above=True, high=600.0), default=9.0, help="at most so many; default 9")
    parser.add_argument("--out", type=place, default=Path("benchmarks/results/gpu"), metavar="DIR")
    arguments = parser.parse_args(argv)
    device, quick = arguments.device, arguments.quick
    if device == "cpu":
        graphs.RECORDERS["cpu"] = recorded.recorder
    elif not torch.cuda.is_available():
        print("error: there is no GPU here; set --quick --device cpu to see that everything runs", file=sys.stderr)
        return 2
    make_folder(arguments.out, "the table")
    clock, rows = Clock(60 * arguments.minutes), []
    for name, measure in sections(device, quick, clock):
        begin = time.monotonic()
        try:
            fresh = measure()
        except Exception as error:  # a GPU is dear, and the other sections may work
            traceback.print_exc()
            fresh = [Row(name, type(error).__name__, "", None, met=False, note=(str(error).splitlines() or ["no reason given"])[0])]
        rows += fresh
        (arguments.out / "gpu.md").write_text(heading(device) + markdown(rows), encoding="utf-8")
        (arguments.out / "gpu.csv").write_text(table_csv(rows), encoding="utf-8")
        print(f"{name}: {time.monotonic() - begin:.0f} s\n\n{markdown(fresh)}", flush=True)
    missed = [row.what for row in rows if row.met is False and not (quick and "≥" in row.target)]
    print(f"table: {arguments.out / 'gpu.md'}" + "".join(f"\n  not as it should be: {what}" for what in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    cli(main)
