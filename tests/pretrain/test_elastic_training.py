"""Training of sub-networks: which a step has, what they learn, and which configs cannot be."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.cell import missing_scores
from ablations.grid import Run
from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.config.elastic import elastic_space
from pretrain.cost import training_flops
from pretrain.models import build
from pretrain.objective import losses
from pretrain.objective.elastic import sample_networks, varying
from pretrain.objective.features import tapped
from pretrain.objective.networks import Student, Teacher
from pretrain.objective.sampling import sample_widths
from pretrain.objective.step import Objective
from pretrain.slimmable import Subnet, at_width, extract, of_equal_flops, space_of
from pretrain.training import pretrain
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.stopping import Interrupted
from tests.transfer.conftest import TINY
from transfer.classification import Options, evaluate

ELASTIC = ["model.arch=resnet_small_elastic", "widths.min=0.5"]
VIT = ["model.arch=vit_micro", "data.size=16"]
ALL = [*ELASTIC, "elastic.vary=[width,depth,kernel]"]
TOTAL = 60


def loaded(*overrides):
    return config.load("digits", list(overrides))


def steps(*overrides):
    cfg = loaded(*overrides)
    return [sample_networks(cfg, step, TOTAL) for step in range(TOTAL)]


@settings(deadline=None, max_examples=20)
@given(rule=st.sampled_from(["sandwich", "dynamic", "uniform", "elastic"]), step=st.integers(0, TOTAL - 1), n=st.integers(2, 5))
def test_without_elastic_dimensions_a_step_has_the_widths_it_had(rule, step, n):
    cfg = loaded(f"widths.sampling={rule}", f"widths.per_step={n}")
    assert sample_networks(cfg, step, TOTAL) == sample_widths(cfg.widths, cfg.seed, step, TOTAL, cfg.optimizer.epochs)


@pytest.mark.parametrize(
    ("vary", "smallest"),
    [
        ("width", 0.5),
        ("depth", "w1d[1,1,1,1]"),
        ("kernel", "w1k[3,3,3,3]"),
        ("depth,kernel", "w1d[1,1,1,1]k[3,3,3,3]"),
        ("width,depth,kernel", "w0.5d[1,1,1,1]k[3,3,3,3]"),
    ],
)
def test_the_sandwich_rule_over_all_dimensions(vary, smallest):
    found = steps(*ELASTIC, f"elastic.vary=[{vary}]", "widths.per_step=4")
    assert found == steps(*ELASTIC, f"elastic.vary=[{vary}]", "widths.per_step=4")
    assert found != steps(*ELASTIC, f"elastic.vary=[{vary}]", "widths.per_step=4", "seed=7")
    between = set()
    for networks in found:
        assert networks[0] == 1.0 and str(networks[-1]) == str(smallest) and len(set(networks)) == len(networks) <= 4
        between |= set(networks[1:-1])
    assert len(between) > 8
    for network in between:
        subnet = network if isinstance(network, Subnet) else Subnet(network)
        assert (subnet.width == 1.0) == ("width" not in vary) and (subnet.depth is None or "depth" in vary)
        assert subnet.kernel is None or "kernel" in vary


def test_a_width_for_each_stage():
    found = [networks[1] for networks in steps(*ALL, "elastic.by_stage=true")]
    assert all(len(network.widths) == 4 and 0.5 <= min(network.widths) <= max(network.widths) <= 1 for network in found)


def test_progressive_shrinking_adds_one_dimension_after_the_other():
    found = steps(*ELASTIC, "elastic.vary=[kernel,depth,width]", "elastic.schedule=progressive")
    assert all(networks == [1.0] for networks in found[:15])
    seen = [
        {
            name
            for networks in part
            for network in networks[1:]
            for name, there in (("width", network.width != 1), ("depth", network.depth), ("kernel", network.kernel))
            if there
        }
        for part in (found[15:30], found[30:45], found[45:])
    ]
    assert seen == [{"kernel"}, {"kernel", "depth"}, {"kernel", "depth", "width"}]
    assert str(found[-1][-1]) == "w0.5d[1,1,1,1]k[3,3,3,3]"
    cfg = loaded(*ALL).elastic
    assert varying(cfg, 0.0) == ["width", "depth", "kernel"]


def test_dynamic_sampling_lowers_the_bound_of_every_dimension():
    cfg = ["model.arch=mobilenetv2_cifar_elastic", "elastic.vary=[width,kernel]", "widths.sampling=dynamic"]
    found = steps(*cfg)
    smallest = [networks[-1] for networks in found]
    assert all(networks == [1.0] for networks in found[:15])
    assert {str(network) for network in smallest[15:30]} == {"w0.75k[5,5,5,5,5,5,5]"}
    assert {str(network) for network in smallest[30:45]} == {"w0.5k[5,5,5,5,5,5,5]"}
    assert {str(network) for network in smallest[45:]} == {"w0.25k[3,3,3,3,3,3,3]"}


@pytest.mark.parametrize("rule", ["sandwich", "dynamic"])
def test_the_patches_of_a_vit_are_a_dimension(rule):
    found = steps(*VIT, "elastic.vary=[patches]", f"widths.sampling={rule}", "widths.per_step=4")
    smallest = [str(networks[-1]) for networks in found]
    if rule == "sandwich":
        assert set(smallest) == {"w1p0.25"}
    else:
        assert [smallest[stage] for stage in (0, 15, 30, 45)] == ["1.0", "w1p0.75", "w1p0.5", "w1p0.25"]
    assert {networks[0] for networks in found} == {1.0}
    assert {network.patches for networks in found for network in networks[1:]} == {0.875, 0.75, 0.625, 0.5, 0.375, 0.25}
    shrinking = steps(*VIT, "elastic.vary=[width,patches]", "elastic.schedule=progressive")
    assert not any(isinstance(network, Subnet) for networks in shrinking[:40] for network in networks)
    assert shrinking[-1][-1] == Subnet(0.25, patches=0.25)


def test_without_patches_the_draws_of_a_vit_are_what_they_were():
    """Fixed patches take no draw of their own."""
    space = elastic_space(loaded(*VIT, "elastic.vary=[width,depth]"))
    assert space.patches == () and "patches" not in dict.fromkeys(name for name, _ in space.axes)


def test_a_step_trains_the_networks_it_says():
    cfg = loaded(
        *ALL,
        "objective.base_loss=infonce",
        "objective.distill_loss=infonce",
        "objective.teacher=momentum",
        "objective.head=none",
        "objective.update=accumulate",
        "model.projector_hidden=32",
        "model.projector_out=16",
    )
    torch.manual_seed(0)
    student = Student(cfg).double()
    teacher = Teacher(student)
    for parameter in teacher.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    subnet = Subnet((1.0, 0.5, 0.75, 0.5), (2, 1, 1, 2), (3, 5, 3, 5))
    x1, x2 = torch.randn(2, 8, 3, 12, 12, dtype=torch.float64)
    dense = extract(torch.nn.Sequential(student.encoder, student.projector), subnet)
    for norm in dense.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.train()
    full = torch.nn.Sequential(teacher.encoder, teacher.projector).train()
    objective = Objective(cfg.objective, student, student, teacher, 1.0, nullcontext)
    found = objective.step(x1, x2, [1.0, subnet], 1.0, lambda loss: loss.backward(), lambda width: None)
    with torch.no_grad():
        targets, outputs = [full(x) for x in (x1, x2)], [dense(x) for x in (x1, x2)]
        loss = losses.distill_loss(losses.LossSetting(student.dim, cfg.objective, None), None)
        pairing = losses.Pairing(cfg.objective.pairings, crossed=True)
        expected = pairing(loss, outputs, targets, outputs, outputs)
    torch.testing.assert_close(found[1], expected)
    unused = student.encoder.get_parameter("layer2.1.conv1.weight").grad
    with_it = [p.grad is not None for name, p in student.encoder.named_parameters() if name.startswith("layer2.1")]
    assert unused is not None and any(with_it)  # of the full network alone
    student.zero_grad()
    objective.step(x1, x2, [subnet], 1.0, lambda loss: loss.backward(), lambda width: None)
    assert student.encoder.get_parameter("layer2.1.conv1.weight").grad is None


def test_feature_distillation_taps_the_last_block_that_runs():
    for arch, text, expected in (
        ("resnet_medium", "d[2,1,2,1]", ["layer2.0.bn2", "layer3.1.bn2", "layer4.0.bn2"]),
        ("mobilenetv2_cifar", "d[1,2,1,4,2,3,1]", ["features.4.body.7", "features.12.body.7", "features.18.1"]),
    ):
        encoder = build(arch)
        names = {module: name for name, module in encoder.named_modules()}
        with at_width(encoder, Subnet.parse(text)):
            assert [names[norm] for norm in tapped(encoder)] == expected
        assert [names[norm] for norm in tapped(encoder)] == encoder.stage_norms[1:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run in which depth varies, and its config."""
    cfg = loaded(
        *TINY,
        *ELASTIC,
        "elastic.vary=[depth]",
        "evaluation.dimension=depth",
        "objective.feature_weight=1",
        "objective.teacher=momentum",
        "calibration.widths=[1.0]",
        "evaluation.widths=[1.0,0.75,0.5625]",
        "evaluation.protocols=[knn]",
        "evaluation.label_fractions=[1.0]",
    )
    directory = tmp_path_factory.mktemp("elastic") / "run"
    pretrain(cfg, directory)
    return directory, cfg


