"""Masked autoencoding: what is hidden is not seen, what is asked for is what was hidden, and runs continue to the same bits."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain import config
from pretrain.checkpoints import files, open_checkpoint
from pretrain.cost import training_flops
from pretrain.objective import losses
from pretrain.objective.networks import Student
from pretrain.slimmable import at_width
from pretrain.training import pretrain
from rundir.errors import UserError
from tests.pretrain.interruption import pretrain_until
from tests.pretrain.tiny import assert_same_run, metrics

MAE = ["objective.base_loss=mae", "objective.distill_loss=none"]
TINY = [
    *MAE,
    "optimizer.epochs=2",
    "optimizer.warmup_epochs=0",
    "optimizer.batch_size=16",
    "data.limit=64",
    "diagnostics.images=16",
    "calibration.images=40",
    "model.projector_hidden=16",
    "model.projector_out=8",
]


def student(*more):
    torch.manual_seed(0)
    return Student(config.load("digits_vit", [*MAE, *more])).double()


def images(count=5, height=12, width=20):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("width", [1.0, 0.6, 0.25])
@pytest.mark.parametrize("arch", ["vit_micro", "vit_micro_heads"])
def test_hidden_patches_are_not_seen_and_are_what_is_asked_for(width, arch):
    net = student(f"model.arch={arch}", "objective.base_options.mask=0.7", "objective.base_options.normalised=false")
    x = images().requires_grad_()
    with at_width(net, width):
        seen = net((x,), False)
    predicted, pixels = seen.outputs[0], seen.z[0]
    assert predicted.shape == pixels.shape == (5, 10 * 48)  # of 15 patches, 4.5 are to be seen, rounded up
    (gradient,) = torch.autograd.grad(predicted.square().sum(), x)
    patches = [
        [(i, j) for i in range(3) for j in range(5) if not gradient[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].any()]
        for b in range(5)
    ]
    assert {len(hidden) for hidden in patches} == {10} and len({tuple(hidden) for hidden in patches}) > 1
    for b, hidden in enumerate(patches):
        true = {tuple(x[b, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten().tolist()) for i, j in hidden}
        assert {tuple(part.tolist()) for part in pixels[b].split(48)} == true


def test_prediction_and_target_are_of_the_same_patch():
    """Trained on one image whose patches are each of one colour, whatever is hidden is told by its place."""
    net = student("objective.base_options.normalised=false", "objective.base_options.mask=0.5")
    x = torch.linspace(-1, 1, 9, dtype=torch.float64).view(1, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    x = x.expand(8, 3, 12, 12).contiguous()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        predicted, pixels = net.decoder(net.encoder, x)
        loss = (predicted - pixels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * float(x.var())


def test_pixels_are_normalised_patch_by_patch():
    net = student("objective.base_options.mask=0.5")
    _, pixels = net.decoder(net.encoder, images())
    parts = pixels.view(-1, 48)
    torch.testing.assert_close(parts.mean(1), torch.zeros(len(parts), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.var(1), torch.ones(len(parts), dtype=torch.float64), rtol=0, atol=1e-4)


def test_masks_are_drawn_anew_in_each_pass_and_every_patch_alike():
    decoder = student().decoder
    first, second = decoder._drawn(3000, 9), decoder._drawn(3000, 9)
    assert not torch.equal(first, second)
    for place in range(9):
        assert int((first[:, :2] == place).sum()) == pytest.approx(3000 * 2 / 9, abs=120)
    decoder.set_extra_state(0)
    assert torch.equal(decoder._drawn(3000, 9), first)
    assert [decoder.kept(n) for n in (2, 4, 9, 64)] == [1, 1, 2, 16]


def test_the_loss_is_the_mean_squared_error():
    cfg = config.load("digits_vit", MAE).objective
    s, t = torch.randn(2, 6, 10, dtype=torch.float64).unbind()
    found = losses.base_loss(losses.LossSetting(10, cfg))(s, t)
    expected = sum((a - b) ** 2 for x, y in zip(s.tolist(), t.tolist(), strict=True) for a, b in zip(x, y, strict=True)) / 60
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_the_cost_is_that_of_the_visible_patches_and_the_decoder():
    cfg = config.load("digits_vit", [*MAE, "widths.min=1.0"])
    net = Student(cfg).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()((torch.zeros(1, 3, 12, 12, device="meta"),), False)
    images, steps = 256, 2
    assert training_flops(cfg, images) == pytest.approx(3 * 2 * counter.get_total_flops() * 128 * steps * cfg.optimizer.epochs)


def test_a_run_lowers_its_loss_continues_to_the_same_bits_and_can_be_used(tmp_path):
    cfg = config.load("digits_vit", TINY)
    pretrain(cfg, tmp_path / "whole")
    pretrain_until(cfg, tmp_path / "broken", 6)
    pretrain(cfg, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    rows = metrics(tmp_path / "whole")
    loss = [row["value"] for row in rows if row["name"] == "loss/base"]
    assert loss[-1] < loss[0] and not any(row["name"].startswith("drift") for row in rows)
    assert files.load(tmp_path / "whole" / "checkpoint.pt")["decoder"]["_extra_state"] == 2 * 4 * 2 * 3
    assert open_checkpoint(tmp_path / "whole").config.objective.base_loss == "mae"


@pytest.mark.parametrize(
    ("preset", "setting", "message"),
    [
        ("digits", [], r"hides patches, which resnet_small does not have; set model\.arch to a ViT"),
        ("digits_vit", ["objective.distill_loss=mse"], r"images as targets at every width; set objective\.distill_loss=none"),
        ("digits_vit", ["objective.teacher=momentum"], r"set objective\.distill_loss=none, objective\.teacher=online"),
        ("digits_vit", ["data.size=4"], r"needs several patches of 4 pixels; set data\.size=8 or more"),
        ("digits_vit", ["objective.base_options.decoder_dim=40"], r"decoder_dim must be a multiple of 16"),
        ("digits_vit", ["objective.base_options.mask=1.5"], r"mask=1\.5 must be in \(0, 1\]"),
        ("digits_vit", ["train.compile=true"], r"does not support objective\.base_loss=mae"),
    ],
)
def test_what_it_does_not_go_with_is_one_line(preset, setting, message):
    with pytest.raises(UserError, match=message) as found:
        config.load(preset, [*MAE, *setting])
    assert "\n" not in str(found.value)
