"""US3L in one file: train one slimmable network on digits without labels, then evaluate it at four widths.

    python examples/us3l_digits.py    # about a minute on one core

The recipe is `us3l` in small: InfoNCE at full width, distillation by negative cosine from a momentum teacher, dynamic sampling of
widths, group regularization. `pretrain/objective/step.py` is the same step with all its options (docs/method.md explains it).
"""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pretrain.models import build
from pretrain.objective.heads import predictor, projector
from pretrain.slimmable import SlimmableBatchNorm2d, SlimmableConv2d, at_width, calibrate, extract

EPOCHS, BATCH, LR, MOMENTUM, TEMPERATURE, DECAY, ALPHA, GROUPS = 16, 128, 0.5, 0.9, 0.5, 2.5e-4, 0.05, 8
LOWEST, WIDTHS, TRAIN = 0.25, (1.0, 0.75, 0.5, 0.25), 1297


def random_view(x: Tensor) -> Tensor:
    """Crop 40 to 100 % of each image (B, 3, H, W), resize it back, and change its contrast."""
    side = torch.empty(len(x)).uniform_(0.4, 1).sqrt()
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * torch.rand(len(x), 2) - 1) * (1 - side)[:, None]
    crops = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False, padding_mode="border")
    return crops * torch.empty(len(x), 1, 1, 1).uniform_(0.6, 1.4)


def relative(outputs: Tensor, targets: Tensor) -> Tensor:
    """InfoNCE (NT-Xent): each of the 2B rows should find its counterpart among all others. Guideline 1."""
    rows = F.normalize(torch.cat([outputs, targets]), dim=1)
    logits = (rows @ rows.T / TEMPERATURE).fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(rows)).roll(len(outputs)))


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative cosine: each output should be where its target is."""
    return -F.cosine_similarity(outputs, targets, dim=1).mean()


def lowest_width(epoch: int, epochs: int) -> float:
    """Dynamic sampling: full width alone in the first quarter of training, then down to 0.75, 0.5 and 0.25."""
    return LOWEST + (3 - epoch * 4 // epochs) * (1 - LOWEST) / 3


def penalty(student: nn.Module, alpha: float) -> Tensor:
    """Group regularization: later groups of channels, which only wide networks use, are decayed less."""
    grouped = {p for m in student.modules() if isinstance(m, (SlimmableConv2d, SlimmableBatchNorm2d)) for p in m.parameters()}
    total = torch.zeros(())
    for p in student.parameters():
        factor = 1 - alpha * (torch.arange(len(p)) * GROUPS // len(p)) if p in grouped else torch.ones(len(p))
        total = total + DECAY * (factor * p.square().flatten(1).sum(1) if p.ndim > 1 else factor * p.square()).sum()
    return total


def pretrain(images: Tensor, epochs: int) -> nn.Module:
    """One slimmable encoder for images (N, 3, H, W), trained without labels."""
    encoder = build("resnet_small")
    student = nn.ModuleDict(
        {"encoder": encoder, "projector": projector(encoder.feature_rule, 256, 128, 3), "head": predictor(128, 256)}
    )
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=0.9)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = LR / 2 * (1 + torch.tensor(torch.pi * epoch / epochs).cos().item())
        low, alpha = lowest_width(epoch, epochs), ALPHA * min(1, 2 * epoch / epochs)
        for index in torch.randperm(len(images)).split(BATCH)[:-1]:
            views = random_view(images[index]), random_view(images[index])
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                    slow.lerp_(fast, 1 - MOMENTUM)
                targets = [teacher["projector"](teacher["encoder"](x)) for x in views]  # at full width. Guideline 3
            for width in [1.0] if low == 1 else [1.0, random.uniform(low, 1), low]:  # the sandwich rule
                with at_width(student, width):
                    outputs = [student["projector"](student["encoder"](x)) for x in views]
                if width == 1:
                    loss = (relative(outputs[0], targets[1]) + relative(outputs[1], targets[0])) / 2
                else:
                    first, second = (student["head"](z) for z in outputs)
                    loss = (absolute(first, targets[1]) + absolute(second, targets[0])) / 2
                optimizer.zero_grad()
                (loss + penalty(student, alpha)).backward()
                optimizer.step()  # one step per width
        print(f"epoch {epoch + 1} of {epochs}, widths {low:g} to 1, last loss {loss.item():.3f}", flush=True)
    return encoder


def main(epochs: int = EPOCHS) -> dict[float, float]:
    """Pretrain, calibrate and evaluate; the linear probe's accuracy in % at each width."""
    torch.manual_seed(0)
    random.seed(0)
    digits = load_digits()
    scans = torch.tensor(digits.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 16  # 8 pixels, three equal channels
    images = F.interpolate(scans, 12, mode="bilinear")
    images, labels, order = (images - images.mean()) / images.std(), torch.tensor(digits.target), torch.randperm(len(images))
    train, test = order[:TRAIN], order[TRAIN:]
    encoder = pretrain(images[train], epochs)
    calibrate(encoder, WIDTHS, images[train].split(256))  # BatchNorm statistics differ from width to width
    accuracy = {}
    for width in WIDTHS:
        network = extract(encoder, width)  # an ordinary dense network
        with torch.no_grad():
            x, y = network(images[train]), network(images[test])
        mean, std = x.mean(0), x.std(0) + 1e-6
        probe = LogisticRegression(max_iter=1000).fit((x - mean) / std, labels[train])
        accuracy[width] = 100 * probe.score((y - mean) / std, labels[test])
        print(f"width {width:<4g} {sum(p.numel() for p in network.parameters()):>7,} parameters   accuracy {accuracy[width]:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
