"""MoCo v2, MoCo v3, SEED, switchable BatchNorm, SlimCLR's ingredients: steps, heads, schedules, resuming, what is refused."""

import json
import math
from collections import deque
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain import config
from pretrain.checkpoints import files as checkpoint
from pretrain.checkpoints import open_checkpoint
from pretrain.checkpoints.weights import fingerprint
from pretrain.config import OptimizerConfig, RegularizerConfig, WidthsConfig, from_dict, to_dict
from pretrain.cost import training_flops
from pretrain.models import build
from pretrain.objective.frozen import FrozenTeacher, load_teacher
from pretrain.objective.heads import predictor, projector
from pretrain.objective.networks import Student
from pretrain.objective.queue import Queue
from pretrain.objective.regularization import Regularizer
from pretrain.objective.sampling import sample_widths
from pretrain.objective.step import Objective
from pretrain.schedule import learning_rate
from pretrain.slimmable import at_width, calibrate, cost, dense_cost, extract, make_switchable
from pretrain.training import pretrain
from rundir.errors import UserError
from tests.pretrain import slow_reference
from tests.pretrain.interruption import pretrain_until
from tests.pretrain.slow_reference import SlowMethod
from tests.pretrain.test_queue_and_seed import slow_keys, slow_queue, slow_seed
from tests.pretrain.test_step import ALPHA, LR, MOMENTUM, STEPS, Fast, views

SMALL = {"projector_layers": 2, "projector_hidden": 24, "projector_out": 10, "predictor_hidden": 14}


def small(model=None, **sections):
    """A config whose training takes seconds."""
    return from_dict(
        {
            "model": {"arch": "resnet_small", **SMALL, **(model or {})},
            "regularizer": {"coefficient": 1e-4},
            "data": {"name": "digits", "size": 8, "limit": 30},
            "calibration": {"images": 30},
            "diagnostics": {"images": 0},
            "train": {"tensorboard": False, "device": "cpu", "threads": 1},
            "optimizer": {"epochs": 2, "batch_size": 8, "lr": 0.05},
        }
        | sections
    )


# -- the step ------------------------------------------------------------------------------------------------------------


class SlowQueue(SlowMethod):
    """METHOD section 2 with InfoNCE against a queue: a deque of the unit targets of the widest network, filled after the step."""

    def __init__(self, *arguments, rows):
        super().__init__(*arguments)
        self.rows, self.seen = deque(rows.tolist(), maxlen=len(rows)), []

    def targets(self, *arguments):
        self.seen.append(super().targets(*arguments))
        return self.seen[-1]

    def step(self, *arguments):
        self.seen = []
        values = super().step(*arguments)
        for targets in self.seen[0]:
            self.rows.extend([(t / t.norm()).tolist() for t in targets])
        return values


def queue_loss(method, outputs, targets, temperature):
    """The slow loss as a tensor: the row-by-row definition once more, differentiable."""
    queue, total = torch.tensor(list(method.rows), dtype=torch.float64), 0.0
    for s, t in ((outputs[0], targets[1]), (outputs[1], targets[0])):
        for a, b in zip(s, t, strict=True):
            powers = torch.exp(torch.cat([(b / b.norm())[None], queue]) @ (a / a.norm()) / temperature)
            total = total - torch.log(powers[0] / powers.sum()) / len(s)
    return total / 2


