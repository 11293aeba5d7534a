"""Losses, teachers and rules beyond the paper's, against slow computations in float64, closed forms and their laws."""

import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain import config
from pretrain.checkpoints import files
from pretrain.config import RegularizerConfig, WidthsConfig
from pretrain.config.methods import TEACHER, make
from pretrain.diagnostics import cka_drift
from pretrain.objective import losses
from pretrain.objective.base_losses.barlow_twins import barlow_twins
from pretrain.objective.base_losses.dino import Dino
from pretrain.objective.base_losses.swav import swav
from pretrain.objective.base_losses.vicreg import vicreg
from pretrain.objective.base_losses.wmse import wmse
from pretrain.objective.distill_losses.cka import cka
from pretrain.objective.distill_losses.gram import gram
from pretrain.objective.distill_losses.next_wider import next_wider
from pretrain.objective.distill_losses.similarity import similarity
from pretrain.objective.losses.statistics import balanced_codes, whitened
from pretrain.objective.networks import Student
from pretrain.objective.prototypes import Prototypes
from pretrain.objective.regularizers.balanced import Balanced
from pretrain.objective.step import Objective
from pretrain.objective.teaching import TeacherSetting
from pretrain.objective.width_rules.ordered_dropout import ordered_dropout
from pretrain.slimmable import at_width
from pretrain.training import pretrain
from rundir.errors import UserError
from tests.pretrain.interruption import pretrain_until
from tests.pretrain.tiny import OVERRIDES, assert_same_run

SHAPES = [(7, 3), (16, 13), (33, 8), (5, 1)]


def pair(batch, dim, seed=0):
    return torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


# -- base losses, by loops over plain numbers ------------------------------------------------------------------------------


def columns(x):
    """The dimensions of rows as lists of numbers, centred, and their biased variances."""
    found = [[row[j] for row in x.tolist()] for j in range(x.shape[1])]
    found = [[v - math.fsum(c) / len(c) for v in c] for c in found]
    return found, [math.fsum(v * v for v in c) / len(c) for c in found]


def slow_barlow_twins(s, t, weight):
    (a, va), (b, vb) = columns(s), columns(t)
    total, dim, batch = 0.0, len(a), len(a[0])
    for i in range(dim):
        for j in range(dim):
            c = math.fsum(x * y for x, y in zip(a[i], b[j], strict=True)) / batch
            c /= math.sqrt((va[i] + 1e-5) * (vb[j] + 1e-5))
            total += (1 - c) ** 2 if i == j else weight * c * c
    return total / dim


def slow_vicreg(s, t, invariance, variance, covariance):
    total = (
        invariance
        * math.fsum((x - y) ** 2 for a, b in zip(s.tolist(), t.tolist(), strict=True) for x, y in zip(a, b, strict=True))
        / s.numel()
    )
    for side in (s, t):
        c, v = columns(side)
        dim, batch = len(c), len(c[0])
        total += variance * math.fsum(max(0.0, 1 - math.sqrt(x * batch / (batch - 1) + 1e-4)) for x in v) / dim
        total += (
            covariance
            / dim
            * math.fsum(
                (math.fsum(x * y for x, y in zip(c[i], c[j], strict=True)) / (batch - 1)) ** 2
                for i in range(dim)
                for j in range(dim)
                if i != j
            )
        )
    return total


def slow_whitened(x, group, epsilon):
    """By the inverse of a Cholesky factor computed row by row."""
    x = x.numpy()
    parts = []
    for start in range(0, x.shape[1], group):
        part = x[:, start : start + group] - x[:, start : start + group].mean(0)
        cov = (1 - epsilon) * np.cov(part, rowvar=False).reshape(part.shape[1], -1) + epsilon * np.eye(part.shape[1])
        factor = np.zeros_like(cov)
        for i in range(len(cov)):
            for j in range(i + 1):
                rest = cov[i, j] - factor[i, :j] @ factor[j, :j]
                factor[i, j] = math.sqrt(rest) if i == j else rest / factor[j, j]
        parts.append(part @ np.linalg.inv(factor).T)
    return np.concatenate(parts, 1)


