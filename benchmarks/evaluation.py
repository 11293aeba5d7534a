"""Evaluation against the forward passes that it needs; the paper's linear protocol for four widths in one pass against four runs.

    python benchmarks/evaluation.py [--preset cifar|digits] [--images 384] [--rounds 2] [--threads N] [--quick]

The images are scikit-learn's digits: a probe has something to learn. CIFAR: at 32 pixels through ResNet-18. The networks are
untrained. The forward passes are those of the extracted networks, channels last, on images that are ready.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, at_most, faster, interleaved, markdown, options
from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.distributed import processes
from pretrain.slimmable import calibrated_widths, extract
from pretrain.training import Trainer
from rundir.cli import cli
from rundir.directory import RunDirectory
from transfer.classification.evaluation import knn, linear_fast
from transfer.classification.linear import linear
from transfer.classification.options import Options
from transfer.classification.task import Task

WIDTHS = [1.0, 0.75, 0.5, 0.25]
MANY = [round(1 - 0.05 * i, 6) for i in range(16)]  # of --widths 0.25:1.0:16
PRESETS = {
    "cifar": ["model.arch=resnet18_cifar", "data.size=32"],
    "digits": [],
}
BATCH = 256


@contextlib.contextmanager
def checkpoint(preset: str, quick: bool) -> Iterator[Path]:
    """A run directory whose checkpoint holds an untrained network."""
    smaller = ["model.arch=resnet_small", "data.size=12"] if quick else []
    cfg = config.load(
        "digits",
        [
            *PRESETS[preset],
            *smaller,
            "train.device=cpu",
            "diagnostics.images=0",
            "model.predictor_hidden=64",
            "model.projector_hidden=64",
        ],
    )
    with tempfile.TemporaryDirectory() as place, processes("cpu") as group:
        trainer = Trainer(cfg, RunDirectory(Path(place) / "run"), group)
        trainer.run.write_config(config.to_yaml(cfg))
        trainer._save()
        yield Path(place) / "run"


def fresh(run: Path, images: int, prepared: Sequence[float] = (), **settings) -> Task:
    """A task on the checkpoint, nothing computed yet but the images in memory and the statistics of the widths ``prepared``."""
    task = Task(open_checkpoint(run), None, None, Options(limit=images, batch_size=BATCH, **settings), torch.device("cpu"))
    assert len(task.train) and len(task.val)  # loaded, which is not what is measured
    if prepared:
        task.prepare(list(prepared))
    return task


class Plain:
    """The forward passes that an evaluation cannot do without."""

    def __init__(self, run: Path, images: int, widths: Sequence[float]):
        task = fresh(run, images)
        self.train = [x for x, _ in task.batches(task.train)]
        self.val = [x for x, _ in task.batches(task.val)]
        encoder = open_checkpoint(run).encoder
        assert not calibrated_widths(encoder)  # so the extracted networks use the statistics of the batch
        self.networks = [extract(encoder, w).to(memory_format=torch.channels_last) for w in widths]
        with_statistics = fresh(run, images, widths)
        self.ready = [with_statistics.backbone.at(w).to(memory_format=torch.channels_last) for w in widths]

    @torch.no_grad()
    def calibration(self) -> None:
        """Every width over the training images, normalised by the statistics of the batch."""
        for network in self.networks:
            for x in self.train:
                network(x)

    @torch.no_grad()
    def features(self) -> None:
        """Every width over training and validation images, with its statistics."""
        for network in self.ready:
            for x in [*self.train, *self.val]:
                network(x)


def against_forward_passes(preset: str, run: Path, images: int, rounds: int, widths: Sequence[float], target: float) -> list[Row]:
    """Rows of calibration, k-NN and linear_fast, alone and together."""
    plain = Plain(run, images, widths)
    ready = fresh(run, images, widths)

    def calibration() -> None:
        ready.backbone.calibrate(widths, ready._calibration_images)

    def own(*protocols: Callable) -> Callable[[], None]:
        def work() -> None:
            task = Task(ready.backbone, None, None, ready.options, ready.device)
            task.train, task.val = ready.train, ready.val
            task._widths = list(widths)
            for protocol in protocols:
                protocol(task, list(widths))

        return work

    works = {
        "plain calibration": plain.calibration,
        "plain features": plain.features,
        "calibration": calibration,
        "k-NN": own(knn),
        "linear_fast": own(linear_fast),
        "k-NN and linear_fast": own(knn, linear_fast),
    }
    spent = interleaved(works, rounds, f"{preset} evaluation")
    part = f"Evaluation of {len(widths)} widths against plain forward passes, {preset}"
    found = [at_most(part, "calibration", "s", spent["calibration"], spent["plain calibration"], target)]
    found += [
        at_most(part, name, "s", spent[name], spent["plain features"], target)
        for name in ("k-NN", "linear_fast", "k-NN and linear_fast")
    ]
    every = spent["calibration"] + spent["k-NN and linear_fast"]
    return [
        *found,
        at_most(
            part, "calibration, k-NN and linear_fast", "s", every, spent["plain calibration"] + spent["plain features"], target
        ),
    ]


def plain_linear(task: Task, width: float) -> None:
    """Linear evaluation of one width as torchvision's examples do it: each image augmented by itself, as a PIL image."""
    cfg = task.recipe("linear")
    encoder, size = task.backbone.at(width), task.size
    each = v2.Compose(
        [
            v2.RandomResizedCrop(size, tuple(cfg.crop_scale), interpolation=v2.InterpolationMode.BICUBIC),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(task.train.mean, task.train.std),
        ]
    )
    pictures = [v2.functional.to_pil_image(image) for image in task.train.images]
    head = nn.Linear(task.backbone.feature_dim(width), task.classes)
    optimizer = torch.optim.SGD(head.parameters(), cfg.lr, cfg.momentum)
    for _ in range(cfg.epochs):
        for index in torch.randperm(len(pictures)).split(cfg.batch_size):
            x = torch.stack([each(pictures[i]) for i in index])
            with torch.no_grad():
                features = encoder(x)
            optimizer.zero_grad()
            F.cross_entropy(head(features), task.train.labels[index]).backward()
            optimizer.step()
    _plain_accuracy(task, encoder, head)


