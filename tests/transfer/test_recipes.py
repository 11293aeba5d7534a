"""The published recipes of METHOD section 6, by data set, and what a user may change."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.checkpoints import Checkpoint
from pretrain.config import Config, DataConfig
from pretrain.models import build
from pretrain.models.dense import DenseEncoder
from rundir.errors import UserError
from transfer.classification.options import Options, Recipe, finetune_recipe, parse_overrides, recipe_of
from transfer.classification.task import Task

PER_PAPER = {  # learning rate, epochs, schedule, batch
    "cifar10": (30, 100, "step", 512),
    "cifar100": (30, 100, "step", 512),
    "digits": (30, 100, "step", 512),
    "aircraft": (30, 100, "step", 64),
    "dtd": (30, 100, "step", 64),
    "flowers102": (30, 100, "step", 64),
    "pets": (30, 100, "step", 64),
    "caltech101": (30, 100, "step", 64),
    "food101": (30, 100, "step", 64),
    "imagenet": (0.8, 60, "cosine", 2048),
    "ImageNet-1k": (0.8, 60, "cosine", 2048),
    "ILSVRC2012": (0.8, 60, "cosine", 2048),
    "my-birds": (30, 100, "step", 512),
}


@pytest.mark.parametrize("dataset", PER_PAPER)
def test_linear_evaluation_of_each_data_set(dataset):
    recipe = Options().recipe_for("linear", dataset)
    assert (recipe.lr, recipe.epochs, recipe.schedule, recipe.batch_size) == PER_PAPER[dataset]
    assert (recipe.momentum, recipe.weight_decay, recipe.flip) == (0.9, 0.0, 0.5)
    if recipe.schedule == "step":
        rates = [recipe.lr_at(epoch) for epoch in range(100)]
        assert rates == pytest.approx([30] * 60 + [3] * 20 + [0.3] * 20)
    cifar = recipe_of(dataset) == "cifar"
    assert (recipe.crop_scale, recipe.interpolation) == (([0.8, 1.0], "bicubic") if cifar else ([0.08, 1.0], "bilinear"))


def test_linear_evaluation_as_the_authors_run_it():
    """METHOD section 7: LARS on ImageNet, ViTs' own, 36 pixels of which 32, MobileNetV2 on Flowers."""
    imagenet, vit, cifar = (
        Options(recipe=r).recipe_for("linear", d) for r, d in ((None, "imagenet"), ("vit", "cifar10"), ("cifar-as-run", "cifar10"))
    )
    assert (imagenet.optimizer, imagenet.trust, imagenet.lr, imagenet.start) == ("lars", 0.001, 0.8, "torch")
    assert (vit.lr, vit.epochs, vit.schedule, vit.batch_size, vit.crop_scale, vit.interpolation, vit.test_scale) == (
        0.1,
        90,
        "cosine",
        256,
        [0.08, 1.0],
        "bilinear",
        1.0,
    )
    assert (32 * cifar.test_scale, cifar.test_interpolation, cifar.start, cifar.lr) == (36, "bicubic", "torch", 30)
    assert Options().recipe_for("linear", "cifar10", "vit_tiny") == vit
    assert Options().recipe_for("linear", "cifar10", "resnet18_cifar") == Options().recipe_for("linear", "cifar10") != vit
    lr = {arch: Options().recipe_for("linear", "flowers102", arch).lr for arch in ("mobilenetv2_cifar", "resnet18")}
    assert lr == {"mobilenetv2_cifar": 100, "resnet18": 30}


def test_cosine_schedule():
    recipe = Options().recipe_for("linear", "imagenet")
    assert [recipe.lr_at(e) for e in (0, 15, 30, 45)] == pytest.approx(
        [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))]
    )
    assert 0 < recipe.lr_at(59) < 0.001


