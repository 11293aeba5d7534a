"""Reading image files: this project's reader (torchvision decodes its JPEGs) against PIL, and making two crops of each against the
reader alone, in images per second on one thread.

    python benchmarks/decoding.py [--side 256] [--rounds 5] [--quick]

JPEGs of smooth noise, quality 90, written for the purpose; the files are in the system's cache.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, faster, interleaved, markdown, options, threads
from pretrain.config import AugmentConfig
from pretrain.data import Augment, FolderSource, batches
from pretrain.data.images import read
from rundir.cli import cli


def write_images(root: Path, count: int, side: int) -> list[str]:
    """``count`` JPEGs; noise enlarged eightfold, since a photograph is not noise at every pixel."""
    small = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    images = v2.functional.resize(small, [side, side], antialias=True).mul(255).byte()
    return saved(root, images)


def write_photographs(root: Path, count: int, height: int = 375, width: int = 500) -> list[str]:
    """``count`` JPEGs as large as ImageNet's, in pixels and in bytes (about 110 KB): noise at all scales, the coarser the more."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 3, height, width)
    for scale in (1, 2, 4, 8, 16, 32, 64):
        noise = torch.randn(count, 3, -(-height // scale), -(-width // scale), generator=generator) * scale**0.4
        images += v2.functional.resize(noise, [height, width], antialias=True)
    return saved(root, (images * 12 + 128).clamp(0, 255).byte())


def saved(root: Path, images: torch.Tensor) -> list[str]:
    """Images (N, 3, H, W) uint8 as JPEGs of quality 90."""
    paths = [str(root / f"{images.shape[-1]}-{i}.jpg") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        v2.functional.to_pil_image(image).save(path, quality=90)
    return paths


def with_pil(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        return v2.functional.pil_to_tensor(image.convert("RGB"))


def crops(paths: list[str], size: int) -> Callable[[], object]:
    """Two random crops of each file, as a worker process makes them for pretraining."""
    source = FolderSource("photographs", ["a"], torch.zeros(len(paths), dtype=torch.int64), (0.5,) * 3, (0.25,) * 3, paths)
    augment = Augment(AugmentConfig(), size, source.mean, source.std)
    views = [augment.sample(len(paths), view, torch.Generator().manual_seed(view)) for view in (0, 1)]
    every = torch.arange(len(paths))
    return lambda: batches._crop(source, every, [(view.crops, view.flip) for view in views], size, "bilinear")


def rows(side: int = 256, rounds: int = 5, quick: bool = False) -> list[Row]:
    """Two rows: decoded images per second; images per second of which two crops are made, as a share of those decoded alone."""
    count, rounds = (4, 1) if quick else (64, rounds)
    with tempfile.TemporaryDirectory() as place, threads(1):
        paths, photographs = write_images(Path(place), count, side), write_photographs(Path(place), count)
        size = sum(os.path.getsize(path) for path in photographs) / count / 1000
        works = {
            "torchvision": lambda: [read(p) for p in paths],
            "PIL": lambda: [with_pil(p) for p in paths],
            "decoded": lambda: [read(p) for p in photographs],
            "cropped": crops(photographs, 224),
        }
        spent = interleaved(works, rounds, "decoding")
    rates = {name: count / seconds for name, seconds in spent.items()}
    return [
        faster(
            "Data",
            f"JPEGs of {side} pixels decoded, torchvision against PIL, one thread",
            "images/s",
            rates["torchvision"],
            rates["PIL"],
        ),
        faster(
            "Data",
            f"two crops at 224 pixels of each JPEG of 500 x 375 ({size:.0f} KB), against decoding alone, one thread",
            "images/s",
            rates["cropped"],
            rates["decoded"],
            at_least=0.9,
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, ("--side", {"type": int, "default": 256}), argv=argv)
    print(markdown(rows(args.side, args.rounds, args.quick)))


if __name__ == "__main__":
    cli(main)
