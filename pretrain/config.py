"""Configuration of a pretraining run: typed, validated, and hashed into the run's name.

A config is a preset (a YAML file of ``presets/``, or a path) with ``key=value`` overrides on top. A preset may stand on another one
(``base: cifar100``, a name or a path from its own folder) and says only what differs. Settings that METHOD section 6 gives per base
loss stand in a preset under ``by_base_loss`` and are chosen by ``objective.base_loss``; those of a method compared with stand under
``by_baseline`` and are chosen by ``experiment.baseline``. A file's settings by base loss beat its plain ones, a preset beats its
base, those of the baseline beat both, and an override beats all.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.errors import UserError, suggestion
from pretrain.models import build
from pretrain.models.encoder import Encoder
from pretrain.slimmable import channel_signature, has_batch_norm, width_key

FORMAT = 1
PRESETS = Path(__file__).parent / "presets"


@dataclass
class ExperimentConfig:
    """Which cell of which grid this run is; not part of the hash."""

    grid: str = ""
    cell: str = ""
    preset: str = ""
    setting: str = ""  # in words, of the launch the run belongs to
    baseline: str = ""  # the preset's settings of that baseline are used (``by_baseline``): mocov2, seed, ...


@dataclass
class ModelConfig:
    arch: str = "resnet18_cifar"
    projector_layers: int = 3
    projector_hidden: int = 2048
    projector_out: int = 2048
    predictor_hidden: int = 2048  # of the predictor and the distillation head
    heads: str = "us3l"  # us3l | mocov3 (a last BatchNorm without scale and shift, no bias)
    switchable_bn: bool = False  # a scale and shift of every BatchNorm for each of widths.fixed
    freeze_patch_projection: bool = False  # of a ViT


@dataclass
class ObjectiveConfig:
    base_loss: str = "mse"  # mse | infonce | seed (distillation from a trained network)
    distill_loss: str = "mse"  # mse | infonce | none (the naive baseline: every width its own base loss)
    teacher: str = "online"  # online | momentum
    predictor: str = "auto"  # auto (with the MSE base loss) | true | false
    head: str = "own"  # distillation head: own | shared (the predictor) | none
    distill_weight: float = 1.0
    temperature: float = 0.5
    ema_momentum: float = 0.99
    ema_schedule: str = "constant"  # constant | cosine (to 1 at the end)
    update: str = "per_width"  # per_width (the authors') | accumulate (US-Nets)
    negatives: str = "batch"  # of infonce: batch (all other rows: SimCLR) | keys (the other images' targets: MoCo v3)
    gather_negatives: bool = False
    queue: int = 0  # targets of past steps kept as negatives of infonce (MoCo v2) and anchors of seed; 0: none
    seed_teacher: str = ""  # checkpoint or run directory that base_loss=seed learns from
    seed_student_temperature: float = 0.2
    seed_teacher_temperature: float = 0.01
    width_weights: str = "none"  # weight of the loss at each width: none | slimclr


@dataclass
class WidthsConfig:
    min: float = 0.25
    max: float = 1.0
    sampling: str = "sandwich"  # sandwich | uniform | fixed | dynamic
    per_step: int = 3
    fixed: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])
    slow_start_epochs: int = 0  # only the widest before


@dataclass
class RegularizerConfig:
    kind: str = "l2"  # none | l2 (plain coefficient) | group
    coefficient: float = 2.5e-4  # lambda, half of the weight decay it replaces
    alpha: float = 0.05
    groups: int = 8
    warmup_epochs: int = 0
    decoupled: bool = False  # shrink the weights beside the optimizer (AdamW's decay) instead of through their gradients


@dataclass
class OptimizerConfig:
    name: str = "sgd"  # sgd | adamw
    lr: float = 0.05
    momentum: float = 0.9
    epochs: int = 400
    batch_size: int = 512  # over all processes
    warmup_epochs: int = 0
    schedule: str = "epoch"  # the rate changes every epoch | step
    clip_norm: float = 0.0  # 0: off


@dataclass
class DataConfig:
    name: str = "digits"  # digits | cifar10 | cifar100 | folder
    root: str = ""
    size: int = 32  # pixels of a training view
    limit: int = 0  # training images used, balanced over classes; 0: all
    store_size: int = 0  # images kept at this size; 0: as they are
    workers: int = 0


@dataclass
class AugmentConfig:
    crop_scale: list[float] = field(default_factory=lambda: [0.2, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    interpolation: str = "bilinear"  # bilinear | bicubic
    flip: float = 0.5
    jitter: list[float] = field(default_factory=lambda: [0.4, 0.4, 0.4, 0.1])
    jitter_p: float = 0.8
    grayscale_p: float = 0.2
    blur_p: list[float] = field(default_factory=lambda: [0.0, 0.0])  # first view, second view
    blur_sigma: list[float] = field(default_factory=lambda: [0.1, 2.0])
    solarize_p: list[float] = field(default_factory=lambda: [0.0, 0.0])


@dataclass
class TrainConfig:
    """How a run is executed. Only ``precision`` and ``synchronized_bn`` can change its numbers, beyond rounding."""

    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = "fp32"  # fp32 | bf16 | fp16
    synchronized_bn: bool = False
    channels_last: bool = True
    threads: int = 0  # CPU threads; 0: torch's own choice
    compile: bool = False  # torch.compile for the passes at the widest and the narrowest width, and the teacher's
    recompute: bool = False  # of ViTs: activations within blocks are computed again in the backward pass, to save memory
    checkpoint_minutes: float = 10.0  # within an epoch; one is always written at its end
    checkpoint_epochs: int = 1
    tensorboard: bool = True


@dataclass
class DiagnosticsConfig:
    images: int = 256  # 0: off
    every: int = 1  # epochs
    widths: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])


@dataclass
class CalibrationConfig:
    """BatchNorm statistics stored in the checkpoint at the end; other widths can be calibrated later."""

    widths: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])  # those in range are used
    images: int = 8192  # at most


@dataclass
class EvaluationConfig:
    """How a grid evaluates the run afterwards."""

    protocols: list[str] = field(default_factory=lambda: ["knn", "linear"])
    widths: list[float] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])  # those in range are used


@dataclass
class Config:
    """Everything one pretraining run depends on."""

    format: int = FORMAT
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    seed: int = 100
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    widths: WidthsConfig = field(default_factory=WidthsConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


CHOICES = {
    "model.heads": ("us3l", "mocov3"),
    "objective.base_loss": ("mse", "infonce", "seed"),
    "objective.distill_loss": ("mse", "infonce", "none"),
    "objective.teacher": ("online", "momentum"),
    "objective.predictor": ("auto", "true", "false"),
    "objective.head": ("own", "shared", "none"),
    "objective.negatives": ("batch", "keys"),
    "objective.width_weights": ("none", "slimclr"),
    "objective.ema_schedule": ("constant", "cosine"),
    "objective.update": ("per_width", "accumulate"),
    "widths.sampling": ("sandwich", "uniform", "fixed", "dynamic"),
    "regularizer.kind": ("none", "l2", "group"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("epoch", "step"),
    "data.name": ("digits", "cifar10", "cifar100", "flowers102", "pets", "dtd", "aircraft", "caltech101", "food101", "folder"),
    "train.precision": ("fp32", "bf16", "fp16"),
    "augment.interpolation": ("bilinear", "bicubic"),
}
# Smallest and largest value.
LIMITS = {
    "seed": (0, 2**63 - 1), "model.projector_layers": (1, math.inf), "model.projector_hidden": (1, math.inf),
    "model.projector_out": (1, math.inf), "model.predictor_hidden": (1, math.inf), "objective.distill_weight": (0, math.inf),
    "objective.ema_momentum": (0, 1), "objective.queue": (0, math.inf), "regularizer.coefficient": (0, math.inf),
    "regularizer.warmup_epochs": (0, math.inf),
    "optimizer.momentum": (0, 1), "optimizer.epochs": (1, math.inf), "optimizer.batch_size": (2, math.inf),
    "optimizer.warmup_epochs": (0, math.inf), "optimizer.clip_norm": (0, math.inf), "data.size": (1, math.inf),
    "data.limit": (0, math.inf), "data.store_size": (0, math.inf), "data.workers": (0, math.inf), "augment.flip": (0, 1),
    "augment.jitter_p": (0, 1), "augment.grayscale_p": (0, 1), "train.threads": (0, math.inf),
    "train.checkpoint_minutes": (0, math.inf), "train.checkpoint_epochs": (1, math.inf), "diagnostics.images": (0, math.inf),
    "diagnostics.every": (1, math.inf), "calibration.images": (2, math.inf),
}
ABOVE_ZERO = ("optimizer.lr", "objective.temperature", "objective.seed_student_temperature", "objective.seed_teacher_temperature")
# How many numbers, and their smallest and largest value.
LIST_LIMITS = {
    "augment.crop_scale": (2, 0, 1), "augment.crop_ratio": (2, 0, math.inf), "augment.jitter": (4, 0, math.inf),
    "augment.blur_p": (2, 0, 1), "augment.blur_sigma": (2, 0, math.inf), "augment.solarize_p": (2, 0, 1),
}
ORDERED = ("augment.crop_scale", "augment.crop_ratio", "augment.blur_sigma")  # a range: from, to
WIDTH_LISTS = ("widths.fixed", "diagnostics.widths", "calibration.widths", "evaluation.widths")
# Parts of a preset that a setting chooses from: which section and key, and what that is where nothing says it.
CHOSEN = {"by_base_loss": ("objective", "base_loss", ObjectiveConfig.base_loss),
          "by_baseline": ("experiment", "baseline", ExperimentConfig.baseline)}
# What decides neither the data nor the mathematics of a run is left out of its hash.
NOT_HASHED = ("experiment", "calibration.widths", "data.root", "data.workers", "train.device", "train.channels_last",
              "train.threads", "train.compile", "train.recompute", "train.checkpoint_minutes", "train.checkpoint_epochs",
              "train.tensorboard", "diagnostics", "evaluation")


def presets() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(preset: str, overrides: Sequence[str] = ()) -> Config:
    """The validated config of ``preset`` (a name or a YAML file) with ``key=value`` ``overrides``.

    Raises:
        UserError: unknown preset, key or value, or an impossible combination.
    """
    layers = _layers(preset)
    tables = {key: [layer.pop(key, {}) for layer in layers] for key in CHOSEN}
    _check_tables(tables)
    try:
        chosen = OmegaConf.to_container(OmegaConf.from_dotlist([_checked_override(text) for text in overrides]))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"cannot read the overrides {list(overrides)}: {_first_line(error)}") from None
    for layer in (*layers, chosen):
        _check_keys(layer)
    loss, baseline = (_chosen_by(key, [*layers, chosen]) for key in CHOSEN)
    by_loss = [table.get(loss, {}) for table in tables["by_base_loss"]]
    by_baseline = [table[baseline] for table in tables["by_baseline"] if baseline in table]
    if baseline and not by_baseline:
        known = sorted({name for table in tables["by_baseline"] for name in table})
        instead = f"write one of {', '.join(known)}" if known else "choose another preset, or give it by_baseline settings"
        raise UserError(f"experiment.baseline={baseline}: the preset {preset} has no settings for it; {instead}")
    pairs = [part for pair in zip(layers, by_loss, strict=True) for part in pair]
    return from_dict(_merged(*pairs, *by_baseline, {"experiment": {"preset": Path(preset).stem}}, chosen))


def _chosen_by(key: str, layers: Sequence[dict]) -> str:
    """The value, in the last of ``layers`` that has one, of the setting that chooses among a preset's ``key``."""
    section, name, default = CHOSEN[key]
    values = [default] + [layer[section][name] for layer in layers if name in (layer.get(section) or {})]
    return str(values[-1])


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are options, and those that are ``key=value``, wherever they stand."""
    is_override = [re.match(r"[A-Za-z_][\w.]*=", word) is not None for word in argv]
    return ([word for word, yes in zip(argv, is_override, strict=True) if not yes],
            [word for word, yes in zip(argv, is_override, strict=True) if yes])


def from_dict(raw: dict) -> Config:
    """The validated config of a plain mapping, for example one read from ``config.yaml``."""
    _check_keys(raw)
    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(_schema(), raw))
    except OmegaConfBaseException as error:
        raise UserError(f"{getattr(error, 'full_key', None) or 'config'}: {_first_line(error)}") from None
    cfg.objective.predictor = cfg.objective.predictor.lower()  # YAML's true becomes True on its way to a text
    validate(cfg)
    return cfg


def to_dict(cfg: Config) -> dict:
    """``cfg`` as plain dicts, lists and scalars, every default written out."""
    return dataclasses.asdict(cfg)


def to_yaml(cfg: Config) -> str:
    """``cfg`` as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False)


