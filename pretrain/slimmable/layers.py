"""Slimmable layers: any leading slice of channels forms a smaller network.

Every layer keeps its first ``channels_at(C, w)`` channels at width ``w`` (METHOD section 3; US-Nets, arXiv 1903.05134,
section 3.1). They are cut within the graph, so a gradient reaches exactly the weights that a width uses. Which side of a layer is
sliced is fixed when it is built: the network's input and the inside of the heads keep their full size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.distributed import several, sum_over_processes
from pretrain.slimmable.base import ChannelRule, Slimmable
from pretrain.slimmable.slices import cut
from pretrain.slimmable.small_maps import small_map_conv2d, suits
from rundir.subnet import Subnet, Width, width_key


def _rule(channels: int | ChannelRule, sliced: bool, expansion: int = 1) -> ChannelRule:
    return channels if isinstance(channels, ChannelRule) else ChannelRule(channels, sliced, expansion)


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


class SlimmableConv2d(Slimmable):
    """2-d convolution over (B, C_in(w), H, W); depthwise where ``depthwise`` (groups follow the channels).

    Args:
        in_channels, out_channels: a count, or a rule of its own for what a width keeps of them.
        slice_in, slice_out: whether that side follows the width.
        expansion_in, expansion_out: see :class:`ChannelRule`.
        kernels: where a sub-network can name the kernel of ``kernel_stage``: its sides, all odd, ``kernel_size`` the first, largest
            first. Padding is then half of it. A smaller kernel is the centre of the next larger one, times a learned square matrix
            over its places that all channels share, at first the identity (once-for-all, arXiv 1908.09791, section 3.3).
    """

    def __init__(
        self,
        in_channels: int | ChannelRule,
        out_channels: int | ChannelRule,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
        depthwise: bool = False,
        slice_in: bool = True,
        slice_out: bool = True,
        expansion_in: int = 1,
        expansion_out: int = 1,
        kernels: Sequence[int] = (),
        kernel_stage: int = 0,
    ):
        super().__init__()
        self.channels_in = _rule(in_channels, slice_in, expansion_in)
        self.channels_out = _rule(out_channels, slice_out, expansion_out)
        in_channels, out_channels = self.channels_in.channels, self.channels_out.channels
        if depthwise and in_channels != out_channels:
            raise ValueError(f"a depthwise convolution has as many outputs as inputs, not {in_channels} and {out_channels}")
        self.kernel_size, self.stride, self.padding, self.depthwise = kernel_size, stride, padding, depthwise
        self.weight = nn.Parameter(torch.empty(out_channels, 1 if depthwise else in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if len(kernels) > 1:
            if list(kernels) != sorted(kernels, reverse=True) or kernels[0] != kernel_size or padding != kernel_size // 2:
                raise ValueError(f"kernels {list(kernels)} must go down from {kernel_size}, with half of that as padding")
            self.kernels, self.kernel_stage = tuple(kernels), kernel_stage
            self.transforms = nn.ParameterList(nn.Parameter(torch.eye(side**2)) for side in self.kernels[1:])

    def kernel_at(self, width: Width) -> int:
        """Side of the kernel at ``width``."""
        named = width.kernel if isinstance(width, Subnet) and self.kernels else None
        return self.kernel_size if named is None else named[self.kernel_stage]

    def active(self, width: Width) -> tuple[Tensor, Tensor | None]:
        """Weight (C_out(w), C_in(w) or 1, k, k) and bias (C_out(w),) at ``width``."""
        out = self.channels_out(width)
        inputs = 1 if self.depthwise else self.channels_in(width)
        weight = cut(self.weight, out, inputs)
        if self.kernels:
            weight = self._smaller(weight, self.kernel_at(width))
        return weight, None if self.bias is None else cut(self.bias, out)

    def _smaller(self, weight: Tensor, side: int) -> Tensor:
        """The kernel (O, I, side, side) made of the full one, step by step."""
        for size, transform in zip(self.kernels[1:], self.transforms, strict=True):
            if size < side:
                break
            rim = (weight.shape[-1] - size) // 2
            centre = weight[..., rim : rim + size, rim : rim + size]
            weight = F.linear(centre.flatten(2), transform).view(*weight.shape[:2], size, size)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.sliced()
        groups = weight.shape[0] if self.depthwise else 1
        padding = weight.shape[-1] // 2 if self.kernels else self.padding
        if groups == 1 and bias is None and suits(x, weight, self.stride, padding):
            return small_map_conv2d(x, weight, self.stride, padding)
        return F.conv2d(x, weight, bias, self.stride, padding, groups=groups)

    def extract_at(self, width: Width) -> nn.Conv2d:
        weight, bias = map(_copied, self.active(width))
        groups = weight.shape[0] if self.depthwise else 1
        side = weight.shape[-1]
        dense = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            side,
            self.stride,
            side // 2 if self.kernels else self.padding,
            groups=groups,
            bias=bias is not None,
            device="meta",
        )
        dense.weight = nn.Parameter(weight)
        dense.bias = None if bias is None else nn.Parameter(bias)
        return dense


class SlimmableLinear(Slimmable):
    """Linear layer over (..., C_in(w)) -> (..., parts * C_out(w)).

    Args:
        in_features, out_features: a count, or a rule of its own for what a width keeps of them.
        slice_in, slice_out: whether that side follows the width.
        parts: the output is this many equal runs of ``out_features`` (query, key and value), and each keeps its first.
        prefix: the input may be wider than C_in(w), and its first features are read.

    ``grouped_inputs`` tells the group regularizer that the input features are the groups (METHOD section 5).
    """

    grouped_inputs = False

    def __init__(
        self,
        in_features: int | ChannelRule,
        out_features: int | ChannelRule,
        *,
        bias: bool = True,
        slice_in: bool = True,
        slice_out: bool = True,
        parts: int = 1,
        prefix: bool = False,
    ):
        super().__init__()
        self.channels_in, self.channels_out = _rule(in_features, slice_in), _rule(out_features, slice_out)
        self.parts, self.prefix = parts, prefix
        # torch's own initialisation
        plain = nn.Linear(self.channels_in.channels, parts * self.channels_out.channels, bias=bias)
        self.weight, self.bias = plain.weight, plain.bias

    def active(self, width: Width) -> tuple[Tensor, Tensor | None]:
        """Weight (parts * C_out(w), C_in(w)) and bias (parts * C_out(w),) at ``width``."""
        out, inputs = self.channels_out(width), self.channels_in(width)
        if self.parts == 1:
            return cut(self.weight, out, inputs), None if self.bias is None else cut(self.bias, out)
        weight = self.weight.unflatten(0, (self.parts, -1))[:, :out, :inputs].flatten(0, 1)
        return weight, None if self.bias is None else self.bias.unflatten(0, (self.parts, -1))[:, :out].flatten()

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.sliced()
        return F.linear(x[..., : weight.shape[1]] if self.prefix else x, weight, bias)

    def extract_at(self, width: Width) -> nn.Linear:
        weight, bias = map(_copied, self.active(width))
        kind = PrefixLinear if self.prefix else nn.Linear
        dense = kind(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        dense.weight = nn.Parameter(weight)
        dense.bias = None if bias is None else nn.Parameter(bias)
        return dense


class PrefixLinear(nn.Linear):
    """``nn.Linear`` of the first ``in_features`` features of x (..., C), C at least that many."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., : self.in_features])


