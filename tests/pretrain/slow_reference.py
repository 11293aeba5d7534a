"""METHOD sections 2, 3 and 5 once more, slow and in float64, for the tests to compare with.

Nothing here uses a slimmable layer, an optimizer or a loss of the project: networks are functions of a dictionary of weights,
slicing is written out, the penalty is added to the loss, and SGD is three lines.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F


def keep(channels: int, width: float) -> int:
    """Channels kept, by searching the multiples of eight: the nearest to width * channels that is not under 90 % of it."""
    if width == 1.0:
        return channels
    exact = width * channels
    allowed = [c for c in range(8, channels + 16, 8) if c >= 0.9 * exact]
    return min(channels, min(allowed, key=lambda c: (abs(c - exact), -c)))


def batch_norm(x, gain, bias):
    dims = [d for d in range(x.ndim) if d != 1]
    mean = x.mean(dims, keepdim=True)
    variance = ((x - mean) ** 2).mean(dims, keepdim=True)
    shape = [1, -1] + [1] * (x.ndim - 2)
    channels = x.shape[1]
    return (x - mean) / torch.sqrt(variance + 1e-5) * gain[:channels].view(shape) + bias[:channels].view(shape)


def conv(x, weight, width, stride, padding):
    return F.conv2d(x, weight[: keep(weight.shape[0], width), : x.shape[1]], None, stride, padding)


def encode(p, x, width, maps=None):
    """A ResNet at ``width``: CIFAR stem, stages of one basic block.

    The outputs of the last BatchNorm of every stage but the first are appended to ``maps``.
    """
    x = F.relu(batch_norm(conv(x, p["encoder.conv1.weight"], width, 1, 1), p["encoder.bn1.weight"], p["encoder.bn1.bias"]))
    for stage in range(1, 1 + sum(k.endswith("0.conv1.weight") for k in p)):
        name, stride = f"encoder.layer{stage}.0.", 1 if stage == 1 else 2
        y = conv(x, p[name + "conv1.weight"], width, stride, 1)
        y = F.relu(batch_norm(y, p[name + "bn1.weight"], p[name + "bn1.bias"]))
        y = batch_norm(conv(y, p[name + "conv2.weight"], width, 1, 1), p[name + "bn2.weight"], p[name + "bn2.bias"])
        if stage > 1:
            if maps is not None:
                maps.append(y)
            x = conv(x, p[name + "downsample.0.weight"], width, stride, 0)
            x = batch_norm(x, p[name + "downsample.1.weight"], p[name + "downsample.1.bias"])
        x = F.relu(x + y)
    return x.mean((2, 3))


def head(p, name, x):
    """MLP ``name`` (linear, BN, ReLU, ..., linear); the first layer's input follows that of x."""
    layers = sorted({int(k.split(".")[1]) for k in p if k.startswith(name + ".") and p[k].ndim == 2})
    for i in layers:
        x = x @ p[f"{name}.{i}.weight"][:, : x.shape[1]].T
        if f"{name}.{i}.bias" in p:
            x = x + p[f"{name}.{i}.bias"]
        if i != layers[-1]:
            if f"{name}.{i + 1}.weight" in p:
                x = batch_norm(x, p[f"{name}.{i + 1}.weight"], p[f"{name}.{i + 1}.bias"])
            x = F.relu(x)
    return x


def absolute(s, t):
    total = 0.0
    for a, b in zip(s, t, strict=True):
        total = total + (a * b).sum() / (a.norm() * b.norm())
    return -total / len(s)


def relative(s, t, temperature):
    """NT-Xent, row by row."""
    rows = torch.stack([r / r.norm() for r in [*s, *t]])
    half, total = len(s), 0.0
    for i, row in enumerate(rows):
        logits = torch.cat([rows[:i], rows[i + 1 :]]) @ row / temperature
        positive = (row * rows[(i + half) % (2 * half)]).sum() / temperature
        total = total + torch.log(torch.exp(logits - logits.max()).sum()) + logits.max() - positive
    return total / len(rows)


