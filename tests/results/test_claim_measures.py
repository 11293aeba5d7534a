"""Claims about each of several cells, about collapse, about some networks or widths, and about transfer; on made-up runs."""

from __future__ import annotations

import pytest

from results.claims.judging import CONTRADICTED, NO_RUNS, SUPPORTED, UNDECIDED, judge
from results.claims.schema import Claim
from results.frame import current, load, load_metrics, load_runs
from results.statistics.proportions import sequential_binomial_p, sequential_share
from results.statistics.sequential import MOST_SEEDS, sequential_p
from tests.results.synthetic import config, metric, record, write_run


def claim(measure="score", minimum=0.0, margin=0.0, exact=False, **how):
    sides = {} if measure == "collapse" else {"better": ["ours"], "than": ["theirs"]}
    sides |= {"at": "all"} if measure == "score" else {}
    return Claim("c", "It is so.", "g", measure, sides | how, minimum, margin, exact, "run {profile}")


def judged(root, *asked):
    found = judge(asked, load(root), current(load_runs(root)), load_metrics(root))
    return found if len(found) > 1 else found[0]


def add(root, cell, seed, values, metrics=(), arch="resnet_small", **changes):
    cfg = config(seed=seed, cell=cell, grid="g", model={"arch": arch})
    records = [record(width, value, "linear", **changes) for width, value in values.items()]
    return write_run(root / "g", cfg, records, metrics)


@pytest.fixture
def three(tmp_path):
    """Three cells over a baseline of 0.5 at four seeds: a strong one, a weak one and one that fails."""
    gains = {"strong": (0.30, 0.31, 0.32, 0.31), "weak": (0.02, 0.03, 0.025, 0.025), "fails": (-0.2, -0.21, -0.19, -0.2)}
    for seed in range(4):
        add(tmp_path, "baseline", seed, {1.0: 0.5, 0.25: 0.5})
        for cell, found in gains.items():
            add(tmp_path, cell, seed, {1.0: 0.5 + found[seed], 0.25: 0.5 + found[seed]})
    return tmp_path


def test_a_failing_cell_cannot_hide_behind_a_strong_one(three):
    averaged = judged(three, claim(better=["strong", "fails"], than=["baseline"]))
    each = judged(three, claim(better=["strong", "fails"], than=["baseline"], every="better"))
    assert averaged.verdict == SUPPORTED and each.verdict == CONTRADICTED
    assert each.effect == pytest.approx(-20) and "the weakest of 2: fails -20.00, strong +31.00" in each.why
    less = sequential_p([-20, -21, -19, -20], MOST_SEEDS)[1]
    assert each.p == pytest.approx(2 * 2 * less) and set(each.seeds) == {0, 1, 2, 3} and len(each.runs) == 12


def test_the_weakest_of_cells_that_all_are_ahead_decides(three):
    each = judged(three, claim(better=["strong", "weak"], than=["baseline"], every="better"))
    assert each.effect == pytest.approx(2.5) and each.verdict == SUPPORTED
    assert each.p == pytest.approx(2 * sequential_p([2, 3, 2.5, 2.5], MOST_SEEDS)[0])
    assert each.claim.about == "each of strong, weak against baseline"
    others = judged(three, claim(better=["strong"], than=["weak", "baseline"], every="than"))
    assert others.effect == pytest.approx(28.5) and others.claim.about == "strong against each of weak, baseline"


def test_a_claim_about_each_cell_waits_for_all_of_them(three):
    missing = judged(three, claim(better=["strong", "absent"], than=["baseline"], every="better"))
    assert missing.verdict == NO_RUNS and "absent" in missing.why
    only_one = judged(three, claim(better=["strong"], than=["baseline"], every="better", widths=[0.4]))
    assert only_one.verdict == NO_RUNS


