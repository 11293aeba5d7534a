"""Cost of a width and of a run, against sums written out by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.config import from_dict
from pretrain.cost import epochs_of_equal_flops, training_flops
from pretrain.models import build
from pretrain.objective.sampling import sample_widths
from pretrain.slimmable import cost, extract
from tests.pretrain.slow_reference import keep

NETWORKS = {
    "resnet_small": (1, (1, 1, 1, 1), 16),
    "resnet18_cifar": (1, (2, 2, 2, 2), 64),
    "resnet34_cifar": (1, (3, 4, 6, 3), 64),
    "resnet50_cifar": (4, (3, 4, 6, 3), 64),
}


def resnet_cost(arch, width, size):
    """Two operations per multiply-add of every convolution; weights of convolutions and BatchNorms. CIFAR stem."""
    expansion, depths, base = NETWORKS[arch]
    flops = parameters = 0

    def conv(inputs, outputs, kernel, side):
        nonlocal flops, parameters
        flops += 2 * inputs * outputs * kernel**2 * side**2
        parameters += inputs * outputs * kernel**2 + 2 * outputs
        return outputs

    channels = conv(3, keep(base, width), 3, size)
    for stage, depth in enumerate(depths):
        planes = keep(base * 2**stage, width)
        outputs = keep(base * 2**stage * expansion, width)
        for block in range(depth):
            stride = 2 if stage and not block else 1
            side = -(-size // stride)
            # Whether there is a projection is decided by the full network's channels.
            full_in = base if not stage and not block else base * expansion * 2 ** (stage - (block == 0))
            if expansion == 1:
                conv(planes, conv(channels, planes, 3, side), 3, side)
            else:
                conv(conv(conv(channels, planes, 1, size), planes, 3, side), outputs, 1, side)
            if stride == 2 or full_in != base * 2**stage * expansion:
                conv(channels, outputs, 1, side)
            channels, size = outputs, side
    return flops, parameters


@pytest.mark.parametrize("arch", NETWORKS)
@pytest.mark.parametrize("width", [1.0, 0.7, 0.5, 0.25])
@pytest.mark.parametrize("size", [16, 33])
def test_resnets_by_hand(arch, width, size):
    got = cost(build(arch).to("meta"), width, size)
    assert (got.flops, got.parameters) == resnet_cost(arch, width, size)


@pytest.mark.parametrize("width", [1.0, 0.37])
def test_torchs_counter_on_a_real_image(width):
    encoder = build("resnet_small")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        extract(encoder, width)(torch.randn(1, 3, 20, 20))
    got = cost(encoder, width, 20)
    assert got.flops == counter.get_total_flops()
    assert got.parameters == sum(p.numel() for p in extract(encoder, width).parameters())
    assert next(encoder.parameters()).device.type == "cpu"


HEAD = {
    "projector": lambda w: 2 * (keep(128, w) * 24 + 24 * 24 + 24 * 10),
    "predictor": lambda w: 2 * (10 * 14 + 14 * 10),
    "none": lambda w: 0,
}


@pytest.mark.parametrize(
    ("objective", "sampling", "base_head", "sub_head"),
    [
        ({"base_loss": "mse", "distill_loss": "mse", "teacher": "online"}, "sandwich", "predictor", "predictor"),
        ({"base_loss": "mse", "distill_loss": "infonce", "teacher": "momentum"}, "dynamic", "predictor", "predictor"),
        ({"base_loss": "infonce", "distill_loss": "infonce", "teacher": "momentum", "head": "none"}, "uniform", "none", "none"),
        ({"base_loss": "infonce", "distill_loss": "mse", "teacher": "online"}, "fixed", "none", "predictor"),
        ({"base_loss": "mse", "distill_loss": "none", "teacher": "momentum"}, "sandwich", "predictor", "predictor"),
    ],
)
def test_training_by_hand(objective, sampling, base_head, sub_head):
    """Forward and a backward of twice the cost for two views at each width, and two forward passes of the teacher."""
    cfg = from_dict(
        {
            "model": {"arch": "resnet_small", "projector_hidden": 24, "projector_out": 10, "predictor_hidden": 14},
            "objective": objective,
            "widths": {"sampling": sampling},
            "data": {"size": 12},
            "optimizer": {"epochs": 5, "batch_size": 32},
        }
    )
    naive = objective["distill_loss"] == "none"
    expected = 0
    for step in range(5 * 4):  # 140 images: four full batches an epoch
        widths = sample_widths(cfg.widths, cfg.seed, step, 20)
        for index, width in enumerate(widths):
            forward = resnet_cost("resnet_small", width, 12)[0] + HEAD["projector"](width)
            head = base_head if index == 0 or naive else sub_head
            expected += 3 * (forward + HEAD[head](width)) * 2 * 32
            if objective["teacher"] == "momentum" and (naive or index == 0):
                own = width if naive else 1.0
                expected += (resnet_cost("resnet_small", own, 12)[0] + HEAD["projector"](own)) * 2 * 32
    assert training_flops(cfg, 140) == pytest.approx(expected, rel=1e-12)


def test_long_runs_are_estimated_from_a_sample_of_their_steps():
    cfg = from_dict(
        {
            "model": {"arch": "resnet_small", "projector_hidden": 24, "projector_out": 10, "predictor_hidden": 14},
            "widths": {"sampling": "dynamic", "per_step": 2},
            "data": {"size": 12},
            "optimizer": {"epochs": 100, "batch_size": 10},
        }
    )
    one = {w: resnet_cost("resnet_small", w, 12)[0] + HEAD["projector"](w) + HEAD["predictor"](w) for w in (1.0, 0.75, 0.5, 0.25)}
    mean = one[1.0] + (one[0.75] + one[0.5] + one[0.25]) / 4
    assert training_flops(cfg, 100) == pytest.approx(3 * mean * 2 * 10 * 1000, rel=1e-9)


# METHOD section 7, in full-width passes where a pass costs the square of its width: the integral of w^2 over what a step draws.
RULES = {("sandwich", 3): (1.50, 3), ("dynamic", 3): (1.67, 2.5), ("sandwich", 4): (1.94, 4)}


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "n"), RULES)
def test_a_steps_price_and_passes_are_those_of_the_method(rule, n):
    """Counted FLOPs of a wide network without a teacher, against one that trains its full width alone."""
    price, passes = RULES[rule, n]

    def flops(**widths):
        return training_flops(
            from_dict(
                {
                    "model": {"arch": "resnet18_cifar", "projector_hidden": 8, "projector_out": 8, "predictor_hidden": 8},
                    "optimizer": {"epochs": 40, "batch_size": 10},
                    "widths": widths,
                }
            ),
            1000,
            samples=4000,
        )

    ratio = flops(sampling=rule, per_step=n) / flops(min=1.0)
    assert ratio == pytest.approx(price, rel=0.03)  # channels are rounded to eights and the image's three are not sliced
    cfg = from_dict({"widths": {"sampling": rule, "per_step": n}}).widths
    drawn = [sample_widths(cfg, 1, step, 4000, 40) for step in range(4000)]
    assert sum(map(len, drawn)) / 4000 == passes
    assert sum(width**2 for widths in drawn for width in widths) / 4000 == pytest.approx(price, rel=0.02)


def test_epochs_of_equal_flops_are_those_whose_cost_is_nearest():
    def cfg(epochs=16, **widths):
        return from_dict(
            {
                "model": {"arch": "resnet_small", "projector_hidden": 24, "projector_out": 10, "predictor_hidden": 14},
                "objective": {"distill_loss": "mse"},
                "widths": widths,
                "data": {"size": 12},
                "seed": 3,
                "optimizer": {"epochs": epochs, "batch_size": 32},
            }
        )

    slimmable, alone = cfg(sampling="fixed", fixed=[1.0, 0.5, 0.25]), cfg(min=1.0)
    epochs = epochs_of_equal_flops(alone, slimmable)
    costs = {n: training_flops(cfg(n, min=1.0), 3200) for n in range(1, 60)}
    wanted = training_flops(slimmable, 3200)
    assert epochs == min(costs, key=lambda n: abs(costs[n] - wanted)) > 16
    assert epochs_of_equal_flops(slimmable, slimmable) == 16 and epochs_of_equal_flops(slimmable, cfg(1, min=0.25, max=0.25)) == 1
