"""Claims about each of several cells, about collapse, about some networks or widths, and about transfer; on made-up runs."""

from __future__ import annotations

import json

import pytest
from scipy import stats

from results import claims
from results.claim_list import Claim, load_claims
from results.frame import current, load, load_metrics, load_runs
from rundir.errors import UserError
from tests.results.synthetic import config, metric, record, write_run


def claim(measure="score", test="paired_t", minimum=0.0, **how):
    sides = {} if measure == "collapse" else {"better": ["ours"], "than": ["theirs"]}
    sides |= {"at": "all"} if measure == "score" else {}
    return Claim("c", "It is so.", "g", measure, minimum, test, "run {profile}", sides | how)


def judged(root, *asked):
    found = claims.judge(asked, load(root), current(load_runs(root)), load_metrics(root))
    return found if len(found) > 1 else found[0]


def add(root, cell, seed, values, metrics=(), arch="resnet_small", **changes):
    cfg = config(seed=seed, cell=cell, grid="g", model={"arch": arch})
    records = [record(width, value, "linear", **changes) for width, value in values.items()]
    return write_run(root / "g", cfg, records, metrics)


@pytest.fixture
def three(tmp_path):
    """Three cells over a baseline of 0.5 at three seeds: a strong one, a weak one and one that fails."""
    gains = {"strong": (0.30, 0.31, 0.32), "weak": (0.02, 0.03, 0.025), "fails": (-0.2, -0.21, -0.19)}
    for seed in range(3):
        add(tmp_path, "baseline", seed, {1.0: 0.5, 0.25: 0.5})
        for cell, found in gains.items():
            add(tmp_path, cell, seed, {1.0: 0.5 + found[seed], 0.25: 0.5 + found[seed]})
    return tmp_path


def test_a_failing_cell_cannot_hide_behind_a_strong_one(three):
    averaged = judged(three, claim(better=["strong", "fails"], than=["baseline"]))
    each = judged(three, claim(better=["strong", "fails"], than=["baseline"], every="better"))
    assert averaged.verdict == claims.SUPPORTED and each.verdict == claims.CONTRADICTED
    assert each.effect == pytest.approx(-20) and "the weakest of 2: fails -20.00, strong +31.00" in each.why
    less = stats.ttest_1samp([-0.2, -0.21, -0.19], 0, alternative="less").pvalue
    assert each.p == pytest.approx(2 * 2 * less) and set(each.seeds) == {0, 1, 2} and len(each.runs) == 9


def test_the_weakest_of_cells_that_all_are_ahead_decides(three):
    each = judged(three, claim(better=["strong", "weak"], than=["baseline"], every="better"))
    assert each.effect == pytest.approx(2.5) and each.verdict == claims.SUPPORTED
    assert each.p == pytest.approx(stats.ttest_1samp([0.02, 0.03, 0.025], 0).pvalue)
    assert each.claim.about == "each of strong, weak against baseline"
    others = judged(three, claim(better=["strong"], than=["weak", "baseline"], every="than"))
    assert others.effect == pytest.approx(28.5) and others.claim.about == "strong against each of weak, baseline"


def test_a_claim_about_each_cell_waits_for_all_of_them(three):
    missing = judged(three, claim(better=["strong", "absent"], than=["baseline"], every="better"))
    assert missing.verdict == claims.NO_RUNS and "absent" in missing.why
    only_one = judged(three, claim(better=["strong"], than=["baseline"], every="better", widths=[0.4]))
    assert only_one.verdict == claims.NO_RUNS


def collapse(seed, *spread):
    """Spread of the features at widths 1 and 0.25, after two epochs; only the last one counts."""
    return [metric("feature_std", epoch, value if epoch == 2 else 0.01, width)
            for epoch in (1, 2) for width, value in zip((1.0, 0.25), spread, strict=True)]


def test_collapse_is_a_share_of_seeds_with_an_exact_interval(tmp_path):
    for seed in range(6):
        add(tmp_path, "ours", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.05 if seed else 0.7))
    found = judged(tmp_path, claim("collapse", "binomial", 50, cells=["ours"], outcome="collapsed"))
    low, high = stats.binomtest(5, 6).proportion_ci(method="exact")
    assert (found.effect, found.low, found.high) == pytest.approx((100 * 5 / 6, 100 * low, 100 * high))
    assert found.n == 6 and found.p == pytest.approx(2 * 7 / 64) and found.verdict == claims.UNDECIDED
    assert found.why == "seeds collapsed: 0 of 6 at 1 [0, 46], 5 of 6 at 0.25 [36, 100]" and found.unit == "% of seeds"
    upright = judged(tmp_path, claim("collapse", "binomial", 50, cells=["ours"], outcome="not collapsed"))
    assert upright.effect == pytest.approx(100 / 6) and "6 of 6 at 1 [54, 100]" in upright.why


def test_six_seeds_of_six_decide_and_no_diagnostics_say_nothing(tmp_path):
    for seed in range(6):
        add(tmp_path, "ours", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.05))
        add(tmp_path, "silent", seed, {1.0: 0.5})
    asked = claim("collapse", "binomial", 50, cells=["ours"], outcome="collapsed")
    assert judged(tmp_path, asked).verdict == claims.SUPPORTED
    silent = judged(tmp_path, claim("collapse", "binomial", 50, cells=["silent"], outcome="collapsed"))
    assert silent.verdict == claims.NO_RUNS and "no diagnostics of silent" in silent.why


