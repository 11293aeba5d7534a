"""Linear evaluation and fine-tuning: one pass for all widths, and the arithmetic of SGD."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from pretrain.checkpoints import open_checkpoint
from pretrain.data import crop_batches, evaluation_batches, load
from transfer.classification.features import extract_features
from transfer.classification.options import finetune_recipe, linear_recipe
from transfer.classification.rows import Storage
from transfer.classification.sgd import Classifier, accuracies, train

CPU = torch.device("cpu")
SHORT = dataclasses.replace(linear_recipe(), epochs=3, batch_size=64, flip=0.0)
SHORT_FINETUNE = dataclasses.replace(finetune_recipe(), epochs=2)


@pytest.fixture(scope="module")
def images():
    return load("digits", "train", None, 16, limit=150)  # the last batch of 64 has 22


def trained_classifiers(backbone, widths, frozen, images, recipe):
    classifiers = {w: Classifier(backbone.at(w), backbone.feature_dim(w), 10, seed=5, frozen=frozen) for w in widths}
    train(classifiers, recipe, images, 16, seed=5, device=CPU, title="test")
    return classifiers


@pytest.mark.parametrize(("frozen", "recipe"), [(True, SHORT), (False, SHORT_FINETUNE)])
def test_one_pass_equals_each_width_alone(trained, images, frozen, recipe):
    backbone = open_checkpoint(trained)
    together = trained_classifiers(backbone, [1.0, 0.5, 0.25], frozen, images, recipe)
    for width in (0.5, 0.25):
        alone = trained_classifiers(backbone, [width], frozen, images, recipe)[width].state_dict()
        for name, tensor in together[width].state_dict().items():
            assert torch.equal(tensor, alone[name]), name


def test_linear_evaluation_equals_sgd_by_hand(trained, images):
    backbone = open_checkpoint(trained)
    recipe = dataclasses.replace(SHORT, lr=3.0, milestones=[0.4, 0.7])
    head = trained_classifiers(backbone, [0.5], True, images, recipe)[0.5].head
    network = backbone.at(0.5).double()
    weight = (0.01 * torch.randn(10, backbone.feature_dim(0.5), generator=torch.Generator().manual_seed(5))).double()
    bias, speed = torch.zeros(10, dtype=torch.float64), [0.0, 0.0]
    for epoch, rate in enumerate([3.0, 0.3, 0.03]):
        for x, y in crop_batches(images, 16, 64, epoch, 5, CPU, (0.8, 1.0), 0.0, "bicubic"):
            with torch.no_grad():
                features = network(x.double())
            error = ((features @ weight.T + bias).softmax(1) - F.one_hot(y, 10)) / len(y)
            speed = [0.9 * v + g for v, g in zip(speed, (error.T @ features, error.sum(0)), strict=True)]
            weight, bias = weight - rate * speed[0], bias - rate * speed[1]
    assert torch.allclose(head.weight.double(), weight, atol=1e-4)
    assert torch.allclose(head.bias.double(), bias, atol=1e-4)


def test_frozen_encoder_stays_as_it_is_and_a_tuned_one_does_not(trained, images):
    backbone = open_checkpoint(trained)
    before = backbone.at(0.5).state_dict()
    frozen = trained_classifiers(backbone, [0.5], True, images, SHORT)[0.5].encoder.state_dict()
    tuned = trained_classifiers(backbone, [0.5], False, images, SHORT_FINETUNE)[0.5].encoder.state_dict()
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())
    for name in ("conv1.weight", "layer4.0.bn2.weight", "bn1.running_mean", "bn1.running_var"):
        assert not torch.equal(tuned[name], before[name]), name


def test_running_statistics_start_from_the_calibrated_ones(trained, images):
    backbone = open_checkpoint(trained)
    calibrated = backbone.at(0.5)
    recipe = dataclasses.replace(SHORT_FINETUNE, epochs=1, batch_size=150)  # a single step
    tuned = trained_classifiers(backbone, [0.5], False, images, recipe)[0.5].encoder
    x = next(crop_batches(images, 16, 150, 0, 5, CPU, (0.8, 1.0), 0.5, "bicubic"))[0]
    batch_mean = calibrated.conv1(x).mean((0, 2, 3))
    expected = 0.9 * calibrated.bn1.running_mean + 0.1 * batch_mean
    assert torch.allclose(tuned.bn1.running_mean, expected, atol=1e-5)


def test_fine_tuning_survives_a_last_batch_of_one_image(trained):
    images = load("digits", "train", None, 16, limit=65)
    trained_classifiers(open_checkpoint(trained), [0.25], False, images, dataclasses.replace(SHORT_FINETUNE, epochs=1))


def test_fine_tuning_learns(trained):
    images = load("digits", "train", None, 16, limit=400)
    val = load("digits", "val", None, 16)
    recipe = dataclasses.replace(finetune_recipe(), epochs=3, lr=0.05, flip=0.0)
    classifiers = trained_classifiers(open_checkpoint(trained), [0.5], False, images, recipe)
    assert accuracies(classifiers, evaluation_batches(val, 16, 256, CPU))[0.5] > 0.6


def test_outputs_that_are_not_finite_have_no_accuracy(trained, images):
    backbone = open_checkpoint(trained)
    classifiers = {w: Classifier(backbone.at(w), backbone.feature_dim(w), 10, 5, True) for w in (1.0, 0.5)}
    with torch.no_grad():
        classifiers[1.0].head.bias[3] = float("nan")
    found = accuracies(classifiers, evaluation_batches(images, 16, 64, CPU))
    assert found[1.0] is None
    assert 0 <= found[0.5] <= 1


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [
        (linear_recipe(), {0: 30, 59: 30, 60: 3, 79: 3, 80: 0.3, 99: 0.3}),
        (finetune_recipe(), {0: 0.01, 29: 0.01, 30: 1e-3, 39: 1e-3, 40: 1e-4, 49: 1e-4}),
    ],
)
def test_published_schedules(recipe, rates):
    assert {epoch: recipe.lr_at(epoch) for epoch in rates} == pytest.approx(rates)


def test_features_of_all_widths_in_one_pass(trained, images):
    backbone = open_checkpoint(trained)
    networks = {w: backbone.at(w) for w in (1.0, 0.25)}
    features, labels = extract_features(networks, evaluation_batches(images, 16, 64, CPU), len(images), Storage())
    x, y = next(evaluation_batches(images, 16, len(images), CPU))
    assert torch.equal(labels, y)
    for width, network in networks.items():
        with torch.no_grad():
            assert torch.allclose(features[width], network(x), atol=1e-5)


@pytest.mark.parametrize("start", ["normal", "torch"])
def test_linear_evaluation_with_lars_by_hand(trained, images, start):
    """LARS (arXiv 1708.03888, algorithm 1) without weight decay: the rate of each parameter times trust * |w| / |g|, then momentum;
    a parameter of norm 0 moves by its gradient."""
    backbone = open_checkpoint(trained)
    recipe = dataclasses.replace(SHORT, epochs=2, optimizer="lars", lr=20.0, trust=0.02, milestones=[1.0])
    classifier = Classifier(backbone.at(0.5), backbone.feature_dim(0.5), 10, 5, True, start)
    values = [p.detach().double().clone() for p in classifier.head.parameters()]
    train({0.5: classifier}, recipe, images, 16, seed=5, device=CPU, title="test")
    network, speed = backbone.at(0.5).double(), [0.0, 0.0]
    for epoch in range(2):
        for x, y in crop_batches(images, 16, 64, epoch, 5, CPU, (0.8, 1.0), 0.0, "bicubic"):
            with torch.no_grad():
                features = network(x.double())
            error = ((features @ values[0].T + values[1]).softmax(1) - F.one_hot(y, 10)) / len(y)
            for i, gradient in enumerate((error.T @ features, error.sum(0))):
                size, slope = float(values[i].norm()), float(gradient.norm())
                trust = 0.02 * size / slope if size > 0 and slope > 0 else 1.0
                speed[i] = 0.9 * speed[i] + trust * gradient
            values = [value - 20.0 * v for value, v in zip(values, speed, strict=True)]
    for parameter, value in zip(classifier.head.parameters(), values, strict=True):
        assert torch.allclose(parameter.double(), value, rtol=1e-3, atol=1e-4)


def test_a_layer_that_starts_as_torchs():
    """Uniform within 1 / sqrt(features), weights and bias, whatever was drawn before."""
    heads = [Classifier(torch.nn.Linear(1, 1), 400, 50, 3, True, "torch").head for _ in range(2)]
    weight = heads[0].weight.detach()
    assert torch.equal(weight, heads[1].weight) and float(weight.abs().max()) <= 1 / 20
    assert float(weight.std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.02) and float(heads[0].bias.detach().abs().max()) > 0.01