def config_hash(cfg: Config) -> str:
    """Eight hex digits that name the experiment: equal for equal results, whatever the machine or the labels.

    Only what differs from the defaults of the dataclasses counts, so a run keeps its name when a later version adds keys. A default
    must therefore never change: a new behaviour is a new key whose default is the old one.
    """
    content = to_dict(cfg)
    for dotted in NOT_HASHED:
        *parents, last = dotted.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section.pop(last)
    if content["objective"]["seed_teacher"]:  # by name: a moved tree of runs is the same; its weights are checked in training
        teacher = Path(content["objective"]["seed_teacher"])
        content["objective"]["seed_teacher"] = (teacher.parent if teacher.suffix == ".pt" else teacher).name
    return hashlib.sha256(json.dumps(_difference(content, _defaults(Config)), sort_keys=True).encode()).hexdigest()[:8]


@functools.cache
def _defaults(kind: type[Config]) -> dict:
    return to_dict(kind())


def _difference(content: dict, default: dict) -> dict:
    """What ``content`` says otherwise than ``default``, sections without any left out; lists count whole."""
    found = {key: _difference(value, default[key]) if isinstance(value, dict) else value
             for key, value in content.items() if value != default[key]}
    return {key: value for key, value in found.items() if value != {}}


def validate(cfg: Config) -> None:
    """Everything that can be known to be wrong before a run starts; :class:`UserError` with the mend."""
    if cfg.format != FORMAT:
        raise UserError(f"config format {cfg.format} is unknown; this version reads format {FORMAT}")
    for dotted, allowed in CHOICES.items():
        value = _value(cfg, dotted)
        if value not in allowed:
            raise UserError(f"{dotted}={value} is not known; write one of {', '.join(allowed)}")
    _validate_numbers(cfg)
    _validate_lists(cfg)
    _validate_size(cfg)
    _validate_widths(cfg)
    _validate_objective(cfg)
    _validate_queue(cfg)
    _validate_seed(cfg)
    _validate_regularizer(cfg)


