"""How long one image takes through a network on this device: what a deployed width costs besides its FLOPs."""

from __future__ import annotations

import platform
import statistics
import time

import torch
from torch import nn

WARM_UP, ROUNDS, PASSES = 3, 5, 20
SECONDS = 1.0  # of measuring one network; a slow one gets shorter rounds, then fewer of them


@torch.no_grad()
def latency_ms(
    network: nn.Module, size: int | tuple[int, int], *, rounds: int = ROUNDS, passes: int = PASSES, seconds: float = SECONDS
) -> float:
    """Milliseconds of one image (1, 3, H, W) through ``network``, in the process's own number of threads.

    ``size``: both sides, or (H, W).

    The fastest round's median over its ``passes``, after a warm-up: neither single passes nor whole rounds that something else on
    the machine slowed down count. Ends early, after at least three passes, when ``seconds`` have been measured.
    """
    device = next(network.parameters()).device
    sides = (size, size) if isinstance(size, int) else size
    image = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(0)).to(device)
    for _ in range(WARM_UP):
        _pass(network, image)
    found: list[list[float]] = []
    left = seconds
    while len(found) < rounds and (left > 0 or not found):
        found.append([])
        while len(found[-1]) < passes and (left > 0 or sum(map(len, found)) < WARM_UP):
            found[-1].append(_pass(network, image))
            left -= found[-1][-1]
    whole = [times for times in found if len(times) == passes] or found[:1]
    return 1e3 * min(statistics.median(times) for times in whole)


def _pass(network: nn.Module, image: torch.Tensor) -> float:
    _wait(image.device)
    start = time.perf_counter()
    network(image)
    _wait(image.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What latencies on ``device`` are of: ``NVIDIA A100``, or ``x86_64 AVX2, 1 thread``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
