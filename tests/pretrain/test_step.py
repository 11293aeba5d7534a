"""One training step against METHOD section 2 written out slowly (slow_reference), weight by weight in float64."""

import itertools
from contextlib import nullcontext

import pytest
import torch

from pretrain.config import from_dict
from pretrain.models import ARCHITECTURES
from pretrain.models.resnet import BasicBlock, ResNet
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.regularization import Regularizer
from pretrain.objective.step import Objective
from pretrain.slimmable import at_width
from tests.pretrain.slow_reference import SlowMethod

LR, ALPHA, MOMENTUM = 0.03, 0.04, 0.7
ARCH = "resnet_of_the_step_test"  # 16, 32 and 64 channels
STEPS = [[1.0, 0.61, 0.25], [1.0, 0.83, 0.25], [1.0, 0.4, 0.25]]


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, ARCH, lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=16))


def config(base="mse", distill="infonce", teacher="online", head="own", update="per_width", low=0.25, high=1.0, **regularizer):
    return from_dict(
        {
            "model": {"arch": ARCH, "projector_layers": 3, "projector_hidden": 20, "projector_out": 12, "predictor_hidden": 10},
            "objective": {
                "base_loss": base,
                "distill_loss": distill,
                "teacher": teacher,
                "head": head,
                "update": update,
                "distill_weight": 0.8,
                "temperature": 0.3,
            },
            "widths": {"min": low, "max": high},
            "regularizer": {"kind": "group", "coefficient": 1e-2, **regularizer},
        }
    )


class Fast:
    """The project's own step, with the callbacks of a plain training loop; counts what the teacher does."""

    def __init__(self, cfg):
        torch.manual_seed(3)
        self.student = Student(cfg).double()
        self.teacher = Teacher(self.student) if cfg.objective.teacher == "momentum" else None
        self.forwards, self.updates, self.optimizer_steps, self.widest = [], 0, 0, cfg.widths.max
        if self.teacher is not None:
            self._count()
        self.optimizer = torch.optim.SGD(self.student.parameters(), LR, momentum=cfg.optimizer.momentum)
        self.regularizer = Regularizer(cfg.regularizer, self.student)
        self.regularizer.set_alpha(ALPHA if cfg.regularizer.kind == "group" else 0.0)
        self.objective = Objective(cfg.objective, self.student, self.student, self.teacher, cfg.widths.max, nullcontext)

    def _count(self):
        self.teacher.register_forward_pre_hook(lambda module, args: self.forwards.append(module.encoder.conv1.width))
        update = self.teacher.update

        def counted(*args):
            self.updates += 1
            update(*args)

        self.teacher.update = counted

    def _update(self, width):
        self.optimizer_steps += 1
        self.regularizer.add_gradient(width == self.widest)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, x1, x2, widths):
        return [float(v) for v in self.objective.step(x1, x2, widths, MOMENTUM, lambda loss: loss.backward(), self._update)]


def views(step, batch=6, size=8):
    # Large enough for every BatchNorm to see a few values: a nearly constant channel would amplify rounding beyond 1e-9.
    generator = torch.Generator().manual_seed(50 + step)
    return (torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(2))