def slow_wmse(s, t, group, epsilon):
    a, b = slow_whitened(s, group, epsilon), slow_whitened(t, group, epsilon)
    return -np.mean([x @ y / math.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)])


def softmax(values):
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / math.fsum(powers) for p in powers]


def cross_entropy(wanted, given):
    return -math.fsum(
        math.fsum(q * math.log(p) for q, p in zip(a, b, strict=True)) for a, b in zip(wanted, given, strict=True)
    ) / len(wanted)


def slow_swav(s, t, temperature, epsilon, iterations):
    """With the pseudo-code of the paper: exponentials, normalised by prototype and by image in turn."""
    q = np.exp(t.numpy() / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True)
        q /= q.shape[0]
        q /= q.sum(0, keepdims=True)
        q /= q.shape[1]
    codes = (q * q.shape[1]).T
    return temperature * cross_entropy(codes.tolist(), [softmax([v / temperature for v in row]) for row in s.tolist()])


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_base_losses_are_the_formulas(batch, dim):
    s, t = pair(batch, dim)
    found = barlow_twins(s, t, off_diagonal=0.3, scale=0.7)
    assert float(found) == pytest.approx(0.7 * slow_barlow_twins(s, t, 0.3), abs=1e-12)
    found = vicreg(0.6 * s, 0.6 * t, invariance=0.7, variance=1.3, covariance_weight=0.2)
    assert float(found) == pytest.approx(slow_vicreg(0.6 * s, 0.6 * t, 0.7, 1.3, 0.2), abs=1e-12)
    assert float(wmse(s, t, group=4, epsilon=1e-3)) == pytest.approx(slow_wmse(s, t, 4, 1e-3), abs=1e-10)
    unit = [F.normalize(x, dim=1) for x in (s, t)]
    assert float(swav(*unit, temperature=0.2, epsilon=0.1, iterations=4)) == pytest.approx(slow_swav(*unit, 0.2, 0.1, 4), abs=1e-12)


def test_losses_of_two_sides_pass_the_gradient_through_both_and_others_do_not():
    s, t = (x.requires_grad_() for x in pair(12, 6))
    for loss in (barlow_twins, vicreg, wmse):
        assert torch.autograd.gradcheck(loss, (s, t), atol=1e-6)
    for loss in (swav, Dino(losses.LossSetting(6, None)), cka, gram, similarity, next_wider):
        own, target = torch.autograd.grad(loss(s, t), (s, t), allow_unused=True)
        assert own.abs().sum() > 0 and target is None


def test_dino_centres_by_the_targets_of_base_passes_so_far():
    loss = Dino(losses.LossSetting(4, None), student_temperature=0.3, teacher_temperature=0.2, centre_momentum=0.75)
    centre = [0.0] * 4
    for step in range(4):
        s, t = pair(6, 4, seed=step)
        wanted = [softmax([(v - c) / 0.2 for v, c in zip(row, centre, strict=True)]) for row in t.tolist()]
        expected = 0.3 * cross_entropy(wanted, [softmax([v / 0.3 for v in row]) for row in s.tolist()])
        assert float(loss(s, t)) == pytest.approx(expected, abs=1e-6)
        loss.observe((s, t))
        mean = [math.fsum(column) / 12 for column in zip(*s.tolist(), *t.tolist(), strict=True)]
        centre = [0.75 * c + 0.25 * m for c, m in zip(centre, mean, strict=True)]
    assert loss.centre.tolist() == pytest.approx(centre, abs=1e-6)


def test_whitened_rows_have_no_mean_and_unit_covariance_within_groups():
    x, _ = pair(200, 10)
    found = whitened(x @ torch.randn(10, 10, dtype=torch.float64), 4, 1e-9)
    assert found.mean(0).abs().max() < 1e-9
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        part = found[:, start:stop]
        torch.testing.assert_close(part.T @ part / 199, torch.eye(stop - start, dtype=torch.float64), atol=1e-5, rtol=0)