def _validate_numbers(cfg: Config) -> None:
    for name, (low, high) in LIMITS.items():
        value = _value(cfg, name)
        if not low <= value <= high:  # nan too
            raise UserError(f"{name}={value} must be at least {low}" if high == math.inf else
                            f"{name}={value} must be in [{low}, {high}]")
    for name in ABOVE_ZERO:
        value = _value(cfg, name)
        if not 0 < value < math.inf:
            raise UserError(f"{name}={value} must be above 0 and finite")
    if cfg.diagnostics.images in (1, 2):
        raise UserError(f"diagnostics.images={cfg.diagnostics.images} are too few to compare; write 0 (off) or 3 and more")
    if cfg.optimizer.warmup_epochs >= cfg.optimizer.epochs:
        raise UserError(f"optimizer.warmup_epochs={cfg.optimizer.warmup_epochs} must be below optimizer.epochs="
                        f"{cfg.optimizer.epochs}")


def _validate_lists(cfg: Config) -> None:
    for name, (length, low, high) in LIST_LIMITS.items():
        values = _value(cfg, name)
        if len(values) != length or not all(low <= value <= high for value in values):
            raise UserError(f"{name}={values} must be {length} numbers in [{low}, {high}]")
        if name in ORDERED and not 0 < values[0] <= values[1]:
            raise UserError(f"{name}={values} must be the smallest, above 0, and then the largest")
    if cfg.augment.jitter[3] > 0.5:
        raise UserError(f"augment.jitter={cfg.augment.jitter}: the last number, of the hue, must be in [0, 0.5]")
    for name in WIDTH_LISTS:
        if not all(0 < width <= 1 for width in _value(cfg, name)):
            raise UserError(f"{name}={_value(cfg, name)}: a width is above 0 and at most 1")