def loss(name, outputs, targets, temperature):
    pair = absolute if name == "mse" else lambda s, t: relative(s, t, temperature)
    return 0.5 * (pair(outputs[0], targets[1]) + pair(outputs[1], targets[0]))


@functools.lru_cache
def group_mask(channels, groups, i):
    """1 at the channels of group i of ``groups`` equal runs, 0 elsewhere, float64 (channels,)."""
    return torch.tensor([float(math.floor(c * groups / channels) == i) for c in range(channels)], dtype=torch.float64)


def penalty(p, kind, coefficient, alpha, groups):
    """METHOD section 5: a sum over masked squares, group by group."""
    if kind == "none":
        return 0.0
    total = 0.0
    for weight in p.values():
        # In these networks a matrix is a linear layer's and a single vector is a BatchNorm's, except the last bias of a head.
        is_linear = weight.ndim == 2 or getattr(weight, "linear_bias", False)
        if kind == "l2" or is_linear:
            total = total + coefficient * (weight**2).sum()
            continue
        squares = (weight**2).reshape(len(weight), -1).sum(1)
        for i in range(groups):
            total = total + coefficient * (1 - alpha * i) * (group_mask(len(weight), groups, i) * squares).sum()
    return total


class SlowMethod:
    """METHOD section 2, one step at a time, on copies of a student's and a teacher's weights."""

    def __init__(self, cfg, student, teacher, lr, alpha):
        self.cfg, self.lr, self.alpha = cfg, lr, alpha
        self.p = {k: v.detach().clone().double().requires_grad_() for k, v in student.named_parameters()}
        for name, weight in self.p.items():
            weight.linear_bias = name.endswith("bias") and self.p[name.replace("bias", "weight")].ndim == 2
        self.k = None if teacher is None else {k: v.detach().clone().double() for k, v in teacher.named_parameters()}
        self.velocity = {k: torch.zeros_like(v) for k, v in self.p.items()}
        self.teacher_calls = 0

    def project(self, p, x, width):
        return head(p, "projector", encode(p, x, width))

    def sgd(self):
        extra = penalty(
            self.p, self.cfg.regularizer.kind, self.cfg.regularizer.coefficient, self.alpha, self.cfg.regularizer.groups
        )
        if torch.is_tensor(extra):
            extra.backward()
        with torch.no_grad():
            for name, weight in self.p.items():
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                self.velocity[name] = self.cfg.optimizer.momentum * self.velocity[name] + gradient
                weight -= self.lr * self.velocity[name]
                weight.grad = None

    def targets(self, z, x1, x2, width):
        if self.k is None:
            return z[0].detach(), z[1].detach()
        self.teacher_calls += 1
        with torch.no_grad():
            return self.project(self.k, x1, width), self.project(self.k, x2, width)

    def step(self, x1, x2, widths, momentum):
        objective = self.cfg.objective
        if self.k is not None:
            for name in self.k:
                self.k[name] = momentum * self.k[name] + (1 - momentum) * self.p[name].detach()
        values, shared = [], None
        for index, width in enumerate(widths):
            z = self.project(self.p, x1, width), self.project(self.p, x2, width)
            if index == 0 or objective.distill_loss == "none":
                outputs = [head(self.p, "predictor", v) for v in z] if objective.base_loss == "mse" else z
                own_width = width if objective.distill_loss == "none" else self.cfg.widths.max
                shared = self.targets(z, x1, x2, own_width)
                value, weight = loss(objective.base_loss, outputs, shared, objective.temperature), 1.0
            else:
                name = {"own": "distill_head", "shared": "predictor", "none": None}[objective.head]
                outputs = [head(self.p, name, v) for v in z] if name else z
                value, weight = loss(objective.distill_loss, outputs, shared, objective.temperature), objective.distill_weight
            (weight * value).backward()
            values.append(value.item())
            if objective.update == "per_width":
                self.sgd()
        if objective.update == "accumulate":
            self.sgd()
        return values
