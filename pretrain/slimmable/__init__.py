"""Networks that work at any width: layers, the width context, calibration, extraction and cost (METHOD section 3)."""

from pretrain.slimmable.base import (
    BlockRule,
    ChannelRule,
    ParametersAtWidth,
    Resize,
    Resized,
    Skippable,
    channels_at,
    make_divisible,
    slimmable_layers,
)
from pretrain.slimmable.calibrate import (
    calibrate,
    calibrated_widths,
    calibration_state,
    is_calibrated,
    load_calibration_state,
)
from pretrain.slimmable.channels import Channels, cut_statistics, reorder
from pretrain.slimmable.cost import Cost, cost, dense_cost
from pretrain.slimmable.cost_table import CostTable
from pretrain.slimmable.extract import extract
from pretrain.slimmable.layers import (
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
from pretrain.slimmable.one_pass import calibrated_features
from pretrain.slimmable.patches import KeepPatches, KeptPatches
from pretrain.slimmable.slices import sliced_once
from pretrain.slimmable.space import Space, of_equal_flops, space_of
from pretrain.slimmable.structure import canonical
from pretrain.slimmable.width import at_width, channel_signature
from rundir.subnet import Subnet, Width, parse_width, width_key

__all__ = [
    "BlockRule",
    "ChannelRule",
    "Channels",
    "Cost",
    "CostTable",
    "KeepPatches",
    "KeptPatches",
    "NotCalibrated",
    "ParametersAtWidth",
    "PrefixLinear",
    "Resize",
    "Resized",
    "Skippable",
    "SlimmableBatchNorm1d",
    "SlimmableBatchNorm2d",
    "SlimmableConv2d",
    "SlimmableLayerNorm",
    "SlimmableLinear",
    "Space",
    "Subnet",
    "Width",
    "at_width",
    "calibrate",
    "calibrated_features",
    "calibrated_widths",
    "calibration_state",
    "canonical",
    "channel_signature",
    "channels_at",
    "cost",
    "cut_statistics",
    "dense_cost",
    "extract",
    "has_batch_norm",
    "is_calibrated",
    "load_calibration_state",
    "make_divisible",
    "make_switchable",
    "of_equal_flops",
    "parse_width",
    "reorder",
    "sliced_once",
    "slimmable_layers",
    "space_of",
    "width_key",
]