def _value(cfg: Config, dotted: str):
    return functools.reduce(getattr, dotted.split("."), cfg)


def _validate_size(cfg: Config) -> None:
    patch, size = skeleton(cfg.model.arch).size_divisor, cfg.data.size
    if size % patch:
        near = f"{size // patch * patch} or {(size // patch + 1) * patch}" if size > patch else patch
        raise UserError(f"data.size={size} is not a whole number of the {patch}-pixel patches of {cfg.model.arch}; "
                        f"write data.size={near}")


def _validate_widths(cfg: Config) -> None:
    widths = cfg.widths
    if not 0 < widths.min <= widths.max <= 1:
        raise UserError(f"widths.min={widths.min} and widths.max={widths.max} must satisfy 0 < min <= max <= 1")
    if not 0 <= widths.slow_start_epochs < cfg.optimizer.epochs:
        raise UserError(f"widths.slow_start_epochs={widths.slow_start_epochs} must be in [0, {cfg.optimizer.epochs - 1}]: narrower "
                        "widths train after it")
    _validate_switchable(cfg)
    if widths.min == widths.max:
        return
    if widths.sampling in ("sandwich", "dynamic") and widths.per_step < 2:
        raise UserError(f"widths.per_step={widths.per_step}: the {widths.sampling} rule trains at least the widest and the "
                        "narrowest; write widths.per_step=2 or more")
    if widths.per_step < 1:
        raise UserError(f"widths.per_step={widths.per_step} must be at least 1")
    if widths.sampling == "fixed":
        if widths.max not in widths.fixed:
            raise UserError(f"widths.fixed={widths.fixed} lacks widths.max={widths.max}, the network that guides the others; "
                            "write for example widths.fixed=[1.0,0.5,0.25]")
        check_widths(cfg.model.arch, widths.fixed, widths.min, widths.max, "widths.fixed")
    else:
        check_widths(cfg.model.arch, [widths.max, widths.min], widths.min, widths.max, "widths")


