"""Heads against torch.nn, which heads an objective has, and the moving average of the teacher in closed form."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pretrain.config import from_dict
from pretrain.objective.heads import mlp, predictor, projector
from pretrain.objective.networks import Student, Teacher
from pretrain.slimmable import at_width


def config(width=(0.25, 1.0), layers=3, **objective):
    return from_dict(
        {
            "model": {
                "arch": "resnet_small",
                "projector_layers": layers,
                "projector_hidden": 24,
                "projector_out": 10,
                "predictor_hidden": 14,
            },
            "objective": objective,
            "widths": {"min": width[0], "max": width[1]},
        }
    )


def plain_mlp(sizes):
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        layers += [nn.Linear(inputs, outputs, bias=last)] + ([] if last else [nn.BatchNorm1d(outputs), nn.ReLU()])
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("width", "kept"), [(1.0, 40), (0.5, 24), (0.25, 16)])
def test_projector_slices_its_first_input_only(layers, width, kept):
    torch.manual_seed(0)
    ours = projector(40, 24, 10, layers).double()
    theirs = plain_mlp([kept, *[24] * (layers - 1), 10])
    weights = dict(ours.state_dict())
    weights["0.weight"] = weights["0.weight"][:, :kept]
    assert set(weights) == {k for k in theirs.state_dict() if "running" not in k and "tracked" not in k}
    theirs.load_state_dict(weights, strict=False)
    x = torch.randn(9, kept, dtype=torch.float64)
    with at_width(ours, width):
        y = ours(x)
    torch.testing.assert_close(y, theirs(x))
    y.square().sum().backward()
    assert ours[0].weight.grad[:, kept:].count_nonzero() == 0
    assert all(p.grad.count_nonzero() > 0 for name, p in ours.named_parameters() if name != "0.weight")


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_predictor_is_full_width_at_every_width(width):
    ours, theirs = predictor(10, 14).double(), plain_mlp([10, 14, 10])
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(7, 10, dtype=torch.float64)
    with at_width(ours, width):
        torch.testing.assert_close(ours(x), theirs(x))


def test_mlp_of_the_paper():
    sizes = [tuple(m.weight.shape) for m in projector(512, 2048, 256, 3) if getattr(m, "weight", None) is not None]
    assert sizes == [(2048, 512), (2048,), (2048, 2048), (2048,), (256, 2048)]
    assert isinstance(mlp([8, 8], slice_input=False)[-1], nn.Module)


@pytest.mark.parametrize(
    ("objective", "has_predictor", "has_own", "sub"),
    [
        ({"base_loss": "mse", "distill_loss": "mse", "head": "own"}, True, True, "distill_head"),
        ({"base_loss": "mse", "distill_loss": "infonce", "head": "shared"}, True, False, "predictor"),
        ({"base_loss": "mse", "distill_loss": "infonce", "head": "none"}, True, False, None),
        ({"base_loss": "infonce", "distill_loss": "mse", "head": "own"}, False, True, "distill_head"),
        ({"base_loss": "infonce", "distill_loss": "infonce", "head": "none"}, False, False, None),
        ({"base_loss": "mse", "distill_loss": "none"}, True, False, None),
        ({"base_loss": "infonce", "distill_loss": "none"}, False, False, None),
    ],
)
def test_which_heads_there_are(objective, has_predictor, has_own, sub):
    student = Student(config(**objective))
    assert (student.predictor is not None) == has_predictor
    assert (student.distill_head is not None) == has_own
    assert student.sub_head is (None if sub is None else getattr(student, sub))
    names = [n for n, _ in student.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(map(id, student.parameters()))) and set(student.state_dict()) == set(names)


def test_an_individual_network_has_no_distillation_head():
    assert Student(config(width=(0.5, 0.5), base_loss="mse", distill_loss="mse")).distill_head is None


def test_distillation_head_and_predictor_have_one_shape_and_their_own_weights():
    student = Student(config(base_loss="mse", distill_loss="mse"))
    shapes = [[tuple(p.shape) for p in head.parameters()] for head in (student.predictor, student.distill_head)]
    assert shapes[0] == shapes[1] == [(14, 10), (14,), (14,), (10, 14), (10,)]
    assert not torch.equal(student.predictor[0].weight, student.distill_head[0].weight)


@pytest.mark.parametrize(("distill", "head"), [(False, "predictor"), (True, "distill_head")])
def test_student_outputs(distill, head):
    student = Student(config(base_loss="mse", distill_loss="mse")).double()
    x1, x2 = (torch.randn(4, 3, 8, 8, dtype=torch.float64) for _ in range(2))
    with at_width(student, 0.5):
        (z1, z2), (p1, p2), _ = student((x1, x2), distill)
        for x, z, p in ((x1, z1, p1), (x2, z2, p2)):  # each view goes through BatchNorm on its own
            torch.testing.assert_close(z, student.projector(student.encoder(x)))
            torch.testing.assert_close(p, getattr(student, head)(student.projector(student.encoder(x))))


# -- the moving average ---------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.integers(0, 1000))
def test_moving_average_closed_form(momenta, seed):
    """After n steps: prod(m) theta_0 + sum_i (1 - m_i) prod_{j > i} m_j theta_i."""
    torch.manual_seed(seed)
    student = Student(config(teacher="momentum", distill_loss="infonce")).double()
    teacher = Teacher(student)
    weights, names = [copy.deepcopy(teacher.state_dict())], list(teacher.state_dict())
    for momentum in momenta:
        for parameter in student.parameters():
            parameter.data.normal_()
        weights.append({k: v.clone() for k, v in student.state_dict().items() if k in names})
        teacher.update(student, momentum)
    for name in names:
        expected = weights[0][name] * torch.tensor(momenta, dtype=torch.float64).prod()
        for i, momentum in enumerate(momenta):
            rest = torch.tensor(momenta[i + 1 :], dtype=torch.float64).prod()
            expected = expected + (1 - momentum) * rest * weights[i + 1][name]
        torch.testing.assert_close(teacher.state_dict()[name], expected, rtol=1e-12, atol=1e-12)


def test_teacher_is_a_copy_of_encoder_and_projector_without_gradient():
    student = Student(config(teacher="momentum", base_loss="mse"))
    teacher = Teacher(student)
    assert {k.split(".")[0] for k in teacher.state_dict()} == {"encoder", "projector"}
    for name, weight in teacher.named_parameters():
        source = student.get_parameter(name)
        assert torch.equal(weight, source) and weight.data_ptr() != source.data_ptr() and not weight.requires_grad
        assert source.requires_grad
    before = copy.deepcopy(student.state_dict())
    for parameter in student.parameters():
        parameter.data += 1
    teacher.update(student, 1.0)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    teacher.update(student, 0.0)
    assert all(torch.allclose(v, student.state_dict()[k]) for k, v in teacher.state_dict().items())
    x = torch.randn(4, 3, 8, 8)
    with at_width(teacher, 0.5), at_width(student, 0.5):
        targets = teacher(x)
        torch.testing.assert_close(targets, student.project(x).detach())
    assert not targets.requires_grad


@pytest.mark.parametrize("base", ["mse", "infonce"])
def test_the_average_keeps_up_in_float32(base):
    """A tiny step is not lost: after 500 steps of m = 0.996 towards a constant, 1 - 0.996^500 of the way is done."""
    student = Student(config(teacher="momentum", base_loss=base))
    teacher = Teacher(student)
    for parameter in teacher.parameters():
        parameter.data.zero_()
    for parameter in student.parameters():
        parameter.data.fill_(1.0)
    for _ in range(500):
        teacher.update(student, 0.996)
    expected = 1 - 0.996**500
    assert all(abs(float(p.mean()) - expected) < 1e-4 for p in teacher.parameters())