def test_scores_of_a_width_are_of_the_sub_network_of_equal_flops(trained, capsys):
    directory, cfg = trained
    checkpoint = open_checkpoint(directory)
    assert checkpoint.calibrated == [1.0]
    run = Run("depth", cfg, directory)
    assert len(missing_scores(run)) == 3
    records = evaluate(directory, widths=run.widths, protocols=["knn"])
    assert missing_scores(run) == []
    assert "width 0.75 (" in capsys.readouterr().out
    found = {record["width"]: record for record in records}
    assert list(found) == [1.0, 0.75, 0.5625] and "subnet" not in found[1.0]
    for width in (0.75, 0.5625):
        subnet = Subnet.parse(found[width]["subnet"])
        assert subnet.width == 1.0 and subnet.depth is not None
        assert found[width]["flops"] == checkpoint.cost(subnet).flops
        target = checkpoint.cost(width).flops
        others = [checkpoint.cost(each).flops for each in space_of(checkpoint.encoder, vary=["depth"]).members()]
        assert abs(found[width]["flops"] / target - 1) < 0.1
        assert min(others, key=lambda flops: abs(flops / target - 1)) == found[width]["flops"]
    with pytest.raises(UserError, match=r"sub-network of equal FLOPs for 0\.6 and 0\.5625"):
        evaluate(directory, widths=[0.6, 0.5625], protocols=["knn"])
    capsys.readouterr()
    assert list(checkpoint.stand_ins([1.0, 0.75, 0.6, 0.5625], skip=True).values()) == [1.0, 0.75, 0.6]  # as without --widths
    assert capsys.readouterr().out.startswith("width 0.5625 is left out: its sub-network of equal FLOPs, ")
    plain = evaluate(directory, widths=[Subnet(1.0, (1, 1, 1, 1))], protocols=["knn"], options=Options())
    assert (plain[0]["width"], plain[0]["subnet"]) == (None, "w1d[1,1,1,1]")


