"""Whether a narrow network is as fast as its FLOPs promise: inference and training time by width, extracted and sliced.

    python benchmarks/widths.py [--batch 64] [--rounds 3] [--threads N] [--quick]

ResNet-18 with CIFAR's stem, 32 pixels, float32. Training time is a forward and a backward pass of the encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, faster, interleaved, markdown, options
from pretrain.models import build
from pretrain.slimmable import at_width, calibrate, cost, extract
from rundir.cli import cli

WIDTHS = [1.0, 0.75, 0.5, 0.25]


def works(encoder: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """Inference and training at each width, extracted and sliced, by name."""
    found: dict[str, Callable[[], object]] = {}

    def sliced(width: float) -> None:
        with at_width(encoder.eval(), width), torch.no_grad():
            encoder(x)

    def sliced_training(width: float) -> None:
        with at_width(encoder.train(), width):
            encoder(x).sum().backward()
        encoder.zero_grad()

    def inference(network: nn.Module) -> None:
        with torch.no_grad():
            network(x)

    def training(network: nn.Module) -> None:
        network(x).sum().backward()
        network.zero_grad()

    for width in WIDTHS:
        dense, trained = (extract(encoder, width).to(memory_format=torch.channels_last) for _ in range(2))
        trained.train()
        found[f"inference extracted {width}"] = lambda n=dense: inference(n)
        found[f"inference sliced {width}"] = lambda w=width: sliced(w)
        found[f"training extracted {width}"] = lambda n=trained: training(n)
        found[f"training sliced {width}"] = lambda w=width: sliced_training(w)
    return found


def rows(batch: int = 64, rounds: int = 3, quick: bool = False) -> list[Row]:
    """Times of all widths against what their FLOPs promise from width 1.0, and sliced against extracted."""
    arch, size, batch, rounds = ("resnet_small", 12, 4, 1) if quick else ("resnet18_cifar", 32, batch, rounds)
    torch.manual_seed(0)
    encoder = build(arch).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    calibrate(encoder, WIDTHS, [x])
    flops = {w: cost(encoder, w, size).flops for w in WIDTHS}
    spent = interleaved(works(encoder, x), rounds, "times by width")
    part, found = f"Time by width, {arch}, batch {batch}", []
    for kind in ("inference", "training"):
        for width in WIDTHS[1:]:
            times = [spent[f"{kind} extracted {w}"] for w in (1.0, width)]
            target = 6.0 if (kind, width) == ("inference", 0.25) else None
            found.append(
                faster(
                    part,
                    f"{kind}, {width} against 1.0, extracted",
                    "images/s",
                    batch / times[1],
                    batch / times[0],
                    target,
                    f"FLOPs promise {flops[1.0] / flops[width]:.1f}×",
                )
            )
    for kind in ("inference", "training"):
        found += [
            faster(
                part,
                f"{kind} at {w}, sliced against extracted",
                "images/s",
                batch / spent[f"{kind} sliced {w}"],
                batch / spent[f"{kind} extracted {w}"],
            )
            for w in WIDTHS
        ]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, ("--batch", {"type": int, "default": 64}), argv=argv)
    print(markdown(rows(args.batch, args.rounds, args.quick)))


if __name__ == "__main__":
    cli(main)
