"""Detectors of every kind: the maps inside them are the checkpoint's, and they train and predict."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from pretrain.slimmable import at_width
from rundir.errors import UserError
from tests.transfer.finetuning.networks import checkpoint, foreign_resnet
from transfer.detection import MODELS
from transfer.detection.model import Model, build, config

KINDS = [
    ("faster_rcnn_fpn", "resnet_small"),
    ("faster_rcnn_fpn", "resnet_tiny_of_tests"),
    ("mask_rcnn_fpn", "mobilenetv2_cifar"),
    ("faster_rcnn_fpn", "vit_micro"),
    ("faster_rcnn_fpn", "vit_micro_heads"),
    ("faster_rcnn_c4", "resnet_bottleneck_of_tests"),
    ("mask_rcnn_c4", "resnet_small"),
]


def detector(backbone, name, width, norm="auto", mask_format=None, **changes):
    """A detector of three classes, its config and its model."""
    model = Model.named(name).on(backbone)
    cfg = config(model, 3, mask_format, *backbone.normalisation())
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([word for pair in changes.items() for word in pair])
    return (*build(cfg, model, backbone.at(width), norm, seed=0), cfg, model)


def batch(size=(64, 48)):
    """Two images with a box each."""
    inputs = []
    for seed in (0, 1):
        image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed)).float()
        truth = Instances(size)
        truth.gt_boxes, truth.gt_classes = Boxes(torch.tensor([[5.0, 6, 30, 36]])), torch.tensor([seed])
        inputs.append({"image": image, "instances": truth, "height": size[0], "width": size[1]})
    return inputs


@pytest.mark.parametrize(("name", "arch"), KINDS)
@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_maps_within_the_detector_are_those_of_the_checkpoint(name, arch, width, tmp_path):
    backbone = checkpoint(tmp_path, arch)
    made, report, _, model = detector(backbone, name, width)
    assert (report.missing, report.unexpected) == ([], []) and report.matched and report.new
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad(), at_width(backbone.encoder.eval(), width):
        expected = backbone.encoder.stages(x)
        made.eval()
        if model.neck == "c4":
            found = [made.backbone(x)["res4"]]
            torch.testing.assert_close(made.roi_heads.res5[0](found[0]), expected[3], atol=1e-4, rtol=1e-4)
            expected = [expected[2]]
        elif "vit" in arch:
            found = list(made.backbone.body.trunk(x).values())
        else:
            found = list(made.backbone.bottom_up.body(x).values())
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_slim_r50_agrees_with_detectron2s_own_resnet(tmp_path):
    """Our trunk in detectron2 against detectron2's stock ResNet with the same channels and weights, names translated by hand."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec

    backbone = checkpoint(tmp_path, "resnet_bottleneck_of_tests")
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.NORM = "build_resnet_backbone", False, "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.BACKBONE.FREEZE_AT = ["res2", "res3", "res4", "res5"], 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8  # half of 16
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    stock = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    for stage in ("res2", "res3", "res4", "res5"):  # the tests' network has one block a stage
        setattr(stock, stage, nn.Sequential(getattr(stock, stage)[0]))
    stock.stages = [getattr(stock, stage) for stage in ("res2", "res3", "res4", "res5")]
    renamed = {}
    for name, tensor in backbone.at(0.5).state_dict().items():
        place, *rest = name.split(".")
        parts = ["stem", name] if place in ("conv1", "bn1") else [f"res{int(place[5:]) + 1}", *rest]
        text = ".".join(parts).replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[text.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm").replace("bn3", "conv3.norm")] = tensor
    stock.load_state_dict(renamed)
    made = detector(backbone, "faster_rcnn_fpn", 0.5)[0].eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = made.backbone.bottom_up(x), stock(x)
    for stage in theirs:
        torch.testing.assert_close(ours[stage], theirs[stage], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "arch"),
    [("faster_rcnn_fpn", "mobilenetv2_cifar"), ("faster_rcnn_fpn", "vit_micro"), ("faster_rcnn_c4", "resnet_small")],
)
def test_every_trained_parameter_gets_a_gradient_and_it_predicts(name, arch, tmp_path):
    quick = {"MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.RPN.POST_NMS_TOPK_TEST": 20}
    made = detector(checkpoint(tmp_path, arch), name, 0.25, **quick)[0]
    with EventStorage(0):
        losses = made.train()(batch())
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    without = [name for name, p in made.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    with torch.no_grad():
        assert made.eval()(batch())[0]["instances"].image_size == (64, 48)


def test_new_layers_have_batch_norm_where_the_networks_are_tuned(tmp_path):
    backbone = checkpoint(tmp_path, "resnet_small")

    def norms(name, norm):
        made = detector(backbone, name, 0.25, norm)[0]
        new = [made.backbone.lateral_convs, made.roi_heads.mask_head] if "fpn" in name else [made.roi_heads.res5[1:]]
        return sum(isinstance(m, nn.BatchNorm2d) for part in new for m in nn.ModuleList(part).modules())

    assert norms("mask_rcnn_fpn", "bn") == 3 + 4 and norms("mask_rcnn_fpn", "frozen") == 0
    assert norms("faster_rcnn_c4", "bn") == 1 and norms("faster_rcnn_c4", "frozen") == 0
    frozen = detector(backbone, "faster_rcnn_fpn", 0.25, "frozen")[0]
    assert not any("bn" in name for name, _ in frozen.named_parameters())


def test_levels_and_anchors_follow_the_strides(tmp_path):
    sizes = {
        arch: detector(checkpoint(tmp_path, arch), "faster_rcnn_fpn", 0.25)[2]
        for arch in ("resnet_tiny_of_tests", "resnet_small", "vit_micro")
    }
    imagenet, cifar, vit = sizes.values()
    assert imagenet.MODEL.RPN.IN_FEATURES == ["p2", "p3", "p4", "p5", "p6"]
    assert imagenet.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert cifar.MODEL.RPN.IN_FEATURES == ["p1", "p2", "p3", "p4"] and cifar.MODEL.ANCHOR_GENERATOR.SIZES[0] == [16]
    assert vit.MODEL.ROI_HEADS.IN_FEATURES == ["p0", "p1", "p2", "p3"]
    c4 = detector(checkpoint(tmp_path, "resnet_tiny_of_tests"), "faster_rcnn_c4", 0.25)[2]
    assert c4.MODEL.ANCHOR_GENERATOR.SIZES == [[32, 64, 128, 256, 512]]


def test_new_layers_start_from_the_seed(tmp_path):
    backbone = checkpoint(tmp_path, "resnet_small")
    states = [detector(backbone, "faster_rcnn_fpn", 0.5)[0].state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_lost_weight_is_an_error(tmp_path, monkeypatch):
    from transfer.detection import model as models

    monkeypatch.setattr(models, "_fpn_places", lambda maps: {"backbone.bottom_up.elsewhere.": ""})
    with pytest.raises(RuntimeError, match="did not arrive"):
        detector(checkpoint(tmp_path, "resnet_small"), "faster_rcnn_fpn", 0.5)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18_cifar", "r18"),
        ("resnet18", "r18"),
        ("resnet50", "r50"),
        ("mobilenetv2", "mbv2"),
        ("resnet_small", "small"),
        ("vit_micro", "vit_micro"),
        ("vit_tiny_cifar_heads", "vit_tiny"),
    ],
)
def test_names(arch, name, tmp_path):
    from types import SimpleNamespace

    from transfer.detection.model import network_name

    assert network_name(SimpleNamespace(arch=arch, dense=False)) == name