@pytest.mark.parametrize("distill", ["infonce", "mse", "none"])
def test_a_step_of_moco_v2_is_the_method(distill, monkeypatch):
    cfg = from_dict(
        {
            "model": {
                "arch": "resnet_of_the_step_test",
                "projector_layers": 3,
                "projector_hidden": 20,
                "projector_out": 12,
                "predictor_hidden": 10,
            },
            "objective": {"base_loss": "infonce", "distill_loss": distill, "teacher": "momentum", "temperature": 0.3, "queue": 20},
            "optimizer": {"batch_size": 6},
            "regularizer": {"kind": "group", "coefficient": 1e-2},
        }
    )
    fast = Fast(cfg)
    queue = Queue(20, 12, seed=1, dtype=torch.float64)
    fast.objective = Objective(cfg.objective, fast.student, fast.student, fast.teacher, 1.0, fast.objective.autocast, queue)
    slow = SlowQueue(cfg, fast.student, fast.teacher, LR, ALPHA, rows=queue.rows)
    plain = slow_reference.loss
    monkeypatch.setattr(
        slow_reference,
        "loss",
        lambda name, outputs, targets, temperature: (
            plain(name, outputs, targets, temperature) if name == "mse" else queue_loss(slow, outputs, targets, temperature)
        ),
    )
    for index, widths in enumerate(STEPS):
        x1, x2 = views(index)
        assert fast.step(x1, x2, widths) == pytest.approx(slow.step(x1, x2, widths, MOMENTUM), abs=1e-9)
    for name, weight in fast.student.state_dict().items():
        torch.testing.assert_close(weight, slow.p[name].detach(), rtol=0, atol=1e-9)
    ordered = [queue.rows.tolist()[(int(queue.position) + i) % 20] for i in range(20)]
    torch.testing.assert_close(torch.tensor(ordered), torch.tensor(list(slow.rows)))
    assert int(queue.position) == 36 % 20


@pytest.fixture(autouse=True)
def architecture(monkeypatch):
    from pretrain.models import ARCHITECTURES
    from pretrain.models.resnet import BasicBlock, ResNet

    monkeypatch.setitem(ARCHITECTURES, "resnet_of_the_step_test", lambda: ResNet(BasicBlock, (1, 1, 1), base_channels=16))


def outputs_of(student, widths, x1, x2):
    found = []
    for width in widths:
        with at_width(student, width), torch.no_grad():
            z = [student.project(x) for x in (x1, x2)]
            found.append(z if student.predictor is None else [student.predictor(v) for v in z])
    return found


def first_losses(cfg, widths, teacher=None, queue=None):
    torch.manual_seed(0)
    student = Student(cfg).double()
    x1, x2 = views(0)
    outputs = outputs_of(student, widths, x1, x2)
    objective = Objective(cfg.objective, student, student, teacher, cfg.widths.max, Fast.autocast, queue)
    weighted = []
    losses = objective.step(x1, x2, widths, 0.9, lambda loss: weighted.append(loss.item()), lambda width: None)
    return outputs, (x1, x2), [float(v) for v in losses], weighted


Fast.autocast = staticmethod(lambda: torch.autocast("cpu", enabled=False))


def test_moco_v3_has_a_predictor_and_the_other_images_keys():
    cfg = small(
        objective={
            "base_loss": "infonce",
            "distill_loss": "none",
            "predictor": "true",
            "negatives": "keys",
            "temperature": 0.2,
            "width_weights": "slimclr",
        },
        model={"heads": "mocov3"},
    )
    outputs, (x1, x2), losses, weighted = first_losses(cfg, [1.0, 0.5])
    torch.manual_seed(0)
    student = Student(cfg).double()
    for width, q, loss in zip([1.0, 0.5], outputs, losses, strict=True):
        with at_width(student, width), torch.no_grad():
            k = [student.project(x) for x in (x1, x2)]
        assert loss == pytest.approx((slow_keys(q[0], k[1], 0.2) + slow_keys(q[1], k[0], 0.2)) / 2, abs=1e-9)
    assert weighted == pytest.approx([1.5 * losses[0], losses[1]])


# -- SEED ----------------------------------------------------------------------------------------------------------------


def teacher_payload(width=1.0, **model):
    torch.manual_seed(9)
    cfg = small(model=model, widths={"min": 0.25, "max": width})
    student = Student(cfg)
    return {
        "format": 1,
        "config": to_dict(cfg),
        "encoder": student.encoder.state_dict(),
        "projector": student.projector.state_dict(),
    }


def seed_config(teacher, width=0.25, **objective):
    return small(
        objective={"base_loss": "seed", "seed_teacher": str(teacher), "distill_loss": "none", "queue": 24, **objective},
        widths={"min": width, "max": width},
    )


