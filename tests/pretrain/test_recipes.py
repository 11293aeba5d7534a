"""Every recipe against METHOD section 7 written out slowly (slow_recipes) in float64, and what the recipes resolve to."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import torch

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.config import to_dict
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.frozen import FrozenTeacher
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.queue import Queue
from pretrain.objective.regularization import Regularizer
from pretrain.objective.sampling import sample_widths
from pretrain.objective.step import Objective
from rundir.errors import UserError
from tests.pretrain.slow_recipes import SlowRecipe

LR, ALPHA, MOMENTUM = 0.03, 0.04, 0.7
ARCH, LARGER = "resnet_of_the_recipe_test", "larger_resnet_of_the_recipe_test"
SMALL = [
    f"model.arch={ARCH}",
    "model.projector_hidden=20",
    "model.projector_out=12",
    "model.predictor_hidden=10",
    "optimizer.batch_size=16",
    "regularizer.coefficient=1e-2",
    "objective.ema_momentum=0.9",
]
STEPS, TOTAL = (0, 6, 11), 12  # of dynamic sampling's first, third and last stage; the last two after a slow start
PROFILES = ("digits", "digits_vit", "cifar10_small", "cifar10", "cifar100", "imagenet")


@pytest.fixture(autouse=True)
def architectures(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, ARCH, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=16))
    monkeypatch.setitem(ARCHITECTURES, LARGER, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=24))


def resolved(recipe: str, profile: str = "digits", *overrides: str) -> config.Config:
    teacher = ["objective.seed_teacher=teacher"] if recipe == "seed" else []
    return config.load(profile, [f"experiment.recipe={recipe}", *teacher, *overrides])


def frozen_teacher(processes: int) -> FrozenTeacher:
    cfg = config.load("digits", [*SMALL, f"model.arch={LARGER}"])
    torch.manual_seed(9)
    student = Student(cfg)
    payload = {
        "format": 1,
        "config": to_dict(cfg),
        "encoder": student.encoder.state_dict(),
        "projector": student.projector.state_dict(),
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(payload, Path(folder) / "teacher.pt")
        return FrozenTeacher(open_checkpoint(Path(folder) / "teacher.pt"), batch_statistics=True, chunks=processes).double()


def views(step: int, batch: int = 16):
    generator = torch.Generator().manual_seed(70 + step)
    return (torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))


def assert_same_training(cfg: config.Config, processes: int) -> list[list[float]]:
    """The project's own steps and the slow ones: losses, weights, teacher and queue. Returns the widths of each step."""
    torch.manual_seed(3)
    student = Student(cfg).double()
    student.chunks = processes
    seed = cfg.objective.base_loss == "seed"
    teacher = (
        frozen_teacher(processes)
        if seed
        else Teacher(student, cfg.objective.shuffle)
        if cfg.objective.teacher == "momentum"
        else None
    )
    queue = Queue(cfg.objective.queue, cfg.model.projector_out, 5, torch.float64) if cfg.objective.queue else None
    objective = Objective(cfg.objective, student, student, teacher, cfg.widths.max, torch.enable_grad, queue)
    optimizer = torch.optim.SGD(student.parameters(), LR, momentum=cfg.optimizer.momentum)
    regularizer = Regularizer(cfg.regularizer, student)
    regularizer.set_alpha(ALPHA if cfg.regularizer.kind == "group" else 0.0)
    slow = SlowRecipe(cfg, student, teacher, queue, LR, ALPHA, processes)

    def update(width: float) -> None:
        regularizer.add_gradient(width == cfg.widths.max)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    trained = []
    for step in STEPS:
        trained.append(sample_widths(cfg.widths, 1, step, TOTAL, cfg.optimizer.epochs))
        x1, x2 = views(step)
        got = [float(v) for v in objective.step(x1, x2, trained[-1], MOMENTUM, torch.Tensor.backward, update)]
        assert got == pytest.approx(slow.step(x1, x2, trained[-1], MOMENTUM), abs=1e-9)
    assert dict(student.named_parameters()).keys() == slow.p.keys()
    for name, weight in student.named_parameters():
        torch.testing.assert_close(weight, slow.p[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for name, weight in teacher.named_parameters() if teacher is not None else ():
        torch.testing.assert_close(weight, slow.k[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"teacher {n}: {m}")
    if queue is not None:
        rolled = queue.rows.roll(-int(queue.position), 0)
        torch.testing.assert_close(rolled, torch.stack(slow.queue), rtol=0, atol=1e-9)
    return trained


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("recipe", sorted(config.recipes()))
def test_every_recipe_is_the_method(recipe, processes):
    overrides = [*SMALL, f"optimizer.virtual_processes={processes}"]
    if resolved(recipe).objective.queue:
        overrides.append("objective.queue=40")
    assert_same_training(resolved(recipe, "digits", *overrides), processes)


@pytest.mark.parametrize(
    ("recipe", "settings", "processes"),
    [
        ("individual-mocov2", ["objective.shuffle=true", "objective.queue=20"], 2),  # MoCo's shuffled BatchNorm
        ("seed", ["objective.seed_loss=mse", "objective.queue=0"], 2),  # as ResNet-50 and MobileNetV2 are trained
        ("us3l-r50", ["objective.base_loss=mse"], 1),  # feature distillation with both bases
        ("us3l-r50", ["objective.teacher=online", "objective.feature_weight=0.3"], 2),
        (
            "slimclr",
            ["objective.sub_base_weight=0.2", "objective.queue=0", "model.switchable_bn=false", "objective.pairings=mean"],
            1,
        ),
        ("us3l", ["objective.pairings=sum"], 1),
        ("usnet-byol", ["objective.head=own", "regularizer.kind=group"], 1),
    ],
)
def test_variants_of_recipes(recipe, settings, processes):
    queue = ["objective.queue=20"] if recipe == "seed" else []
    overrides = [*SMALL, *queue, *settings, f"optimizer.virtual_processes={processes}"]
    assert_same_training(resolved(recipe, "digits", *overrides), processes)


# -- what the recipes resolve to ------------------------------------------------------------------------------------

# The columns of METHOD section 7, the projector's last norm and whether last batches are dropped.
COLUMNS = (
    "objective.base_loss",
    "objective.distill_loss",
    "objective.teacher",
    "objective.head",
    "objective.ema_update",
    "widths.sampling",
    "widths.per_step",
    "regularizer.kind",
    "model.projector_last_norm",
    "data.drop_last",
)
ROWS = {
    "us3l": ("infonce", "mse", "momentum", "own", "step", "dynamic", 3, "group", False, False),
    "us3l-mse": ("mse", "mse", "momentum", "own", "step", "dynamic", 3, "l2", False, True),
    "us3l-r50": ("infonce", "mse", "momentum", "own", "step", "dynamic", 3, "group", False, False),
    "us3l-all-guidelines": ("infonce", "infonce", "momentum", "own", "step", "dynamic", 3, "group", False, True),
    "us3l-simsiam": ("mse", "infonce", "online", "own", "step", "dynamic", 3, "l2", False, True),
    "us3l-simsiam-momentum": ("mse", "infonce", "momentum", "own", "step", "dynamic", 3, "l2", False, True),
    "usnet-simsiam": ("mse", "mse", "online", "shared", "step", "sandwich", 3, "l2", True, True),
    "usnet-byol": ("mse", "mse", "momentum", "shared", "pass", "sandwich", 4, "l2", False, True),
    "slimclr": ("infonce", "kl", "momentum", "none", "step", "fixed", 3, "l2", False, False),
    "seed": ("seed", "none", "online", "own", "step", "sandwich", 3, "l2", False, True),
    "seed-teacher": ("mse", "none", "momentum", "own", "step", "sandwich", 3, "l2", False, True),
    "elastic-student": ("infonce", "mse", "momentum", "own", "step", "elastic", 2, "l2", False, False),
    "individual-simsiam": ("mse", "none", "online", "own", "step", "sandwich", 3, "l2", True, True),
    "individual-byol": ("mse", "none", "momentum", "own", "step", "sandwich", 3, "l2", False, True),
    "individual-simclr": ("infonce", "none", "online", "own", "step", "sandwich", 3, "l2", False, False),
    "individual-momentum-simclr": ("infonce", "none", "momentum", "own", "step", "sandwich", 3, "l2", False, False),
    "individual-mocov2": ("infonce", "none", "momentum", "own", "step", "sandwich", 3, "l2", False, False),
}
EXTRA = {
    "elastic-student": {"objective.update": "accumulate", "objective.same_view_weight": 1.0, "optimizer.accumulate_steps": 2},
    "us3l-r50": {"objective.feature_weight": 1.0},
    "usnet-byol": {"widths.doubled_ends": True},
    "slimclr": {
        "objective.sub_base_weight": 0.5,
        "objective.kl_temperature": 5.0,
        "objective.update": "accumulate",
        "objective.width_weights": "slimclr",
        "model.switchable_bn": True,
        "widths.fixed": [1.0, 0.75, 0.5, 0.25],
        "widths.slow_start_epochs": 8,
        "objective.temperature": 0.2,
        "objective.pairings": "one",
    },
    "seed": {
        "objective.seed_student_temperature": 0.5,
        "objective.seed_teacher_temperature": 1e-4,
        "objective.pairings": "one",
        "objective.seed_teacher_bn": "batch",
        "widths.min": 1.0,
    },
    "individual-simclr": {"objective.two_sided": True, "widths.min": 1.0},
    "individual-mocov2": {
        "objective.pairings": "one",
        "model.projector_layers": 2,
        "model.projector_norm": False,
        "objective.temperature": 0.2,
        "widths.min": 1.0,
    },
}


def value(cfg: config.Config, dotted: str) -> object:
    section, key = dotted.split(".")
    return getattr(getattr(cfg, section), key)


@pytest.mark.parametrize("recipe", sorted(config.recipes()))
def test_recipes_are_the_methods_table(recipe):
    cfg = resolved(recipe)
    expected = dict(zip(COLUMNS, ROWS[recipe], strict=True)) | EXTRA.get(recipe, {})
    authors = recipe.startswith(("us3l", "usnet")) and recipe != "us3l-all-guidelines"
    expected["regularizer.variant"] = "authors" if authors else "paper"
    assert {key: value(cfg, key) for key in expected} == expected
    assert (cfg.experiment.recipe, cfg.experiment.preset) == (recipe, "digits")


# METHOD sections 6 and 7: what else a recipe takes on a profile. Coefficients are half of the weight decay.
CIFAR = {
    "optimizer.virtual_processes": 4,
    "optimizer.batch_size": 512,
    "model.conv_init": "torch",
    "data.std": [0.2023, 0.1994, 0.2010],
    "data.mean": [],
}
PAPER_SIZED = {
    ("cifar10", "us3l"): CIFAR
    | {
        "optimizer.lr": 0.5,
        "optimizer.epochs": 400,
        "regularizer.coefficient": 5e-5,
        "model.projector_out": 256,
        "regularizer.warmup_epochs": 0,
        "objective.ema_momentum": 0.99,
    },
    ("cifar100", "us3l-mse"): CIFAR | {"optimizer.lr": 0.05, "regularizer.coefficient": 2.5e-4, "model.projector_out": 2048},
    ("cifar100_r50", "us3l-r50"): {
        "widths.sampling": "sandwich",
        "optimizer.lr": 0.25,
        "optimizer.virtual_processes": 8,
        "optimizer.epochs": 400,
        "regularizer.warmup_epochs": 200,
        "model.arch": "resnet50_cifar",
    },
    ("cifar10_r50", "us3l-mse"): {
        "widths.sampling": "sandwich",
        "regularizer.kind": "group",
        "regularizer.coefficient": 2.5e-4,
        "regularizer.warmup_epochs": 200,
        "optimizer.epochs": 800,
    },
    ("cifar10_mbv2", "us3l"): {
        "widths.sampling": "sandwich",
        "regularizer.warmup_epochs": 200,
        "optimizer.epochs": 400,
        "model.conv_init": "he",
        "model.projector_init": "normal",
    },
    ("cifar100_mbv2", "us3l-mse"): {"regularizer.kind": "group", "regularizer.warmup_epochs": 200, "optimizer.epochs": 800},
    ("cifar10", "usnet-simsiam"): CIFAR | {"regularizer.coefficient": 2.5e-4, "optimizer.lr": 0.05, "model.projector_out": 2048},
    ("cifar10", "usnet-byol"): CIFAR | {"regularizer.coefficient": 2.5e-4},
    ("cifar10", "seed"): {"objective.queue": 32768, "optimizer.epochs": 200, "optimizer.lr": 0.05, "regularizer.coefficient": 5e-5},
    ("cifar10_mbv2", "seed"): {"objective.seed_loss": "mse", "objective.queue": 0, "optimizer.epochs": 400},
    ("cifar10", "seed-teacher"): {"model.arch": "resnet50_cifar", "model.projector_out": 2048, "optimizer.virtual_processes": 8},
    ("cifar100_mbv2", "seed-teacher"): {
        "model.arch": "resnet50_cifar",
        "model.conv_init": "torch",
        "model.projector_init": "torch",
        "optimizer.virtual_processes": 8,
        "optimizer.batch_size": 8 * 64,
    },
    ("imagenet", "us3l-mse"): {"data.drop_last": False},
    ("digits", "seed-teacher"): {"model.arch": "resnet_medium"},
    ("cifar10", "individual-mocov2"): {
        "objective.queue": 2048,
        "objective.ema_momentum": 0.999,
        "optimizer.lr": 0.3,
        "optimizer.batch_size": 256,
        "objective.shuffle": True,
        "optimizer.virtual_processes": 4,
    },
    ("imagenet", "us3l"): {
        "optimizer.batch_size": 8 * 128,
        "optimizer.virtual_processes": 8,
        "optimizer.lr": 0.5,
        "regularizer.warmup_epochs": 50,
        "regularizer.coefficient": 5e-5,
        "model.conv_init": "he",
        "data.drop_last": False,
        "data.std": [],
        "widths.sampling": "dynamic",
    },
    ("imagenet", "us3l-simsiam"): {"regularizer.coefficient": 5e-5, "widths.sampling": "dynamic"},
    ("imagenet_r50", "us3l-simsiam-momentum"): {"widths.sampling": "sandwich", "optimizer.batch_size": 8 * 60},
    ("imagenet_r50", "us3l-r50"): {"widths.sampling": "sandwich", "objective.feature_weight": 1.0},
    ("imagenet", "slimclr"): {
        "optimizer.lr": 0.2,
        "optimizer.epochs": 200,
        "widths.slow_start_epochs": 100,
        "optimizer.batch_size": 4 * 256,
        "objective.queue": 65536,
    },
    ("vit_cifar10", "us3l-mse"): {"objective.base_loss": "mse", "objective.distill_loss": "mse"},
    ("vit_cifar10", "us3l"): {
        "objective.distill_loss": "infonce",
        "objective.pairings": "sum",
        "objective.gather_negatives": True,
        "train.synchronized_bn": True,
        "regularizer.decoupled": False,
        "regularizer.coefficient": 0.05,
        "regularizer.variant": "authors",
        "model.distill_head_init": "predictor",
        "optimizer.virtual_processes": 0,
    },
}


@pytest.mark.parametrize(("profile", "recipe"), sorted(PAPER_SIZED))
def test_recipes_on_the_papers_profiles(profile, recipe):
    cfg, expected = resolved(recipe, profile), PAPER_SIZED[profile, recipe]
    assert {key: value(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_recipes_work_with_every_profile(profile):
    """But for what a ViT has not: BatchNorms in its stages."""
    for recipe in config.recipes():
        if recipe == "us3l-r50" and profile == "digits_vit":
            with pytest.raises(UserError, match="vit_micro has no BatchNorm at the end of its stages"):
                resolved(recipe, profile)
            continue
        cfg, plain = resolved(recipe, profile), config.load(profile)
        assert (cfg.data.name, cfg.data.size, cfg.model.predictor_hidden) == (
            plain.data.name,
            plain.data.size,
            plain.model.predictor_hidden,
        )
        if recipe != "seed-teacher":
            assert cfg.model.arch == plain.model.arch


def test_an_override_beats_the_recipe_and_epochs_of_a_share_follow_it():
    cfg = resolved("slimclr", "digits", "optimizer.epochs=10", "objective.kl_temperature=2")
    assert (cfg.widths.slow_start_epochs, cfg.objective.kl_temperature, cfg.experiment.recipe) == (5, 2, "slimclr")


def test_a_recipe_of_ones_own(tmp_path):
    """A file may stand on a recipe of the project, and on what presets say of that."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("about: mine\nbase: us3l\nobjective: {temperature: 0.3}\n")
    cfg = resolved(str(mine), "cifar10_r50")
    assert (cfg.objective.temperature, cfg.widths.sampling, cfg.experiment.recipe) == (0.3, "sandwich", "mine")
    assert config.config_hash(cfg) != config.config_hash(resolved("us3l", "cifar10_r50"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment.recipe=us3"], "unknown recipe 'us3'; did you mean us3l"),
        (["experiment.recipe=seed"], "set objective.seed_teacher=RUN_DIRECTORY"),
        (["objective.ema_update=pass"], "set objective.teacher=momentum"),
        (["objective.pairings=one"], "set objective.teacher=momentum"),
        (["objective.two_sided=true"], "set objective.base_loss=infonce"),
        (["objective.distill_loss=kl"], "compares the similarities of objective.base_loss=infonce"),
        (["objective.distill_loss=none", "objective.feature_weight=1"], "leave them out"),
        (["objective.feature_weight=1", "train.compile=true"], "set train.compile=false"),
        (["widths.doubled_ends=true"], "set widths.sampling=sandwich and widths.per_step=4"),
        (["optimizer.virtual_processes=3"], "cannot share optimizer.batch_size=128 evenly"),
        (["optimizer.virtual_processes=4", "train.synchronized_bn=true"], "leave one of them out"),
        (["objective.shuffle=true", "objective.teacher=momentum"], "set optimizer.virtual_processes=2 or more"),
        (["model.distill_head_init=predictor", "objective.base_loss=infonce"], "set objective.predictor=true"),
        (["model.projector_norm=false", "model.projector_layers=1"], "set model.projector_layers=2"),
        (["data.std=[0.1,0.2]"], "data.std=.* must be 3 numbers"),
        (["data.std=[0.1,0.2,0]"], "data.std=.* must be 3 numbers, each in \\(0, 1\\]"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        config.load("digits", overrides)
    assert "\n" not in str(caught.value)


# -- docs/recipes.md --------------------------------------------------------------------------------------------------------


def settings_of(cfg: config.Config) -> dict[str, object]:
    content = to_dict(cfg)
    content.pop("experiment")
    return {
        f"{section}.{key}": value
        for section, values in content.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def controlled(cell: str) -> config.Config:
    """A cell of the grid of guidelines on digits: BASE-DISTILL-TEACHER, or individual-BASE-TEACHER-w1.0."""
    alone = cell.startswith("individual-")
    words = cell.removeprefix("individual-").removesuffix("-w1.0").split("-")
    base, distill, teacher = (words[0], "none", words[1]) if alone else words
    guidance = [f"objective.base_loss={base}", f"objective.distill_loss={distill}", f"objective.teacher={teacher}"]
    return config.load("digits", guidance + (["widths.min=1.0"] if alone else []))


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def differences(recipe: str, cell: str) -> list[str]:
    """What the recipe says otherwise than the controlled cell, as ``key=value``."""
    own, other = settings_of(resolved(recipe)), settings_of(controlled(cell))
    return [f"{key}={shown(value)}" for key, value in own.items() if value != other[key]]


def documented() -> dict[str, tuple[str, list[str]]]:
    """The table of docs/recipes.md: recipe -> its controlled cell and the settings that differ."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w.-]+)` \| (.*) \|$", text, flags=re.M)
    return {recipe: (cell, re.findall(r"`([\w.]+=[^`]*)`", settings)) for recipe, cell, settings in rows}


def test_the_documented_differences_from_the_controlled_cells_are_these():
    rows = documented()
    assert set(rows) == set(config.recipes())
    for recipe, (cell, settings) in rows.items():
        assert sorted(settings) == sorted(differences(recipe, cell)), recipe
