"""Presets against METHOD section 6, written out here, and how presets extend each other."""

from __future__ import annotations

import dataclasses

import pytest

from pretrain import config
from pretrain.objective.networks import Student
from rundir.errors import UserError

CIFAR_VIEWS = {
    "augment.crop_scale": [0.2, 1.0],
    "augment.jitter": [0.4, 0.4, 0.4, 0.1],
    "augment.jitter_p": 0.8,
    "augment.grayscale_p": 0.2,
    "augment.flip": 0.5,
    "augment.blur_p": [0.0, 0.0],
    "augment.solarize_p": [0.0, 0.0],
}
IMAGENET_VIEWS = CIFAR_VIEWS | {"augment.blur_p": [0.5, 0.5], "augment.blur_sigma": [0.1, 2.0]}
COMMON = {
    "seed": 100,
    "widths.min": 0.25,
    "widths.max": 1.0,
    "widths.per_step": 3,
    "objective.update": "per_width",
    "objective.head": "own",
    "objective.ema_momentum": 0.99,
}
SGD = COMMON | {
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.warmup_epochs": 0,
    "objective.temperature": 0.5,
    "objective.ema_schedule": "constant",
    "model.projector_layers": 3,
    "model.projector_hidden": 2048,
    "model.predictor_hidden": 2048,
}
COLUMNS = (
    "model.arch",
    "data.name",
    "data.size",
    "optimizer.epochs",
    "optimizer.batch_size",
    "optimizer.lr",
    "regularizer.coefficient",
    "model.projector_out",
    "regularizer.warmup_epochs",
)
# Coefficients are half of the weight decays 5e-4 and 1e-4; batches are GPUs x images.
PUBLISHED = {
    ("cifar10", "mse"): ("resnet18_cifar", "cifar10", 32, 400, 4 * 128, 0.05, 2.5e-4, 2048, 0),
    ("cifar10", "infonce"): ("resnet18_cifar", "cifar10", 32, 400, 4 * 128, 0.5, 5e-5, 256, 0),
    ("cifar100", "mse"): ("resnet18_cifar", "cifar100", 32, 400, 4 * 128, 0.05, 2.5e-4, 2048, 0),
    ("cifar100", "infonce"): ("resnet18_cifar", "cifar100", 32, 400, 4 * 128, 0.5, 5e-5, 256, 0),
    ("cifar10_800", "mse"): ("resnet18_cifar", "cifar10", 32, 800, 4 * 128, 0.05, 2.5e-4, 2048, 0),
    ("cifar100_800", "mse"): ("resnet18_cifar", "cifar100", 32, 800, 4 * 128, 0.05, 2.5e-4, 2048, 0),
    ("cifar10_r50", "mse"): ("resnet50_cifar", "cifar10", 32, 800, 8 * 64, 0.05, 2.5e-4, 2048, 200),
    ("cifar10_r50", "infonce"): ("resnet50_cifar", "cifar10", 32, 400, 8 * 64, 0.25, 5e-5, 256, 200),
    ("cifar100_r50", "mse"): ("resnet50_cifar", "cifar100", 32, 800, 8 * 64, 0.05, 2.5e-4, 2048, 200),
    ("cifar100_r50", "infonce"): ("resnet50_cifar", "cifar100", 32, 400, 8 * 64, 0.25, 5e-5, 256, 200),
    ("cifar10_mbv2", "mse"): ("mobilenetv2_cifar", "cifar10", 32, 800, 4 * 128, 0.05, 2.5e-4, 2048, 200),
    ("cifar10_mbv2", "infonce"): ("mobilenetv2_cifar", "cifar10", 32, 400, 4 * 128, 0.5, 5e-5, 256, 200),
    ("cifar100_mbv2", "mse"): ("mobilenetv2_cifar", "cifar100", 32, 800, 4 * 128, 0.05, 2.5e-4, 2048, 200),
    ("cifar100_mbv2", "infonce"): ("mobilenetv2_cifar", "cifar100", 32, 400, 4 * 128, 0.5, 5e-5, 256, 200),
    ("imagenet", "mse"): ("resnet18", "folder", 224, 100, 8 * 128, 0.05, 5e-5, 2048, 50),
    ("imagenet", "infonce"): ("resnet18", "folder", 224, 100, 8 * 128, 0.5, 5e-5, 256, 50),
    ("imagenet_r50", "mse"): ("resnet50", "folder", 224, 100, 8 * 60, 0.05, 5e-5, 2048, 50),
    ("imagenet_r50", "infonce"): ("resnet50", "folder", 224, 100, 8 * 60, 0.5, 5e-5, 256, 50),
    ("imagenet_200", "mse"): ("resnet18", "folder", 224, 200, 8 * 128, 0.05, 5e-5, 2048, 50),
    ("imagenet_r50_200", "mse"): ("resnet50", "folder", 224, 200, 8 * 60, 0.05, 5e-5, 2048, 50),
}
VIT = COMMON | {
    "model.arch": "vit_tiny",
    "model.heads": "mocov3",
    "model.projector_layers": 3,
    "model.projector_hidden": 2048,
    "model.projector_out": 256,
    "model.predictor_hidden": 2048,
    "model.freeze_patch_projection": True,
    "objective.base_loss": "infonce",
    "objective.predictor": "true",
    "objective.negatives": "keys",
    "objective.teacher": "momentum",
    "objective.temperature": 0.2,
    "objective.ema_schedule": "cosine",
    "optimizer.name": "adamw",
    "optimizer.lr": 1.5e-4 * 512 / 256,
    "optimizer.epochs": 300,
    "optimizer.batch_size": 512,
    "optimizer.warmup_epochs": 40,
    "regularizer.coefficient": 0.1 / 2,
    "regularizer.warmup_epochs": 100,
    "data.name": "cifar10",
    "data.size": 224,
    "augment.blur_p": [1.0, 0.1],
    "augment.solarize_p": [0.0, 0.2],
    "augment.jitter": [0.4, 0.4, 0.2, 0.1],
    "augment.jitter_p": 0.8,
    "augment.grayscale_p": 0.2,
    "augment.flip": 0.5,
}
MOCOV2 = {
    "objective.base_loss": "infonce",
    "objective.distill_loss": "none",
    "objective.teacher": "momentum",
    "objective.queue": 2048,
    "objective.ema_momentum": 0.999,
    "objective.temperature": 0.2,
    "optimizer.lr": 0.3,
    "model.projector_out": 256,
    "optimizer.batch_size": 4 * 64,
    "optimizer.epochs": 400,
    "regularizer.coefficient": 5e-5,
    "widths.min": 1.0,
}
SEED = {
    "objective.base_loss": "seed",
    "objective.distill_loss": "none",
    "objective.teacher": "online",
    "objective.queue": 32768,
    "optimizer.epochs": 200,
    "optimizer.lr": 0.05,
    "optimizer.batch_size": 4 * 128,
    "model.projector_out": 2048,
    "regularizer.coefficient": 5e-5,
    "widths.min": 1.0,
}


