"""One training step against the plain reference: images per second, where the time goes, memory, the diagnostics' share.

    python benchmarks/step.py [--preset cifar|digits] [--rounds 5] [--threads N] [--no-parts] [--quick]

CIFAR: ResNet-18 at 32 pixels, batch 32, InfoNCE base, MSE distillation, momentum teacher, widths 1.0, 0.6 and 0.25 (fixed, so that
all do the same work), hidden 2048, out 256. All contenders take turns in one run, on the same images, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import limits
from benchmarks.measure import Row, at_most, best, clock_in_use, faster, markdown, options, peak_bytes, seconds, use_clock
from benchmarks.reference import Reference
from pretrain.config import Config, load
from pretrain.distributed import processes
from pretrain.memory import keep_freed_memory
from pretrain.objective.losses import negative_cosine
from pretrain.training import Trainer
from rundir.cli import cli
from rundir.directory import RunDirectory
from rundir.progress import reporting

WIDTHS = [1.0, 0.6, 0.25]
CELL = [
    "objective.base_loss=infonce",
    "objective.distill_loss=mse",
    "objective.teacher=momentum",
    "widths.sampling=fixed",
    f"widths.fixed={WIDTHS}",
    "optimizer.lr=0.05",
    "optimizer.epochs=100",
    "train.tensorboard=false",
]
PRESETS = {
    "cifar": ("cifar10", ["data.name=folder", "optimizer.batch_size=32"]),
    "digits": ("digits", []),
}
QUICK = [
    "model.arch=resnet_small",
    "model.projector_hidden=32",
    "model.projector_out=16",
    "model.predictor_hidden=16",
    "optimizer.batch_size=16",
    "data.size=16",
    "data.limit=32",
    "diagnostics.images=16",
]
EPOCH_IMAGES = {"cifar": 50_000, "digits": 1297}
# Of the step, with and without the regularizer, in float32; at least so many times faster than the reference.
TARGETS = {("fp32", "group"): 1.8, ("fp32", "none"): 1.25, ("bf16", "group"): 4.0}
PRODUCTS = ("convolution", "mm", "addmm", "bmm", "linear")  # parts of the names of operators that multiply


# -- the two -----------------------------------------------------------------------------------------------------------------


def config(preset: str, root: str, quick: bool, device: str, *more: str) -> Config:
    name, own = PRESETS[preset]
    place = [f"data.root={root}"] if "data.name=folder" in own else []
    return load(name, [*CELL, *own, *place, *(QUICK if quick else []), f"train.device={device}", *more])


def write_images(root: Path, count: int = 128, size: int = 32) -> None:
    """An image folder of noise, two classes: what is on the images does not matter to the clock."""
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for split in ("train", "val"):
        for i, image in enumerate(pixels.numpy()):
            home = root / split / f"class{i % 2}"
            home.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(home / f"{i}.png")


@contextlib.contextmanager
def trainers(preset: str, quick: bool, device: str, variants: dict[str, list[str]]) -> Iterator[dict[str, Trainer]]:
    """A trainer for each of ``variants`` (overrides by name), ready to take steps of its last epoch's kind."""
    with processes(device) as group, tempfile.TemporaryDirectory() as place:
        write_images(Path(place) / "images")
        made = {}
        for name, more in variants.items():
            cfg = config(preset, f"{place}/images", quick, device, *more)
            made[name] = Trainer(cfg, RunDirectory(Path(place) / name), group)
            made[name].training.regularizer.set_epoch(cfg.optimizer.epochs - 1, cfg.optimizer.epochs)
        yield made


