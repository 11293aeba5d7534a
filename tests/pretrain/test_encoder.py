"""Every network keeps the contract of Encoder, the one in docs/extending.md included."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from pretrain.models import ARCHITECTURES, build
from pretrain.models.encoder import Encoder
from pretrain.slimmable import at_width, calibrate, extract

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
# The others differ from these in depth and channels alone, and take minutes.
TRIED = ["resnet_small", "resnet18", "resnet50_cifar", "mobilenetv2_cifar", "vit_micro", "vit_micro_heads", "plain_net"]


@pytest.fixture(autouse=True)
def guide(monkeypatch):
    """Registers what the guide defines, by running its code."""
    monkeypatch.setattr("pretrain.models.ARCHITECTURES", dict(ARCHITECTURES))
    names = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)
    return names


def images(encoder, generator):
    height, width = (4 * encoder.size_divisor, 8 * encoder.size_divisor) if encoder.is_vit else (37, 42)
    return torch.randn(3, 3, height, width, generator=generator)


@pytest.mark.parametrize("arch", [*(arch for arch in ARCHITECTURES if "test" not in arch), "plain_net"])
def test_says_what_it_offers(arch):
    with torch.device("meta"):
        encoder = build(arch)
    assert isinstance(encoder, Encoder) and len(encoder.stage_dims()) == 4
    assert encoder.feature_dim(0.25) <= encoder.feature_dim() and encoder.stage_dims(1.0) == encoder.stage_dims()
    assert all(encoder.body.get_submodule(name) for name in encoder.stage_layers)
    if not encoder.is_vit:
        assert not encoder.can_recompute
        with pytest.raises(ValueError, match="no patch projection"):
            encoder.freeze_patch_projection()


@pytest.mark.parametrize("width", [1.0, 0.61, 0.25])
@pytest.mark.parametrize("arch", TRIED)
def test_shapes_and_extraction(arch, width):
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    encoder = build(arch)
    x = images(encoder, generator)
    calibrate(encoder, [width], [x])
    encoder.eval()
    with torch.no_grad(), at_width(encoder, width):
        features, maps = encoder(x), encoder.stages(x)
    assert features.shape == (3, encoder.feature_dim(width))
    assert [m.shape[:2] for m in maps] == [(3, channels) for channels in encoder.stage_dims(width)]
    assert all(fine.shape[-1] >= coarse.shape[-1] for fine, coarse in itertools.pairwise(maps))
    dense = extract(encoder, width)
    with torch.no_grad():
        torch.testing.assert_close(dense(x), features, rtol=1e-4, atol=1e-5)
        for got, expected in zip(dense.stages(x), maps, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_network_of_the_guide_trains(tmp_path):
    from pretrain.checkpoints import open_checkpoint
    from pretrain.config import load
    from pretrain.training import pretrain

    overrides = [
        "model.arch=plain_net",
        "optimizer.epochs=1",
        "data.limit=64",
        "optimizer.batch_size=32",
        "diagnostics.images=0",
        "model.projector_hidden=32",
        "model.projector_out=16",
        "model.predictor_hidden=32",
    ]
    pretrain(load("digits", overrides), tmp_path / "run")
    network = open_checkpoint(tmp_path / "run").at(0.5)
    assert network(torch.zeros(2, 3, 12, 12)).shape == (2, 64)