def _validate_switchable(cfg: Config) -> None:
    widths = cfg.widths
    if cfg.train.recompute and not skeleton(cfg.model.arch).can_recompute:
        raise UserError(f"train.recompute=true is for ViTs, which {cfg.model.arch} is not; write train.recompute=false")
    if not cfg.model.switchable_bn:
        return
    if widths.sampling != "fixed" or widths.min == widths.max:
        raise UserError("model.switchable_bn=true trains the widths of widths.fixed only; write widths.sampling=fixed and "
                        "widths.min below widths.max")
    if not widths.fixed or (min(widths.fixed), max(widths.fixed)) != (widths.min, widths.max):
        raise UserError(f"model.switchable_bn=true has no BatchNorm for widths other than widths.fixed={widths.fixed}; write its "
                        f"smallest and largest as widths.min and widths.max (now {widths.min} and {widths.max})")
    if not has_batch_norm(skeleton(cfg.model.arch)):
        raise UserError(f"model.switchable_bn=true: {cfg.model.arch} has no BatchNorm; write model.switchable_bn=false")


def switchable_widths(cfg: Config) -> list[float]:
    """The only widths that a network with switchable BatchNorm has, widest first; none where any width in range will do."""
    return sorted(cfg.widths.fixed, reverse=True) if cfg.model.switchable_bn else []