def test_which_model_is_for_which_network(tmp_path):
    small, vit = checkpoint(tmp_path, "resnet_small"), checkpoint(tmp_path, "vit_micro")
    assert str(Model.named("faster_rcnn_fpn").on(small)) == "faster_rcnn_small_fpn"
    assert str(Model.named("mask_rcnn_vit_fpn").on(vit)) == "mask_rcnn_vit_micro_fpn"
    assert str(Model.named("faster_rcnn_r18_fpn").on(foreign_resnet(tmp_path))) == "faster_rcnn_r18_fpn"
    assert all(str(Model.named(name)) == name for name in MODELS)
    with pytest.raises(UserError, match="set --model faster_rcnn_fpn"):
        Model.named("faster_rcnn_r50_fpn").on(small)
    with pytest.raises(UserError, match="needs a ResNet"):
        Model.named("faster_rcnn_c4").on(vit)


def test_a_foreign_resnet_in_a_c4_model(tmp_path):
    backbone = foreign_resnet(tmp_path)
    made, report, _, _ = detector(backbone, "faster_rcnn_c4", 1.0)
    assert any(name.startswith("roi_heads.res5.0.") for name in report.matched)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(made.eval().roi_heads.res5[0](made.backbone(x)["res4"]), backbone.encoder.eval().stages(x)[3])