class SlimmableLayerNorm(Slimmable):
    """LayerNorm over the last dimension of (..., C(w)); ``channels`` is a count or a rule of its own."""

    def __init__(self, channels: int | ChannelRule, *, slice_channels: bool = True, eps: float = 1e-6):
        super().__init__()
        self.channels_out, self.eps = _rule(channels, slice_channels), eps
        self.weight = nn.Parameter(torch.ones(self.channels_out.channels))
        self.bias = nn.Parameter(torch.zeros(self.channels_out.channels))

    def active(self, width: Width) -> tuple[Tensor, Tensor]:
        """Scale and shift (C(w),) at ``width``."""
        channels = self.channels_out(width)
        return cut(self.weight, channels), cut(self.bias, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.sliced()
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)

    def extract_at(self, width: Width) -> nn.LayerNorm:
        weight, bias = map(_copied, self.active(width))
        dense = nn.LayerNorm(len(weight), self.eps, device="meta")
        dense.weight, dense.bias = nn.Parameter(weight), nn.Parameter(bias)
        return dense


class NotCalibrated(RuntimeError):
    """A BatchNorm was used in evaluation mode at a width whose statistics were never computed."""


class _SlimmableBatchNorm(Slimmable):
    """BatchNorm that trains on batch statistics and tracks none (METHOD section 3).

    One running mean cannot serve all widths, so evaluation uses ``statistics[width]`` = (mean, unbiased variance), each
    (C(w),) float32, which :func:`pretrain.slimmable.calibrate.calibrate` computes. They are not part of ``state_dict``.
    Without ``affine`` there is neither scale nor shift.
    With ``synchronized`` set and torch.distributed initialised, batch statistics are those of all ranks.
    With ``collecting`` set, a batch in evaluation mode gives the statistics of the present width, and is normalised by them.
    With ``passes`` set, evaluation mode hands on what it gets (:func:`pretrain.slimmable.folding.folded`).
    """

    collecting = False
    passes = False

    def __init__(
        self,
        channels: int | ChannelRule,
        *,
        slice_channels: bool = True,
        expansion: int = 1,
        affine: bool = True,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.channels_out = _rule(channels, slice_channels, expansion)
        self.eps, channels = eps, self.channels_out.channels
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.switch: dict[Width, int] = {}  # width -> index in weights and biases
        self.synchronized = False
        self.statistics: dict[Width, tuple[Tensor, Tensor]] = {}

    def make_switchable(self, widths: Sequence[Width]) -> None:
        """Give each of ``widths`` a scale and a shift (C(w),) of its own, started as the present ones; no other width works then.

        Switchable BatchNorm (Slimmable networks, arXiv 1812.08928, section 3).
        """
        if self.weight is None:
            return
        starts = [self.active(width) for width in widths]
        self.weights = nn.ParameterList(_copied(weight) for weight, _ in starts)
        self.biases = nn.ParameterList(_copied(bias) for _, bias in starts)
        self.weight = self.bias = None
        self.switch = {width_key(width): index for index, width in enumerate(widths)}

    def active(self, width: Width) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift (C(w),) at ``width``.

        Raises:
            ValueError: the layer is switchable and ``width`` is not one of its widths.
        """
        if self.switch:
            index = self.switch.get(width_key(width))
            if index is None:
                raise ValueError(f"a switchable BatchNorm has no parameters for width {width}; its widths are {list(self.switch)}")
            return self.weights[index], self.biases[index]
        channels = self.channels_out(width)
        return (None, None) if self.weight is None else (cut(self.weight, channels), cut(self.bias, channels))

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU where it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def forward(self, x: Tensor) -> Tensor:
        if self.passes and not self.training:
            return x
        weight, bias = self.sliced()
        if not self.training:
            if self.collecting:
                self.statistics[width_key(self.width)] = moments(x)
            mean, variance = self.statistics_at(self.width)
            return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=self.eps)
        if self.synchronized and several():
            return _synchronized_batch_norm(x, weight, bias, self.eps)
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    @property
    def calibrated(self) -> bool:
        """Whether there are statistics at the present width."""
        return width_key(self.width) in self.statistics

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Factor and summand (C(w),) to which evaluation mode comes down at the present width; :class:`NotCalibrated`."""
        mean, variance = self.statistics_at(self.width)
        scale = torch.rsqrt(variance + self.eps)
        weight, bias = self.sliced()
        if weight is None or bias is None:
            return scale, -mean * scale
        return scale * weight, bias - mean * scale * weight

    def statistics_at(self, width: Width) -> tuple[Tensor, Tensor]:
        """Calibrated (mean, variance) at ``width``; :class:`NotCalibrated` where there are none."""
        try:
            return self.statistics[width_key(width)]
        except KeyError:
            known = ", ".join(map(str, sorted(self.statistics))) or "none"
            raise NotCalibrated(
                f"BatchNorm has no statistics for width {width} (calibrated: {known}); "
                f"call calibrate(model, [{width}], batches) first"
            ) from None

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        self.statistics = {w: (fn(mean), fn(variance)) for w, (mean, variance) in self.statistics.items()}
        return self

    def extract_at(self, width: Width) -> nn.Module:
        """A torch BatchNorm with the statistics of ``width``; one that uses batch statistics if there are none."""
        weight, bias = map(_copied, self.active(width))
        dense = self.dense_type(
            self.channels_out(width),
            eps=self.eps,
            affine=weight is not None,
            device=self.device,
            track_running_stats=width_key(width) in self.statistics,
        )
        if weight is not None:
            dense.weight, dense.bias = nn.Parameter(weight), nn.Parameter(bias)
        if dense.track_running_stats:
            dense.running_mean, dense.running_var = map(_copied, self.statistics_at(width))
        return dense


class SlimmableBatchNorm2d(_SlimmableBatchNorm):
    """BatchNorm over (B, C(w), H, W)."""

    dense_type = nn.BatchNorm2d


class SlimmableBatchNorm1d(_SlimmableBatchNorm):
    """BatchNorm over (B, C(w))."""

    dense_type = nn.BatchNorm1d


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer of ``model`` is a slimmable BatchNorm."""
    return any(isinstance(module, _SlimmableBatchNorm) for module in model.modules())


def make_switchable(model: nn.Module, widths: Sequence[Width]) -> None:
    """Give every BatchNorm of ``model`` a scale and a shift for each of ``widths``."""
    for module in list(model.modules()):
        if isinstance(module, _SlimmableBatchNorm):
            module.make_switchable(widths)


def _synchronized_batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """BatchNorm with the statistics of equal batches on all ranks, differentiable through the reductions.

    torch's SyncBatchNorm needs a GPU; this works on any backend, gloo on a CPU included. The variance is that of the centred
    values: the mean of squares less the squared mean loses all digits where a channel's mean is far from zero.
    """
    dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
    mean = sum_over_processes(wide(x).mean(dims)) / dist.get_world_size()
    centred = wide(x) - mean.view(shape)
    variance = sum_over_processes(centred.square().mean(dims)) / dist.get_world_size()
    scale = torch.rsqrt(variance + eps) if weight is None else weight * torch.rsqrt(variance + eps)
    normalised = centred * scale.view(shape)
    return (normalised if bias is None else normalised + bias.view(shape)).to(x.dtype)


FEW_PIXELS = 64  # of a map of 6 x 6 torch takes 54 us and products 118 (256 images, 32 channels); of 12 x 12 it is the slower one


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (C,) of x (B, C, ...), in float32 or as wide as it is.

    The variance is that of the centred values. Sums are products with a vector of ones, which a CPU computes an order of magnitude
    faster than ``torch.var_mean`` over such dimensions; maps of a few pixels are left to torch's own BatchNorm, which takes half as
    long there.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and x[0, 0].numel() <= FEW_PIXELS:
        mean, variance = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
        torch.batch_norm_update_stats(x, mean, variance, 1.0)
        return mean, variance
    flat = wide(x).movedim(1, -1).flatten(0, -2)
    ones = flat.new_ones(len(flat))
    mean = ones @ flat / len(flat)
    return mean, ones @ (flat - mean).square_() / (len(flat) - 1)


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()