def planned(root, cell, seed, values, at=(1.0, 0.5), **more):
    """A run that a launch scores ``at`` some widths, with these scores."""
    cfg = config(seed=seed, cell=cell, grid="g", evaluation={"widths": list(at)}, **more)
    return write_run(root / "g", cfg, [record(width, value, "linear") for width, value in values.items()])


@pytest.mark.parametrize("at, effect", [("all", 11), ("narrower", 11), ("narrowest", 11), ("growth", 0)])
def test_scores_at_more_widths_at_some_seeds_take_no_seed_away(tmp_path, at, effect):
    for seed in range(3):
        more = {0.75: 0.9, 0.3: 0.1} if seed == 0 else {}
        planned(tmp_path, "ours", seed, {1.0: 0.8 + 0.01 * seed, 0.5: 0.8 + 0.01 * seed} | more)
        planned(tmp_path, "theirs", seed, {1.0: 0.7, 0.5: 0.7} | more)
    found = judged(tmp_path, claim(at=at))
    assert found.seeds == (0, 1, 2) and found.effect == pytest.approx(effect)
    assert judged(tmp_path, claim(at="all", widths=[0.75])).seeds == (0,)  # where it is about them


def test_scores_at_more_widths_at_all_seeds_count(tmp_path):
    for seed in range(3):
        planned(tmp_path, "ours", seed, {1.0: 0.8 + 0.01 * seed, 0.5: 0.7, 0.75: 0.9})
        planned(tmp_path, "theirs", seed, {1.0: 0.7, 0.5: 0.7, 0.75: 0.7})
    assert judged(tmp_path, claim()).effect == pytest.approx((11 + 0 + 20) / 3)


def test_a_correlation_is_at_the_narrowest_width_of_all_cells(tmp_path):
    for seed in range(3):
        for place in range(5):
            logged = [metric("drift", 1, place, 1.0)]
            cfg = config(seed=seed, cell=f"c{place}", grid="g", evaluation={"widths": [1.0, 0.5]})
            scores = {1.0: 0.5, 0.5: 0.5 - 0.01 * place} | ({0.25: 0.1 + 0.1 * place} if place < 4 else {})
            write_run(tmp_path / "g", cfg, [record(width, value, "linear") for width, value in scores.items()], logged)
    found = judged(tmp_path, Claim("c", "It is so.", "g", "correlation", {"name": "drift", "cells": ["c*"]}))
    assert found.n == 5 and found.effect == pytest.approx(1)


def test_a_seed_counts_where_all_cells_of_a_pattern_are_scored(tmp_path):
    """One of two cells is still running at the last seed: the mean would be of the other alone."""
    for seed in range(4):
        add(tmp_path, "ours", seed, {1.0: 0.8 + 0.01 * seed, 0.5: 0.8})
        add(tmp_path, "other-strong", seed, {1.0: 0.9, 0.5: 0.9})
        add(tmp_path, "other-weak", seed, {1.0: 0.3, 0.5: 0.3} if seed < 3 else {})
    found = judged(tmp_path, claim(than=["other-*"]))
    assert found.seeds == (0, 1, 2) and found.effect == pytest.approx(20.5)
    assert judged(tmp_path, claim(than=["other-strong"])).seeds == (0, 1, 2, 3)


def test_a_cell_of_a_pattern_without_any_score_is_waited_for(tmp_path):
    for seed in range(3):
        add(tmp_path, "ours", seed, {1.0: 0.8})
        add(tmp_path, "other-strong", seed, {1.0: 0.9})
    write_run(tmp_path / "g", config(seed=0, cell="other-weak", grid="g"), state="failed")
    found = judged(tmp_path, claim(than=["other-*"]))
    assert found.verdict == NO_RUNS and "no scores of other-*" in found.why


def test_a_seed_counts_for_collapse_where_all_cells_are_measured(tmp_path):
    for seed in range(6):
        add(tmp_path, "ours", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.8))
        if seed < 4:
            add(tmp_path, "theirs", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.05 if seed == 0 else 0.8))
    found = judged(tmp_path, claim("collapse", 50, cells=["ours", "theirs"], outcome="not collapsed"))
    assert found.seeds == (0, 1, 2, 3) and found.effect == 75 and len(found.runs) == 8
    assert "4 of 4 at 1" in found.why and "3 of 4 at 0.25" in found.why


