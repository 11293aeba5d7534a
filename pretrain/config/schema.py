"""What a pretraining run depends on: every section and key, with its default and its constraint.

A default never changes (see :func:`pretrain.config.config_hash`).
"""

from __future__ import annotations

import copy
import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

import yaml

from pretrain.config.methods import BASE_LOSS, DISTILL_LOSS, REGULARIZER, TEACHER, WIDTH_RULE, method
from rundir.arguments import LARGEST_SEED, MOST_BATCH, MOST_CHANNELS, MOST_EPOCHS, MOST_PIXELS, MOST_WORKERS
from rundir.fields import (
    choice,
    dotted_keys,
    named_options,
    names,
    network_list,
    number,
    number_list,
    pixel_list,
    share_list,
    whole_list,
    width_list,
)
from rundir.schema import FORMAT
from rundir.subnet import DIMENSIONS

DATA_SETS = (
    "digits",
    "cifar10",
    "cifar100",
    "flowers102",
    "pets",
    "dtd",
    "aircraft",
    "caltech101",
    "food101",
    "folder",
    "webdataset",
)
_SCALARS = (str, int, float, bool, type(None))
PROTOCOLS = ("knn", "linear_fast", "linear", "finetune")  # of classification; transfer runs them


@dataclass
class ExperimentConfig:
    """Which cell of which grid this run is; not part of the hash."""

    grid: str = ""
    cell: str = ""
    preset: str = ""
    setting: str = ""  # in words, of the launch the run belongs to
    overrides: str = ""  # other settings that the launch changed from the preset, in words
    baseline: str = ""  # of runs from before there were recipes
    recipe: str = ""  # the method's settings (``pretrain/recipes``), which layer between the preset and the overrides


@dataclass
class ModelConfig:
    arch: str = "resnet18_cifar"
    projector_layers: int = number(3, 1, 100)
    projector_hidden: int = number(2048, 1, MOST_CHANNELS)
    projector_out: int = number(2048, 1, MOST_CHANNELS)
    # directions at the projector's end; its output is the cosines with them (SwAV, DINO); 0: none
    prototypes: int = number(0, 0, MOST_CHANNELS)
    predictor_hidden: int = number(2048, 1, MOST_CHANNELS)  # of the predictor and the distillation head
    heads: str = choice("us3l", "mocov3")  # mocov3: a last BatchNorm without scale and shift, no bias
    projector_last_norm: bool = False  # the projector alone ends as mocov3's (SimSiam)
    projector_norm: bool = True  # BatchNorm between the projector's layers
    conv_init: str = choice("he", "torch")  # Kaiming normal over the fan-out, torch's default
    projector_init: str = choice("torch", "normal")  # of its first layer: torch's default, N(0, 0.01)
    distill_head_init: str = choice("torch", "predictor")  # torch's default, a copy of the predictor
    switchable_bn: bool = False  # a scale and shift of every BatchNorm for each of widths.fixed
    freeze_patch_projection: bool = False  # of a ViT


class Predictor(enum.Enum):
    """Whether the widest network's projections pass a predictor, in the words of ``objective.predictor``."""

    AUTO = "auto"  # with the MSE base loss
    YES = "true"
    NO = "false"


@dataclass
class ObjectiveConfig:
    base_loss: str = method(BASE_LOSS, "mse")  # a file of pretrain/objective/base_losses, or FILE.py:NAME
    # a file of pretrain/objective/distill_losses, or FILE.py:NAME; none: the naive baseline, every width its own base loss
    distill_loss: str = method(DISTILL_LOSS, "mse")
    teacher: str = method(TEACHER, "online")  # a file of pretrain/objective/teachers, or FILE.py:NAME
    base_options: dict[str, Any] = named_options()  # of the base loss: what is not at its default
    distill_options: dict[str, Any] = named_options()
    teacher_options: dict[str, Any] = named_options()
    predictor: str = choice(*(state.value for state in Predictor))
    head: str = choice("own", "shared", "none")  # distillation head; shared: the predictor
    distill_weight: float = number(1.0)
    sub_base_weight: float = number(0.0, 0, 1)  # share of the base loss in the loss of narrower widths, next to distillation
    kl_temperature: float = number(5.0, above=0)
    same_view_weight: float = number(0.0)  # of distillation from the widest's output of the same view, added likewise (POA)
    feature_weight: float = number(0.0)  # of feature distillation, added to the loss of narrower widths; 0: none
    temperature: float = number(0.5, above=0)
    ema_momentum: float = number(0.99, 0, 1)
    ema_schedule: str = choice("constant", "cosine")  # cosine: to 1 at the end
    ema_update: str = choice("step", "pass")  # the average moves, and gives targets: once a step, or anew at each width's pass
    update: str = choice("per_width", "accumulate")  # the authors', US-Nets'
    negatives: str = choice("batch", "keys")  # of infonce: all other rows (SimCLR), the other images' targets (MoCo v3)
    gather_negatives: bool = False
    two_sided: bool = False  # of infonce as base loss: the gradient passes through both views (SimCLR)
    pairings: str = choice("mean", "sum", "one")  # both averaged, both added, the first view as query and the second as key
    shuffle: bool = False  # of virtual processes: the images that the teacher normalises together come from all of them (MoCo)
    queue: int = number(0, 0, 2**24)  # targets of past steps kept as negatives of infonce (MoCo v2) and anchors of seed; 0: none
    seed_teacher: str = ""  # checkpoint or run directory that base_loss=seed learns from
    seed_student_temperature: float = number(0.2, above=0)
    seed_teacher_temperature: float = number(0.01, above=0)
    seed_teacher_bn: str = choice("calibrated", "batch")  # statistics of the teacher's BatchNorms
    seed_loss: str = choice("similarities", "mse")  # mse: to the teacher's output, without a queue
    width_weights: str = choice("none", "slimclr")  # weight of the loss at each width


