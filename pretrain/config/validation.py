"""Everything about a config that can be checked before a run starts.

Constraints on single values are in :mod:`pretrain.config.schema`; this module checks combinations of values, and networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pretrain.config.elastic import check_elastic
from pretrain.config.methods import check as check_parts
from pretrain.config.methods import is_own
from pretrain.config.schema import Config, ObjectiveConfig, Predictor
from pretrain.config.skeleton import skeleton
from pretrain.config.width_grid import trained_widths
from rundir.errors import Setting, UserError
from rundir.schema import FORMAT
from rundir.setting import OWN_IMAGES
from rundir.subnet import Subnet, Width, narrowest, parse_width, widest, width_key
from rundir.typed import check_values, shown

STUDENTS_OWN = ("online", "chain", "ensemble")  # teachers whose targets are what the student makes of its views in the same step


def validate(cfg: Config) -> None:
    """Check everything that can be checked before a run starts. Raises :class:`UserError` with a suggested fix."""
    if cfg.format != FORMAT:
        raise UserError(f"config format {cfg.format} is unknown; this version reads format {FORMAT}")
    check_values(cfg)
    _validate_numbers(cfg)
    _validate_size(cfg)
    _validate_widths(cfg)
    _validate_switchable(cfg)
    _validate_objective(cfg)
    _validate_heads(cfg)
    _validate_distillation(cfg)
    _validate_parts(cfg)
    _validate_queue(cfg)
    _validate_seed(cfg)
    _validate_regularizer(cfg)
    _validate_execution(cfg)
    _validate_derived(cfg)
    check_elastic(cfg)
    check_parts(cfg)
    if cfg.data.fingerprint and cfg.data.name not in OWN_IMAGES:
        raise UserError(
            f"data.fingerprint={shown(cfg.data.fingerprint)} applies to data.name={' or '.join(OWN_IMAGES)} only; leave it out"
        )


def _validate_numbers(cfg: Config) -> None:
    if cfg.diagnostics.images in (1, 2):
        raise UserError(f"diagnostics.images={cfg.diagnostics.images} are too few to compare; set 0 (off) or at least 3")
    if cfg.optimizer.warmup_epochs >= cfg.optimizer.epochs:
        raise UserError(
            f"optimizer.warmup_epochs={cfg.optimizer.warmup_epochs} must be below optimizer.epochs={cfg.optimizer.epochs}; "
            f"set optimizer.warmup_epochs={cfg.optimizer.epochs - 1} or less"
        )
    if cfg.augment.jitter[3] > 0.5:
        raise UserError(f"augment.jitter={cfg.augment.jitter}: the last number, of the hue, must be in [0, 0.5]")


def _validate_size(cfg: Config) -> None:
    patch, size = skeleton(cfg.model.arch).size_divisor, cfg.data.size
    if size % patch:
        near = f"{size // patch * patch} or {(size // patch + 1) * patch}" if size > patch else patch
        raise UserError(
            Setting("data.size", size),
            f" is not a whole number of the {patch}-pixel patches of {cfg.model.arch}; ",
            "set ",
            Setting("data.size", near),
        )


def _validate_widths(cfg: Config) -> None:
    widths = cfg.widths
    if widths.min > widths.max:
        raise UserError(f"widths.min={widths.min} and widths.max={widths.max} must satisfy 0 < min <= max <= 1")
    if not widths.slow_start_epochs < cfg.optimizer.epochs:
        raise UserError(
            f"widths.slow_start_epochs={widths.slow_start_epochs} must be in [0, {cfg.optimizer.epochs - 1}]: narrower "
            "widths train after it"
        )
    if widths.min == widths.max:
        return
    if widths.sampling in ("sandwich", "dynamic", "elastic") and widths.per_step < 2:
        other = "another one" if widths.sampling == "elastic" else "the narrowest"
        raise UserError(
            f"widths.per_step={widths.per_step}: the {widths.sampling} rule trains at least the widest and {other}; "
            "set widths.per_step=2 or more"
        )
    if widths.doubled_ends and (widths.sampling, widths.per_step) != ("sandwich", 4):
        raise UserError(
            f"widths.doubled_ends=true applies to the sandwich rule with four widths; set widths.sampling=sandwich and "
            f"widths.per_step=4 (now {widths.sampling} and {widths.per_step}), or widths.doubled_ends=false"
        )
    if widths.grid and widths.sampling == "fixed":
        raise UserError(f"widths.grid={widths.grid} has no effect with widths.sampling=fixed, which draws none; set widths.grid=0")
    if widths.grid in (1, 2):
        raise UserError(
            f"widths.grid={widths.grid} leaves no width between the widest and the narrowest; set at least "
            "widths.grid=3, or 0 for any width"
        )
    if widths.sampling == "fixed":
        if widths.max not in widths.fixed:
            raise UserError(
                f"widths.fixed={widths.fixed} lacks widths.max={widths.max}, the network that guides the others; "
                "set for example widths.fixed=[1.0,0.5,0.25]"
            )
        check_widths(cfg.model.arch, widths.fixed, widths.min, widths.max, "widths.fixed")
    else:
        check_widths(cfg.model.arch, [widths.max, widths.min], widths.min, widths.max, "widths")


def _validate_switchable(cfg: Config) -> None:
    widths = cfg.widths
    if not cfg.model.switchable_bn:
        return
    if widths.sampling != "fixed" or widths.min == widths.max:
        raise UserError(
            "model.switchable_bn=true trains the widths of widths.fixed only; set widths.sampling=fixed and "
            "widths.min below widths.max"
        )
    if not widths.fixed or (min(widths.fixed), max(widths.fixed)) != (widths.min, widths.max):
        raise UserError(
            f"model.switchable_bn=true has no BatchNorm for widths other than widths.fixed={widths.fixed}; set its "
            f"smallest and largest as widths.min and widths.max (now {widths.min} and {widths.max})"
        )
    from pretrain.slimmable import has_batch_norm  # imports torch

    if not has_batch_norm(skeleton(cfg.model.arch)):
        raise UserError(f"model.switchable_bn=true: {cfg.model.arch} has no BatchNorm; set model.switchable_bn=false")


def switchable_widths(cfg: Config) -> list[float]:
    """The only widths that a network with switchable BatchNorm has, widest first; none where any width in range will do."""
    return sorted(cfg.widths.fixed, reverse=True) if cfg.model.switchable_bn else []


def usable_widths(cfg: Config, asked: Iterable[float | str | Subnet]) -> list[Width]:
    """Those of ``asked``, as a config holds them, that the trained network can be used at, widest first."""
    only = {width_key(w) for w in switchable_widths(cfg)}
    found = {own for own in (_own(cfg.model.arch, w) for w in asked) if own is not None}
    return sorted(
        (w for w in found if cfg.widths.min <= narrowest(w) <= widest(w) <= cfg.widths.max and (not only or width_key(w) in only)),
        reverse=True,
    )


def _own(arch: str, width: float | str | Subnet) -> Width | None:
    """A width; a sub-network as ``arch`` names it, or None where it has no such one."""
    if isinstance(width, float | int):
        return width
    from pretrain.slimmable import canonical  # imports torch

    try:
        return canonical(skeleton(arch), parse_width(width) if isinstance(width, str) else width)
    except ValueError:
        return None


def check_widths(
    arch: str, widths: Sequence[Width], low: float, high: float, what: str = "widths", only: Sequence[float] = ()
) -> None:
    """Raise :class:`UserError` if a width is outside [low, high], not one of ``only`` (unless empty), given twice, or the same
    network as another one.
    """
    from pretrain.slimmable import canonical, channel_signature  # imports torch

    model, seen = skeleton(arch), {}
    for width in widths:
        try:
            canonical(model, width)
        except ValueError as error:
            raise UserError(f"{what}: {width} is no sub-network of {arch}: {error}") from None
        if only and width_key(width) not in map(width_key, only):
            raise UserError(f"{what}: {width} has no BatchNorm of its own in this network; set widths of {list(only)}")
        if not low <= narrowest(width) <= widest(width) <= high:
            raise UserError(f"{what}: {width} is outside the trained range [{low}, {high}]; set widths within it")
    for width in widths:
        signature = channel_signature(model, width)
        if signature in seen:
            raise UserError(f"{what}: {seen[signature]} and {width} give the same channels in {arch}; leave one of them out")
        seen[signature] = width


def _validate_objective(cfg: Config) -> None:
    objective = cfg.objective
    if objective.ema_update == "pass" and objective.teacher != "momentum":
        raise UserError(
            "objective.ema_update=pass needs a momentum teacher; set objective.teacher=momentum or objective.ema_update=step"
        )
    if objective.pairings == "one" and objective.teacher in STUDENTS_OWN and objective.base_loss != "seed":
        raise UserError(
            "objective.pairings=one needs a teacher that sees the second view alone; set objective.teacher=momentum or "
            "objective.pairings=mean"
        )
    if objective.two_sided and (objective.base_loss, objective.teacher, objective.negatives) != ("infonce", "online", "batch"):
        raise UserError(
            "objective.two_sided=true is SimCLR's, whose targets are the network's own; set "
            "objective.base_loss=infonce, objective.teacher=online and objective.negatives=batch, or "
            "objective.two_sided=false"
        )
    if objective.negatives == "keys" and "infonce" not in (objective.base_loss, objective.distill_loss):
        raise UserError("objective.negatives=keys applies to InfoNCE, but neither loss is InfoNCE; set objective.negatives=batch")
    if cfg.optimizer.accumulate_steps > 1 and objective.update != "accumulate":
        raise UserError(
            f"optimizer.accumulate_steps={cfg.optimizer.accumulate_steps} makes one update of the gradients of several "
            "steps; set objective.update=accumulate"
        )
    if cfg.model.freeze_patch_projection and not skeleton(cfg.model.arch).is_vit:
        raise UserError(
            f"model.freeze_patch_projection=true: {cfg.model.arch} has no patch projection; set it to false, or model.arch to a ViT"
        )


def _validate_heads(cfg: Config) -> None:
    model, objective = cfg.model, cfg.objective
    if objective.head == "shared" and not has_predictor(objective) and objective.distill_loss != "none":
        raise UserError(
            "objective.head=shared needs the predictor of objective.base_loss=mse (or objective.predictor=true); set "
            "objective.head=own or none"
        )
    if model.distill_head_init == "predictor" and not has_predictor(objective):
        raise UserError(
            "model.distill_head_init=predictor needs a predictor to copy, and there is none; set "
            "objective.predictor=true or model.distill_head_init=torch"
        )
    if not model.projector_norm and model.projector_layers < 2:
        raise UserError(
            "model.projector_norm=false removes BatchNorms between the projector's layers, but there is one layer; "
            "set model.projector_layers=2 or more"
        )


def _validate_distillation(cfg: Config) -> None:
    objective = cfg.objective
    if objective.distill_loss == "kl" and (objective.base_loss != "infonce" or objective.head == "shared"):
        raise UserError(
            "objective.distill_loss=kl compares the similarities of objective.base_loss=infonce; set that, and "
            "objective.head=none or own"
        )
    if objective.same_view_weight and objective.distill_loss not in ("mse", "infonce"):
        raise UserError(
            "objective.same_view_weight applies to distillation by distance; set objective.distill_loss=mse or "
            "infonce, or objective.same_view_weight=0"
        )
    if objective.distill_loss == "none" and (objective.feature_weight or objective.sub_base_weight):
        raise UserError(
            "objective.feature_weight and objective.sub_base_weight apply to distillation; leave them out, or set "
            "objective.distill_loss=mse, infonce or kl"
        )
    if objective.feature_weight and not skeleton(cfg.model.arch).stage_norms:
        raise UserError(
            f"objective.feature_weight={objective.feature_weight}: {cfg.model.arch} has no BatchNorm at the end of its "
            "stages; set objective.feature_weight=0 or another model.arch"
        )
    if objective.feature_weight and cfg.train.compile:
        raise UserError(
            "train.compile=true does not support feature distillation; set train.compile=false or objective.feature_weight=0"
        )


def _validate_parts(cfg: Config) -> None:
    parts, batch = cfg.optimizer.virtual_processes, cfg.optimizer.batch_size
    if parts > 1 and (batch % parts or batch // parts < 2):
        raise UserError(
            f"optimizer.virtual_processes={parts} cannot share optimizer.batch_size={batch} evenly, with at least two "
            f"images each; set optimizer.batch_size={max(2, batch // parts) * parts}"
        )
    if parts > 1 and cfg.train.synchronized_bn:
        raise UserError(
            "optimizer.virtual_processes computes BatchNorm statistics of parts of the batch, train.synchronized_bn "
            "of the whole batch; leave one of them out"
        )
    if cfg.objective.shuffle and (parts < 2 or cfg.objective.teacher != "momentum"):
        raise UserError(
            "objective.shuffle=true exchanges the teacher's images between virtual processes; set "
            "optimizer.virtual_processes=2 or more and objective.teacher=momentum, or objective.shuffle=false"
        )


def has_predictor(objective: ObjectiveConfig) -> bool:
    """Whether the widest network's projections pass a predictor."""
    asked = Predictor(objective.predictor)
    return objective.base_loss == "mse" if asked is Predictor.AUTO else asked is Predictor.YES