@pytest.mark.parametrize("teacher_width", [1.0, 0.5])
def test_a_step_of_seed(teacher_width, tmp_path):
    """The frozen teacher at its own width; each view's output follows its own view's target; then the queue gets both targets."""
    torch.save(teacher_payload(teacher_width), tmp_path / "teacher.pt")
    teacher = FrozenTeacher(open_checkpoint(tmp_path / "teacher.pt")).double()
    calibration = [torch.randn(5, 3, 8, 8, dtype=torch.float64) for _ in range(2)]
    calibrate(teacher, [teacher_width], calibration)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    queue = Queue(24, 10, seed=1, dtype=torch.float64)
    anchors = queue.rows.tolist()
    outputs, (x1, x2), losses, _ = first_losses(seed_config("here"), [0.25], teacher, queue)
    dense = extract(nn.Sequential(teacher.encoder, teacher.projector), teacher_width)
    with torch.no_grad():
        targets = [dense(x) for x in (x1, x2)]
    expected = sum(slow_seed(s, t, anchors, 0.2, 0.01) for s, t in zip(outputs[0], targets, strict=True)) / 2
    assert losses == pytest.approx([expected], abs=1e-9)
    torch.testing.assert_close(queue.rows[:12], F.normalize(torch.cat(targets), dim=1))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_seed_teacher_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_teacher(seed_config(tmp_path))
    payload = teacher_payload()
    torch.save(payload, tmp_path / "checkpoint.pt")
    assert fingerprint(load_teacher(seed_config(tmp_path))) == fingerprint(load_teacher(seed_config(tmp_path / "checkpoint.pt")))
    for change, message in (
        ({"projector": None}, r"does not fit the projector of its config: 0\.weight is missing"),
        ({"config": None}, "holds no config"),
        ({"config": to_dict(small(model={"projector_out": 12}))}, "set model.projector_out=12"),
        ({"encoder": {}}, r"conv1\.weight is missing"),
    ):
        torch.save(payload | change, tmp_path / "other.pt")
        with pytest.raises(UserError, match=message) as caught:
            load_teacher(seed_config(tmp_path / "other.pt"))
        assert "\n" not in str(caught.value)


def test_the_cost_of_seed_counts_its_teacher(tmp_path):
    torch.save(teacher_payload(projector_hidden=40), tmp_path / "checkpoint.pt")
    cfg = seed_config(tmp_path)
    student, teacher = Student(cfg), load_teacher(cfg)
    own = cost(nn.Sequential(student.encoder, student.projector), 0.25, 8).flops
    frozen = dense_cost(extract(nn.Sequential(teacher.encoder, teacher.projector), 1.0), 8).flops
    assert training_flops(cfg, 30) == pytest.approx((3 * own + frozen) * 2 * 8 * 3 * 2)
    assert training_flops(seed_config(tmp_path / "later"), 30) > 3 * own * 2 * 8 * 3 * 2


# -- heads, frozen projection, schedules ---------------------------------------------------------------------------------


def test_heads_of_moco_v3():
    """Its code's MLPs: no bias anywhere, BN and ReLU between, BN without scale and shift at the end."""

    def plain(sizes):
        layers = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-2], nn.BatchNorm1d(sizes[-1], affine=False)).double()

    x = torch.randn(9, 24, dtype=torch.float64)
    for ours, theirs, width, kept in (
        (projector(40, 20, 10, 3, True), plain([24, 20, 20, 10]), 0.5, 24),
        (predictor(24, 14, True), plain([24, 14, 24]), 0.25, 24),
    ):
        weights = dict(ours.double().state_dict())
        weights["0.weight"] = weights["0.weight"][:, :kept]
        assert set(weights) == {k for k in theirs.state_dict() if "running" not in k and "tracked" not in k}
        theirs.load_state_dict(weights, strict=False)
        with at_width(ours, width):
            torch.testing.assert_close(ours(x), theirs(x))
    assert Student(small(model={"heads": "mocov3"})).distill_head[-1].weight is None


