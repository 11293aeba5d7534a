"""The published recipes of METHOD section 6, by data set, and what a user may change."""

from __future__ import annotations

import math

import pytest

from pretrain.errors import UserError
from transfer.classification.options import Options, Recipe, finetune_recipe, parse_overrides, recipe_of

PER_PAPER = {  # learning rate, epochs, schedule, batch
    "cifar10": (30, 100, "step", 512), "cifar100": (30, 100, "step", 512), "digits": (30, 100, "step", 512),
    "aircraft": (30, 100, "step", 64), "dtd": (30, 100, "step", 64), "flowers102": (30, 100, "step", 64),
    "pets": (30, 100, "step", 64), "caltech101": (30, 100, "step", 64), "food101": (30, 100, "step", 64),
    "imagenet": (0.8, 60, "cosine", 2048), "ImageNet-1k": (0.8, 60, "cosine", 2048), "ILSVRC2012": (0.8, 60, "cosine", 2048),
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


def test_cosine_schedule():
    recipe = Options().recipe_for("linear", "imagenet")
    assert [recipe.lr_at(e) for e in (0, 15, 30, 45)] == pytest.approx(
        [0.8, 0.4 * (1 + math.sqrt(0.5)), 0.4, 0.4 * (1 - math.sqrt(0.5))])
    assert 0 < recipe.lr_at(59) < 0.001


@pytest.mark.parametrize("dataset", ["cifar10", "flowers102", "imagenet"])
def test_fine_tuning_is_one_recipe(dataset):
    assert Options().recipe_for("finetune", dataset) == finetune_recipe() == Recipe(50, 0.01, 1e-4, 64)


def test_overrides_change_the_recipe_of_the_data_set():
    options = parse_overrides(["linear.epochs=7", "linear.crop_scale=[0.5,1]", "finetune.lr=0.001"])
    flowers, cifar = (options.recipe_for("linear", name) for name in ("flowers102", "cifar10"))
    assert (flowers.epochs, flowers.batch_size, flowers.crop_scale) == (7, 64, [0.5, 1.0])
    assert (cifar.epochs, cifar.batch_size) == (7, 512)
    assert options.recipe_for("finetune", "pets") == Recipe(50, 0.001, 1e-4, 64)


def test_a_recipe_by_name():
    options = parse_overrides(["linear.lr=1"], recipe="imagenet")
    recipe = options.recipe_for("linear", "flowers102")
    assert (recipe.lr, recipe.epochs, recipe.schedule) == (1, 60, "cosine")


@pytest.mark.parametrize(("overrides", "values", "said"), [
    (["linear.epoch=3"], {}, "linear.epoch: .*known here: epochs, lr"),
    (["linear.lr=fast"], {}, "linear.lr: "),
    (["linear.schedule=stairs"], {}, "linear.schedule=stairs is not known; write step or cosine"),
    (["finetune.batch_size=1"], {}, "finetune.batch_size 1 must be at least 2: BatchNorm"),
    (["linear.epochs=0"], {}, "linear.epochs 0 must be at least 1"),
    ([], {"recipe": "imagnet"}, "unknown recipe 'imagnet'; write --recipe with one of cifar, imagenet, transfer"),
    ([], {"score": "top5"}, "unknown score 'top5'; write --score with one of top1, mean_per_class"),
    ([], {"label_fractions": [0.1, 2.0]}, "--label-fraction 2 is not a share of the labels"),
    ([], {"label_fractions": []}, "--label-fraction names none"),
    ([], {"label_fractions": [0.1], "limit": 50}, "--limit 50 and --label-fraction both leave out labels"),
])
def test_wrong_settings_are_one_line(overrides, values, said):
    with pytest.raises(UserError, match=said) as error:
        parse_overrides(overrides, **values)
    assert "\n" not in str(error.value)