def test_a_seed_counts_for_a_diagnostic_where_all_cells_log_it(tmp_path):
    for seed in range(3):
        for cell, value in (("ours", 1.0), ("slow", 2.0), ("fast", 6.0)):
            if (cell, seed) != ("fast", 2):
                add(tmp_path, cell, seed, {1.0: 0.5}, [metric("drift", 1, value, 1.0)])
    names = {"better_name": "drift", "than_name": "drift"}
    found = judged(tmp_path, Claim("c", "It is so.", "g", "diagnostic", {"better": ["ours"], "than": ["slow", "fast"], **names}))
    assert found.seeds == (0, 1) and found.effect == pytest.approx(75)


def collapse(seed, *spread):
    """Spread of the features at widths 1 and 0.25, after two epochs; only the last one counts."""
    return [
        metric("feature_std", epoch, value if epoch == 2 else 0.01, width)
        for epoch in (1, 2)
        for width, value in zip((1.0, 0.25), spread, strict=True)
    ]


def test_collapse_is_a_share_of_seeds_with_an_exact_interval(tmp_path):
    for seed in range(6):
        add(tmp_path, "ours", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.05 if seed else 0.7))
    found = judged(tmp_path, claim("collapse", 50, cells=["ours"], outcome="collapsed"))
    hits = [False, *[True] * 5]
    low, high = sequential_share(hits, MOST_SEEDS)
    assert (found.effect, found.low, found.high) == pytest.approx((100 * 5 / 6, 100 * low, 100 * high))
    assert found.p == pytest.approx(2 * sequential_binomial_p(hits, MOST_SEEDS, 0.5)[0])
    assert found.n == 6 and found.verdict == UNDECIDED
    assert found.why == "seeds collapsed: 0 of 6 at 1 [0, 46], 5 of 6 at 0.25 [36, 100]" and found.unit == "% of seeds"
    upright = judged(tmp_path, claim("collapse", 50, cells=["ours"], outcome="not collapsed"))
    assert upright.effect == pytest.approx(100 / 6) and "6 of 6 at 1 [54, 100]" in upright.why


def test_eight_seeds_of_eight_decide_and_no_diagnostics_say_nothing(tmp_path):
    for seed in range(8):
        add(tmp_path, "ours", seed, {1.0: 0.5}, collapse(seed, 0.8, 0.05))
        add(tmp_path, "silent", seed, {1.0: 0.5})
    asked = claim("collapse", 50, cells=["ours"], outcome="collapsed")
    assert judged(tmp_path, asked).verdict == SUPPORTED
    silent = judged(tmp_path, claim("collapse", 50, cells=["silent"], outcome="collapsed"))
    assert silent.verdict == NO_RUNS and "no diagnostics of silent" in silent.why


def test_a_claim_about_an_architecture_is_judged_on_its_networks_only(three, tmp_path):
    about = claim(better=["strong"], than=["baseline"], arch="vit_*")
    found = {verdict.claim.about: verdict for verdict in judged(three, about, claim(better=["strong"], than=["baseline"]))}
    assert found["strong against baseline"].verdict == SUPPORTED
    elsewhere = found["strong against baseline, on vit_*"]
    assert elsewhere.verdict == NO_RUNS and elsewhere.why == "no runs of vit_* networks"
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
            kinds = [
                record(0.25, 0.5 + gain, "linear", dataset="flowers102", score="mean_per_class"),
                record(0.25, 0.9, "linear", dataset="flowers102", score="top1"),
                record(0.25, 0.2, "linear", dataset="flowers102", score="mean_per_class", label_fraction=0.1, label_seed=0),
                record(0.25, 0.9, "linear", dataset="pets"),
            ]
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), kinds)
    found = judged(tmp_path, claim(task="classification", dataset="flowers102", metric="linear", at="narrowest"))
    assert found.effect == pytest.approx(11) and found.dataset == "flowers102"


