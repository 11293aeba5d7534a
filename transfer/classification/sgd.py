"""Classifiers of several widths trained by SGD in one pass over the images: linear evaluation and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.data import ImageSource, crop_batches
from rundir.progress import reporting
from rundir.subnet import Width
from transfer.classification.options import Recipe
from transfer.classification.scores import top1


class Classifier(nn.Module):
    """A dense encoder and a linear layer: images (B, 3, H, W) to logits (B, classes).

    The layer starts from a normal distribution of deviation 0.01 and zero bias, as MoCo's linear evaluation
    (arXiv 1911.05722) does, or with ``start`` torch as torch's linear layers do, drawn from ``seed`` alone. A ``frozen`` encoder
    stays in evaluation mode and gets no gradient.
    """

    def __init__(self, encoder: nn.Module, features: int, classes: int, seed: int, frozen: bool, start: str = "normal"):
        super().__init__()
        # What is fixed by design, such as a ViT's position embedding, stays fixed in fine-tuning.
        self.encoder, self.frozen = encoder.requires_grad_(False) if frozen else encoder, frozen
        device = next(encoder.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        self.head = nn.Linear(features, classes, device=device)
        with torch.no_grad():
            if start == "torch":
                for parameter in self.head.parameters():
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) / features**0.5)
            else:
                self.head.weight.copy_(0.01 * torch.randn(classes, features, generator=generator))
                self.head.bias.zero_()

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(x)
        return self.head(features)


def train(
    classifiers: Mapping[Width, Classifier],
    recipe: Recipe,
    source: ImageSource,
    size: int,
    seed: int,
    device: torch.device,
    title: str,
    workers: int = 0,
) -> None:
    """Train each of ``classifiers`` (by width) on ``source``; an image is decoded and cropped once for all of them.

    No classifier sees another: each ends as it would if it were trained alone. All randomness comes from ``seed``.
    """
    optimizers = {width: _optimizer(classifier, recipe) for width, classifier in classifiers.items()}
    for classifier in classifiers.values():
        classifier.train()
    steps, done = -(-len(source) // recipe.batch_size), 0
    with reporting(title, recipe.epochs * steps) as reporter:
        for epoch in range(recipe.epochs):
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = recipe.lr_at(epoch)
            for x, y in crop_batches(
                source,
                size,
                recipe.batch_size,
                epoch,
                seed,
                device,
                tuple(recipe.crop_scale),
                recipe.flip,
                recipe.interpolation,
                workers=workers,
            ):
                for width, classifier in classifiers.items():
                    _step(classifier, optimizers[width], x, y)
                done += 1
                reporter.update(done, f"epoch {epoch + 1}/{recipe.epochs}")


def _optimizer(classifier: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    if recipe.optimizer == "lars":
        from timm.optim import Lars  # slow to import, and seldom needed

        # Without weight decay timm's would be plain SGD: it adapts what decays, unless told otherwise.
        return Lars(
            trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, trust_coeff=recipe.trust, always_adapt=True
        )
    return torch.optim.SGD(trained, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)


def _step(classifier: Classifier, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    if len(y) == 1 and not classifier.frozen:
        return  # BatchNorm cannot train on a last batch of one image
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(classifier(x), y).backward()
    optimizer.step()


@torch.no_grad()
def accuracies(
    classifiers: Mapping[Width, Classifier], batches: Iterable[tuple[Tensor, Tensor]], score: Callable[[Tensor, Tensor], Any] = top1
) -> dict[Width, Any]:
    """The ``score`` of each classifier on ``batches`` of (images, labels); None where its outputs are not finite."""
    predicted: dict[Width, list[Tensor]] = {width: [] for width in classifiers}
    finite = dict.fromkeys(classifiers, True)
    labels = []
    for classifier in classifiers.values():
        classifier.eval()
    for x, y in batches:
        labels.append(y)
        for width, classifier in classifiers.items():
            logits = classifier(x)
            finite[width] &= bool(logits.isfinite().all())
            predicted[width].append(logits.argmax(1))
    truth = torch.cat(labels)
    return {width: score(torch.cat(parts), truth) if finite[width] else None for width, parts in predicted.items()}