@pytest.mark.parametrize(
    ("base", "asked", "there"),
    [
        ("mse", "auto", True),
        ("infonce", "auto", False),
        ("infonce", True, True),
        ("infonce", "True", True),
        ("mse", "false", False),
        ("mse", False, False),
    ],
)
def test_a_predictor_where_one_is_asked_for(base, asked, there):
    cfg = config.load("digits", [f"objective.base_loss={base}", f"objective.predictor={asked}", "model.arch=resnet_small"])
    assert (Student(cfg).predictor is not None) == there


def test_a_frozen_patch_projection_stays(tmp_path):
    cfg = small(model={"arch": "vit_micro", "freeze_patch_projection": True})
    student = Student(cfg)
    assert not student.encoder.patch_embed.proj.weight.requires_grad and student.encoder.blocks[0].mlp.fc1.weight.requires_grad
    assert all(p.requires_grad for p in student.encoder.blocks.parameters())


def test_rate_of_every_step():
    """MoCo v3's: linear from 0 over the warm-up, then half a cosine to 0, at fractions of epochs."""
    cfg = OptimizerConfig(lr=0.3, epochs=10, warmup_epochs=4, schedule="step")
    assert [learning_rate(cfg, e) for e in (0, 0.5, 2, 3.75, 4)] == pytest.approx([0, 0.0375, 0.15, 0.28125, 0.3])
    assert [learning_rate(cfg, e) for e in (4.5, 7, 9.9)] == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * x / 6)) for x in (0.5, 3, 5.9)]
    )
    each_epoch = OptimizerConfig(lr=0.3, epochs=10, warmup_epochs=4)
    assert [learning_rate(each_epoch, e) for e in (2.0, 2.9, 6.99)] == [learning_rate(each_epoch, e) for e in (2, 2, 6)]


def test_decoupled_decay_is_adamws():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    theirs.load_state_dict(ours.state_dict())
    first = torch.optim.AdamW(ours.parameters(), 0.01, weight_decay=0.0)
    second = torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.1)
    regularizer = Regularizer(RegularizerConfig(kind="l2", coefficient=0.05, decoupled=True), ours)
    for _ in range(4):
        x = torch.randn(7, 5, dtype=torch.float64)
        ours(x).square().sum().backward()
        theirs(x).square().sum().backward()
        regularizer.add_gradient()
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
        regularizer.shrink(0.01)
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("rule", ["sandwich", "uniform", "fixed", "dynamic"])
def test_slow_start(rule):
    cfg = WidthsConfig(sampling=rule, slow_start_epochs=3, fixed=[0.5, 1.0])
    steps = [sample_widths(cfg, 1, step, 70, epochs=10) for step in range(70)]
    assert steps[:21] == [[1.0]] * 21
    without = WidthsConfig(sampling=rule, fixed=[0.5, 1.0])
    assert steps[21:] == [sample_widths(without, 1, step, 70) for step in range(21, 70)]


# -- switchable BatchNorm ------------------------------------------------------------------------------------------------


def switchable(**sections):
    return small(model={"switchable_bn": True}, widths={"sampling": "fixed", "fixed": [1.0, 0.5, 0.25]}, **sections)


def test_every_width_has_its_own_batchnorms():
    student = Student(switchable()).double()
    shapes = {name: tuple(p.shape) for name, p in student.named_parameters() if name.startswith("encoder.layer4.0.bn2.")}
    assert shapes == {
        f"encoder.layer4.0.bn2.{kind}.{i}": (channels,)
        for kind in ("weights", "biases")
        for i, channels in enumerate((128, 64, 32))
    }
    x1, x2 = views(0)
    with at_width(student, 0.5):
        sum(output.square().sum() for output in student((x1, x2), False).outputs).backward()
    for name, parameter in student.named_parameters():
        if ".weights." in name and not name.startswith("distill_head"):
            assert (parameter.grad is not None) == name.endswith(".1"), name
    with at_width(student, 0.6), pytest.raises(ValueError, match=r"no parameters for width 0\.6"):
        student((x1, x2), False)