def views(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Two views of a batch."""
    return next(iter(trainer.batches.epoch(0)))[1:]


def reference(trainer: Trainer) -> Reference:
    """The plain step with the weights and settings of ``trainer``."""
    cfg, training = trainer.cfg, trainer.training
    coefficient = cfg.regularizer.coefficient if cfg.regularizer.kind == "group" else 0.0
    return Reference(
        training.student,
        training.teacher,
        base=cfg.objective.base_loss,
        distill=cfg.objective.distill_loss,
        temperature=cfg.objective.temperature,
        lr=cfg.optimizer.lr,
        momentum=cfg.optimizer.momentum,
        ema=cfg.objective.ema_momentum,
        coefficient=coefficient,
        alpha=cfg.regularizer.alpha,
        groups=cfg.regularizer.groups,
    )


# -- speed and memory --------------------------------------------------------------------------------------------------------


def serve(pipe: Connection, preset: str, quick: bool, device: str, name: str, threads: int, clock_name: str) -> None:
    """One contender in this process: answers ``step`` with its seconds, ``peak`` with its bytes, ``work`` with FLOPs and images."""
    torch.set_num_threads(threads)
    use_clock(clock_name)
    before = peak_bytes()
    precision, kind = name.split()
    precise = "fp32" if precision == "reference" else precision
    with trainers(preset, quick, device, {name: [f"train.precision={precise}", f"regularizer.kind={kind}"]}) as made:
        trainer = made[name]
        x1, x2 = views(trainer)
        images = len(x1)
        step = partial(trainer.train_step, x1, x2)
        if precision == "reference":
            step = partial(reference(trainer).step, x1, x2, WIDTHS)
            # The trainer's own networks go: they are no part of the reference.
            trainer.training = trainer.diagnostics = None
        else:
            keep_freed_memory()  # as pretraining does
        while (asked := pipe.recv()) != "end":
            if asked == "step":
                pipe.send(seconds(step))
            elif asked == "peak":
                pipe.send(peak_bytes() - before)
            else:
                with FlopCounterMode(display=False) as counter:
                    step()
                pipe.send((counter.get_total_flops(), images))


@contextlib.contextmanager
def contender(*settings) -> Iterator[Callable[[str], object]]:
    """A process of its own for one contender, and the function that asks it: what one does to memory must not help another."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve, args=(other, *settings), daemon=True)
    process.start()
    other.close()

    def ask(what: str) -> object:
        pipe.send(what)
        return pipe.recv()

    try:
        yield ask
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.send("end")
        process.join()


def speed(preset: str, precisions: list[str], rounds: int, device: str, quick: bool) -> tuple[list[Row], float]:
    """Rows of images per second and of memory, and the seconds of a step of ours in float32."""
    kinds = ["group", "none"]
    names = [f"{who} {kind}" for who in (*precisions, "reference") for kind in kinds]
    spent: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack, reporting(f"{preset} step", (rounds + 1) * len(names)) as reporter:
        ask = {
            name: stack.enter_context(contender(preset, quick, device, name, torch.get_num_threads(), clock_in_use()))
            for name in names
        }
        for turn in range(rounds + 1):
            for done, name in enumerate(names, start=1):
                spent[name].append(ask[name]("step"))
                reporter.update(turn * len(names) + done, name)
        peaks = {name: ask[name]("peak") / 2**20 for name in names}
        flops, batch = ask["reference none"]("work")
    fastest = {name: min(times[1:]) for name, times in spent.items()}  # the first warms up
    part, found = f"Training step, {preset}", []
    for name in names[: -len(kinds)]:
        precision, kind = name.split()
        target = TARGETS.get((precision, kind)) if preset == "cifar" else None
        found.append(
            faster(
                part,
                f"step, {precision}, {'with the regularizer' if kind == 'group' else 'without'}",
                "images/s",
                batch / fastest[name],
                batch / fastest[f"reference {kind}"],
                target,
            )
        )
    found += [
        at_most(
            part,
            f"peak memory beyond the interpreter and its libraries, {name}",
            "MiB",
            peaks[name],
            peaks[f"reference {name.split()[1]}"],
            1.0,
        )
        for name in names[: -len(kinds)]
    ]
    found.append(Row(part, "work of a step", "GFLOP", flops / 1e9))
    for precision in precisions:
        rate = flops / 1e9 / fastest[f"{precision} group"]
        limit = limits.convolution_rate(precision, 2 if quick else 32, device, backward=True)
        aimed = precision == "bf16" and preset == "cifar"
        found.append(
            Row(
                part,
                f"{precision} step as a share of the machine's convolutions",
                "GFLOP/s",
                rate,
                limit,
                rate / limit,
                "≥ 40 %" if aimed else "",
                rate / limit >= 0.4 if aimed else None,
            )
        )
    return found, fastest["fp32 group"]


# -- where the time goes -----------------------------------------------------------------------------------------------------


def overhead(trainer: Trainer, steps: int, device: str) -> dict[str, float]:
    """Seconds a step of every operator by name, from the profiler: its own time, without what it calls."""
    x1, x2 = views(trainer)
    trainer.train_step(x1, x2)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=kinds) as profiler:
        for _ in range(steps):
            trainer.train_step(x1, x2)
    field = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    return {event.key: getattr(event, field) / 1e6 / steps for event in profiler.key_averages()}