def test_a_claim_about_an_architecture_is_judged_on_its_networks_only(three, tmp_path):
    about = claim(better=["strong"], than=["baseline"], arch="vit_*")
    found = {verdict.claim.about: verdict for verdict in judged(three, about, claim(better=["strong"], than=["baseline"]))}
    assert found["strong against baseline"].verdict == claims.SUPPORTED
    elsewhere = found["strong against baseline, on vit_*"]
    assert elsewhere.verdict == claims.NO_RUNS and elsewhere.why == "no runs of vit_* networks"
    for seed in range(3):
        for cell, value in (("strong", 0.1), ("baseline", 0.4 + 0.01 * seed)):
            add(tmp_path / "vit", cell, seed, {1.0: value}, arch="vit_micro")
    assert judged(tmp_path / "vit", about).effect == pytest.approx(-31)


def test_only_the_widths_of_the_claim_count(tmp_path):
    for seed in range(3):
        add(tmp_path, "ours", seed, {1.0: 0.1, 0.625: 0.8 + 0.01 * seed, 0.25: 0.1})
        add(tmp_path, "theirs", seed, {1.0: 0.9, 0.625: 0.7, 0.25: 0.9})
    assert judged(tmp_path, claim(widths=[0.875, 0.625])).effect == pytest.approx(11)


def test_transfer_is_judged_on_the_named_set_by_its_own_score_and_all_labels(tmp_path):
    for seed in range(3):
        for cell, gain in (("ours", 0.1 + 0.01 * seed), ("theirs", 0.0)):
            kinds = [record(0.25, 0.5 + gain, "linear", dataset="flowers102", score="mean_per_class"),
                     record(0.25, 0.9, "linear", dataset="flowers102", score="top1"),
                     record(0.25, 0.2, "linear", dataset="flowers102", score="mean_per_class", label_fraction=0.1, label_seed=0),
                     record(0.25, 0.9, "linear", dataset="pets")]
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), kinds)
    found = judged(tmp_path, claim(task="classification", dataset="flowers102", metric="linear", at="narrowest"))
    assert found.effect == pytest.approx(11) and found.dataset == "flowers102"


def test_pretraining_data_are_judged_with_the_fewest_labels_that_all_runs_have(tmp_path):
    for seed in range(3):
        for cell, gain in (("ours", 0.1 + 0.01 * seed), ("theirs", 0.0)):
            kinds = [record(0.25, 0.9, "linear"), record(0.25, 0.6 + gain, "linear", label_fraction=0.1, label_seed=0)]
            kinds += [record(0.25, 0.1, "linear", label_fraction=0.01, label_seed=0)] if cell == "ours" else []
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), kinds)
    found = judged(tmp_path, claim(at="narrowest"))
    assert found.effect == pytest.approx(11) and found.metric == "linear evaluation, 10 % of the labels"


def test_detectors_are_not_averaged(tmp_path):
    for seed in range(3):
        for cell, gain in (("ours", 0.1 + 0.01 * seed), ("theirs", 0.0)):
            dense = {"task": "detection", "dataset": "voc", "chance": None, "schedule": "24k"}
            kinds = [record(0.25, 0.4 + gain, "box_AP", model="faster_rcnn_r50_c4", **dense)]
            kinds += [record(0.25, 0.9, "box_AP", model="faster_rcnn_r50_fpn", **dense)] if cell == "ours" else []
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), kinds)
    assert judged(tmp_path, claim(task="detection", dataset="voc", metric="box_AP", at="narrowest")).effect == pytest.approx(11)


def test_every_claim_says_what_it_is_about_and_how_its_runs_are_made():
    for known in load_claims()[0]:
        assert known.about and known.command.startswith("python ablations/run.py --grid ")
        assert f"--grid {known.grid} " in known.command


@pytest.mark.parametrize(("change", "message"), [
    ({"every": "yes"}, "set it to better or than"), ({"every": "better", "test": "exact"}, "every cell is tested by"),
    ({"widths": [1.5]}, "not a list of widths"), ({"widths": 0.5}, "not a list of widths"),
    ({"measure": "collapse", "better": None, "than": None, "at": None, "cells": ["x"], "outcome": "fell", "test": "binomial"},
     "set one of collapsed, not collapsed"),
    ({"measure": "collapse", "better": None, "than": None, "at": None, "cells": ["x"], "outcome": "collapsed"}, "binomial that of"),
    ({"test": "binomial"}, "does not fit a claim about score")])
def test_a_claim_that_is_not_as_documented_is_refused(tmp_path, change, message):
    entry = {"id": "a", "statement": "s", "grid": "g", "measure": "score", "better": ["x"], "than": ["y"], "at": "all",
             "minimum": 0, "test": "paired_t", "command": "c"} | change
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"format": 1, "level": 0.05, "claims": [{k: v for k, v in entry.items() if v is not None}]}))
    with pytest.raises(UserError, match=message) as error:
        load_claims(path)
    assert "\n" not in str(error.value)


def test_passes_are_counted(tmp_path):
    """Dynamic sampling trains one width a step in its first stage and three in the others."""
    stages = {"ours": (1.0, 3.0, 3.0, 3.0), "theirs": (3.0, 3.0, 3.0, 3.0)}
    for seed in range(2):
        for cell, found in stages.items():
            lines = [metric("widths_per_step", epoch, value) for epoch, value in enumerate(found, start=1)]
            add(tmp_path, cell, seed, {1.0: 0.5}, lines)
    found = judged(tmp_path, claim("diagnostic", "exact", better_name="widths_per_step", than_name="widths_per_step"))
    assert found.effect == pytest.approx(100 * (1 - 2.5 / 3)) and found.verdict == claims.SUPPORTED
