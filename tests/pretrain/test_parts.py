"""Every loss, teacher, width rule and regularizer that comes with the project keeps its contract; docs/objectives.md names it."""

import dataclasses
import inspect
import random
import re
from pathlib import Path

import pytest
import torch

from pretrain import config
from pretrain.config import RegularizerConfig, WidthsConfig
from pretrain.config.methods import BASE_LOSS, DISTILL_LOSS, PARTS, REGULARIZER, TEACHER, WIDTH_RULE, find, make
from pretrain.config.signatures import fault_of, options_of
from pretrain.objective import losses
from pretrain.objective.networks import Student
from pretrain.objective.regularization import Regularizer
from pretrain.objective.teaching import Guide, TeacherSetting
from rundir import experiment
from rundir.errors import UserError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
HEADINGS = {
    "base loss": "Base losses",
    "distillation loss": "Distillation losses",
    "teacher": "Teachers",
    "width rule": "Width rules",
    "regularizer": "Regularizers",
}
ALL = [(part, name) for part in PARTS for name in part.names if name not in part.special]
# What a part needs of a config, besides its name.
NEEDS = {
    "seed": ["objective.seed_loss=mse", "objective.seed_teacher=nowhere", "objective.distill_loss=none"],
    "kl": ["objective.base_loss=infonce"],
    "mae": ["model.arch=vit_micro", "objective.distill_loss=none"],
    "swav": ["objective.base_options.epsilon=0.05"],  # its default, which the preset changes
    "frozen": ["objective.seed_teacher=nowhere"],
}


def of(part, names=None):
    return [name for name in part.names if name not in part.special]


def configured(part, name, *more):
    return config.load("digits", [f"{part.key}={name}", *NEEDS.get(name, ()), *more])


@pytest.mark.parametrize(("part", "name"), ALL, ids=lambda x: x if isinstance(x, str) else x.folder)
def test_a_file_is_one_function_or_class_of_the_form_of_its_part(part, name):
    found = find(part, name)
    assert fault_of(part.shape, found) == ""
    assert found.__doc__ and inspect.getmodule(found).__doc__
    section = re.search(rf"^## {HEADINGS[part.shape.what]}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    row = re.search(rf"^\| `{name}` \|.*$", section, re.M)
    assert row, f"docs/objectives.md has no row of {name} under {HEADINGS[part.shape.what]}"
    for option in dataclasses.fields(options_of(found)):
        assert f"`{option.name}`" in section, f"docs/objectives.md does not name the option {option.name} of {name}"
    distance = vars(inspect.getmodule(found)).get("DISTANCE")
    if part in (BASE_LOSS, DISTILL_LOSS):
        assert distance in ("absolute", "relative", "neither") and f"| {distance} |" in row[0]


@pytest.mark.parametrize(("part", "name"), ALL, ids=lambda x: x if isinstance(x, str) else x.folder)
def test_options_at_their_defaults_rename_no_run_and_others_do(part, name):
    plain = configured(part, name)
    section, key = part.options.split(".")
    for option in dataclasses.fields(options_of(find(part, name))):
        other = {"float": option.default * 0.5 + 0.1, "int": option.default * 2, "bool": not option.default}[option.type]
        same, changed = (configured(part, name, f"{part.options}.{option.name}={value}") for value in (option.default, other))
        assert config.config_hash(same) == config.config_hash(plain) != config.config_hash(changed)
        assert vars(vars(changed)[section])[key] == {option.name: other}
        assert experiment.changes(config.to_dict(same)) == experiment.changes(config.to_dict(plain))
        assert experiment.changes(config.to_dict(changed))[f"{part.options}.{option.name}"] == other
        assert config.from_dict(config.to_dict(changed)) == changed
    with pytest.raises(UserError, match=f"{part.options}"):
        configured(part, name, f"{part.options}.no_such_option=1")


def pair(count, dim, dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 24, dim, generator=draw, dtype=torch.float64).to(dtype).unbind()


def made(part, name, dim):
    cfg = configured(part, name).objective
    setting = losses.LossSetting(dim, cfg)
    base = losses.base_loss(setting)
    return base if part is BASE_LOSS else losses.distill_loss(setting, base)


@pytest.mark.parametrize(
    ("part", "name"),
    [(p, n) for p, n in ALL if p in (BASE_LOSS, DISTILL_LOSS)],
    ids=lambda x: x if isinstance(x, str) else x.folder,
)
class TestLosses:
    """What holds for every loss, of 24 images."""

    @pytest.mark.parametrize("dim", [5, 16])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    def test_is_a_finite_scalar_of_float32_or_more_whatever_the_type(self, part, name, dim, dtype):
        rows = pair(2 if part is BASE_LOSS else 4, dim, dtype)
        loss = made(part, name, dim)
        precise = loss(*(x.double() for x in rows))
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*rows)
        assert value.shape == () and value.isfinite()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert float(value) == pytest.approx(float(precise), rel=1e-4, abs=1e-4)

    def test_gradient_is_the_finite_difference(self, part, name):
        first, *others = pair(2 if part is BASE_LOSS else 4, 5)
        loss = made(part, name, 5)
        assert torch.autograd.gradcheck(lambda s: loss(s, *others), first.requires_grad_(), atol=1e-6)

    def test_the_order_of_images_does_not_matter(self, part, name):
        rows = pair(2 if part is BASE_LOSS else 4, 5)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
        loss = made(part, name, 5)
        assert float(loss(*(x[order] for x in rows))) == pytest.approx(float(loss(*rows)), abs=1e-9)

    def test_a_descent_step_on_the_outputs_lowers_it(self, part, name):
        student, *others = pair(2 if part is BASE_LOSS else 4, 5)
        loss = made(part, name, 5)
        value = loss(student.requires_grad_(), *others)
        (gradient,) = torch.autograd.grad(value, student)
        assert float(loss(student.detach() - 1e-3 * gradient / gradient.norm(), *others)) < float(value.detach())

    def test_constant_outputs_give_finite_losses_and_gradients(self, part, name):
        rows = [torch.ones_like(x) for x in pair(2 if part is BASE_LOSS else 4, 5, torch.float32)]
        value = made(part, name, 5)(rows[0].requires_grad_(), *rows[1:])
        value.backward()
        assert value.isfinite() and rows[0].grad.isfinite().all()


