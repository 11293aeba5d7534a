"""How much faster the batched augmentation is than torchvision's, image by image on PIL images, in one run.

    python benchmarks/augment.py [--size 32] [--batch 256] [--seconds 3] [--blur 0.0]

Both make two views of the same random images on one CPU thread. Prints microseconds an image (two views) and the ratio.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.data.augment import Augment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def recipe(blur: float) -> SimpleNamespace:
    return SimpleNamespace(crop_scale=[0.2, 1.0], crop_ratio=[3 / 4, 4 / 3], interpolation="bilinear", flip=0.5,
                           jitter=[0.4, 0.4, 0.4, 0.1], jitter_p=0.8, grayscale_p=0.2, blur_p=[blur, blur],
                           blur_sigma=[0.1, 2.0], solarize_p=[0.0, 0.0])


def torchvision_pipeline(size: int, blur: float) -> Callable:
    kernel = max(3, 2 * round((size / 10 - 1) / 2) + 1)
    return v2.Compose([
        v2.RandomResizedCrop(size, (0.2, 1.0)), v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        v2.RandomGrayscale(0.2), v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], blur), v2.RandomHorizontalFlip(),
        v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def seconds_a_call(work: Callable[[], object], seconds: float) -> float:
    """The fastest of the calls that fit in ``seconds``, after one to warm up: other load on the machine only adds."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="side of images and views in pixels")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each of the two")
    parser.add_argument("--blur", type=float, default=0.0, help="probability of a blur")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8, generator=generator)
    pil = [v2.functional.to_pil_image(image) for image in images]
    each = torchvision_pipeline(args.size, args.blur)
    augment = Augment(recipe(args.blur), args.size, MEAN, STD)

    def batched() -> list[torch.Tensor]:
        return [augment.apply(images, augment.sample(args.batch, view, generator)) for view in (0, 1)]

    def one_by_one() -> list[torch.Tensor]:
        return [torch.stack([each(image) for image in pil]) for _ in (0, 1)]

    ours, theirs = seconds_a_call(batched, args.seconds), seconds_a_call(one_by_one, args.seconds)
    scale = 1e6 / args.batch
    print(f"{args.size} pixels, batch {args.batch}, two views, one thread: batched {ours * scale:.0f} us an image, "
          f"torchvision on PIL {theirs * scale:.0f} us an image, ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