def test_pretraining_data_are_judged_with_the_fewest_labels_that_all_runs_have(tmp_path):
    for seed in range(3):
        for cell, gain in (("ours", 0.1 + 0.01 * seed), ("theirs", 0.0)):
            kinds = [
                record(0.25, 0.9, "linear"),
                record(0.25, 0.5 + gain, "linear", label_fraction=0.1, label_seed=0),
                record(0.25, 0.7 + gain, "linear", label_fraction=0.1, label_seed=1),
            ]
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


def equal(root, gains):
    for seed, gain in enumerate(gains):
        add(root, "ours", seed, {1.0: 0.5 + gain})
        add(root, "theirs", seed, {1.0: 0.5})


@pytest.mark.parametrize(
    ("gains", "minimum", "margin", "verdict"),
    [
        ((-0.004, -0.002, -0.003, -0.0035), -1.0, 0.0, SUPPORTED),  # not worse by a point
        ((-0.004, -0.002, -0.003, -0.0035), 0.0, 1.0, SUPPORTED),  # within a point
        ((0.104, 0.102, 0.103, 0.1035), -1.0, 0.0, SUPPORTED),  # much better is not worse,
        ((0.104, 0.102, 0.103, 0.1035), 0.0, 1.0, CONTRADICTED),  # and not equivalent
        ((-0.104, -0.102, -0.103, -0.1035), -1.0, 0.0, CONTRADICTED),
        ((-0.104, -0.102, -0.103, -0.1035), 0.0, 1.0, CONTRADICTED),
        ((0.02, -0.02, 0.01, -0.015), 0.0, 1.0, UNDECIDED),
    ],
)
def test_non_inferiority_looks_at_one_side_and_equivalence_at_both(tmp_path, gains, minimum, margin, verdict):
    equal(tmp_path, gains)
    assert judged(tmp_path, claim(minimum=minimum, margin=margin)).verdict == verdict


def test_equivalence_is_two_one_sided_tests(tmp_path):
    gains = (-0.004, -0.002, -0.003, 0.0035)
    equal(tmp_path, gains)
    found, points = judged(tmp_path, claim(margin=1.0)), [100 * gain for gain in gains]
    assert found.p == pytest.approx(2 * max(sequential_p(points, MOST_SEEDS, -1)[0], sequential_p(points, MOST_SEEDS, 1)[1]))


def test_seeds_past_the_last_are_averaged_and_not_tested(tmp_path):
    gains = [0.01, -0.01] * (MOST_SEEDS // 2) + [0.5] * 8
    equal(tmp_path, gains)
    found = judged(tmp_path, claim())
    assert found.n == MOST_SEEDS + 8 and found.effect == pytest.approx(100 * 4 / 28) and found.verdict == UNDECIDED
    assert found.p == pytest.approx(min(1, 2 * min(sequential_p([100 * gain for gain in gains[:MOST_SEEDS]], MOST_SEEDS))))
    assert "tested on the first 20 seeds" in found.why


def test_passes_are_counted(tmp_path):
    """Dynamic sampling trains one width a step in its first stage and three in the others."""
    stages = {"ours": (1.0, 3.0, 3.0, 3.0), "theirs": (3.0, 3.0, 3.0, 3.0)}
    for seed in range(2):
        for cell, found in stages.items():
            lines = [metric("widths_per_step", epoch, value) for epoch, value in enumerate(found, start=1)]
            add(tmp_path, cell, seed, {1.0: 0.5}, lines)
    found = judged(tmp_path, claim("diagnostic", exact=True, better_name="widths_per_step", than_name="widths_per_step"))
    assert found.effect == pytest.approx(100 * (1 - 2.5 / 3)) and found.verdict == SUPPORTED