def test_codes_are_distributions_that_use_all_prototypes_alike():
    scores = torch.rand(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + torch.arange(8)  # one is the best
    codes = balanced_codes(scores, 0.3, 200)
    torch.testing.assert_close(codes.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=0, atol=1e-6)


def test_prototypes_give_cosines():
    layer = Prototypes(6, 5).double()
    x, _ = pair(9, 6)
    for i, row in enumerate(layer(x)):
        for k, value in enumerate(row):
            cosine = F.cosine_similarity(x[i], layer.weight[k], dim=0)
            assert float(value.detach()) == pytest.approx(float(cosine.detach()), abs=1e-12)


# -- what a drift that all targets share changes (docs/objectives.md) -------------------------------------------------------


def gradient(loss, s, t):
    return torch.autograd.grad(loss(s, t), s)[0]


def changed(loss, s, t, moved):
    s = s.clone().requires_grad_()
    before, after = gradient(loss, s, t), gradient(loss, s, moved)
    return float((after - before).norm() / before.norm())


def test_which_losses_a_shift_of_all_targets_leaves_alone():
    s, t = pair(64, 8)
    s = 0.3 * s + t
    shift = torch.linspace(-1, 1, 8, dtype=torch.float64)
    exact = {"barlow_twins": barlow_twins, "wmse": wmse, "swav": swav, "cka": cka}
    assert {name for name, loss in exact.items() if changed(loss, s, t, t + shift) > 1e-6} == set()
    for loss in (losses.negative_cosine, vicreg, Dino(losses.LossSetting(8, None))):
        assert changed(loss, s, t, t + shift) > 0.1
    # DINO's centre follows: once it has moved as far as the targets, nothing is left of the shift.
    still, moved = Dino(losses.LossSetting(8, None)), Dino(losses.LossSetting(8, None))
    for _ in range(300):
        still.observe((t,))
        moved.observe((t + shift,))
    s.requires_grad_()
    torch.testing.assert_close(gradient(still, s, t), gradient(moved, s, t + shift), rtol=1e-4, atol=1e-6)


def test_which_losses_a_rotation_of_all_targets_leaves_alone():
    s, t = pair(64, 8)
    s = 0.3 * s + t
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    assert changed(gram, s, t, t @ rotation) < 1e-9 and changed(cka, s, t, t @ rotation) < 1e-9
    for loss in (losses.negative_cosine, barlow_twins, vicreg, wmse, swav, next_wider, similarity):
        assert changed(loss, s, t, t @ rotation) > 0.1


# -- distillation losses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "dim"), [(7, 3), (16, 13), (2, 5)])
def test_distillation_losses_are_the_formulas(batch, dim):
    s, t = pair(batch, dim)
    a, b = ([[v / math.sqrt(math.fsum(x * x for x in row)) for v in row] for row in side.tolist()] for side in (s, t))

    def dot(x, y):
        return math.fsum(p * q for p, q in zip(x, y, strict=True))

    squares = math.fsum((dot(a[i], a[j]) - dot(b[i], b[j])) ** 2 for i in range(batch) for j in range(batch) if i != j)
    assert float(gram(s, t, scale=0.3)) == pytest.approx(0.3 * squares / batch, abs=1e-12)
    total = 0.0
    for i in range(batch):
        others = [j for j in range(batch) if j != i]
        own, guide = (softmax([dot(x[i], b[j]) / temperature for j in others]) for x, temperature in ((a, 0.3), (b, 0.2)))
        total += math.fsum(q * math.log(q / p) for q, p in zip(guide, own, strict=True))
    found = similarity(s, t, student_temperature=0.3, target_temperature=0.2)
    assert float(found) == pytest.approx(total / batch, abs=1e-10)
    assert float(cka(s, t)) == pytest.approx(cka_drift(s, t), abs=1e-9)
    assert float(next_wider(s, t)) == pytest.approx(-sum(dot(x, y) for x, y in zip(a, b, strict=True)) / batch, abs=1e-12)


# -- teachers, in a step whose losses are computed again from plain passes ---------------------------------------------------


TINY = [
    "model.arch=resnet_of_the_training_tests",
    "model.projector_layers=2",
    "model.projector_hidden=16",
    "model.projector_out=8",
    "model.predictor_hidden=8",
    "data.size=8",
]


def views(seed=0):
    return torch.randn(2, 12, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


def stepped(name, widths=(1.0, 0.6, 0.25), distill="mse", **more):
    """A student and its teacher, and the losses of a step that changes no weight."""
    cfg = config.load("digits", [*TINY, f"objective.teacher={name}", f"objective.distill_loss={distill}"])
    torch.manual_seed(5)
    student = Student(cfg).double()
    teacher = make(TEACHER, name, {}, TeacherSetting(cfg, student)).double()
    for parameter in teacher.parameters():  # so that the average is another network
        parameter.add_(0.1 * torch.randn_like(parameter))
    objective = Objective(cfg.objective, student, student, teacher, 1.0, nullcontext)
    with torch.no_grad():
        found = objective.step(*views(), list(widths), 1.0, lambda loss: None, lambda width: None)
    return student, teacher, [float(v) for v in found]


def projections(network, width):
    with torch.no_grad(), at_width(network, width):
        return [network.projector(network.encoder(x)) for x in views()]


def distance(student, width, targets):
    """-cos of the distillation head's outputs at ``width`` and the other view's targets."""
    with torch.no_grad():
        outputs = [student.distill_head(z) for z in projections(student, width)]
    return float(sum(-F.cosine_similarity(o, t, dim=1).mean() for o, t in zip(outputs, targets[::-1], strict=True)) / 2)


def test_a_chain_is_each_width_learning_from_the_next_wider():
    student, _, found = stepped("chain")
    assert found[1:] == pytest.approx(
        [distance(student, 0.6, projections(student, 1.0)), distance(student, 0.25, projections(student, 0.6))], abs=1e-12
    )
    _, _, online = stepped("online")
    assert found[0] == online[0] and found[1] == online[1] and abs(found[2] - online[2]) > 1e-6


def test_the_next_wider_loss_learns_from_the_same_view():
    student, _, found = stepped("online", distill="next_wider")
    expected = distance(student, 0.25, projections(student, 0.6)[::-1])
    assert found[2] == pytest.approx(expected, abs=1e-12)


def test_an_ensemble_is_the_mean_of_unit_projections_of_all_widths():
    widths = (1.0, 0.6, 0.25)
    student, _, found = stepped("ensemble")
    each = [[F.normalize(z, dim=1) for z in projections(student, w)] for w in widths]
    mean = [sum(view) / 3 for view in zip(*each, strict=True)]
    assert found[1:] == pytest.approx([distance(student, w, mean) for w in widths[1:]], abs=1e-12)
    assert found[0] == stepped("online")[2][0]


def test_a_momentum_average_per_width_is_the_average_at_the_width_that_learns():
    student, teacher, found = stepped("momentum_per_width")
    assert found[1:] == pytest.approx([distance(student, w, projections(teacher, w)) for w in (0.6, 0.25)], abs=1e-12)
    student, teacher, plain = stepped("momentum")
    assert plain[1:] == pytest.approx([distance(student, w, projections(teacher, 1.0)) for w in (0.6, 0.25)], abs=1e-12)


def test_a_frozen_teacher_guides_every_loss_and_does_not_move(tmp_path):
    quick = [*OVERRIDES, "optimizer.epochs=1", "objective.ema_schedule=constant"]
    pretrain(config.load("digits", [*quick, "seed=1"]), tmp_path / "teacher")
    frozen = ["objective.teacher=frozen", f"objective.seed_teacher={tmp_path}/teacher"]
    pretrain(config.load("digits", [*quick, *frozen]), tmp_path / "run")
    payload = files.load(tmp_path / "run" / "checkpoint.pt")
    assert payload["teacher"] is None and payload["seed_teacher"]
    with pytest.raises(UserError, match=r"objective\.teacher=frozen learns from a trained network; set objective\.seed_teacher="):
        config.load("digits", ["objective.teacher=frozen"])
    with pytest.raises(UserError, match=r"model\.projector_out=8 must be that of .*; set model\.projector_out=16"):
        pretrain(config.load("digits", [*quick, *frozen, "model.projector_out=8"]), tmp_path / "other")


# -- rules and regularizers --------------------------------------------------------------------------------------------------


def test_ordered_dropout_draws_each_level_alike():
    cfg = WidthsConfig(min=0.25, max=1.0, sampling="ordered_dropout")
    drawn = [ordered_dropout(cfg, random.Random(step), 0.0, levels=4) for step in range(4000)]
    for level in (0.25, 0.5, 0.75, 1.0):
        assert drawn.count([level]) == pytest.approx(1000, abs=120)
    assert {tuple(ordered_dropout(cfg, random.Random(step), 0.0, levels=2)) for step in range(50)} == {(0.25,), (1.0,)}


def test_balanced_divides_by_the_square_root_of_the_updates_per_step():
    model = torch.nn.Linear(4, 1, bias=False).double()
    regularizer = Balanced(RegularizerConfig(kind="balanced", coefficient=0.0), model)
    reach = {True: [1.0, 1.0, 1.0, 1.0], False: [1.0, 1.0, 0.0, 0.0]}  # of the widest and of the narrow width
    for _ in range(3):
        for widest in (True, False, False):
            model.weight.grad = torch.tensor([reach[widest]], dtype=torch.float64)
            regularizer.add_gradient(widest)
    # After three steps the first two weights had nine updates, three of them in each step; the others one.
    assert model.weight.grad[0].tolist() == pytest.approx([1 / math.sqrt(3)] * 2 + [0.0] * 2)
    model.weight.grad = torch.tensor([reach[True]], dtype=torch.float64)
    regularizer.add_gradient(True)
    assert model.weight.grad[0].tolist() == pytest.approx([1 / math.sqrt(10 / 4)] * 2 + [1.0] * 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["regularizer.kind=balanced", "objective.update=accumulate"], r"counts the updates of each width; set objective\.update="),
        (
            ["regularizer.kind=balanced", "widths.sampling=uniform"],
            r"by those of the widest network; set widths\.sampling to one of",
        ),
        (["objective.base_loss=swav", "model.prototypes=0"], r"distributions over prototypes; set for example model\.prototypes="),
        (["objective.base_loss=dino", "model.prototypes=0"], r"distributions over prototypes; set for example model\.prototypes="),
        (
            ["objective.base_loss=wmse", "objective.base_options.group=128"],
            r"over 128 images, which are too few; set .*group=64 or",
        ),
        (["objective.base_loss=wmse", "optimizer.virtual_processes=8"], r"whitens groups of 32 dimensions over 16 images"),
        (["objective.teacher=ensemble", "objective.feature_weight=1"], r"objective\.teacher=ensemble has no feature maps"),
        (
            ["objective.base_loss=vicreg", "objective.queue=512"],
            r"objective\.queue=512 has no effect with objective\.base_loss=vicreg",
        ),
    ],
)
def test_a_config_that_cannot_work_is_one_line(setting, message):
    with pytest.raises(UserError, match=message) as found:
        config.load("digits", setting)
    assert "\n" not in str(found.value)


# -- whole runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        ["objective.base_loss=dino", "model.prototypes=12"],
        ["objective.base_loss=swav", "model.prototypes=12"],
        ["regularizer.kind=balanced"],
        ["objective.teacher=ensemble"],
        ["objective.teacher=momentum_per_width"],
    ],
)
def test_an_interrupted_run_continues_to_the_same_bits(setting, tmp_path):
    cfg = config.load(
        "digits", [*OVERRIDES, "optimizer.epochs=2", "objective.ema_schedule=constant", "widths.sampling=sandwich", *setting]
    )
    pretrain(cfg, tmp_path / "whole")
    pretrain_until(cfg, tmp_path / "broken", 6)
    pretrain(cfg, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
