"""How much faster the batched augmentation is than torchvision's, image by image on PIL images, in one run.

    python benchmarks/augment.py [--size 32] [--batch 256] [--rounds 10] [--blur 0.0]

Both make two views of the same random images on one CPU thread. Prints microseconds an image (two views) and the ratio.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, faster, interleaved, threads
from pretrain.data.augment import Augment
from rundir.cli import cli

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def recipe(blur: float) -> SimpleNamespace:
    return SimpleNamespace(
        crop_scale=[0.2, 1.0],
        crop_ratio=[3 / 4, 4 / 3],
        interpolation="bilinear",
        flip=0.5,
        jitter=[0.4, 0.4, 0.4, 0.1],
        jitter_p=0.8,
        grayscale_p=0.2,
        blur_p=[blur, blur],
        blur_sigma=[0.1, 2.0],
        solarize_p=[0.0, 0.0],
    )


def torchvision_pipeline(size: int, blur: float) -> Callable:
    kernel = max(3, 2 * round((size / 10 - 1) / 2) + 1)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, (0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], blur),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def measure(size: int, batch: int, rounds: int, blur: float) -> tuple[float, float]:
    """Seconds for two views of ``batch`` images, batched and one by one, on one thread."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    pil = [v2.functional.to_pil_image(image) for image in images]
    each = torchvision_pipeline(size, blur)
    augment = Augment(recipe(blur), size, MEAN, STD)

    def batched() -> list[torch.Tensor]:
        return [augment.apply(images, augment.sample(batch, view, generator)) for view in (0, 1)]

    def one_by_one() -> list[torch.Tensor]:
        return [torch.stack([each(image) for image in pil]) for _ in (0, 1)]

    with threads(1):
        spent = interleaved({"batched": batched, "one by one": one_by_one}, rounds, f"augmentation, {size} pixels")
    return spent["batched"], spent["one by one"]


def rows(rounds: int = 10, quick: bool = False) -> list[Row]:
    """Two-view images per second at 32 pixels, and with blur at 224."""
    found = []
    for size, batch, blur, target in ((32, 256, 0.0, 5.0), (224, 16, 0.5, None)):
        count = 4 if quick else batch
        ours, theirs = measure(size, count, 1 if quick else rounds, blur)
        found.append(
            faster(
                "Augmentation, one thread",
                f"two views at {size} pixels{', blur' if blur else ''}, batched against torchvision on PIL images",
                "images/s",
                count / ours,
                count / theirs,
                target,
            )
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="side of images and views in pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10, help="times that each of the two takes its turn")
    parser.add_argument("--blur", type=float, default=0.0, help="probability of a blur")
    args = parser.parse_args(argv)
    ours, theirs = measure(args.size, args.batch, args.rounds, args.blur)
    scale = 1e6 / args.batch
    print(
        f"{args.size} pixels, batch {args.batch}, two views, one thread: batched {ours * scale:.0f} us an image, "
        f"torchvision on PIL {theirs * scale:.0f} us an image, ratio {theirs / ours:.1f}"
    )


if __name__ == "__main__":
    cli(main)
