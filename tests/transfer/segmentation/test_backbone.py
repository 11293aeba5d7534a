"""The network inside mmsegmentation is the width's own: name by name, and by the features it computes."""

from __future__ import annotations

import pytest
import torch

from pretrain.checkpoints import open_checkpoint
from tests.transfer.segmentation.runs import untrained_vit
from transfer.finetuning.weights import weights_report
from transfer.segmentation import model as models
from transfer.segmentation.data.layouts import layout_of
from transfer.segmentation.model import Features, model_config
from transfer.segmentation.training import MODELS

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def trunk_config(checkpoint, width: float, **more) -> dict:
    return {"type": "SlimmableTrunk", "checkpoint": str(checkpoint), "width": width, **more}


def segmentor(checkpoint, width: float, name: str, scenes, **more):
    backbone = trunk_config(checkpoint, width, **more)
    trunk = MODELS.build(backbone)
    config = model_config(
        name, backbone, Features(trunk.channels, trunk.patch_size), 11, layout_of("digits", scenes), (0.5,) * 3, (0.2,) * 3, "whole"
    )
    model = MODELS.build(config)
    model.init_weights()  # as mmengine's runner does before training
    return model.eval()


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5, 0.25])
@torch.no_grad()
def test_features_and_weights_equal_the_extracted_networks(trained, scenes, width):
    expected = open_checkpoint(trained).at(width)
    model = segmentor(trained, width, "upernet", scenes)
    for ours, theirs in zip(model.extract_feat(IMAGES), expected.stages(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    report = weights_report(expected.state_dict(), model, {"backbone.trunk.network.": ""})
    assert report.missing == report.unexpected == []
    assert len(report.matched) == len([name for name in expected.state_dict() if "num_batches" not in name])
    assert report.new and not [name for name in report.new if name.startswith("backbone.")]


@pytest.mark.parametrize("name", ["fcn", "deeplabv3", "upernet"])
def test_heads_follow_the_width(trained, scenes, name):
    sizes = {}
    for width in (1.0, 0.5):
        model = segmentor(trained, width, name, scenes, output_stride=4 if name in models.DILATED else 0)
        channels = open_checkpoint(trained).encoder.stage_dims(width)
        head, auxiliary = model.decode_head, model.auxiliary_head
        assert head.in_channels == (channels if name == "upernet" else channels[3])
        assert auxiliary.in_channels == channels[2] and auxiliary.channels == max(32, channels[2] // 4)
        sizes[width] = sum(p.numel() for p in head.parameters())
        assert model(IMAGES, mode="tensor").shape[:2] == (2, 11)
    assert sizes[1.0] > sizes[0.5]


def test_channels_are_those_of_the_published_configs():
    for channels, head, auxiliary in (((256, 512, 1024, 2048), 512, 256), ((64, 128, 256, 512), 128, 64)):  # ResNet-50 and -18
        made = models.fcn(Features(channels), 19)
        assert (made["decode_head"]["channels"], made["auxiliary_head"]["channels"]) == (head, auxiliary)


@pytest.mark.parametrize("width", [1.0, 0.5])
@torch.no_grad()
def test_a_vit_gives_its_patches_or_a_pyramid(tmp_path, scenes, width):
    checkpoint = untrained_vit(tmp_path / "vit.pt", "vit_micro_heads")
    dense = open_checkpoint(checkpoint).at(width)
    tokens = dense.norm(dense.blocks(dense._tokens(IMAGES)[0]))[:, 1:]
    model = segmentor(checkpoint, width, "segmenter", scenes, reads="patches")
    (patches,) = model.extract_feat(IMAGES)
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=0)
    assert model(IMAGES, mode="tensor").shape == (2, 11, 8, 12)
    assert model.backbone.last_norm[0].weight.requires_grad
    pyramid = segmentor(checkpoint, width, "upernet", scenes, reads="pyramid")
    assert [tuple(m.shape[2:]) for m in pyramid.extract_feat(IMAGES)] == [(32, 48), (16, 24), (8, 12), (4, 6)]


def test_frozen_batch_norm_stays_and_tuned_moves(trained, scenes):
    for norm, moves in (("frozen", False), ("bn", True)):
        model = segmentor(trained, 0.5, "fcn", scenes, norm=norm).train()
        before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items() if "bn" in name}
        (model(IMAGES, mode="tensor").sum() * 1e-3).backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        after = model.backbone.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before) == moves


def test_random_is_another_draw_of_the_same_network(trained, scenes):
    first, again, other = (MODELS.build(trunk_config(trained, 0.5, initial="random", seed=seed)).state_dict() for seed in (1, 1, 2))
    pretrained = MODELS.build(trunk_config(trained, 0.5)).state_dict()
    name = "trunk.network.layer4.0.conv1.weight"
    assert first.keys() == pretrained.keys()
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name]) and not torch.equal(first[name], pretrained[name])
