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


@pytest.mark.parametrize(("widths", "said"), [
    (["w[1,.5]"], "2 widths and the network 4 stages"), (["d[3,1,1,1]"], "where the network has from 1 to 2"),
    (["w[1,.5,.5,.1]"], r"outside the trained range \[0.25, 1.0\]"), (["w[1,.5"], "not understood"), (["k[3,3,3,3]"], "no elastic"),
    (["0.5", "w[.5,.5,.5,.5]"], "give the same channels"), (["d[1,2,1,2]", "w1d[1,2,1,2]"], "give the same channels"),
    (["0.5.5"], "is not a number"), (["h[1]"], "no attention heads")])
def test_wrong_sub_networks_are_one_line(medium, tmp_path, widths, said):
    with pytest.raises(UserError, match=said) as caught:
        main(["classification", "--checkpoint", str(medium), "--out", str(tmp_path / "out"), "--widths", *widths])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_entries_of_a_record():
    assert of_width(0.5) == {"width": 0.5} and width_of({"width": 0.5}) == 0.5
    subnet = Subnet.parse(TEXT)
    assert of_width(subnet) == {"width": None, "subnet": TEXT} and width_of(of_width(subnet)) == subnet
    assert width_of(of_width(subnet, 0.75)) == subnet and of_width(subnet, 0.75)["width"] == 0.75