@dataclass
class WidthsConfig:
    min: float = number(0.25, above=0, high=1)
    max: float = number(1.0, above=0, high=1)
    sampling: str = method(WIDTH_RULE, "sandwich")  # a file of pretrain/objective/width_rules, or FILE.py:NAME
    options: dict[str, Any] = named_options()  # of the rule: what is not at its default
    per_step: int = number(3, 1, 1000)
    doubled_ends: bool = False  # of the sandwich rule: the widest and the narrowest twice (as found in US-Net + BYOL)
    fixed: list[float] = width_list(1.0, 0.75, 0.5, 0.25)
    slow_start_epochs: int = number(0, 0, MOST_EPOCHS)  # only the widest before
    grid: int = number(0, 0, 1000)  # widths are the nearest of so many equally spaced from min to max; 0: as they are drawn


@dataclass
class ElasticConfig:
    """What varies in training besides one width for all stages: a step's sub-networks; nothing where ``vary`` is empty."""

    vary: list[str] = names(allowed=DIMENSIONS)  # width too, where it is to vary along with the others
    by_stage: bool = False  # a width for each stage
    schedule: str = choice("together", "progressive")  # progressive: one dimension of vary after the other
    resolutions: list[int] = whole_list(high=MOST_PIXELS, empty=True)  # sides of images; the largest is data.size


@dataclass
class RegularizerConfig:
    kind: str = method(REGULARIZER, "l2")  # a file of pretrain/objective/regularizers, or FILE.py:NAME
    options: dict[str, Any] = named_options()  # of the regularizer: what is not at its default
    variant: str = choice("paper", "authors")  # authors: with the exceptions of their code (pretrain/objective/regularization.py)
    coefficient: float = number(2.5e-4)  # lambda, half of the weight decay it replaces
    alpha: float = number(0.05, 0, 1)
    groups: int = number(8, 1, 1000)
    warmup_epochs: int = number(0, 0, MOST_EPOCHS)
    decoupled: bool = False  # shrink the weights next to the optimizer (AdamW's decay) instead of through their gradients


@dataclass
class OptimizerConfig:
    name: str = choice("sgd", "adamw")
    lr: float = number(0.05, above=0)
    momentum: float = number(0.9, 0, 1)
    epochs: int = number(400, 1, MOST_EPOCHS)
    batch_size: int = number(512, 2, MOST_BATCH)  # over all processes
    accumulate_steps: int = number(1, 1, 10000)  # steps whose gradients, averaged, make one update
    # parts of the batch with BatchNorm statistics and negatives of their own; 0: the processes there are
    virtual_processes: int = number(0, 0, 4096)
    warmup_epochs: int = number(0, 0, MOST_EPOCHS)
    schedule: str = choice("epoch", "step")  # the rate changes every epoch or step
    clip_norm: float = number(0.0)  # 0: off


@dataclass
class DataConfig:
    name: str = choice(*DATA_SETS)
    root: str = ""
    fingerprint: str = ""  # of a user's own images: which these are (pretrain.data.fingerprint); filled in by itself
    size: int = number(32, 1, MOST_PIXELS)  # pixels of a training view
    limit: int = number(0, 0, 2**40)  # training images used, balanced over classes; 0: all
    store_size: int = number(0, 0, MOST_PIXELS)  # images kept at this size; 0: as they are
    workers: int = number(0, 0, MOST_WORKERS)
    draft: bool = False  # JPEGs of training crops are decoded at a half, a quarter or an eighth, where crops still have the pixels
    drop_last: bool = True  # leave out the last, incomplete batch of an epoch
    mean: list[float] = pixel_list()  # of the pixels, RGB in [0, 1]; empty: the data set's own
    std: list[float] = pixel_list(above=0)


