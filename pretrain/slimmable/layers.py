"""Layers whose first channels are networks of their own.

Every layer keeps its first ``channels_at(C, w)`` channels at width ``w`` (METHOD section 3; US-Nets, arXiv 1903.05134,
section 3.1). Slices are views, so a gradient reaches exactly the weights that a width uses. Which side of a layer is sliced is
fixed when it is built: the network's input and the inside of the heads keep their full size.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.slimmable.width import Slimmable, channels_at, width_key


class ChannelRule:
    """Channels kept at a width: none sliced, or ``expansion`` times the rounded unexpanded count.

    MobileNetV2 rounds the channel count before its expansion, so that the expanded and the narrow layers of a block always
    agree (METHOD section 3).
    """

    def __init__(self, channels: int, sliced: bool, expansion: int = 1):
        if channels % expansion:
            raise ValueError(f"{channels} channels are not a multiple of the expansion {expansion}")
        self.channels, self.sliced, self.expansion = channels, sliced, expansion

    def __call__(self, width: float) -> int:
        if not self.sliced:
            return self.channels
        return channels_at(self.channels // self.expansion, width) * self.expansion


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


class SlimmableConv2d(Slimmable):
    """2-d convolution over (B, C_in(w), H, W); depthwise where ``depthwise`` (groups follow the channels).

    Args:
        slice_in, slice_out: whether that side follows the width.
        expansion_in, expansion_out: see :class:`ChannelRule`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, *,
                 bias: bool = False, depthwise: bool = False, slice_in: bool = True, slice_out: bool = True,
                 expansion_in: int = 1, expansion_out: int = 1):
        super().__init__()
        if depthwise and in_channels != out_channels:
            raise ValueError(f"a depthwise convolution has as many outputs as inputs, not {in_channels} and {out_channels}")
        self.channels_in = ChannelRule(in_channels, slice_in, expansion_in)
        self.channels_out = ChannelRule(out_channels, slice_out, expansion_out)
        self.kernel_size, self.stride, self.padding, self.depthwise = kernel_size, stride, padding, depthwise
        self.weight = nn.Parameter(torch.empty(out_channels, 1 if depthwise else in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def active(self, width: float) -> tuple[Tensor, Tensor | None]:
        """Weight (C_out(w), C_in(w) or 1, k, k) and bias (C_out(w),) at ``width``, as views."""
        out = self.channels_out(width)
        inputs = 1 if self.depthwise else self.channels_in(width)
        return self.weight[:out, :inputs], None if self.bias is None else self.bias[:out]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.active(self.width)
        groups = weight.shape[0] if self.depthwise else 1
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=groups)

    def extract_at(self, width: float) -> nn.Conv2d:
        weight, bias = map(_copied, self.active(width))
        groups = weight.shape[0] if self.depthwise else 1
        dense = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], self.kernel_size, self.stride, self.padding,
                          groups=groups, bias=bias is not None, device="meta")
        dense.weight = nn.Parameter(weight)
        dense.bias = None if bias is None else nn.Parameter(bias)
        return dense