def resolved(preset: str, *overrides: str) -> dict[str, object]:
    content = config.to_dict(config.load(preset, overrides))
    return {"seed": content["seed"]} | {
        f"{section}.{key}": value
        for section, values in content.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def differences(found: dict, expected: dict) -> dict:
    return {key: (found[key], value) for key, value in expected.items() if found[key] != value}


@pytest.mark.parametrize(("preset", "loss"), sorted(PUBLISHED))
def test_presets_are_the_published_settings(preset, loss):
    views = IMAGENET_VIEWS if preset.startswith("imagenet") else CIFAR_VIEWS
    expected = SGD | views | dict(zip(COLUMNS, PUBLISHED[preset, loss], strict=True)) | {"objective.base_loss": loss}
    assert differences(resolved(preset, f"objective.base_loss={loss}"), expected) == {}


def test_the_vit_preset_is_the_published_setting():
    assert differences(resolved("vit_cifar10"), VIT) == {}
    assert differences(resolved("vit_cifar10_mocov3"), VIT | {"objective.distill_loss": "none", "widths.min": 1.0}) == {}


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_baselines_on_cifar_are_the_published_settings(data):
    assert differences(resolved(f"{data}_mocov2"), MOCOV2 | {"data.name": data, "model.arch": "resnet18_cifar"}) == {}
    seed = resolved(f"{data}_seed", "objective.seed_teacher=runs/teacher")
    assert differences(seed, SEED | {"data.name": data, "model.arch": "resnet18_cifar"}) == {}


def test_every_preset_of_the_project_is_looked_at_here():
    looked_at = {preset for preset, _ in PUBLISHED} | {"vit_cifar10", "vit_cifar10_mocov3"}
    looked_at |= {f"{data}_{method}" for data in ("cifar10", "cifar100") for method in ("mocov2", "seed")}
    laptop = {"digits", "digits_long", "digits_vit", "cifar10_small"}  # not published
    assert set(config.presets()) == looked_at | laptop


@pytest.mark.parametrize(
    ("preset", "loss", "layers"), [("cifar10", "mse", 2), ("cifar10", "infonce", 0), ("vit_cifar10", "infonce", 2)]
)
def test_heads_have_the_published_depth(preset, loss, layers):
    """Projector of 3 linear layers; predictor and distillation head of 2; no predictor with InfoNCE but for MoCo v3."""
    cfg = config.load(preset, [f"objective.base_loss={loss}", "model.projector_hidden=32", "model.predictor_hidden=32"])
    student = Student(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, arch="vit_micro")) if "vit" in preset else cfg)

    def depth(head):
        weights = [] if head is None else [layer.weight for layer in head if getattr(layer, "weight", None) is not None]
        return sum(weight.ndim == 2 for weight in weights)

    assert (depth(student.projector), depth(student.predictor), depth(student.distill_head)) == (3, layers, 2)


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{name}.yaml")

    return write