@dataclass
class AugmentConfig:
    crop_scale: list[float] = number_list(0.2, 1.0, high=1, ordered=True)
    crop_ratio: list[float] = number_list(0.75, 1.3333333333333333, ordered=True)
    interpolation: str = choice("bilinear", "bicubic")
    flip: float = number(0.5, 0, 1)
    jitter: list[float] = number_list(0.4, 0.4, 0.4, 0.1)
    jitter_p: float = number(0.8, 0, 1)
    grayscale_p: float = number(0.2, 0, 1)
    blur_p: list[float] = number_list(0.0, 0.0, high=1)  # first view, second view
    blur_sigma: list[float] = number_list(0.1, 2.0, ordered=True)
    solarize_p: list[float] = number_list(0.0, 0.0, high=1)


@dataclass
class TrainConfig:
    """How a run is executed. Only ``precision``, ``tf32`` and ``synchronized_bn`` can change its numbers, beyond rounding."""

    device: str = "auto"  # auto | cpu | cuda | cuda:N
    # auto: bf16 where the machine computes it, else fp32; settled before the run has a name (pretrain.identity)
    precision: str = choice("fp32", "bf16", "fp16", "auto")
    synchronized_bn: bool = False
    channels_last: bool = True
    threads: int = number(0, 0, 4096)  # CPU threads; 0: torch's own choice
    # float32 products of a GPU with 10 bits of mantissa; torch: as torch has it, in convolutions but not in matrix products
    tf32: str = choice("torch", "all", "none")
    # torch.compile for the teacher's passes and those at the widest and the narrowest width, or at all where they are few (graphs)
    compile: bool = False
    graphs: bool = False  # CUDA graphs of all passes, where there are few widths
    reduce_once: bool = False  # of several processes: gradients are averaged before the update, not after each pass
    recompute: bool = False  # of ViTs: activations within blocks are computed again in the backward pass, to save memory
    checkpoint_minutes: float = number(10.0)  # within an epoch; one is always written at its end
    checkpoint_epochs: int = number(1, 1, MOST_EPOCHS)
    tensorboard: bool = True


@dataclass
class DiagnosticsConfig:
    images: int = number(256, 0, 2**31)  # 0: off
    every: int = number(1, 1, MOST_EPOCHS)  # epochs
    widths: list[float] = width_list(1.0, 0.75, 0.5, 0.25)


@dataclass
class CalibrationConfig:
    """BatchNorm statistics stored in the checkpoint at the end; other widths can be calibrated later."""

    widths: list[Any] = network_list(1.0, 0.75, 0.5, 0.25)  # and sub-networks; those in range are used
    images: int = number(8192, 2, 2**31)  # at most
    average: str = choice("cumulative", "running")  # of the batches' statistics: all alike, or moved by 0.1 a batch (the authors')
    views: str = choice("plain", "crops", "pretraining")  # without augmentation, random crops of evaluation, as in pretraining
    passes: int = number(1, 1, 1000)  # over the images
    batch_size: int = number(256, 2, 2**20)


@dataclass
class EvaluationConfig:
    """How a grid evaluates the run afterwards."""

    protocols: list[str] = names("knn", "linear", allowed=PROTOCOLS)
    label_fractions: list[float] = share_list(1.0)  # of the training labels, for each protocol
    label_seeds: list[int] = whole_list(0, high=LARGEST_SEED)  # which labels those of a share below 1 are; scores are averaged
    widths: list[Any] = network_list(1.0, 0.75, 0.5, 0.25)  # and sub-networks; those in range are used
    # what is scored for a width: itself, or the sub-network along this dimension (all: all of elastic.vary) with as many FLOPs
    dimension: str = choice("width", *(name for name in DIMENSIONS if name != "width"), "all")


@dataclass
class DerivedConfig:
    """A network that is made without training, as a control: nothing of the objective and the optimizer is used then."""

    # none: train it; untrained: as initialised; sliced: another run's full width; pruned: that, its channels by importance
    network: str = choice("none", "untrained", "sliced", "pruned")
    source: str = ""  # run directory (or checkpoint) of the network that is sliced or pruned
    importance: str = choice("weights", "variance", "svd")  # of a channel, for pruning
    calibrate: bool = True  # false: narrower widths take the first of the full width's BatchNorm statistics


@dataclass
class Config:
    """Everything one pretraining run depends on."""

    format: int = FORMAT
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    seed: int = number(100, 0, LARGEST_SEED)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    widths: WidthsConfig = field(default_factory=WidthsConfig)
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    derived: DerivedConfig = field(default_factory=DerivedConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


KEYS = dotted_keys(Config)


def to_dict(cfg: Config) -> dict:
    """``cfg`` as plain dicts, lists and scalars, every default written out."""
    return _plain(cfg)  # what dataclasses.asdict gives, in a seventh of the time: a grid of 10,000 cells asks 70,000 times


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: own if type(own) in _SCALARS else _plain(own) for key, own in value.items()}
    if kind is list:
        return [own if type(own) in _SCALARS else _plain(own) for own in value]
    return _plain(vars(value)) if dataclasses.is_dataclass(value) else copy.deepcopy(value)


def to_yaml(cfg: Config) -> str:
    """``cfg`` as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False)