def _validate_queue(cfg: Config) -> None:
    objective, views = cfg.objective, 1 if cfg.objective.pairings == "one" else 2
    keys = views * cfg.optimizer.batch_size
    if objective.queue == 0:
        return
    if objective.queue < keys:
        raise UserError(
            f"objective.queue={objective.queue} must hold at least the {keys} targets of one step (of {views} x "
            f"{cfg.optimizer.batch_size} images), or be 0; set for example objective.queue={4 * keys}"
        )
    if objective.base_loss not in ("infonce", "seed") and not is_own(objective.base_loss):
        raise UserError(
            f"objective.queue={objective.queue} has no effect with objective.base_loss={objective.base_loss}; set objective.queue=0"
        )
    if objective.base_loss != "seed" and objective.teacher in STUDENTS_OWN:
        raise UserError(f"objective.queue={objective.queue} needs targets that change slowly; set objective.teacher=momentum")
    if objective.negatives != "batch" or objective.gather_negatives:
        raise UserError(
            "objective.queue holds InfoNCE's negatives (of all processes); leave out objective.negatives and "
            "objective.gather_negatives"
        )


def _validate_seed(cfg: Config) -> None:
    objective = cfg.objective
    if objective.base_loss != "seed":
        if objective.seed_teacher and objective.teacher != "frozen" and not is_own(objective.teacher):
            raise UserError(
                "objective.seed_teacher is used by objective.base_loss=seed and objective.teacher=frozen only; set one "
                "of them, or leave it out"
            )
        return
    if not objective.seed_teacher:
        raise UserError("objective.base_loss=seed learns from a trained network; set objective.seed_teacher=RUN_DIRECTORY")
    if objective.seed_loss == "mse" and objective.queue:
        raise UserError("objective.seed_loss=mse compares with the teacher's output alone; set objective.queue=0")
    if objective.seed_loss != "mse" and objective.queue == 0:
        raise UserError(
            "objective.base_loss=seed compares with a queue of the teacher's outputs; set for example "
            f"objective.queue={8 * cfg.optimizer.batch_size}"
        )
    if objective.distill_loss != "none" or objective.teacher != "online":
        raise UserError(
            "objective.base_loss=seed is the only loss at every width and has its own teacher; set "
            "objective.distill_loss=none and objective.teacher=online"
        )