def test_an_interrupted_training_of_sub_networks_ends_the_same(trained, tmp_path, monkeypatch):
    directory, cfg = trained
    monkeypatch.setattr("pretrain.training.loop.stop_requested", lambda: True)
    with pytest.raises(Interrupted):
        pretrain(cfg, tmp_path / "run")
    monkeypatch.undo()
    pretrain(cfg, tmp_path / "run")
    one, other = (torch.load(path / "checkpoint.pt", weights_only=True)["encoder"] for path in (directory, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert RunDirectory(tmp_path / "run").status()["state"] == "done"


def test_of_equal_flops_and_the_path_of_a_space():
    space = elastic_space(loaded(*ALL))
    path = space.path()
    assert (path[0], path[-1]) == (space.largest, space.smallest) and all(network in space for network in path)
    sizes = [
        sum(widths) / len(widths) + sum(depth) + sum(kernel)
        for widths, depth, kernel in (
            (each.widths, each.depth or (2,) * 4, each.kernel or (5,) * 4)
            for each in (network if isinstance(network, Subnet) else Subnet(network) for network in path)
        )
    ]
    assert sizes == sorted(sizes, reverse=True) and len(path) > 40
    flops = dict(zip(path, range(len(path), 0, -1), strict=True))
    assert of_equal_flops(space, 7.2, flops.__getitem__) == path[-7]
    depth = space.along("depth")
    assert len(depth.members()) == 16 and of_equal_flops(depth, 6.0, lambda n: sum(n.depth or (2,) * 4) if n != 1.0 else 8) != 1.0


def test_training_costs_what_its_networks_cost():
    plain, elastic = loaded(*ELASTIC, "widths.min=1.0"), loaded(*ELASTIC, "elastic.vary=[depth]", "widths.per_step=2")
    alone, both = (training_flops(cfg, 128) for cfg in (plain, elastic))
    assert 1.3 < both / alone < 1.6  # all blocks, and half of them


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.arch=resnet_small", "elastic.vary=[depth]"], "does not suit model.arch=resnet_small: this network has no elastic"),
        ([*ELASTIC, "elastic.vary=[heads]"], "no elastic heads"),
        ([*ELASTIC, "elastic.vary=[size]"], "unknown 'size'"),
        ([*ALL, "widths.sampling=uniform"], "set widths.sampling=sandwich or dynamic"),
        ([*ALL, "widths.min=1"], "set widths.min below"),
        ([*ALL, "elastic.schedule=progressive", "widths.sampling=dynamic"], "both say which networks come when"),
        ([*ELASTIC, "elastic.vary=[resolution]"], "set both or neither"),
        ([*ALL, "elastic.resolutions=[12]"], "set both or neither"),
        ([*ELASTIC, "elastic.vary=[resolution]", "elastic.resolutions=[8]"], "must have data.size=12 as the largest"),
        (
            [*ELASTIC, "elastic.vary=[patches]"],
            "does not suit model.arch=resnet_small_elastic: this network has no elastic patches",
        ),
        ([*VIT, "elastic.vary=[patches]", "data.size=4"], "images of 4 pixels have too few patches of 4 pixels"),
        (
            [*VIT, "elastic.vary=[patches]", "objective.base_loss=mae", "objective.distill_loss=none", "objective.teacher=online"],
            "objective.base_loss=mae hides patches itself; leave patches out",
        ),
        (
            [*VIT, "elastic.vary=[resolution]", "elastic.resolutions=[16,10]"],
            "r10 is not a whole number of patches of 4 pixels; set a",
        ),
        ([*ELASTIC, "elastic.vary=[resolution]", "elastic.resolutions=[12,0]"], "at least 1; set for example r128"),
        ([*ELASTIC, "elastic.by_stage=true"], "has no effect where nothing varies"),
        ([*ELASTIC, "elastic.vary=[depth]", "elastic.by_stage=true"], "elastic.by_stage=true draws a width for each stage"),
        ([*ELASTIC, "evaluation.dimension=depth"], "scores sub-networks that were not trained"),
        ([*ALL, "evaluation.dimension=mlp"], "is not trained; set it to one of width, depth, kernel, all"),
        ([*ALL, "objective.width_weights=slimclr"], "set objective.width_weights=none"),
        ([*ALL, "widths.sampling=sandwich", "widths.per_step=4", "widths.doubled_ends=true"], "widths.doubled_ends=false"),
        ([*ALL, "train.graphs=true", "widths.grid=8"], "set train.graphs=false"),
    ],
)
def test_impossible_configs_are_one_line(overrides, said):
    with pytest.raises(UserError) as caught:
        loaded(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert "set " in str(caught.value) or "leave" in str(caught.value)


def test_a_vit_trains_its_depth_heads_and_mlp(tmp_path):
    cfg = loaded(
        *TINY,
        "model.arch=vit_micro_heads",
        "elastic.vary=[width,depth,heads,mlp,resolution,patches]",
        "elastic.resolutions=[16,12]",
        "optimizer.lr=0.01",
        "train.recompute=true",
    )
    networks = sample_networks(cfg, 0, TOTAL)
    assert str(networks[-1]) == "w0.25d[1,0,0,0]m[2,2,2,2]r12p0.25"
    pretrain(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, limit=128)), tmp_path / "run")
    (record,) = evaluate(tmp_path / "run", widths=[networks[1]], protocols=["knn"], options=Options(limit=100))
    assert record["subnet"] == str(networks[1]) and record["value"] is not None
