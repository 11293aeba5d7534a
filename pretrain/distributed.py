"""Processes as torchrun or Slurm describes them (one if neither does); sums and rows over them, through which gradients pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.hardware import hardware
from rundir.errors import Setting, UserError


@dataclass(frozen=True)
class Processes:
    """This process among all: ``rank`` of ``world_size``, on ``device``."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any of the processes; all must ask."""
        if self.world_size == 1:
            return flag
        found = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def machines(self) -> list[dict]:
        """:func:`pretrain.hardware.hardware` of every process, by rank; all must ask."""
        if self.world_size == 1:
            return [hardware()]
        found: list[dict] = [{}] * self.world_size
        dist.all_gather_object(found, hardware())
        return found


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is this process's GPU where there is one, else the CPU; anything else is used as it is.

    Raises:
        UserError: the device is unknown or not there.
    """
    if name == "auto":
        own = 0 if torch.cuda.device_count() == 1 else local_rank  # Slurm may show each process its own GPU only
        name = f"cuda:{own}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(Setting("train.device", name), " is not a device; set auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(Setting("train.device", name), " is not supported; set auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            Setting("train.device", name),
            f": this machine has {torch.cuda.device_count()} usable GPUs; set ",
            Setting("train.device", "cpu"),
        )
    return device


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment (nccl on GPUs, gloo on CPUs); alone without one."""
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if world_size == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        shares = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, x.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        first = dist.get_rank() * ctx.rows
        return _Sum.forward(ctx, gradient)[first : first + ctx.rows]


def several() -> bool:
    """Whether there is a group of more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of every process's ``x``; the gradient that reaches each ``x`` is the sum of those of all processes' results."""
    return _Sum.apply(x)


def rows_of_processes(x: Tensor) -> Tensor:
    """Rows (B, ...) of all processes under one another, (world_size * B, ...), with gradients as in :func:`sum_over_processes`."""
    return _Rows.apply(x)