@pytest.mark.parametrize(
    ("dataset", "epochs", "lr"),
    [
        ("cifar10", 50, 0.001),
        ("aircraft", 50, 0.005),
        ("dtd", 100, 0.1),
        ("flowers102", 100, 0.1),
        ("pets", 100, 0.1),
        ("imagenet", 50, 0.01),
    ],
)
def test_fine_tuning_of_each_data_set(dataset, epochs, lr):
    assert Options().recipe_for("finetune", dataset) == finetune_recipe(dataset) == Recipe(epochs, lr, 1e-4, 64)
    rates = [finetune_recipe(dataset).lr_at(epoch) for epoch in range(epochs)]
    assert rates == pytest.approx([lr] * (epochs * 3 // 5) + [lr / 10] * (epochs // 5) + [lr / 100] * (epochs // 5))


def test_overrides_change_the_recipe_of_the_data_set():
    options = parse_overrides(["linear.epochs=7", "linear.crop_scale=[0.5,1]", "finetune.lr=0.001"])
    flowers, cifar = (options.recipe_for("linear", name) for name in ("flowers102", "cifar10"))
    assert (flowers.epochs, flowers.batch_size, flowers.crop_scale) == (7, 64, [0.5, 1.0])
    assert (cifar.epochs, cifar.batch_size) == (7, 512)
    assert options.recipe_for("finetune", "pets") == Recipe(100, 0.001, 1e-4, 64)


def test_a_recipe_by_name():
    options = parse_overrides(["linear.lr=1"], recipe="imagenet")
    recipe = options.recipe_for("linear", "flowers102")
    assert (recipe.lr, recipe.epochs, recipe.schedule) == (1, 60, "cosine")


@pytest.mark.parametrize(
    ("overrides", "values", "said"),
    [
        (["linear.epoch=3"], {}, "unknown key linear.epoch; did you mean linear.epochs"),
        (["linear.lr=fast"], {}, "linear.lr=fast must be a number"),
        (["linear.schedule=stairs"], {}, "linear.schedule=stairs is not known; set one of step, cosine"),
        (["finetune.batch_size=1"], {}, "finetune.batch_size=1 must be at least 2: BatchNorm"),
        (["linear.epochs=0"], {}, r"linear.epochs=0 must be in \[1, 1000000\]"),
        (["linear.crop_scale=[2,3]"], {}, r"linear.crop_scale=\[2.0, 3.0\] must be 2 numbers, each in \[0, 1\]"),
        (["linear.crop_scale=[0.9]"], {}, "must be 2 numbers"),
        (["linear.flip=7"], {}, r"linear.flip=7.0 must be in \[0, 1\]"),
        (["linear.momentum=5"], {}, r"linear.momentum=5.0 must be in \[0, 1\]"),
        (["linear.decay=nan"], {}, "linear.decay=nan must be finite"),
        (["linear.lr=inf"], {}, "linear.lr=inf must be finite and above 0"),
        (["linear.lr=true"], {}, "linear.lr"),
        (["linear.lr=${nonsense}"], {}, "linear.lr=.* is not a value"),
        (["linear.epochs=[1"], {}, "override 'linear.epochs=.1': .* is not YAML"),
        (["linear.epochs=???"], {}, "is not a value"),
        (["linear=3"], {}, "linear"),
        (["linear.epochs=3", "linear.epochs.x=4"], {}, "has a value already"),
        (["linear.weight_decay=-1"], {}, "linear.weight_decay=-1.0 must be at least 0"),
        (["linear.milestones=[nan]"], {}, "linear.milestones"),
        (["C=nan"], {}, "C=nan must be finite and above 0"),
        (["temperature=0"], {}, "temperature=0.0 must be above 0"),
        (["k=0"], {}, r"k=0 must be in \[1,"),
        (["seed=-1"], {}, r"seed=-1 must be in \[0,"),
        (["workers=-1"], {}, "workers=-1 must be in"),
        (["=3"], {}, "not of the form key=value"),
        (["C"], {}, "for example linear.epochs=20"),
        (["epochs=3"], {}, r"unknown key epochs; did you mean linear.epochs or finetune.epochs\?"),
        (
            [],
            {"recipe": "imagnet"},
            r"unknown value of --recipe: 'imagnet'; did you mean --recipe imagenet\? Choices: cifar, cifar-as-run, imagenet, ",
        ),
        (["linear.optimizer=adam"], {}, "linear.optimizer=adam is not known; set one of sgd, lars"),
        (["linear.test_scale=0.5"], {}, "linear.test_scale=0.5 must be in"),
        (["linear.trust=0"], {}, "linear.trust=0.0 must be above 0"),
        ([], {"score": "top5"}, "unknown value of --score: 'top5'; did you mean --score top1"),
        ([], {"label_fractions": [0.1, 2.0]}, "--label-fraction 2 is not a share of the labels"),
        ([], {"label_fractions": []}, "--label-fraction names none"),
        ([], {"label_fractions": [0.1], "limit": 50}, "--limit 50 and --label-fraction both leave out labels"),
    ],
)
def test_wrong_settings_are_one_line(overrides, values, said):
    with pytest.raises(UserError, match=said) as error:
        parse_overrides(overrides, **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("foreign", "dense", "data", "dataset", "pixels"),
    [
        (True, False, DataConfig(name=""), "cifar100", {"std": [0.2023, 0.1994, 0.2010]}),  # the authors' networks
        (True, False, DataConfig(name=""), "flowers102", {}),
        (True, True, DataConfig(name=""), "cifar10", {}),
        (False, False, DataConfig(name="cifar10", std=[0.3, 0.2, 0.1]), None, {"std": [0.3, 0.2, 0.1]}),
        (False, False, DataConfig(name="cifar10", mean=[0.3, 0.2, 0.1]), "cifar100", {}),
        (False, False, DataConfig(), None, {}),
    ],
)
def test_pixels_are_normalised_as_in_pretraining(foreign, dense, data, dataset, pixels):
    encoder = DenseEncoder(nn.Identity(), 8, {}, 32) if dense else build("resnet_small")
    backbone = Checkpoint(encoder, Config(data=data), Path(), foreign=foreign)
    task = Task(backbone, dataset, None, Options(), torch.device("cpu"))
    assert task.pixels == pixels