def test_a_switchable_network_is_the_dense_one_with_that_widths_batchnorms():
    """A width's scales and shifts put into ordinary BatchNorms over the same convolutions, then calibrated and extracted."""
    torch.manual_seed(0)
    encoder, shared = build("resnet_small", [1.0, 0.5]).double(), build("resnet_small").double()
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
    images = [torch.randn(6, 3, 8, 8, dtype=torch.float64)]
    calibrate(encoder, [1.0, 0.5], images)
    state, x = encoder.state_dict(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for index, width in enumerate((1.0, 0.5)):
        for name, parameter in shared.named_parameters():
            source = (
                state[name]
                if name in state
                else state[
                    name[: -len("weight")] + f"weights.{index}"
                    if name.endswith("weight")
                    else name[: -len("bias")] + f"biases.{index}"
                ]
            )
            parameter.data[: len(source)] = source
        calibrate(shared, [width], images)
        torch.testing.assert_close(extract(encoder, width)(x), extract(shared, width)(x))
        with at_width(encoder, width):
            torch.testing.assert_close(encoder.eval()(x), extract(encoder, width)(x))
        encoder.train()


def test_batchnorms_start_as_they_were():
    network = build("resnet_small").double()
    nn.init.uniform_(network.bn1.weight)
    before = network.bn1.weight.detach().clone()
    make_switchable(network, [1.0, 0.5])
    assert torch.equal(network.bn1.weights[0], before) and torch.equal(network.bn1.weights[1], before[:8])
    assert network.bn1.weights[1].data_ptr() != network.bn1.weights[0].data_ptr()


def test_a_switchable_run_from_training_to_its_backbone(tmp_path):
    cfg = switchable(
        objective={"teacher": "momentum"},
        calibration={"widths": [1.0, 0.75, 0.25], "images": 30},
        diagnostics={"images": 8, "widths": [1.0, 0.75]},
        regularizer={"kind": "group"},
    )
    pretrain(cfg, tmp_path / "run")
    backbone = open_checkpoint(tmp_path / "run")
    assert backbone.default_widths() == backbone.calibrated == [1.0, 0.25]
    with pytest.raises(UserError, match=r"0\.75 has no BatchNorm of its own"):
        backbone.at(0.75)
    images = [torch.randn(6, 3, 8, 8)]
    assert backbone.at(0.5, images)(images[0]).shape == (6, backbone.feature_dim(0.5))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["width"] for row in rows if row["name"] == "feature_std"} == {1.0}
    state = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    started = {name for name, p in state["encoder"].items() if ".weights." in name and not torch.equal(p, torch.ones_like(p))}
    assert {name.rsplit(".", 1)[1] for name in started} == {"0", "1", "2"}


# -- resuming ------------------------------------------------------------------------------------------------------------


def flat(payload, prefix=""):
    for key, value in payload.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif torch.is_tensor(value):
            yield prefix + str(key), value


RESUMED = {
    "moco-v2": {"objective": {"base_loss": "infonce", "distill_loss": "infonce", "teacher": "momentum", "queue": 20}},
    "moco-v3": {
        "model": {"arch": "vit_micro", "heads": "mocov3", "freeze_patch_projection": True},
        "objective": {
            "base_loss": "infonce",
            "teacher": "momentum",
            "predictor": "true",
            "negatives": "keys",
            "ema_schedule": "cosine",
        },
        "optimizer": {"name": "adamw", "schedule": "step", "warmup_epochs": 1, "epochs": 2, "batch_size": 8, "lr": 0.001},
        "regularizer": {"coefficient": 0.05, "decoupled": True},
    },
    "seed": {"objective": {"base_loss": "seed", "distill_loss": "none", "queue": 20, "seed_teacher": "{here}/teacher.pt"}},
}


