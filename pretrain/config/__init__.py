"""Configuration of a pretraining run: typed, validated, and hashed into the run's name.

A config is a preset (a YAML file of ``pretrain/presets/``, or a path) with ``key=value`` overrides on top. Importing this package
does not import torch; checking a config does, since that asks the network for its channels.
"""

from pretrain.config.hashing import NOT_HASHED, changed, config_hash
from pretrain.config.presets import PRESETS, RECIPES, from_dict, load, presets, recipes, transfer_of
from pretrain.config.schema import (
    KEYS,
    AugmentConfig,
    CalibrationConfig,
    Config,
    DataConfig,
    DerivedConfig,
    DiagnosticsConfig,
    ElasticConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RegularizerConfig,
    TrainConfig,
    WidthsConfig,
    to_dict,
    to_yaml,
)
from pretrain.config.skeleton import skeleton
from pretrain.config.validation import (
    check_widths,
    has_predictor,
    switchable_widths,
    usable_widths,
    validate,
)
from pretrain.config.width_grid import trained_widths, width_grid
from rundir.overrides import split_overrides

__all__ = [
    "KEYS",
    "NOT_HASHED",
    "PRESETS",
    "RECIPES",
    "AugmentConfig",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "DerivedConfig",
    "DiagnosticsConfig",
    "ElasticConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RegularizerConfig",
    "TrainConfig",
    "WidthsConfig",
    "changed",
    "check_widths",
    "config_hash",
    "from_dict",
    "has_predictor",
    "load",
    "presets",
    "recipes",
    "skeleton",
    "split_overrides",
    "switchable_widths",
    "to_dict",
    "to_yaml",
    "trained_widths",
    "transfer_of",
    "usable_widths",
    "validate",
    "width_grid",
]
