"""What scoring a sub-network costs beyond its own forward passes, and how long a thousand take.

    python benchmarks/search.py [--rounds 5] [--threads N] [--quick]

The reference is the extracted network of the sub-network in evaluation mode, on the same images in the same batches: without
calibration, slicing and score. Costs of candidates come from the table, against counting each.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, at_most, faster, interleaved, markdown, options, seconds
from pretrain.memory import keep_freed_memory
from pretrain.models import build
from pretrain.slimmable import CostTable, Subnet, Width, calibrate, calibrated_features, cost, extract, space_of
from rundir.cli import cli
from transfer.search.scores import Features, Reference, score

IMAGES, BATCH, NEIGHBOURS = 1024, 256, 10
MOST = 1.3  # times the forward passes
WIDTHS: tuple[Width, ...] = (Subnet((1.0, 0.75, 1.0, 0.75)), Subnet((0.5, 0.75, 0.5, 0.5)), Subnet((0.25, 0.5, 0.25, 0.25)))


def batches_of(count: int, size: int) -> list[Tensor]:
    """Random images in batches, channels last."""
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return [x.contiguous(memory_format=torch.channels_last) for x in images.split(BATCH)]


@torch.no_grad()
def passes(network: nn.Module, batches: list[Tensor]) -> None:
    """The bare forward passes."""
    for x in batches:
        network(x)


def scoring(arch: str, size: int, count: int, rounds: int) -> list[Row]:
    """Seconds of scoring sub-networks of ``arch``, calibration included, against their forward passes."""
    torch.manual_seed(0)
    encoder, batches = build(arch).to(memory_format=torch.channels_last), batches_of(count, size)
    full, works = Reference(calibrated_features(encoder, 1.0, batches), NEIGHBOURS), {}
    for width in WIDTHS:
        calibrate(encoder, [width], batches[:1])
        network = extract(encoder, width).to(memory_format=torch.channels_last)
        works[f"passes {width}"] = lambda n=network: passes(n, batches)
        works[f"scoring {width}"] = lambda w=width: score("overlap", Features(calibrated_features(encoder, w, batches)), full)
    spent = interleaved(works, rounds, f"scoring, {arch}")
    part = f"Scoring a sub-network, {arch}, {size} pixels, {count} images"
    return [
        at_most(
            part,
            f"{width}, calibration and score included",
            "ms",
            1e3 * spent[f"scoring {width}"],
            1e3 * spent[f"passes {width}"],
            MOST,
        )
        for width in WIDTHS
    ]


def many(count: int, images: int) -> list[Row]:
    """Minutes of drawing, costing and scoring ``count`` sub-networks of the small ResNet, and the table against counting."""
    torch.manual_seed(0)
    encoder, batches = build("resnet_small").to(memory_format=torch.channels_last), batches_of(images, 12)
    generator = random.Random(0)
    space, table = space_of(encoder, vary=["width"]), CostTable(encoder, 12)
    full = Reference(calibrated_features(encoder, 1.0, batches), NEIGHBOURS)
    drawn = [space.random(generator) for _ in range(count)]

    def work() -> None:
        for width in drawn:
            table.load(width)
            table.network(width)
            score("overlap", Features(calibrated_features(encoder, width, batches)), full)

    minutes, part = seconds(work) / 60, f"{count} sub-networks of resnet_small, {images} images"
    some = drawn[:50]
    times = [seconds(lambda: [table.load(width) for width in some]), seconds(lambda: [cost(encoder, width, 12) for width in some])]
    return [
        Row(part, "costs and scores", "min", minutes, target="≤ 10", met=minutes <= 10),
        faster(part, "costs: the table against counting", "networks/s", len(some) / times[0], len(some) / times[1]),
    ]


def rows(rounds: int = 5, quick: bool = False) -> list[Row]:
    """All rows; ``quick``: few images and networks."""
    keep_freed_memory()  # as a search does
    if quick:
        return scoring("resnet_small", 12, 32, 1) + many(5, 32)
    return scoring("resnet_small", 12, IMAGES, rounds) + scoring("resnet18_cifar", 32, IMAGES // 2, rounds) + many(1000, IMAGES)


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv=argv)
    print(markdown(rows(args.rounds, args.quick)))


if __name__ == "__main__":
    cli(main)