class SlimmableLinear(Slimmable):
    """Linear layer over (..., C_in(w)) -> (..., C_out(w))."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, slice_in: bool = True,
                 slice_out: bool = True):
        super().__init__()
        self.channels_in = ChannelRule(in_features, slice_in)
        self.channels_out = ChannelRule(out_features, slice_out)
        plain = nn.Linear(in_features, out_features, bias=bias)  # torch's own initialisation
        self.weight, self.bias = plain.weight, plain.bias

    def active(self, width: float) -> tuple[Tensor, Tensor | None]:
        """Weight (C_out(w), C_in(w)) and bias (C_out(w),) at ``width``, as views."""
        out = self.channels_out(width)
        return self.weight[:out, :self.channels_in(width)], None if self.bias is None else self.bias[:out]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.active(self.width))

    def extract_at(self, width: float) -> nn.Linear:
        weight, bias = map(_copied, self.active(width))
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        dense.weight = nn.Parameter(weight)
        dense.bias = None if bias is None else nn.Parameter(bias)
        return dense


class NotCalibrated(RuntimeError):
    """A BatchNorm was used in evaluation mode at a width whose statistics were never computed."""


class _SlimmableBatchNorm(Slimmable):
    """BatchNorm that trains on batch statistics and tracks none (METHOD section 3).

    One running mean cannot serve all widths, so evaluation uses ``statistics[width]`` = (mean, unbiased variance), each
    (C(w),) float32, which :func:`pretrain.slimmable.calibrate.calibrate` computes. They are not part of ``state_dict``.
    With ``synchronized`` set and torch.distributed initialised, batch statistics are those of all ranks.
    """

    def __init__(self, channels: int, *, slice_channels: bool = True, expansion: int = 1, eps: float = 1e-5):
        super().__init__()
        self.channels_out = ChannelRule(channels, slice_channels, expansion)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.synchronized = False
        self.statistics: dict[float, tuple[Tensor, Tensor]] = {}
        self.accumulator: MomentAverage | None = None

    def forward(self, x: Tensor) -> Tensor:
        channels = self.channels_out(self.width)
        weight, bias = self.weight[:channels], self.bias[:channels]
        if self.accumulator is not None:
            self.accumulator.add(x)
        if not self.training and self.accumulator is None:
            mean, variance = self.statistics_at(self.width)
            return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)
        if self.synchronized and dist.is_initialized() and dist.get_world_size() > 1:
            return _synchronized_batch_norm(x, weight, bias, self.eps)
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    def statistics_at(self, width: float) -> tuple[Tensor, Tensor]:
        """Calibrated (mean, variance) at ``width``; :class:`NotCalibrated` where there are none."""
        try:
            return self.statistics[width_key(width)]
        except KeyError:
            known = ", ".join(map(str, sorted(self.statistics))) or "none"
            raise NotCalibrated(f"BatchNorm has no statistics for width {width} (calibrated: {known}); "
                                f"call calibrate(model, [{width}], batches) first") from None

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        self.statistics = {w: (fn(mean), fn(variance)) for w, (mean, variance) in self.statistics.items()}
        return self

    def extract_at(self, width: float) -> nn.Module:
        """A torch BatchNorm with the statistics of ``width``; one that uses batch statistics if there are none."""
        channels = self.channels_out(width)
        dense = self.dense_type(channels, eps=self.eps, track_running_stats=width_key(width) in self.statistics,
                                device=self.weight.device)
        dense.weight = nn.Parameter(self.weight[:channels].detach().clone())
        dense.bias = nn.Parameter(self.bias[:channels].detach().clone())
        if dense.track_running_stats:
            dense.running_mean, dense.running_var = map(_copied, self.statistics_at(width))
        return dense


class SlimmableBatchNorm2d(_SlimmableBatchNorm):
    """BatchNorm over (B, C(w), H, W)."""

    dense_type = nn.BatchNorm2d


class SlimmableBatchNorm1d(_SlimmableBatchNorm):
    """BatchNorm over (B, C(w))."""

    dense_type = nn.BatchNorm1d


class MomentAverage:
    """Cumulative mean of per-batch means and unbiased variances, each batch weighted by its number of images."""

    def __init__(self):
        self.images = 0
        self.mean: Tensor | float = 0.0
        self.variance: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Take in one batch x (B, C, ...)."""
        x = x.detach().float()
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], unbiased=True)
        self.images += len(x)
        share = len(x) / self.images
        self.mean = self.mean + share * (mean - self.mean)
        self.variance = self.variance + share * (variance - self.variance)


def _synchronized_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """BatchNorm with the statistics of equal batches on all ranks, differentiable through the reduction.

    torch's SyncBatchNorm needs a GPU; this works on any backend, gloo on a CPU included.
    """
    dims = [0, *range(2, x.ndim)]
    wide = x.float()
    moments = torch.stack([wide.mean(dims), wide.square().mean(dims)])
    mean, square = dist_functional.all_reduce(moments) / dist.get_world_size()
    scale = weight * torch.rsqrt(square - mean.square() + eps)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    return (wide * scale.view(shape) + (bias - mean * scale).view(shape)).to(x.dtype)