def usable_widths(cfg: Config, asked: Iterable[float]) -> list[float]:
    """Those of ``asked`` that the trained network can be used at, widest first."""
    only = {width_key(w) for w in switchable_widths(cfg)}
    return sorted((w for w in set(asked) if cfg.widths.min <= w <= cfg.widths.max and (not only or width_key(w) in only)),
                  reverse=True)


def check_widths(arch: str, widths: Sequence[float], low: float, high: float, what: str = "widths",
                 only: Sequence[float] = ()) -> None:
    """:class:`UserError` if a width is outside [low, high], not of ``only`` (unless empty), given twice, or the same network as
    another one.
    """
    for width in widths:
        if only and width_key(width) not in map(width_key, only):
            raise UserError(f"{what}: {width} has no BatchNorm of its own in this network; write widths of {list(only)}")
        if not low <= width <= high:
            raise UserError(f"{what}: {width} is outside the trained range [{low}, {high}]; write widths within it")
    model, seen = skeleton(arch), {}
    for width in widths:
        signature = channel_signature(model, width)
        if signature in seen:
            raise UserError(f"{what}: {seen[signature]} and {width} give the same channels in {arch}; leave one of them out")
        seen[signature] = width


@functools.cache
def skeleton(arch: str) -> Encoder:
    """The architecture without weights: only its channel counts are asked for."""
    with torch.device("meta"):
        return build(arch)


def _validate_objective(cfg: Config) -> None:
    objective = cfg.objective
    if objective.head == "shared" and not has_predictor(objective) and objective.distill_loss != "none":
        raise UserError("objective.head=shared needs the predictor of objective.base_loss=mse (or objective.predictor=true); write "
                        "objective.head=own or none")
    if objective.negatives == "keys" and "infonce" not in (objective.base_loss, objective.distill_loss):
        raise UserError("objective.negatives=keys is about InfoNCE, which neither loss is; write objective.negatives=batch")
    if cfg.model.freeze_patch_projection and not skeleton(cfg.model.arch).is_vit:
        raise UserError(f"model.freeze_patch_projection=true: {cfg.model.arch} has no patch projection; it is for a ViT")
    if cfg.train.precision == "fp16" and cfg.train.device == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; write train.precision=bf16 or fp32 on a CPU")


def has_predictor(objective: ObjectiveConfig) -> bool:
    """Whether the widest network's projections pass a predictor."""
    return objective.base_loss == "mse" if objective.predictor == "auto" else objective.predictor == "true"


def _validate_queue(cfg: Config) -> None:
    objective, keys = cfg.objective, 2 * cfg.optimizer.batch_size
    if objective.queue == 0:
        return
    if objective.queue < keys:
        raise UserError(f"objective.queue={objective.queue} must hold at least the {keys} targets of one step (two views of "
                        f"{cfg.optimizer.batch_size} images), or be 0; write for example objective.queue={4 * keys}")
    if objective.base_loss == "mse":
        raise UserError(f"objective.queue={objective.queue} has no use for objective.base_loss=mse; write objective.queue=0")
    if objective.base_loss == "infonce" and objective.teacher != "momentum":
        raise UserError(f"objective.queue={objective.queue} needs targets that change slowly; write objective.teacher=momentum")
    if objective.negatives != "batch" or objective.gather_negatives:
        raise UserError("objective.queue is what InfoNCE's negatives are (of all processes); leave objective.negatives and "
                        "objective.gather_negatives out")


def _validate_seed(cfg: Config) -> None:
    objective = cfg.objective
    if objective.base_loss != "seed":
        if objective.seed_teacher:
            raise UserError("objective.seed_teacher is used by objective.base_loss=seed only; write that, or leave it out")
        return
    if not objective.seed_teacher:
        raise UserError("objective.base_loss=seed learns from a trained network; write objective.seed_teacher=RUN_DIRECTORY")
    if objective.queue == 0:
        raise UserError("objective.base_loss=seed compares with a queue of the teacher's outputs; write for example "
                        f"objective.queue={8 * cfg.optimizer.batch_size}")
    if objective.distill_loss != "none" or objective.teacher != "online":
        raise UserError("objective.base_loss=seed is every width's only loss and has a teacher of its own; write "
                        "objective.distill_loss=none and objective.teacher=online")


