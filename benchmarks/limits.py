"""What this machine can do at all: matrix products, convolutions, memory.

python benchmarks/limits.py [--quick] [--threads N] [--device cuda]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, best, markdown, options
from rundir.cli import cli

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
USEFUL = 0.5  # of float32's rate, below which bfloat16 is only emulated and its networks are not measured
# The 3x3 convolutions of ResNet-18 on images of 32 pixels: channels, side of the feature map. All cost the same.
LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))


def matrix_rate(precision: str, size: int = 2048, device: str = "cpu", calls: int = 5) -> float:
    """GFLOP/s of square matrix products of ``size``."""
    a, b = torch.randn(2, size, size, device=device).to(TYPES[precision])
    return 2e-9 * size**3 / best(lambda: a @ b, calls)


def convolution_rate(precision: str, batch: int = 32, device: str = "cpu", calls: int = 5, backward: bool = False) -> float:
    """GFLOP/s of the convolutions in ``LAYERS``, forward (or forward and backward), channels last: the best of the four."""
    return max(_layer_rate(precision, batch, channels, side, device, calls, backward) for channels, side in LAYERS)


def _layer_rate(precision: str, batch: int, channels: int, side: int, device: str, calls: int, backward: bool) -> float:
    x = torch.randn(batch, channels, side, side, device=device, dtype=TYPES[precision])
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=TYPES[precision])
    x, weight = (t.to(memory_format=torch.channels_last).requires_grad_(backward) for t in (x, weight))
    gradient = torch.randn_like(x)

    def work() -> None:
        y = F.conv2d(x, weight, padding=1)
        if backward:
            torch.autograd.grad(y, (x, weight), gradient)

    return (3 if backward else 1) * 2e-9 * batch * (channels * side) ** 2 * 9 / best(work, calls)


def bandwidth(megabytes: int = 256, device: str = "cpu", calls: int = 5) -> float:
    """GB/s of a copy that no cache holds, what is read and what is written counted."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2e-9 * source.nbytes / best(lambda: target.copy_(source), calls)


def bf16_is_useful(device: str = "cpu") -> bool:
    """Whether the machine computes with bfloat16, or does as if: a small convolution against float32."""
    rates = [_layer_rate(precision, 4, 64, 16, device, 3, False) for precision in ("bf16", "fp32")]
    return rates[0] > USEFUL * rates[1]


def rows(quick: bool = False, device: str = "cpu") -> list[Row]:
    """The machine's rates, in float32 and, where it has them, bfloat16."""
    useful = bf16_is_useful(device)
    note = "" if useful else "emulated: no bfloat16 arithmetic here"
    size, batch, megabytes, calls = (256, 2, 8, 2) if quick else (2048, 32, 256, 5) if device == "cpu" else (8192, 1024, 4096, 10)
    part = f"Limits of this machine ({device_name(device)})"
    found = []
    for precision in ("fp32", "bf16"):
        emulated = not useful and precision == "bf16"  # which can be hundreds of times slower
        n, b, c = (min(512, size), min(4, batch), 2) if emulated else (size, batch, calls)
        remark = note if emulated else ""
        found += [
            Row(part, f"matrix product, {precision}", "GFLOP/s", matrix_rate(precision, n, device, c), note=remark),
            Row(part, f"3×3 convolution forward, {precision}", "GFLOP/s", convolution_rate(precision, b, device, c), note=remark),
            Row(
                part,
                f"3×3 convolution forward and backward, {precision}",
                "GFLOP/s",
                convolution_rate(precision, b, device, c, backward=True),
                note=remark,
            ),
        ]
    return [*found, Row(part, "memory, copy", "GB/s", bandwidth(megabytes, device, calls))]


def device_name(device: str) -> str:
    """The GPU, or the processor and the threads used."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    lines = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
    model = lines[0].partition(":")[2].strip() if lines else "CPU"
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, ("--device", {"default": "cpu"}), argv=argv)
    print(markdown(rows(args.quick, args.device)))


if __name__ == "__main__":
    cli(main)
