"""Reading image files: this project's reader (torchvision decodes its JPEGs) against PIL, decoded images per second on one thread.

    python benchmarks/decoding.py [--side 256] [--rounds 5] [--quick]

JPEGs of smooth noise, quality 90, written for the purpose; the files are in the system's cache.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, faster, interleaved, markdown, options, threads
from pretrain.data.images import read


def write_images(root: Path, count: int, side: int) -> list[str]:
    """``count`` JPEGs; noise enlarged eightfold, since a photograph is not noise at every pixel."""
    small = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(0))
    images = v2.functional.resize(small, [side, side], antialias=True).mul(255).byte()
    paths = [str(root / f"{i}.jpg") for i in range(count)]
    for path, image in zip(paths, images, strict=True):
        v2.functional.to_pil_image(image).save(path, quality=90)
    return paths


def with_pil(path: str) -> torch.Tensor:
    with Image.open(path) as image:
        return v2.functional.pil_to_tensor(image.convert("RGB"))


def rows(side: int = 256, rounds: int = 5, quick: bool = False) -> list[Row]:
    """One row: decoded images per second."""
    count, rounds = (4, 1) if quick else (64, rounds)
    with tempfile.TemporaryDirectory() as place, threads(1):
        paths = write_images(Path(place), count, side)
        works = {"torchvision": lambda: [read(p) for p in paths], "PIL": lambda: [with_pil(p) for p in paths]}
        spent = interleaved(works, rounds, "decoding")
    return [faster("Data", f"JPEGs of {side} pixels decoded, torchvision against PIL, one thread", "images/s",
                   count / spent["torchvision"], count / spent["PIL"])]


def main() -> None:
    args = options(__doc__, ("--side", {"type": int, "default": 256}))
    print(markdown(rows(args.side, args.rounds, args.quick)))


if __name__ == "__main__":
    main()
