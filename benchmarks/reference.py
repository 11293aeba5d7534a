"""A plain training step of universally slimmable self-supervised learning: what the project's own step is measured against.

It is what a PyTorch programmer writes who reads the method (US3L, arXiv 2303.06870, sections 3.2 to 3.4) and stops when it works:
each view passes the network on its own, images are NCHW and float32, weights are sliced in the forward pass and autograd does the
rest, every width has its own backward pass and optimizer step, and the penalty is built anew and added to the loss each time. The
teacher moves, and sees the two views, once a step. It shares no code with ``pretrain``, so it is the correctness reference too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kept(channels: int, width: float) -> int:
    """Channels of ``channels`` that ``width`` keeps: the nearest multiple of 8, at least 8, at least 90 % of the exact number."""
    if width == 1.0:
        return channels
    exact = width * channels
    rounded = max(8, int(exact + 4) // 8 * 8)
    return min(channels, rounded + 8 if rounded < 0.9 * exact else rounded)


class Conv(nn.Conv2d):
    """The first channels of a convolution, as many inputs as arrive."""

    width = 1.0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight[: kept(self.out_channels, self.width), : x.shape[1]]
        return F.conv2d(x, weight, None, self.stride, self.padding)


class Linear(nn.Linear):
    """All outputs of a linear layer, as many inputs as arrive."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:, : x.shape[1]], self.bias)