@pytest.mark.parametrize("method", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(method, tmp_path):
    sections = json.loads(json.dumps(RESUMED[method]).replace("{here}", str(tmp_path)))
    cfg = small(**sections, train={"tensorboard": False, "device": "cpu", "threads": 1, "checkpoint_minutes": 0.0})
    torch.save(teacher_payload(), tmp_path / "teacher.pt")
    pretrain(cfg, tmp_path / "whole")
    pretrain_until(cfg, tmp_path / "parts", 4)  # one step into the second epoch
    if method == "seed":
        torch.save(teacher_payload(projector_hidden=40), tmp_path / "teacher.pt")
        with pytest.raises(UserError, match="has other weights than when this run began"):
            pretrain(cfg, tmp_path / "parts")
        torch.save(teacher_payload(), tmp_path / "teacher.pt")
    pretrain(cfg, tmp_path / "parts")
    whole, parts = (dict(flat(checkpoint.load(tmp_path / name / "checkpoint.pt"))) for name in ("whole", "parts"))
    assert set(whole) == set(parts) and [k for k in whole if not torch.equal(whole[k], parts[k])] == []
    assert ("queue.rows" in whole) == (method != "moco-v3")
    if method == "moco-v3":
        torch.manual_seed(cfg.seed)
        start = Student(cfg).encoder.patch_embed.proj.weight
        assert torch.equal(whole["encoder.patch_embed.proj.weight"], start)
        rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
        rates = [row["value"] for row in rows if row["name"] == "lr"]
        assert rates == pytest.approx([0.001 * 2 / 3, 0.001 * 0.5 * (1 + math.cos(math.pi * 2 / 3))])
    else:
        assert slow_queue(whole["queue.rows"], whole["queue.rows"], [], 0.2) == 0  # unit rows of numbers


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.queue=512"], "has no effect with objective.base_loss=mse"),
        (["objective.queue=512", "objective.base_loss=infonce"], "set objective.teacher=momentum"),
        (["objective.queue=100", "objective.base_loss=infonce", "objective.teacher=momentum"], "at least the 256 targets"),
        (
            ["objective.queue=512", "objective.base_loss=infonce", "objective.teacher=momentum", "objective.gather_negatives=true"],
            "objective.queue holds InfoNCE's negatives",
        ),
        (["objective.negatives=keys"], "but neither loss is InfoNCE"),
        (["objective.negatives=some"], "set one of batch, keys"),
        (["objective.base_loss=seed"], "set objective.seed_teacher=RUN_DIRECTORY"),
        (["objective.base_loss=seed", "objective.seed_teacher=x"], "set for example objective.queue=1024"),
        (["objective.base_loss=seed", "objective.seed_teacher=x", "objective.queue=512"], "set objective.distill_loss=none"),
        (
            [
                "objective.base_loss=seed",
                "objective.seed_teacher=x",
                "objective.queue=512",
                "objective.distill_loss=none",
                "objective.seed_teacher_temperature=0",
            ],
            "seed_teacher_temperature=0.0 must be above 0",
        ),
        (["objective.seed_teacher=x"], "used by objective.base_loss=seed and objective.teacher=frozen"),
        (["objective.base_loss=infonce", "objective.head=shared"], "objective.predictor=true"),
        (["model.switchable_bn=true"], "set widths.sampling=fixed"),
        (["model.switchable_bn=true", "widths.sampling=fixed", "widths.fixed=[1.0,0.5]"], "smallest and largest as widths.min"),
        (["model.switchable_bn=true", "widths.sampling=fixed", "widths.min=1.0"], "widths.min below widths.max"),
        (
            ["model.switchable_bn=true", "widths.sampling=fixed", "model.arch=vit_micro", "data.size=16"],
            "vit_micro has no BatchNorm",
        ),
        (["model.freeze_patch_projection=true"], "resnet_small has no patch projection"),
        (["widths.slow_start_epochs=16"], "must be in \\[0, 15\\]"),
        (["optimizer.schedule=batch"], "set one of epoch, step"),
    ],
)
def test_impossible_combinations_are_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        config.load("digits", overrides)
    assert "\n" not in str(caught.value)