def _validate_regularizer(cfg: Config) -> None:
    reg = cfg.regularizer
    if reg.kind != "group":
        return
    if reg.groups < 2 or not 0 <= reg.alpha * (reg.groups - 1) < 1:
        raise UserError(f"regularizer.alpha={reg.alpha} with regularizer.groups={reg.groups} makes a coefficient negative; "
                        "alpha * (groups - 1) must stay below 1 and groups be at least 2")
    if reg.warmup_epochs > cfg.optimizer.epochs / 2:
        raise UserError(f"regularizer.warmup_epochs={reg.warmup_epochs} is past half of the {cfg.optimizer.epochs} epochs, where "
                        f"alpha must have reached its end; write at most {cfg.optimizer.epochs // 2}")


def _layers(preset: str) -> list[dict]:
    """``preset`` and what it stands on, the lowest base first; nothing is chosen yet."""
    found: list[dict] = []
    path, seen = _preset_path(preset), []
    while path is not None:
        if path in seen:
            raise UserError(f"presets stand on each other in a circle: {' -> '.join(p.stem for p in [*seen, path])}; "
                            "remove one base:")
        seen.append(path)
        raw = _read_preset(path)
        base = raw.pop("base", None)
        found.append(raw)
        path = None if base is None else _preset_path(str(base), path.parent)
    return found[::-1]


def _preset_path(preset: str, folder: Path = Path()) -> Path:
    """The file of a preset's name, or of a path (from ``folder``)."""
    path = (folder / preset if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml").resolve()
    if not path.is_file():
        otherwise = f"choose one of {', '.join(presets())}, or give a .yaml file"
        raise UserError(f"unknown preset {preset!r}; {suggestion(preset, presets(), otherwise=otherwise)}")
    return path


def _read_preset(path: Path) -> dict:
    """One preset file. Raises :class:`UserError` where it is no mapping of sections."""
    try:
        raw = _parsed(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {_first_line(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of sections, not a {type(raw).__name__}")
    return copy.deepcopy(raw)


@functools.cache
def _parsed(text: str):
    return yaml.safe_load(text) or {}


def _check_tables(tables: dict[str, list]) -> None:
    """:class:`UserError` unless each of a preset's chosen parts maps what may be chosen to sections of the config."""
    losses = CHOICES["objective.base_loss"]
    for key, found in tables.items():
        for table in found:
            if not isinstance(table, dict) or (key == "by_base_loss" and not set(table) <= set(losses)):
                names = f"{' and '.join(losses)}, or one of them," if key == "by_base_loss" else "names of baselines"
                raise UserError(f"{key} must map {names} to sections of their own")
            for section in table.values():
                if not isinstance(section, dict):
                    raise UserError(f"{key}: below each name stand sections, as at the top of the preset")
                _check_keys(section)


@functools.cache
def _schema() -> DictConfig:
    return OmegaConf.structured(Config)


def _merged(*layers: dict) -> dict:
    """Nested mappings joined, later ones winning; lists are replaced whole."""
    joined: dict = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(joined.get(key), dict)
            joined[key] = _merged(joined[key], value) if both else value
    return joined


def _checked_override(text: str) -> str:
    if "=" not in text:
        raise UserError(f"override {text!r} is not of the form key=value, for example optimizer.epochs=20")
    return text


def _check_keys(raw: dict, schema: type = Config, prefix: str = "") -> None:
    known = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in raw.items():
        if key not in known:
            otherwise = f"known here: {', '.join(prefix + k for k in known)}"
            raise UserError(f"unknown key {prefix}{key}; {suggestion(key, known, prefix, otherwise)}")
        section = known[key].default_factory
        if dataclasses.is_dataclass(section):
            if not isinstance(value, dict):
                raise UserError(f"{prefix}{key} is a section; write {prefix}{key}.NAME=VALUE")
            _check_keys(value, section, f"{prefix}{key}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