@torch.no_grad()
def _plain_accuracy(task: Task, encoder: nn.Module, head: nn.Module) -> Tensor:
    return torch.stack([(head(encoder(x)).argmax(1) == y).sum() for x, y in task.batches(task.val)]).sum() / len(task.val)


def linear_rows(preset: str, run: Path, images: int, rounds: int, epochs: int) -> list[Row]:
    """Rows of the paper's linear protocol: one pass for four widths, against four runs of ours and four plain ones."""
    recipe = {"epochs": epochs, "batch_size": min(512, images)}
    ready = fresh(run, images, WIDTHS, linear=recipe)

    def separate() -> None:
        for width in WIDTHS:
            linear(ready, [width])

    def plain() -> None:
        for width in WIDTHS:
            plain_linear(ready, width)

    spent = interleaved(
        {"one pass": lambda: linear(ready, WIDTHS), "four runs": separate, "four plain runs": plain},
        rounds,
        f"{preset} linear protocol",
    )
    part = f"The paper's linear protocol at 4 widths, {preset}, {epochs} epochs of {images} images"
    speed = {name: 1 / value for name, value in spent.items()}
    return [
        faster(part, "one pass against four plain runs (PIL, NCHW)", "a second", speed["one pass"], speed["four plain runs"], 2.0),
        faster(part, "one pass against four runs of this project", "a second", speed["one pass"], speed["four runs"]),
    ]


def rows(preset: str = "cifar", images: int = 384, rounds: int = 2, quick: bool = False) -> list[Row]:
    """All rows of one preset; ``images`` of the training images are used, and the 500 of validation."""
    if preset == "digits":
        images = 1297
    epochs = 3 if preset == "digits" else 1
    if quick:
        images, rounds, epochs = 40, 1, 1
    with checkpoint(preset, quick) as run:
        return [
            *against_forward_passes(preset, run, images, rounds, WIDTHS, 1.3),
            *against_forward_passes(preset, run, images, rounds, MANY, 1.15),
            *linear_rows(preset, run, images, rounds, epochs),
        ]


def main(argv: Sequence[str] | None = None) -> None:
    args = options(
        __doc__,
        ("--preset", {"choices": sorted(PRESETS), "default": "cifar"}),
        ("--images", {"type": int, "default": 384}),
        argv=argv,
    )
    print(markdown(rows(args.preset, args.images, args.rounds, args.quick)))


if __name__ == "__main__":
    cli(main)
