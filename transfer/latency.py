"""How long one image takes through a network on this device: what a deployed width costs beside its FLOPs."""

from __future__ import annotations

import platform
import statistics
import time

import torch
from torch import nn

WARM_UP, PASSES = 3, 50
SECONDS = 1.0  # of measuring one network; a slow one gets fewer passes, five at least
FEWEST = 5


@torch.no_grad()
def latency_ms(network: nn.Module, size: int, *, passes: int = PASSES, seconds: float = SECONDS) -> float:
    """Median milliseconds of one image (1, 3, ``size``, ``size``) through ``network``, in the process's own number of threads.

    The median of up to ``passes`` passes after a warm-up: single passes that something else on the machine delayed do not count.
    """
    device = next(network.parameters()).device
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    times: list[float] = []
    for number in range(WARM_UP + passes):
        _wait(device)
        start = time.perf_counter()
        network(image)
        _wait(device)
        if number >= WARM_UP:
            times.append(time.perf_counter() - start)
        if len(times) >= FEWEST and sum(times) > seconds:
            break
    return 1e3 * statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What latencies on ``device`` are of: ``NVIDIA A100``, or ``x86_64 AVX2, 1 thread``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' if threads > 1 else ''}"