@pytest.mark.parametrize("name", of(WIDTH_RULE))
def test_every_width_rule_stays_in_range_the_widest_first(name):
    cfg = WidthsConfig(sampling=name)
    rule = make(WIDTH_RULE, name, {})
    for step in range(40):
        widths = rule(cfg, random.Random(step), step / 40)
        assert widths and widths[0] == max(widths) and all(cfg.min <= w <= cfg.max for w in widths)
        assert widths == rule(cfg, random.Random(step), step / 40)


@pytest.mark.parametrize("name", [name for name in of(TEACHER) if name != "frozen"])
def test_every_teacher_is_made_with_its_setting_and_says_what_it_costs(name):
    cfg = configured(TEACHER, name)
    student = Student(cfg)
    before = [p.clone() for p in student.parameters()]
    teacher = make(TEACHER, name, {}, TeacherSetting(cfg, student))
    teacher.update(student, 0.9)
    assert isinstance(teacher, Guide) and not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert all(cfg.widths.min <= w <= cfg.widths.max for w in teacher.passes(cfg, [1.0, 0.6, 0.25]))


@pytest.mark.parametrize("name", of(REGULARIZER))
def test_every_regularizer_adds_its_gradient_and_restores_its_state(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    cfg = RegularizerConfig(kind=name)
    regularizer = make(REGULARIZER, name, {}, cfg, model)
    regularizer.set_epoch(0, 2)
    model(torch.ones(5, 3)).sum().backward()
    regularizer.add_gradient()
    assert isinstance(regularizer, Regularizer) and all(p.grad.isfinite().all() for p in model.parameters())
    assert float(regularizer.penalty()) >= 0
    again = make(REGULARIZER, name, {}, cfg, model)
    again.restore(regularizer.state())
    assert all(torch.equal(a, b) for a, b in zip(regularizer.state().values(), again.state().values(), strict=True))