def _validate_regularizer(cfg: Config) -> None:
    reg = cfg.regularizer
    if reg.kind != "group":
        return
    if reg.groups < 2 or not 0 <= reg.alpha * (reg.groups - 1) < 1:
        raise UserError(
            f"regularizer.alpha={reg.alpha} with regularizer.groups={reg.groups} makes a coefficient negative; "
            "alpha * (groups - 1) must stay below 1 and groups be at least 2"
        )
    if reg.warmup_epochs > cfg.optimizer.epochs / 2:
        raise UserError(
            f"regularizer.warmup_epochs={reg.warmup_epochs} is past half of the {cfg.optimizer.epochs} epochs, where "
            f"alpha must have reached its final value; set at most {cfg.optimizer.epochs // 2}"
        )


def _validate_execution(cfg: Config) -> None:
    if cfg.train.recompute and not skeleton(cfg.model.arch).can_recompute:
        raise UserError(f"train.recompute=true is for ViTs, which {cfg.model.arch} is not; set train.recompute=false")
    if cfg.train.graphs and not trained_widths(cfg.widths):
        raise UserError(
            f"train.graphs=true records the passes of each width, and widths.sampling={cfg.widths.sampling} draws any; "
            "set widths.grid=16, or train.graphs=false"
        )
    own = [
        key
        for key, value in (
            ("objective.base_loss", cfg.objective.base_loss),
            ("objective.teacher", cfg.objective.teacher),
            ("objective.distill_loss", cfg.objective.distill_loss),
        )
        if is_own(value)
    ]
    if cfg.train.graphs and own:
        raise UserError(
            f"train.graphs=true repeats passes without Python, which {own[0]} of your own may need; set train.graphs=false"
        )
    if cfg.train.precision == "fp16" and cfg.train.device == "cpu":
        raise UserError("train.precision=fp16 needs a GPU; set train.precision=bf16 or fp32 on a CPU")


def _validate_derived(cfg: Config) -> None:
    derived = cfg.derived
    if derived.network in ("none", "untrained"):
        if derived.source:
            raise UserError(
                f"derived.source={derived.source} is for a network that is derived from another one; set "
                "derived.network=sliced or pruned, or leave it out"
            )
    elif not derived.source:
        raise UserError(f"derived.network={derived.network} is derived from a trained network; set derived.source=RUN_DIRECTORY")
    if derived.network == "pruned" and not skeleton(cfg.model.arch).channel_groups([]):
        raise UserError(
            f"derived.network=pruned: {cfg.model.arch} does not say which of its channels can be reordered; set "
            "derived.network=sliced, or give it channel_groups (docs/extending.md)"
        )
    if derived.network == "pruned" and cfg.model.switchable_bn:
        raise UserError(
            "derived.network=pruned reorders channels, which a BatchNorm for each width does not allow; set "
            "model.switchable_bn=false"
        )
    if derived.network == "none" or derived.calibrate:
        return
    from pretrain.slimmable import has_batch_norm  # imports torch

    if not has_batch_norm(skeleton(cfg.model.arch)):
        raise UserError(f"derived.calibrate=false: {cfg.model.arch} has no BatchNorm to calibrate; set derived.calibrate=true")