def is_product(operator: str) -> bool:
    """Whether ``operator`` is a convolution or a matrix product, forward or backward."""
    return any(name in operator.removeprefix("aten::").split("_") or name in operator for name in PRODUCTS)


def parts(preset: str, made: dict[str, Trainer], step_seconds: float, device: str, quick: bool) -> list[Row]:
    """Rows of what is not convolutions and products, and of single parts of the step, each timed on its own."""
    trainer, part = made["fp32 group"], f"Parts of the fp32 step, {preset}"
    calls = 2 if quick else 10
    spent = overhead(trainer, 1 if quick else 3, device)
    total = sum(spent.values())
    rest = sum(value for name, value in spent.items() if not is_product(name))
    x1, _ = views(trainer)
    augmentation = best(lambda: views(trainer), 2 if quick else 5)
    found = [
        at_most(
            part,
            "all but convolutions and products, with augmentation (profiler)",
            "ms",
            1e3 * (rest + augmentation),
            1e3 * (total + augmentation),
            0.25,
            percent=True,
        )
    ]

    def fill(one: Trainer) -> Callable[[], None]:
        return lambda: [setattr(p, "grad", torch.zeros_like(p)) for p in one.training.student.parameters()]

    update, bare = (
        best(partial(one.training.update, WIDTHS[0]), calls, fill(one)) for one in (made["fp32 group"], made["fp32 none"])
    )
    count = len(WIDTHS)
    ema = best(lambda: trainer.training.teacher.update(trainer.training.student, 0.99), calls)
    pair = torch.randn(2, len(x1), trainer.cfg.model.projector_out, device=x1.device)
    student = pair[0].clone().requires_grad_()

    def losses() -> None:
        trainer.training.objective.base_loss(student, pair[1]).backward()
        for _ in WIDTHS[1:]:
            negative_cosine(student, pair[1]).backward()

    for name, value, limit in [
        ("group penalty", count * max(update - bare, 0.0), 0.02),
        ("optimizer", count * bare, None),
        ("EMA of the teacher", ema, 0.02),
        ("losses", 2 * best(losses, calls), None),
        ("augmentation of a batch", augmentation, None),
    ]:
        found.append(
            at_most(part, name, "ms", 1e3 * value, 1e3 * step_seconds, limit or 1.0, percent=True)
            if limit
            else Row(part, name, "ms", 1e3 * value, 1e3 * step_seconds, value / step_seconds, "%")
        )
    others = sorted(((v, k) for k, v in spent.items() if not is_product(k)), reverse=True)[:8]
    found += [Row(part, f"profiler: {name}", "ms", 1e3 * value, 1e3 * total, value / total, "%") for value, name in others]
    return found


def diagnostics(preset: str, trainer: Trainer, step_seconds: float) -> Row:
    """The share of an epoch that its diagnostics take."""
    measured = best(lambda: trainer.diagnostics.measure(trainer.training.student, trainer.training.teacher), 2)
    steps = EPOCH_IMAGES[preset] // trainer.cfg.optimizer.batch_size
    what = f"diagnostics in an epoch of {EPOCH_IMAGES[preset]:,} images"
    return at_most(f"Parts of the fp32 step, {preset}", what, "s", measured, steps * step_seconds + measured, 0.03, percent=True)


# -- all -----------------------------------------------------------------------------------------------------------------------


def rows(preset: str = "cifar", rounds: int = 5, quick: bool = False, device: str = "cpu", with_parts: bool = True) -> list[Row]:
    """All rows of one preset."""
    precisions = ["fp32", "bf16"] if limits.bf16_is_useful(device) else ["fp32"]
    found, step_seconds = speed(preset, precisions, 1 if quick else rounds, device, quick)
    if with_parts:
        keep_freed_memory()
        with trainers(preset, quick, device, {f"fp32 {kind}": [f"regularizer.kind={kind}"] for kind in ("group", "none")}) as made:
            found += parts(preset, made, step_seconds, device, quick)
            found.append(diagnostics(preset, made["fp32 group"], step_seconds))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = options(
        __doc__,
        ("--preset", {"choices": sorted(PRESETS), "default": "cifar"}),
        ("--device", {"default": "cpu"}),
        ("--no-parts", {"action": "store_true", "help": "speed only"}),
        argv=argv,
    )
    print(markdown(rows(args.preset, args.rounds, args.quick, args.device, not args.no_parts)))


if __name__ == "__main__":
    cli(main)
