"""How much a training step asks of its GPU: operators started, copies to it, and waits for it. Counted, not timed; needs no GPU.

    python benchmarks/launches.py [--quick]

The step runs on torch's meta device, which stands for the GPU here: its tensors have no numbers, so whatever waits for one (an
``.item()``, a ``nonzero``, a copy to the host) is an error, and every operator passes a counter. A copy from ordinary memory is a
wait too: torch returns from it when it has arrived.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, markdown, options
from pretrain.config import Config, load
from pretrain.data import TwoViewBatches
from pretrain.data.sources import TensorSource
from pretrain.training.build import Training, build_training
from rundir.cli import cli

GPU = torch.device("meta")
WIDTHS = [1.0, 0.6, 0.25]
SETTINGS = {
    "ResNet-18, group regularizer": (
        "cifar10",
        ["objective.base_loss=infonce", "objective.teacher=momentum", "regularizer.kind=group"],
    ),
    "ResNet-18, no regularizer": (
        "cifar10",
        ["objective.base_loss=infonce", "objective.teacher=momentum", "regularizer.kind=none"],
    ),
    "digits": ("digits", ["objective.teacher=momentum", "regularizer.kind=group"]),
    "ViT-tiny": ("vit_cifar10", ["data.size=32"]),
}
NOTHING = (
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "_unsafe_view",
    "_reshape_alias",
    "lift_fresh",
    "set_",
    "is_pinned",
)


class Launches(TorchDispatchMode):
    """Counts, inside the block, ``operators`` by name that give the device something to do, ``copies`` to it and ``waits``."""

    def __init__(self, device: str = GPU.type):
        super().__init__()
        self.device = device
        self.operators: Counter[str] = Counter()
        self.copies = self.waits = 0

    @property
    def total(self) -> int:
        """Operators and copies."""
        return self.operators.total() + self.copies

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        result = None if name.startswith("_fused_") else function(*args, **kwargs)  # the meta device has no fused optimizer
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if tensor.device.type == self.device]
        if not there or name in NOTHING or is_view(function):
            return result
        # Numbers of no dimension are arguments of a kernel, not copies.
        if name in ("_to_copy", "copy_") and any(t.device.type != self.device and t.ndim for t in tensors):
            self.copies += 1
            self.waits += not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        else:
            self.operators[name] += started(name, args)
        return result


def is_view(function) -> bool:
    """Whether the operator only looks at its argument in another way."""
    return any(value.alias_info is not None and not value.alias_info.is_write for value in function._schema.returns)


def started(name: str, args: Sequence) -> int:
    """Kernels of an operator: one, and of ``_foreach_…`` one for each tensor where their shapes or layouts differ.

    A list of tensors takes few kernels where the operands of each are alike; torch falls back to a loop otherwise.
    """
    lists = [values for values in args if isinstance(values, (list, tuple)) and values and isinstance(values[0], Tensor)]
    if not name.startswith("_foreach_") or not lists:
        return 1
    alike = all(len({(t.shape, t.stride(), t.dtype) for t in operands}) == 1 for operands in zip(*lists, strict=True))
    return 1 if alike else len(lists[0])


@contextlib.contextmanager
def as_a_gpu() -> Iterator[None]:
    """Let torch's fused optimizers, clipping and autocast take the meta device for a GPU inside the block."""
    autocast = torch.autocast

    def as_on_a_cpu(device: str, *args, **kwargs):
        return autocast("cpu" if device == GPU.type else device, *args, **kwargs)

    with (
        mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", GPU.type]),
        mock.patch("torch.nn.utils.clip_grad._device_has_foreach_support", lambda device: True),
        mock.patch("torch.autocast", as_on_a_cpu),
        mock.patch("torch.is_autocast_enabled", lambda device="": False),
    ):
        yield


def training(preset: str, more: Sequence[str], quick: bool = False) -> tuple[Config, Training]:
    """What trains ``preset`` on the device, its gradients there."""
    small = ["model.arch=resnet_small", "model.projector_hidden=32"] if quick and "vit" not in preset else []
    cfg = load(preset, [*more, *small, "train.device=cpu"])
    made = build_training(cfg, GPU)
    made.regularizer.set_epoch(cfg.optimizer.epochs - 1, cfg.optimizer.epochs)
    return cfg, made


def count_step(cfg: Config, made: Training, widths: Sequence[float] = WIDTHS, images: int = 16) -> Launches:
    """The second step at ``widths``, counted."""
    views = torch.randn(2, images, 3, cfg.data.size, cfg.data.size, device=GPU)
    for _ in range(2):
        with Launches() as counted:
            made.step(*views, widths, cfg.optimizer.lr, cfg.objective.ema_momentum)
    return counted


def count_update(made: Training, width: float = WIDTHS[0]) -> Launches:
    """The regularizer's and the optimizer's part of a step, once a width, and the clearing of gradients."""
    with Launches() as counted:
        made.update(width)
    return counted


def count_views(cfg: Config, images: int = 16) -> Launches:
    """Two views of a batch of images that are on the device."""
    pixels = torch.zeros(4 * images, 3, cfg.data.size, cfg.data.size, dtype=torch.uint8, device=GPU)
    source = TensorSource("zeros", ["zero"], torch.zeros(len(pixels), dtype=torch.int64), (0.5,) * 3, (0.5,) * 3, pixels)
    batches = TwoViewBatches(source, cfg.augment, cfg.data.size, images, 0, GPU).epoch(0)
    next(batches)
    with Launches() as counted:
        next(batches)
    return counted


def rows(quick: bool = False) -> list[Row]:
    """Counts of a step, of its update and of the views it is given, for each of SETTINGS."""
    part, found = "What a step at three widths asks of a GPU (counted)", []
    for name, (preset, more) in SETTINGS.items():
        with as_a_gpu():
            cfg, made = training(preset, more, quick)
            step, update, views = count_step(cfg, made), count_update(made), count_views(cfg)
        parameters = len(made.regularizer.parameters)
        found += [
            Row(part, f"{name}: operators of a step", "started", step.total, note=f"{parameters} parameters"),
            Row(part, f"{name}: of these by an update, of which a step has {len(WIDTHS)}", "started", update.total),
            Row(part, f"{name}: operators of two views", "started", views.total),
            Row(
                part,
                f"{name}: waits of a step and its views",
                "",
                step.waits + views.waits,
                0,
                None,
                "0",
                step.waits + views.waits == 0,
            ),
        ]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, argv=argv)
    print(markdown(rows(args.quick)))


if __name__ == "__main__":
    cli(main)