class _Norm:
    """BatchNorm of as many channels as arrive, with the statistics of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.batch_norm(x, None, None, self.weight[:channels], self.bias[:channels], training=True, eps=self.eps)


class Norm2d(_Norm, nn.BatchNorm2d):
    """Over (B, C, H, W)."""


class Norm1d(_Norm, nn.BatchNorm1d):
    """Over (B, C)."""


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Conv:
    return Conv(inputs, outputs, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), Norm2d(outputs, track_running_stats=False)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), Norm2d(outputs, track_running_stats=False)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), Norm2d(outputs, track_running_stats=False))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Encoder(nn.Module):
    """ResNet of basic blocks with CIFAR's stem; images (B, 3, H, W) to features (B, D(width))."""

    def __init__(self, base: int, depths: Sequence[int]):
        super().__init__()
        self.conv1, self.bn1 = conv(3, base, 3), Norm2d(base, track_running_stats=False)
        inputs, self.stages = base, len(depths)
        for stage, depth in enumerate(depths):
            outputs = base * 2**stage
            blocks = [Block(inputs if i == 0 else outputs, outputs, 2 if stage and i == 0 else 1) for i in range(depth)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x.mean((2, 3))


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers through ``sizes`` with BatchNorm and ReLU between them."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i < len(sizes) - 2:
            layers += [Linear(inputs, outputs, bias=False), Norm1d(outputs, track_running_stats=False), nn.ReLU(inplace=True)]
        else:
            layers.append(Linear(inputs, outputs))
    return nn.Sequential(*layers)


class Network(nn.Module):
    """Encoder, projector and heads with the shapes and values of ``weights``, a state dict of the project's student or teacher."""

    def __init__(self, weights: Mapping[str, Tensor]):
        super().__init__()
        stages = max(int(k.split(".")[1].removeprefix("layer")) for k in weights if k.startswith("encoder.layer"))
        depths = [
            sum(k.startswith(f"encoder.layer{stage}.") and k.endswith(".conv1.weight") for k in weights)
            for stage in range(1, stages + 1)
        ]
        self.encoder = Encoder(len(weights["encoder.conv1.weight"]), depths)
        for name in ("projector", "predictor", "distill_head"):
            matrices = [v for k, v in weights.items() if k.startswith(name + ".") and v.ndim == 2]
            self.add_module(name, mlp([matrices[0].shape[1], *map(len, matrices)]) if matrices else None)
        self.to(next(iter(weights.values()))).load_state_dict(weights)

    def set_width(self, width: float) -> None:
        for module in self.modules():
            if isinstance(module, Conv):
                module.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to projections (B, D)."""
        return self.projector(self.encoder(x))


def absolute(output: Tensor, target: Tensor) -> Tensor:
    """Negative cosine, the mean over rows (B, D)."""
    return -F.cosine_similarity(output, target.detach(), dim=1).mean()


def relative(output: Tensor, target: Tensor, temperature: float) -> Tensor:
    """NT-Xent of the 2B rows of both (B, D)."""
    rows = F.normalize(torch.cat([output, target.detach()]), dim=1)
    similarity = rows @ rows.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), float("-inf"))
    positives = torch.arange(len(rows), device=rows.device).roll(len(output))
    return F.cross_entropy(similarity, positives)


class Reference:
    """Trains copies of ``student`` and ``teacher`` (modules of the project; no teacher: the targets are the student's own).

    Args:
        base, distill: ``mse`` or ``infonce``, the loss of the widest network and that of the narrower ones.
        coefficient, alpha, groups: of the group regularizer; coefficient 0 leaves the penalty out.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        base: str,
        distill: str,
        temperature: float = 0.5,
        lr: float = 0.5,
        momentum: float = 0.9,
        ema: float = 0.99,
        coefficient: float = 5e-5,
        alpha: float = 0.05,
        groups: int = 8,
    ):
        self.student = Network(student.state_dict())
        self.teacher = None if teacher is None else Network(teacher.state_dict()).requires_grad_(False)
        self.base, self.distill, self.temperature, self.ema = base, distill, temperature, ema
        self.coefficient, self.alpha, self.groups = coefficient, alpha, groups
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr, momentum=momentum)

    def step(self, x1: Tensor, x2: Tensor, widths: Sequence[float]) -> list[Tensor]:
        """Train ``widths`` (widest first) on views x1, x2 (B, 3, H, W); the loss at each, without the penalty."""
        losses = []
        for index, width in enumerate(widths):
            self.student.set_width(width)
            self.optimizer.zero_grad()
            z1, z2 = self.student(x1), self.student(x2)
            if index == 0:
                t1, t2 = self.targets(x1, x2, z1, z2)
                name, head = self.base, self.student.predictor
            else:
                name, head = self.distill, self.student.distill_head
            o1, o2 = (z1, z2) if head is None else (head(z1), head(z2))
            loss = 0.5 * (self.loss(name, o1, t2) + self.loss(name, o2, t1))
            (loss + self.penalty() if self.coefficient else loss).backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return losses

    def loss(self, name: str, output: Tensor, target: Tensor) -> Tensor:
        return absolute(output, target) if name == "mse" else relative(output, target, self.temperature)

    @torch.no_grad()
    def targets(self, x1: Tensor, x2: Tensor, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
        """Of both views: the teacher's, after it has moved, or the projections themselves."""
        if self.teacher is None:
            return z1.detach(), z2.detach()
        for part in ("encoder", "projector"):
            ours, theirs = self.teacher.get_submodule(part).parameters(), self.student.get_submodule(part).parameters()
            for k, q in zip(ours, theirs, strict=True):
                k.mul_(self.ema).add_(q, alpha=1 - self.ema)
        return self.teacher(x1), self.teacher(x2)

    def penalty(self) -> Tensor:
        """Sum of the masked squares of all weights, float64: channel group i counts coefficient * (1 - alpha * i)."""
        total = torch.zeros((), dtype=torch.float64, device=next(self.student.parameters()).device)
        for module in self.student.modules():
            for weight in module.parameters(recurse=False):
                if isinstance(module, (Conv, Norm1d, Norm2d)):
                    total = total + (self.mask(weight) * weight.square()).sum()
                else:
                    total = total + self.coefficient * weight.double().square().sum()
        return total

    def mask(self, weight: Tensor) -> Tensor:
        """The coefficient of each output channel, float64 (C, 1, ...)."""
        groups = torch.arange(len(weight), device=weight.device) * self.groups // len(weight)
        return (self.coefficient * (1 - self.alpha * groups.double())).view(-1, *[1] * (weight.ndim - 1))