def test_a_preset_says_only_what_differs_from_its_base(write):
    write(
        "lowest",
        "optimizer: {lr: 0.1, epochs: 7}\ndata: {name: digits}\nby_base_loss: {infonce: {optimizer: {lr: 0.9, batch_size: 64}}}\n",
    )
    write("middle", "base: lowest.yaml\noptimizer: {epochs: 8}\nmodel: {arch: resnet_small}\n")
    top = write("top", "base: middle.yaml\noptimizer: {lr: 0.2}\nby_base_loss: {infonce: {optimizer: {batch_size: 32}}}\n")
    plain, chosen = config.load(top, []), config.load(top, ["objective.base_loss=infonce"])
    own = plain.optimizer
    assert (own.lr, own.epochs, own.batch_size, plain.model.arch) == (0.2, 8, 512, "resnet_small")
    # The upper preset's plain setting beats the lower one's by base loss, and an override beats all.
    assert (chosen.optimizer.lr, chosen.optimizer.batch_size) == (0.2, 32)
    assert config.load(top, ["objective.base_loss=infonce", "optimizer.batch_size=16"]).optimizer.batch_size == 16
    assert plain.experiment.preset == "top"


def test_a_preset_of_ones_own_can_stand_on_one_of_the_project(write):
    cfg = config.load(write("mine", "base: cifar100_r50\nobjective: {base_loss: infonce}\n"), [])
    assert (cfg.optimizer.lr, cfg.optimizer.epochs, cfg.data.name, cfg.model.arch) == (0.25, 400, "cifar100", "resnet50_cifar")


def test_settings_of_a_recipe_beat_those_by_base_loss_and_are_kept_by_its_heirs(write):
    mine = write("heir", "base: cifar10\noptimizer: {lr: 0.7}\nby_base_loss: {infonce: {optimizer: {lr: 0.8}}}\n")
    assert config.load(mine, ["objective.base_loss=infonce"]).optimizer.lr == 0.8
    chosen = ["experiment.recipe=individual-mocov2"]
    assert (config.load(mine, chosen).optimizer.lr, config.load(mine, [*chosen, "optimizer.lr=0.9"]).optimizer.lr) == (0.3, 0.9)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "base: b.yaml", "b": "base: c.yaml", "c": "base: a.yaml"}, "in a circle: a -> b -> c -> a"),
        ({"a": "base: a.yaml"}, "in a circle: a -> a"),
        ({"a": "base: cifar_100"}, "did you mean cifar100"),
        ({"a": "base: b.yaml", "b": "optimiser: {lr: 1}"}, "unknown key optimiser; did you mean optimizer"),
        ({"a": "by_base_loss: {infonce: {optimizer: {rate: 1}}}\nobjective: {base_loss: infonce}"}, "unknown key optimizer.rate"),
        ({"a": "by_base_loss: 3"}, "by_base_loss must map"),
        ({"a": "objective: 3"}, "objective is a section"),
        ({"a": "base: digits\nexperiment: {recipe: sed}"}, "unknown recipe 'sed'; did you mean seed"),
        ({"a": "experiment: {baseline: seed}"}, "set experiment.recipe="),
        ({"a": "by_baseline: {seed: {objective: {queue: 7}}}"}, "set experiment.recipe="),
        ({"a": "by_recipe: {sed: {objective: {queue: 7}}}"}, "by_recipe must map any, "),
        ({"a": "by_recipe: {any: {objective: {queues: 7}}}"}, "unknown key objective.queues"),
    ],
)
def test_bad_presets_are_refused_with_the_mend(write, files, message):
    paths = {name: write(name, text) for name, text in files.items()}
    with pytest.raises(UserError, match=message):
        config.load(paths["a"], [])