def assert_same_training(cfg, steps=STEPS):
    fast = Fast(cfg)
    slow = SlowMethod(cfg, fast.student, fast.teacher, LR, ALPHA)
    before = {k: v.clone() for k, v in fast.student.state_dict().items()}
    for index, widths in enumerate(steps):
        x1, x2 = views(index)
        got, expected = fast.step(x1, x2, widths), slow.step(x1, x2, widths, MOMENTUM)
        assert got == pytest.approx(expected, abs=1e-9)
    assert set(fast.student.state_dict()) == set(slow.p)
    still = [k for k, v in fast.student.state_dict().items() if (v - before[k]).abs().max() < 1e-6]
    # A bias in front of BatchNorm has no gradient but the penalty's.
    assert [k for k in still if k != "projector.6.bias"] == []
    for name, weight in fast.student.state_dict().items():
        torch.testing.assert_close(weight, slow.p[name].detach(), rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for name, weight in (fast.teacher.state_dict() if fast.teacher else {}).items():
        torch.testing.assert_close(weight, slow.k[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"teacher {n}: {m}")
    return fast, slow


CELLS = list(itertools.product(["mse", "infonce"], ["mse", "infonce"], ["online", "momentum"]))


@pytest.mark.parametrize(("base", "distill", "teacher"), CELLS)
@pytest.mark.parametrize("update", ["per_width", "accumulate"])
def test_every_cell_is_the_method(base, distill, teacher, update):
    fast, slow = assert_same_training(config(base, distill, teacher, update=update))
    assert fast.optimizer_steps == (len(STEPS) * 3 if update == "per_width" else len(STEPS))
    assert slow.teacher_calls == (len(STEPS) if teacher == "momentum" else 0)
    # The teacher sees each view once a step, at full width, and averages once a step.
    assert fast.forwards == [1.0] * (2 * slow.teacher_calls)
    assert fast.updates == slow.teacher_calls


@pytest.mark.parametrize(
    ("base", "distill", "teacher", "head"),
    [(b, d, t, h) for b, d, t in CELLS for h in ("shared", "none") if not (h == "shared" and b == "infonce")],
)
def test_other_heads_of_the_sub_networks(base, distill, teacher, head):
    assert_same_training(config(base, distill, teacher, head=head), STEPS[:1])


@pytest.mark.parametrize("base", ["mse", "infonce"])
@pytest.mark.parametrize("teacher", ["online", "momentum"])
@pytest.mark.parametrize("update", ["per_width", "accumulate"])
def test_naive_trains_every_width_on_its_own_targets(base, teacher, update):
    fast, _ = assert_same_training(config(base, "none", teacher, update=update))
    if teacher == "momentum":
        assert fast.forwards == [w for widths in STEPS for w in widths for _ in range(2)]
        assert fast.updates == len(STEPS)


@pytest.mark.parametrize("base", ["mse", "infonce"])
@pytest.mark.parametrize("teacher", ["online", "momentum"])
def test_an_individually_trained_network_uses_one_width_only(base, teacher):
    fast, _ = assert_same_training(config(base, "none", teacher, low=0.25, high=0.25, kind="l2"), [[0.25]] * 2)
    assert set(fast.forwards) <= {0.25}


@pytest.mark.parametrize("kind", ["none", "l2"])
def test_other_penalties(kind):
    assert_same_training(config("mse", "mse", "momentum", kind=kind))


def test_more_and_fewer_widths():
    assert_same_training(config("mse", "infonce", "momentum"), [[1.0], [1.0, 0.25], [1.0, 0.9, 0.7, 0.5, 0.3]])


def test_widest_below_one():
    assert_same_training(config("mse", "infonce", "momentum", high=0.75), [[0.75, 0.5, 0.25]] * 2)


def test_losses_are_returned_without_graph_penalty_and_weight():
    cfg = config("mse", "infonce", "online")
    fast = Fast(cfg)
    x1, x2 = views(0)
    losses = fast.objective.step(x1, x2, [1.0, 0.25], MOMENTUM, lambda loss: loss.backward(), lambda width: None)
    assert not any(value.requires_grad for value in losses)
    cfg.objective.distill_weight = 100.0
    again = Fast(cfg)
    x1, x2 = views(0)
    same = again.objective.step(x1, x2, [1.0, 0.25], MOMENTUM, lambda loss: loss.backward(), lambda width: None)
    assert [float(v) for v in losses] == [float(v) for v in same]


def test_no_gradient_reaches_the_targets_or_unused_channels():
    """The distillation loss of a narrow width moves exactly its slices: neither the teacher nor the other channels."""
    fast = Fast(config("mse", "mse", "momentum"))
    x1, x2 = views(0, size=16)
    fast.objective.step(x1, x2, [1.0], MOMENTUM, lambda loss: loss.backward(), lambda width: None)
    assert all(p.grad is None for p in fast.teacher.parameters())
    fast.student.zero_grad()
    with at_width(fast.student, 0.25):
        outputs = fast.student((x1, x2), True).outputs
        outputs[0].square().sum().backward()
    encoder = fast.student.encoder
    assert encoder.conv1.weight.grad[8:].abs().max() == 0 and encoder.conv1.weight.grad[:8].any((1, 2, 3)).all()
    last = encoder.layer3[0].conv2.weight.grad
    assert last[16:].abs().max() == 0 and last[:, 16:].abs().max() == 0 and last[:16].any((1, 2, 3)).all()
    assert encoder.layer3[0].bn2.weight.grad[16:].abs().max() == 0
    assert fast.student.projector[0].weight.grad[:, 16:].abs().max() == 0
    assert all(p.grad is None for p in fast.student.predictor.parameters())


@pytest.mark.parametrize("error_at", [0, 1])
def test_an_error_within_a_step_leaves_no_width_behind(error_at):
    fast = Fast(config())
    calls = itertools.count()

    def failing(loss):
        loss.backward()
        if next(calls) == error_at:
            raise RuntimeError("out of memory")

    x1, x2 = views(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        fast.objective.step(x1, x2, STEPS[0], MOMENTUM, failing, lambda width: None)
    assert {m.width for m in fast.student.modules() if hasattr(m, "width")} == {1.0}
