"""Group regularization (METHOD section 5; US3L section 3.4), applied as the gradient of its penalty.

Penalty = sum over parameters of coefficient * theta^2, so its gradient is 2 * coefficient * theta. Adding that to the gradients is
the same mathematics as adding the penalty to the loss, without a graph through every weight.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pretrain.config import RegularizerConfig
from pretrain.slimmable.layers import SlimmableConv2d, SlimmableLinear, _SlimmableBatchNorm

HEADS = ("predictor.", "distill_head.")  # of a student


def alpha_at(cfg: RegularizerConfig, epoch: int, epochs: int) -> float:
    """alpha_t in ``epoch`` (from 0): 0 in the warm-up, then linear to alpha at half of training, then alpha."""
    half = epochs / 2
    if epoch < cfg.warmup_epochs:
        return 0.0
    if epoch >= half:
        return cfg.alpha
    return cfg.alpha * (epoch - cfg.warmup_epochs) / (half - cfg.warmup_epochs)


def group_index(channels: int, groups: int) -> Tensor:
    """Group of each of ``channels`` channels, int64 (channels,): equal runs, 0 first."""
    return torch.arange(channels) * groups // channels


def _grouped_dims(model: nn.Module, authors: bool) -> dict[Tensor, int]:
    """The dimension of each grouped parameter of ``model`` that the groups divide."""
    linear = [m for m in model.modules() if isinstance(m, SlimmableLinear)]
    if any(m.grouped_inputs for m in linear):
        return dict.fromkeys((m.weight for m in linear if authors or m.grouped_inputs), 1)
    layers = (m for m in model.modules() if isinstance(m, (SlimmableConv2d, _SlimmableBatchNorm)))
    biases = [m.bias for m in linear if m.bias is not None] if authors else []
    return dict.fromkeys([*(p for layer in layers for p in layer.parameters(recurse=False)), *biases], 0)


class Regularizer:
    """Coefficients of every parameter of ``model``, for the regularizer of ``cfg``.

    ``l2`` gives every parameter lambda. ``group`` gives channel group i of each convolution (its output channels) and each
    BatchNorm vector lambda * (1 - alpha_t * i), and linear layers lambda. Where the model has linear layers with
    ``grouped_inputs`` (a ViT) their weights' input features are the groups, and all else gets lambda; so do the vectors of
    switchable BatchNorms, which no two widths share.

    The variant ``authors`` is that of their code (METHOD section 7): the biases of linear layers are grouped too, and of a ViT's
    model the weights of all linear layers; predictor and distillation head are left out of the update of the widest network where
    there are groups; a parameter is left alone until it has had a gradient. ``touched`` holds those that have.
    """

    def __init__(self, cfg: RegularizerConfig, model: nn.Module):
        self.cfg, self.authors = cfg, cfg.variant == "authors"
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        heads = [p for name, p in model.named_parameters() if name.startswith(HEADS)]
        self.exempt = set(heads) if self.authors and cfg.kind == "group" else set()  # in the update of the widest network
        self.touched: set[Tensor] = set() if self.authors else set(self.parameters)
        grouped = _grouped_dims(model, self.authors)
        self._ranks: list[Tensor | None] = [self._rank(p, grouped[p]) if p in grouped else None for p in self.parameters]
        self.coefficients: list[Tensor] = []
        self._zeros: dict[Tensor, Tensor] = {}  # gradients of parameters that a step does not reach
        self._terms = functools.cache(self._find_terms)
        self._alpha: float | None = None
        self.set_alpha(0.0)

    def _rank(self, parameter: Tensor, dim: int) -> Tensor:
        index = group_index(parameter.shape[dim], self.cfg.groups).to(parameter.device, parameter.dtype)
        return index.view([-1 if d == dim else 1 for d in range(parameter.ndim)])

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set alpha for ``epoch`` (from 0) of ``epochs``."""
        self.set_alpha(alpha_at(self.cfg, epoch, epochs) if self.cfg.kind == "group" else 0.0)

    def set_alpha(self, alpha: float) -> None:
        """Build the coefficients, each broadcastable to its parameter, unless they are those already."""
        if alpha == self._alpha or self.cfg.kind == "none":
            return
        self._alpha = alpha
        plain = self.cfg.coefficient
        self.coefficients = [
            torch.tensor(plain, dtype=p.dtype, device=p.device) if rank is None else plain * (1 - alpha * rank)
            for p, rank in zip(self.parameters, self._ranks, strict=True)
        ]
        if self.parameters[0].device.type != "cpu":  # one kernel for all parameters takes operands of equal shapes and layouts
            self.coefficients = [
                torch.empty_like(p, memory_format=torch.preserve_format).copy_(coefficient)
                for p, coefficient in zip(self.parameters, self.coefficients, strict=True)
            ]
        self._terms.cache_clear()

    def touch(self, parameters: Iterable[Tensor]) -> None:
        """Let ``parameters`` decay from now on: they have had a gradient."""
        self.touched.update(parameters)
        self._terms.cache_clear()

    @torch.no_grad()
    def add_gradient(self, widest: bool = False) -> None:
        """Add 2 * coefficient * theta to every gradient; a parameter without one gets one, so that it takes every step.

        ``widest`` says that the update is that of the widest network alone. A ``decoupled`` regularizer adds nothing:
        :meth:`shrink` is its step.
        """
        if len(self.touched) < len(self.parameters):
            self.touch(p for p in self.parameters if p.grad is not None)
        missing = [p for p in self.parameters if p.grad is None and p in self.touched]
        if missing:
            zeros = [self._zeros[p] if p in self._zeros else self._zeros.setdefault(p, torch.empty_like(p)) for p in missing]
            torch._foreach_zero_(zeros)
            for parameter, zero in zip(missing, zeros, strict=True):
                parameter.grad = zero
        parameters, coefficients = self._terms(widest)
        if parameters and not self.cfg.decoupled:
            torch._foreach_addcmul_([p.grad for p in parameters], parameters, coefficients, value=2.0)

    @torch.no_grad()
    def shrink(self, rate: float, widest: bool = False) -> None:
        """theta <- theta * (1 - 2 * rate * coefficient), in place of the gradient: the decay of AdamW (arXiv 1711.05101)."""
        parameters, coefficients = self._terms(widest)
        if not parameters:
            return
        kept = torch._foreach_mul(coefficients, -2 * rate)
        torch._foreach_add_(kept, 1.0)
        torch._foreach_mul_(parameters, kept)

    def state(self) -> dict[str, Tensor]:
        """What it remembers of past updates, for a checkpoint: nothing, but for a subclass that says so."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` has returned."""

    def _find_terms(self, widest: bool) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that decay in this update, and their coefficients; none with ``none``."""
        found = [
            (p, c)
            for p, c in zip(self.parameters, self.coefficients, strict=False)
            if p in self.touched and not (widest and p in self.exempt)
        ]
        return [p for p, _ in found], [c for _, c in found]

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """The penalty itself, a scalar of the parameters' type; 0 for ``none``."""
        terms = [(c * p.square()).sum() for p, c in zip(self.parameters, self.coefficients, strict=False)]
        return torch.stack(terms).sum() if terms else torch.zeros(())
