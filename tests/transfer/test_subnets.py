"""Scores of sub-networks: asked for on the command line, told apart in records, and refused in one line."""

from __future__ import annotations

import pytest

from pretrain import config
from pretrain.checkpoints import open_checkpoint
from pretrain.training import pretrain
from results.frame import load
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.records import identity, of_width, width_of
from rundir.subnet import Subnet
from tests.transfer.conftest import TINY
from transfer.classification import Options, evaluate
from transfer.run import main
from transfer.search import Budget, search
from transfer.search import Options as SearchOptions

QUICK = Options(limit=200)
TEXT = "w[1,.75,.5,.5]d[2,1,2,2]"


@pytest.fixture(scope="module")
def medium(tmp_path_factory):
    """A finished run directory of a network with two blocks in each stage."""
    directory = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(config.load("digits", [*TINY, "model.arch=resnet_medium"]), directory)
    return directory


def test_scores_of_sub_networks(medium, tmp_path, capsys):
    arguments = ["classification", "--checkpoint", str(medium), "--limit", "200", "--out", str(tmp_path)]
    assert main([*arguments, "--widths", TEXT, "0.5", "w[.5,.5,.5,.5]r8", "d[1,1,1,1]"]) == 0
    printed = capsys.readouterr().out
    assert TEXT in printed and "w0.5r8" in printed and "w1d[1,1,1,1]" in printed
    records = RunDirectory(tmp_path).records()
    knn = [record for record in records if record["metric"] == "knn"]
    assert [(r["width"], r.get("subnet")) for r in knn] == [(None, TEXT), (0.5, None), (None, "w0.5r8"), (None, "w1d[1,1,1,1]")]
    checkpoint = open_checkpoint(medium)
    for record in knn:
        assert (record["flops"], record["parameters"]) == tuple(vars(checkpoint.cost(width_of(record))).values())
        assert record["value"] > 0.15 and "extrapolated" not in record
    assert len({identity(record) for record in records}) == 8
    assert main([*arguments, "--widths", TEXT]) == 0  # nothing is computed again
    assert len(RunDirectory(tmp_path).records()) == 8
    (plain,) = evaluate(medium, widths=[0.5], protocols=["knn"], options=QUICK, out=tmp_path / "other")
    assert plain["value"] == knn[1]["value"]


def test_what_is_whole_is_the_plain_width(medium, tmp_path):
    whole = [Subnet((0.5,) * 4, (2, 2, 2, 2)), Subnet(1.0)]
    records = evaluate(medium, widths=whole, protocols=["knn"], options=QUICK, out=tmp_path)
    assert [(r["width"], "subnet" in r) for r in records] == [(0.5, False), (1.0, False)]


def test_a_run_directory_with_scores_of_sub_networks_is_read(medium):
    evaluate(medium, widths=[0.5, Subnet.parse(TEXT), Subnet(0.5, (1, 1, 1, 1))], protocols=["knn"])
    scores = load(medium, keep=False)
    assert list(scores["subnet"]) == ["", TEXT, "w0.5d[1,1,1,1]"] and list(scores["width"].isna()) == [False, True, True]
    assert list(scores["variant"]) == ["", "", ""]


def test_an_analysis_of_a_sub_network(medium, tmp_path, capsys):
    assert main(["analysis", "--checkpoint", str(medium), "--widths", "1.0", TEXT, "--images", "60", "--out", str(tmp_path)]) == 0
    assert TEXT in capsys.readouterr().out
    found = {record["metric"] for record in RunDirectory(tmp_path).records() if record.get("subnet") == TEXT}
    assert found >= {"cka_full", "rankme", "order_first"} and "updates" not in found


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        (["w[1,.5]"], "2 widths and the network 4 stages"),
        (["d[3,1,1,1]"], "where the network has from 1 to 2"),
        (["w[1,.5,.5,.1]"], r"below the trained range \[0.25, 1.0\]"),
        (["w[1,.5"], "not understood"),
        (["k[3,3,3,3]"], "no elastic"),
        (["0.5", "w[.5,.5,.5,.5]"], "give the same channels"),
        (["d[1,2,1,2]", "w1d[1,2,1,2]"], "give the same channels"),
        (["0.5.5"], "is not a width"),
        (["h[1]"], "no attention heads"),
    ],
)
def test_wrong_sub_networks_are_one_line(medium, tmp_path, widths, said):
    with pytest.raises(UserError, match=said) as caught:
        main(["classification", "--checkpoint", str(medium), "--out", str(tmp_path / "out"), "--widths", *widths])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_entries_of_a_record():
    assert of_width(0.5) == {"width": 0.5} and width_of({"width": 0.5}) == 0.5
    subnet = Subnet.parse(TEXT)
    assert of_width(subnet) == {"width": None, "subnet": TEXT} and width_of(of_width(subnet)) == subnet
    assert width_of(of_width(subnet, 0.75)) == subnet and of_width(subnet, 0.75)["width"] == 0.75


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A finished run directory of a ViT that has trained fewer patches."""
    directory = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(
        config.load(
            "digits_vit",
            [
                *TINY,
                "model.arch=vit_micro",
                "optimizer.warmup_epochs=0",
                "elastic.vary=[width,patches]",
                "evaluation.dimension=patches",
                "evaluation.widths=[1.0,0.5]",
            ],
        ),
        directory,
    )
    return directory


def test_scores_of_a_vit_on_some_of_the_patches(vit, tmp_path, capsys):
    arguments = ["classification", "--checkpoint", str(vit), "--limit", "200", "--out", str(tmp_path)]
    assert main([*arguments, "--widths", "1.0", "0.5", "w0.5p.5"]) == 0
    records = [record for record in RunDirectory(tmp_path).records() if record["metric"] == "knn"]
    assert [(r["width"], r.get("subnet")) for r in records] == [(1.0, None), (0.5, "w1p0.375"), (None, "w0.5p0.5")]
    flops = [record["flops"] for record in records]
    assert 0.35 < flops[1] / flops[0] < 0.45 and flops[2] < flops[1] and all(record["value"] > 0.15 for record in records)
    for width, said in (("p0.01", "p0.01 keeps none of the 16 patches of an image; set p0.0625 or more"), ("p[1]", "a list for p")):
        with pytest.raises(UserError) as caught:
            main([*arguments, "--widths", width])
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_vit_is_searched_for_patches_too(vit, tmp_path):
    options = SearchOptions(
        images=64, calibration=32, evaluations=8, pool=20, checked=4, vary=["width", "depth", "heads", "mlp", "patches"]
    )
    found = search(vit, [Budget.parse(["flops=0.3"])], options=options, out=tmp_path, formats=["safetensors"])
    named = [Subnet.parse(pick["subnet"]) for pick in found.report["picks"]]
    assert any(subnet.patches for subnet in named) and any(subnet.depth for subnet in named)
    assert (tmp_path / "search" / "networks" / "flops=0.3" / "model.pt2").exists()
