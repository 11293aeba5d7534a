"""Networks that work at any width: layers, the width context, calibration, extraction and cost (METHOD section 3)."""

from pretrain.slimmable.calibrate import (
    calibrate,
    calibrated_widths,
    calibration_state,
    is_calibrated,
    load_calibration_state,
)
from pretrain.slimmable.channels import Channels, cut_statistics, reorder
from pretrain.slimmable.cost import Cost, cost, dense_cost
from pretrain.slimmable.extract import extract
from pretrain.slimmable.layers import (
    ChannelRule,
    NotCalibrated,
    PrefixLinear,
    SlimmableBatchNorm1d,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    SlimmableLayerNorm,
    SlimmableLinear,
    has_batch_norm,
    make_switchable,
)
from pretrain.slimmable.slices import sliced_once
from pretrain.slimmable.width import (
    ParametersAtWidth,
    at_width,
    channel_signature,
    channels_at,
    make_divisible,
    slimmable_layers,
    width_key,
)

__all__ = [
    "ChannelRule", "Channels", "Cost", "NotCalibrated", "ParametersAtWidth", "PrefixLinear", "SlimmableBatchNorm1d",
    "SlimmableBatchNorm2d", "SlimmableConv2d", "SlimmableLayerNorm", "SlimmableLinear", "at_width", "calibrate",
    "calibrated_widths", "calibration_state", "channel_signature", "channels_at", "cost", "cut_statistics", "dense_cost", "extract",
    "has_batch_norm", "is_calibrated", "load_calibration_state", "make_divisible", "make_switchable", "reorder", "sliced_once",
    "slimmable_layers", "width_key",
]
