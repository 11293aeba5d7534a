"""One training step against the plain reference: images a second, where the time goes, memory, the diagnostics' share.

    python benchmarks/step.py [--preset cifar|digits] [--rounds 5] [--threads N] [--no-parts] [--quick]

CIFAR: ResNet-18 at 32 pixels, batch 32, InfoNCE base, MSE distillation, momentum teacher, widths 1.0, 0.6 and 0.25 (fixed, so that
all do the same work), hidden 2048, out 256. All contenders take turns in one run, on the same images.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import limits
from benchmarks.measure import Row, at_most, best, faster, interleaved, markdown, options, peak_bytes
from benchmarks.reference import Reference
from pretrain.config import Config, load
from pretrain.distributed import processes
from pretrain.objective.losses import negative_cosine
from pretrain.rundir import RunDirectory
from pretrain.train import Trainer

WIDTHS = [1.0, 0.6, 0.25]
CELL = ["objective.base_loss=infonce", "objective.distill_loss=mse", "objective.teacher=momentum", "widths.sampling=fixed",
        f"widths.fixed={WIDTHS}", "optimizer.lr=0.05", "optimizer.epochs=100", "train.tensorboard=false"]
PRESETS = {
    "cifar": ("cifar10", ["data.name=folder", "optimizer.batch_size=32"]),
    "digits": ("digits", []),
}
QUICK = ["model.arch=resnet_small", "model.projector_hidden=32", "model.projector_out=16", "model.predictor_hidden=16",
         "optimizer.batch_size=16", "data.size=16", "data.limit=32", "diagnostics.images=16"]
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
            made[name].regularizer.set_epoch(cfg.optimizer.epochs - 1, cfg.optimizer.epochs)
        yield made


def views(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Two views of a batch."""
    return next(iter(trainer.batches.epoch(0)))[1:]


def reference(trainer: Trainer) -> Reference:
    """The plain step with the weights and settings of ``trainer``."""
    cfg = trainer.cfg
    coefficient = cfg.regularizer.coefficient if cfg.regularizer.kind == "group" else 0.0
    return Reference(trainer.student, trainer.teacher, base=cfg.objective.base_loss, distill=cfg.objective.distill_loss,
                     temperature=cfg.objective.temperature, lr=cfg.optimizer.lr, momentum=cfg.optimizer.momentum,
                     ema=cfg.objective.ema_momentum, coefficient=coefficient, alpha=cfg.regularizer.alpha,
                     groups=cfg.regularizer.groups)


def variants(bf16: bool, quick: bool) -> dict[str, list[str]]:
    precisions = ["fp32", "bf16"] if bf16 or quick else ["fp32"]
    return {f"{p} {kind}": [f"train.precision={p}", f"regularizer.kind={kind}"] for p in precisions for kind in ("group", "none")}


# -- speed -------------------------------------------------------------------------------------------------------------------


def speed(preset: str, made: dict[str, Trainer], rounds: int, device: str, quick: bool) -> tuple[list[Row], dict[str, float]]:
    """Rows of images a second, and the seconds of a step of each contender."""
    x1, x2 = views(made["fp32 group"])
    plain = {kind: reference(made[f"fp32 {kind}"]) for kind in ("group", "none")}
    # Copies: the project's step may lay images out otherwise, the reference takes them as they are loaded.
    first, second = x1.contiguous().clone(), x2.contiguous().clone()
    with FlopCounterMode(display=False) as counter:
        plain["none"].step(first, second, WIDTHS)
    works: dict[str, Callable[[], object]] = {name: lambda t=t: t._train_step(x1, x2) for name, t in made.items()}
    works |= {f"reference {kind}": lambda r=r: r.step(first, second, WIDTHS) for kind, r in plain.items()}
    spent = interleaved(works, rounds, f"{preset} step")
    part, batch = f"Training step, {preset}", len(x1)
    found = []
    for name in made:
        precision, kind = name.split()
        target = TARGETS.get((precision, kind)) if preset == "cifar" else None
        regularizer = "with the regularizer" if kind == "group" else "without"
        found.append(faster(part, f"step, {precision}, {regularizer}", "images/s", batch / spent[name],
                            batch / spent[f"reference {kind}"], target))
    found.append(Row(part, "work of a step", "GFLOP", counter.get_total_flops() / 1e9))
    for precision in ("fp32", "bf16"):
        if f"{precision} group" in made:
            rate = counter.get_total_flops() / 1e9 / spent[f"{precision} group"]
            limit = limits.convolution_rate(precision, 2 if quick else 32, device, backward=True)
            share = 100 * rate / limit
            # At most is the other way round here, so the row is made by hand.
            aim = 0.4 if precision == "bf16" and preset == "cifar" else None
            found.append(Row(part, f"{precision} step as a share of the machine's convolutions", "GFLOP/s", rate, limit, rate / limit,
                             "" if aim is None else "≥ 40 %", None if aim is None else share >= 40))
    return found, spent


# -- where the time goes -----------------------------------------------------------------------------------------------------


