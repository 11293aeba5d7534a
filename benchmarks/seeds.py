"""Several seeds of one network as one batched network against one after the other: forward and backward, images per second.

    python benchmarks/seeds.py [--seeds 4] [--rounds 5] [--threads N] [--clock cpu] [--device cuda] [--quick]

The networks are the digits preset's encoder, projector and head, at full and at the narrowest width; each seed has its own batch.
Batched, it is ``torch.func.vmap`` over stacked weights, which turns the convolutions into grouped ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, faster, interleaved, markdown, options
from pretrain import config
from pretrain.memory import keep_freed_memory
from pretrain.objective.networks import Student
from pretrain.slimmable import extract
from rundir.arguments import whole, word
from rundir.cli import cli

QUICK = ["data.size=8", "optimizer.batch_size=8"]


def networks(count: int, width: float, device: str, quick: bool) -> tuple[list[nn.Module], Tensor]:
    """``count`` dense networks of other seeds at ``width``, and images (count, B, 3, H, W)."""
    cfg = config.load("digits", QUICK if quick else [])
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        student = Student(cfg)
        made = extract(nn.Sequential(student.encoder, student.projector, student.distill_head), width)
        found.append(made.to(device, memory_format=torch.channels_last).train())
    size = cfg.data.size
    return found, torch.randn(count, cfg.optimizer.batch_size, 3, size, size, device=device)


def alone(models: Sequence[nn.Module], images: Tensor) -> list[dict[str, Tensor]]:
    """Gradients of each of ``models``, one after the other."""
    found = []
    for model, x in zip(models, images, strict=True):
        model.zero_grad(set_to_none=True)
        model(x.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    return found


class Batched:
    """The ``models`` as one: their weights stacked, :meth:`gradients` computed together."""

    def __init__(self, models: Sequence[nn.Module]):
        self.parameters, self.buffers = stack_module_state(list(models))
        self.model = models[0]

    def gradients(self, images: Tensor) -> dict[str, Tensor]:
        """For each parameter (S, ...)."""

        def forward(parameters: dict, buffers: dict, x: Tensor) -> Tensor:
            return functional_call(self.model, (parameters, buffers), (x,)).square().mean()

        losses = vmap(forward)(self.parameters, self.buffers, images)
        return dict(zip(self.parameters, torch.autograd.grad(losses.sum(), list(self.parameters.values())), strict=True))


def rows(seeds: int = 4, rounds: int = 5, device: str = "cpu", quick: bool = False) -> list[Row]:
    """Batched against one after the other, at both ends of the widths."""
    keep_freed_memory()
    found = []
    for width in (1.0, 0.25):
        models, images = networks(seeds, width, device, quick)
        batched = Batched(models)
        works = {"batched": partial(batched.gradients, images), "alone": partial(alone, models, images)}
        times = interleaved(works, rounds, f"{seeds} seeds at width {width}")
        count = images.shape[0] * images.shape[1]
        found.append(
            faster(
                "several seeds at once",
                f"{seeds} seeds as one network, width {width}",
                "images/s",
                count / times["batched"],
                count / times["alone"],
                note="against one after the other",
            )
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = options(
        __doc__,
        ("--seeds", {"type": whole(1, 256), "default": 4, "help": "networks at once; default 4"}),
        ("--device", {"type": word, "default": "cpu", "help": "cpu (default) or cuda"}),
        argv=argv,
    )
    print(markdown(rows(args.seeds, args.rounds, args.device, args.quick)))


if __name__ == "__main__":
    cli(main)