def overhead(trainer: Trainer, steps: int, device: str) -> dict[str, float]:
    """Seconds a step of every operator by name, from the profiler: its own time, without what it calls."""
    x1, x2 = views(trainer)
    trainer._train_step(x1, x2)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=kinds) as profiler:
        for _ in range(steps):
            trainer._train_step(x1, x2)
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
    x1, x2 = views(trainer)
    augmentation = best(lambda: views(trainer), 2 if quick else 5)
    found = [at_most(part, "all but convolutions and products, with augmentation (profiler)", "ms", 1e3 * (rest + augmentation),
                     1e3 * (total + augmentation), 0.25, percent=True)]

    def fill(one: Trainer) -> Callable[[], None]:
        return lambda: [setattr(p, "grad", torch.zeros_like(p)) for p in one.student.parameters()]

    update, bare = (best(made[f"fp32 {kind}"]._update, calls, fill(made[f"fp32 {kind}"])) for kind in ("group", "none"))
    count = len(WIDTHS)
    ema = best(lambda: trainer.teacher.update(trainer.student, 0.99), calls)
    pair = torch.randn(2, len(x1), trainer.cfg.model.projector_out, device=x1.device)
    student = pair[0].clone().requires_grad_()

    def losses() -> None:
        trainer.objective.base_loss(student, pair[1]).backward()
        for _ in WIDTHS[1:]:
            negative_cosine(student, pair[1]).backward()

    for name, value, limit in [("group penalty", count * max(update - bare, 0.0), 0.02), ("optimizer", count * bare, None),
                               ("EMA of the teacher", ema, 0.02), ("losses", 2 * best(losses, calls), None),
                               ("augmentation of a batch", augmentation, None)]:
        found.append(at_most(part, name, "ms", 1e3 * value, 1e3 * step_seconds, limit or 1.0, percent=True) if limit else
                     Row(part, name, "ms", 1e3 * value, 1e3 * step_seconds, value / step_seconds, "%"))
    others = sorted(((v, k) for k, v in spent.items() if not is_product(k)), reverse=True)[:8]
    found += [Row(part, f"profiler: {name}", "ms", 1e3 * value, 1e3 * total, value / total, "%") for value, name in others]
    return found


def diagnostics(preset: str, trainer: Trainer, step_seconds: float) -> Row:
    """The share of an epoch that its diagnostics take."""
    measured = best(lambda: trainer.diagnostics.measure(trainer.student, trainer.teacher), 2)
    steps = EPOCH_IMAGES[preset] // trainer.cfg.optimizer.batch_size
    return at_most(f"Parts of the fp32 step, {preset}", f"diagnostics in an epoch of {EPOCH_IMAGES[preset]:,} images", "s", measured,
                   steps * step_seconds + measured, 0.03, percent=True)


# -- memory ------------------------------------------------------------------------------------------------------------------


def peak(preset: str, quick: bool, device: str, name: str, threads: int) -> tuple[int, int]:
    """Peak memory in bytes of this process after two steps, and before anything was built."""
    torch.set_num_threads(threads)
    before = peak_bytes()
    kind = name.split()[1]
    with trainers(preset, quick, device, {name: variants(True, quick).get(name, [f"regularizer.kind={kind}"])}) as made:
        trainer = made[name]
        x1, x2 = views(trainer)
        step = lambda: trainer._train_step(x1, x2)
        if name.startswith("reference"):
            plain = reference(trainer)
            # The trainer's own networks go: they are no part of the reference.
            trainer.student = trainer.teacher = trainer.network = trainer.optimizer = trainer.objective = None
            trainer.regularizer = trainer.diagnostics = None
            step = lambda: plain.step(x1, x2, WIDTHS)
        for _ in range(2):
            step()
    return peak_bytes(), before


def memory(preset: str, names: list[str], quick: bool, device: str) -> list[Row]:
    """Peak memory of each contender against the reference's, each in a process of its own."""
    found: dict[str, float] = {}
    for name in [*names, "reference group", "reference none"]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            most, before = pool.submit(peak, preset, quick, device, name, torch.get_num_threads()).result()
        found[name] = (most - before) / 2**20
    part = f"Training step, {preset}"
    return [at_most(part, f"peak memory beyond the interpreter and its libraries, {name}", "MiB", found[name],
                    found[f"reference {name.split()[1]}"], 1.0) for name in names]


# -- all -----------------------------------------------------------------------------------------------------------------------


def rows(preset: str = "cifar", rounds: int = 5, quick: bool = False, device: str = "cpu", with_parts: bool = True) -> list[Row]:
    """All rows of one preset."""
    bf16 = limits.bf16_is_useful(device)
    with trainers(preset, quick, device, variants(bf16, quick)) as made:
        found, spent = speed(preset, made, 1 if quick else rounds, device, quick)
        if with_parts:
            found += parts(preset, made, spent["fp32 group"], device, quick)
            found.append(diagnostics(preset, made["fp32 group"], spent["fp32 group"]))
        names = list(made)
    return found + (memory(preset, names, quick, device) if with_parts else [])


def main() -> None:
    args = options(__doc__, ("--preset", {"choices": sorted(PRESETS), "default": "cifar"}), ("--device", {"default": "cpu"}),
                   ("--no-parts", {"action": "store_true", "help": "speed only"}))
    print(markdown(rows(args.preset, args.rounds, args.quick, args.device, not args.no_parts)))


if __name__ == "__main__":
    main()
