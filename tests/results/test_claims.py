"""Claims on made-up runs whose truth is known, the tests worked out by hand, and the file of claims itself."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats

from results.claims import judging, rendering
from results.claims.__main__ import main as claims_main
from results.claims.schema import Claim, read_claims
from results.claims.sources import of_files, of_places
from results.frame import current, load, load_metrics, load_runs
from results.statistics.sequential import MOST_SEEDS, seeds_needed, sequential_interval, sequential_p
from rundir.errors import UserError
from tests.program import exit_code
from tests.results.synthetic import config, metric, record, write_manifest, write_run

GRIDS = Path(__file__).resolve().parents[2] / "ablations" / "grids"
KNOWN = of_files([GRIDS])


def add(
    root,
    cell,
    seed,
    values,
    grid="guidelines",
    widths=(0.25, 1.0),
    base=("infonce", "infonce", "momentum"),
    cost=(60.0, 1e12),
    metrics=(),
    **changes,
):
    cfg = config(*base, seed, widths, cell, grid)
    return write_run(
        root / grid,
        cfg,
        [record(width, value, "linear_fast", **changes) for width, value in dict(values).items()],
        metrics,
        cost=cost,
    )


def judge(root, *ids):
    """The verdicts on ``root`` by claim; of the named claims only, if any are named."""
    chosen = [claim for claim in KNOWN if not ids or claim.id in ids]
    verdicts = judging.judge(chosen, load(root), current(load_runs(root)), load_metrics(root))
    return {verdict.claim.id: verdict for verdict in verdicts}


def pair(root, gains, at=(1.0, 0.5, 0.25), ahead="infonce-mse-online", behind="mse-mse-online"):
    """Two cells of the guidelines grid; ``gains`` of the first by seed, the same at all widths."""
    for seed, gain in enumerate(gains):
        level = 0.8 + 0.01 * seed
        add(root, ahead, seed, dict.fromkeys(at, level + gain), base=("infonce", "mse", "online"))
        add(root, behind, seed, dict.fromkeys(at, level), base=("mse", "mse", "online"))


def test_every_claim_says_what_it_is_about_and_how_its_runs_are_made():
    assert len(KNOWN) > 40
    for claim in KNOWN:
        assert claim.about and claim.command.startswith(f"python ablations/run.py --grid {claim.grid} ")
        assert ("{profile}" in claim.command) != ("arch" in claim.how)  # which names a profile of its own


def test_a_large_and_steady_gain_is_supported_with_the_right_numbers(tmp_path):
    gains = [0.050, 0.052, 0.049, 0.051]
    pair(tmp_path, gains)
    verdict = judge(tmp_path, "guideline-1-is-enough")["guideline-1-is-enough"]
    assert verdict.verdict == judging.SUPPORTED and verdict.n == 4 and verdict.unit == "points"
    assert verdict.effect == pytest.approx(100 * np.mean(gains))
    points = [100 * gain for gain in gains]
    assert verdict.p == pytest.approx(2 * sequential_p(points, MOST_SEEDS)[0]) == verdict.p_holm  # the only test of its family
    assert (verdict.low, verdict.high) == pytest.approx(sequential_interval(points, MOST_SEEDS))
    assert (verdict.dataset, verdict.metric) == ("digits", "linear_fast")
    assert len(verdict.runs) == 8 and verdict.command.endswith("--profile digits --until decided")


def test_the_opposite_is_contradicted_and_noise_is_undecided(tmp_path):
    pair(tmp_path / "a", [-0.050, -0.052, -0.049, -0.051])
    pair(tmp_path / "b", [0.05, -0.04, 0.01, -0.03])
    assert judge(tmp_path / "a", "guideline-1-is-enough")["guideline-1-is-enough"].verdict == judging.CONTRADICTED
    assert judge(tmp_path / "b", "guideline-1-is-enough")["guideline-1-is-enough"].verdict == judging.UNDECIDED


def test_seeds_whose_mean_leaves_the_interval_of_the_first_ones_decide_nothing(tmp_path):
    first, later = [0.065, 0.066, 0.067, 0.066], [-0.012, -0.011]
    pair(tmp_path / "first", first)
    pair(tmp_path / "all", first + later)
    assert judge(tmp_path / "first", "guideline-1-is-enough")["guideline-1-is-enough"].verdict == judging.SUPPORTED
    verdict = judge(tmp_path / "all", "guideline-1-is-enough")["guideline-1-is-enough"]
    assert verdict.verdict == judging.UNDECIDED and verdict.why == judging.CHANGED and not verdict.seeds_needed
    assert verdict.p_holm < judging.LEVEL and not verdict.low <= verdict.effect <= verdict.high


def test_one_seed_and_equal_differences_decide_nothing(tmp_path):
    pair(tmp_path / "one", [0.2])
    pair(tmp_path / "same", [0.125, 0.125, 0.125])
    for folder, why in (("one", "1 of the 3 seeds"), ("same", "same difference")):
        verdict = judge(tmp_path / folder, "guideline-1-is-enough")["guideline-1-is-enough"]
        assert verdict.verdict == judging.UNDECIDED and math.isnan(verdict.p) and why in verdict.why


def test_only_seeds_that_both_sides_have_are_compared_and_the_widest_is_left_out(tmp_path):
    for seed in (0, 1, 2):
        add(tmp_path, "infonce-mse-online", seed, {1.0: 0.1, 0.5: 0.9, 0.25: 0.8 + 0.01 * seed})
    for seed in (1, 2, 3):
        add(tmp_path, "mse-mse-online", seed, {1.0: 0.9, 0.5: 0.8, 0.25: 0.6})
    verdict = judge(tmp_path, "guideline-1-is-enough")["guideline-1-is-enough"]
    assert verdict.seeds == (1, 2) and verdict.effect == pytest.approx(100 * ((0.10 + 0.21) / 2 + (0.10 + 0.22) / 2) / 2)
    assert {run.rpartition("-s")[2][0] for run in verdict.runs} == {"1", "2"}


def test_holm_counts_the_claims_of_one_grid_and_profile(tmp_path):
    pair(tmp_path, [0.050, 0.052, 0.044, 0.051])
    pair(tmp_path, [0.01, -0.02, 0.02, 0.005], ahead="mse-infonce-online", behind="naive-mse-online")
    verdicts = judge(tmp_path)
    tested = [verdict for verdict in verdicts.values() if not math.isnan(verdict.p)]
    first = verdicts["guideline-1-is-enough"]
    assert len(tested) >= 2 and first.p == min(verdict.p for verdict in tested)
    assert first.p_holm == pytest.approx(first.p * len(tested))
    undecided = next(verdict for verdict in tested if verdict.verdict == judging.UNDECIDED and verdict.claim.by_seeds)
    asked = (undecided.differences, MOST_SEEDS, undecided.claim.minimum, 0.05 / len(tested))
    assert undecided.seeds_needed == seeds_needed(*asked) > 4
    assert rendering.texts(undecided)["seeds needed"] in (f"≈ {undecided.seeds_needed}", "> 20")
    decided = [verdict for verdict in tested if verdict.verdict != judging.UNDECIDED]
    assert decided and {rendering.texts(verdict)["seeds needed"] for verdict in decided} == {""}
    for seed in range(4):  # of another grid
        add(tmp_path, "us3l", seed, {1.0: 0.9, 0.5: 0.88, 0.25: 0.85 + 0.01 * seed}, "paper")
        add(tmp_path, "usnet-simsiam", seed, {1.0: 0.9, 0.5: 0.8, 0.25: 0.7}, "paper")
    with_others = judge(tmp_path)
    assert not math.isnan(with_others["us3l-beats-baseline"].p)
    assert with_others["guideline-1-is-enough"].p_holm == first.p_holm


def test_a_grid_is_judged_on_the_profiles_that_it_was_run_with(tmp_path):
    pair(tmp_path, [0.050, 0.052, 0.044])
    long = config("infonce", "mse", "online", 7, cell="infonce-mse-online", experiment={"preset": "digits_long"})
    write_run(tmp_path / "guidelines", long, [record(1.0, 0.9)])
    add(tmp_path, "us3l", 0, {1.0: 0.9}, "paper")
    verdicts = judging.judge(KNOWN, load(tmp_path), current(load_runs(tmp_path)), load_metrics(tmp_path))
    of_grid = {
        grid: {verdict.profile for verdict in verdicts if verdict.claim.grid == grid and "arch" not in verdict.claim.how}
        for grid in ("guidelines", "paper", "sampling")
    }
    assert of_grid == {"guidelines": {"digits", "digits_long"}, "paper": {"digits"}, "sampling": {"digits"}}


def test_checkpoints_that_are_no_grids_add_no_verdicts(tmp_path):
    pair(tmp_path, [0.050, 0.052, 0.044, 0.051])
    found = []
    for seed in range(2):
        verdicts = judging.judge(KNOWN, load(tmp_path), current(load_runs(tmp_path)), load_metrics(tmp_path))
        found.append([verdict.record() for verdict in verdicts])
        other = config(cell="DINO", seed=seed, grid="checkpoints", experiment={"preset": ""})
        write_run(tmp_path / "checkpoints", other, [record(1.0, 0.9)])
    assert found[0] == found[1]


def test_networks_of_one_width_are_put_together(tmp_path):
    for seed in (0, 1):
        add(tmp_path, "us3l", seed, {1.0: 0.9, 0.5: 0.88, 0.25: 0.85 + 0.01 * seed}, "paper", cost=(50.0, 5e12))
        for width, value in ((1.0, 0.9), (0.5, 0.85), (0.25, 0.75)):
            add(
                tmp_path,
                f"individual-momentum-simclr-w{width}",
                seed,
                {width: value},
                "paper",
                (width, width),
                ("infonce", "none", "momentum"),
                cost=(20.0, 4e12 * width),
            )
    verdicts = judge(tmp_path)
    assert verdicts["us3l-beats-individual-momentum-simclr"].effect == pytest.approx(100 * (0.03 + 0.105) / 2)
    assert verdicts["gains-grow"].effect == pytest.approx(10.5)  # 10 and 11 points at 0.25, none at 1.0
    cheaper = verdicts["one-training-is-cheaper"]  # 5 against 4 + 2 + 1
    assert cheaper.effect == pytest.approx(100 * (1 - 5 / 7)) and cheaper.verdict == judging.SUPPORTED and math.isnan(cheaper.p)


def test_a_cost_is_not_compared_while_a_network_is_missing(tmp_path):
    add(tmp_path, "us3l", 0, {1.0: 0.9, 0.25: 0.85}, "paper", cost=(50.0, 5e12))
    for width, done in ((1.0, True), (0.25, False)):
        cell = f"individual-momentum-simclr-w{width}"
        cfg = config("infonce", "none", "momentum", 0, (width, width), cell, "paper")
        write_run(tmp_path / "paper", cfg, [record(width, 0.8)] if done else [], state="done" if done else "running")
    assert judge(tmp_path)["one-training-is-cheaper"].verdict == judging.NO_RUNS


def test_comparable_means_no_more_than_the_margin_behind(tmp_path):
    for seed, behind in enumerate((0.001, 0.002, 0.0015, 0.0005)):
        add(tmp_path, "us3l", seed, {1.0: 0.9 - behind, 0.25: 0.8 - behind}, "paper")
        for width, value in ((1.0, 0.9), (0.25, 0.8)):
            add(tmp_path, f"seed-w{width}", seed, {width: value}, "paper", (width, width), ("seed", "none", "online"))
    verdict = judge(tmp_path, "us3l-comparable-to-seed")["us3l-comparable-to-seed"]
    assert verdict.effect < 0 and verdict.verdict == judging.SUPPORTED and verdict.claim.minimum == -1


def test_detection_is_judged_by_its_own_records_at_the_narrowest_width(tmp_path):
    dense = {
        "task": "detection",
        "dataset": "voc",
        "chance": None,
        "model": "faster_rcnn_r50_c4",
        "schedule": "24k",
        "initial": "pretrained",
    }
    for seed, extra in enumerate((0.001, -0.001, 0.0)):
        for cell, ap in (("us3l", 0.5), ("individual-momentum-simclr-w0.25", 0.3)):
            records = [
                record(0.25, ap + extra * (cell == "us3l"), "box_AP", **dense),
                record(0.25, 0.9, "box_AP", **dense | {"initial": "random"}),
            ]
            write_run(tmp_path / "paper", config(seed=seed, cell=cell, grid="paper"), records)
    found = judge(tmp_path)
    assert found["detection-voc"].effect == pytest.approx(20.0) and found["detection-voc"].verdict == judging.SUPPORTED
    assert (found["detection-voc"].dataset, found["detection-voc"].metric) == ("voc", "box_AP")
    assert found["detection-coco"].verdict == judging.NO_RUNS
    assert "no scores of coco box_AP detection" in found["detection-coco"].why


def drifts(seed, absolute, relative):
    return [
        metric(name, epoch, value * epoch, 1.0)
        for epoch in (1, 3)
        for name, value in (("drift/absolute", absolute), ("drift/relative", relative))
    ]


def test_diagnostics_are_averaged_over_epochs_at_the_widest(tmp_path):
    for seed, (slow, fast) in enumerate(((0.1, 0.2), (0.1, 0.4))):
        add(tmp_path, "mse-mse-momentum", seed, {1.0: 0.5}, metrics=drifts(seed, slow, slow), base=("mse", "mse", "momentum"))
        narrower = metric("drift/absolute", 1, 9.0, 0.5)
        add(
            tmp_path,
            "mse-mse-online",
            seed,
            {1.0: 0.5},
            metrics=[*drifts(seed, fast, fast / 4), narrower],
            base=("mse", "mse", "online"),
        )
    found = judge(tmp_path)
    assert found["momentum-slows-drift"].effect == pytest.approx((50 + 75) / 2)
    assert found["relative-drifts-less"].effect == pytest.approx(75)


def test_correlation_is_spearmans_over_the_cells_of_a_seed(tmp_path):
    values = {
        "mse-mse-online": (0.4, 0.5),
        "mse-infonce-online": (0.3, 0.7),
        "infonce-mse-online": (0.2, 0.6),
        "infonce-infonce-momentum": (0.1, 0.9),
    }
    for seed in (0, 1, 2):
        for cell, (drift, value) in values.items():
            add(tmp_path, cell, seed, {1.0: 0.99, 0.25: value}, metrics=drifts(seed, drift, drift))
    verdict = judge(tmp_path)["drift-predicts-accuracy"]
    # Ranks of drift 4 3 2 1, of accuracy 1 3 2 4: squared differences 9 0 0 9
    assert verdict.effect == pytest.approx(-(1 - 6 * 18 / (4 * 15)))
    # Three seeds of the same four cells are four observations: of 24 orders, a rho this far from 0 is nothing rare.
    assert verdict.p > 0.1 and verdict.verdict == judging.UNDECIDED and "4 cells" in verdict.why
    assert verdict.n == 4 and verdict.low <= verdict.effect <= verdict.high


def test_effect_and_p_of_a_correlation_are_of_the_same_cells(tmp_path):
    cells = ["mse-mse-online", "mse-infonce-online", "infonce-mse-online", "infonce-infonce-momentum", "mse-mse-momentum"]
    noise, drift, value = np.random.default_rng(2).normal(0, 0.06, (3, 5, 2)), {}, {}
    for seed in (0, 1, 2):
        for place, cell in enumerate(cells):
            first, second = [0.5 - 0.08 * place, 0.5 + 0.05 * place] + noise[seed, place]
            drift[seed, cell], value[seed, cell] = first, second
            add(tmp_path, cell, seed, {1.0: 0.99, 0.25: second}, metrics=drifts(seed, first, first))
    verdict = judge(tmp_path)["drift-predicts-accuracy"]
    means = [[np.mean([found[seed, cell] for seed in (0, 1, 2)]) for cell in cells] for found in (drift, value)]
    expected = stats.spearmanr(*means)
    # It is looked at after 3, 6 and 12 seeds, and at no other time
    assert (verdict.effect, verdict.p) == (pytest.approx(-expected.statistic), pytest.approx(3 * expected.pvalue))
    per_seed = [-stats.spearmanr([drift[s, c] for c in cells], [value[s, c] for c in cells]).statistic for s in (0, 1, 2)]
    assert verdict.differences == pytest.approx(per_seed) and verdict.seeds == (0, 1, 2)


def test_a_correlation_of_a_width_is_with_its_last_value_in_the_direction_that_is_claimed(tmp_path):
    cells = ["mse-mse-online", "mse-infonce-online", "infonce-mse-online", "infonce-infonce-momentum", "mse-mse-momentum"]
    ranks, values = (5.0, 7.0, 6.0, 9.0, 8.0), (0.5, 0.6, 0.7, 0.9, 0.8)
    for seed in (0, 1, 2):
        for cell, rank, value in zip(cells, ranks, values, strict=True):
            logged = [
                metric("effective_rank", 1, 20 - rank, 0.25),
                metric("effective_rank", 2, rank, 0.25),
                metric("effective_rank", 2, 20 - rank, 1.0),
            ]  # an earlier value and another width say the opposite
            add(tmp_path, cell, seed, {1.0: 0.99, 0.25: value}, metrics=logged)
    verdict = judge(tmp_path)["rank-predicts-accuracy"]
    expected = stats.spearmanr(ranks, values)
    assert verdict.effect == pytest.approx(expected.statistic) == 0.9 and verdict.unit == "(rho)" and verdict.holds
    assert verdict.p == pytest.approx(3 * expected.pvalue) and verdict.low <= verdict.effect <= verdict.high


def test_what_is_counted_is_decided_only_where_all_seeds_agree(tmp_path):
    for seed, cost in ((0, 0.9), (1, 1.2)):
        add(tmp_path, "us3l", seed, {1.0: 0.9, 0.25: 0.85}, "paper", cost=(50.0, cost * 1e12))
        for width in (1.0, 0.25):
            add(
                tmp_path,
                f"individual-momentum-simclr-w{width}",
                seed,
                {width: 0.8},
                "paper",
                (width, width),
                ("infonce", "none", "momentum"),
                cost=(20.0, 0.5e12),
            )
    verdict = judge(tmp_path)["one-training-is-cheaper"]
    assert verdict.verdict == judging.UNDECIDED and "both sides" in verdict.why and verdict.effect == pytest.approx(-5)


def test_missing_runs_say_which_command_makes_them(tmp_path, capsys):
    pair(tmp_path, [0.05, 0.06])
    assert claims_main(["--runs", str(tmp_path), "--grids", str(GRIDS)]) == 0
    printed = capsys.readouterr().out
    assert next(claim.command for claim in KNOWN if claim.grid == "sampling").format(profile="digits") in printed
    verdict = judge(tmp_path)["dynamic-sampling-helps-n3"]
    assert verdict.verdict == judging.NO_RUNS and verdict.why == "no runs of grid sampling"
    assert exit_code(claims_main, ["--runs", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: no directory")


def test_verdicts_as_text_and_json(tmp_path):
    pair(tmp_path, [0.050, 0.052, 0.049, 0.051])
    verdicts = list(judge(tmp_path).values())
    lines = rendering.markdown(verdicts).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")} == {15}
    back = json.loads(json.dumps([verdict.record() for verdict in verdicts]))
    first = next(entry for entry in back if entry["claim"] == "baseline-degrades")
    assert first["p"] is None and first["about"] == "individual-simsiam-w* against usnet-simsiam"
    assert [entry["verdict"] for entry in back] == [verdict.verdict for verdict in verdicts]
    console = Console(width=150, record=True)
    rendering.show(verdicts, console, runs=True)
    text = console.export_text()
    assert next(verdict.runs[0] for verdict in verdicts if verdict.runs) in text and "()" not in text
    unknown = dataclasses.replace(verdicts[0], verdict=judging.NO_RUNS, why="no runs of vit_* networks", profile="")
    rendering.show([unknown], console)
    assert f"{unknown.claim.id}: no runs of vit_* networks" in console.export_text()


def test_a_run_that_two_grids_share_counts_in_both(tmp_path):
    """The same experiment has the same name in every grid; whichever is newer, each grid has its claims judged on its own."""
    for seed, gain in enumerate((0.05, 0.06, 0.055)):
        for grid, value in (("guidelines", 0.6), ("paper", 0.7)):
            for cell, more in (("ours", gain), ("theirs", 0)):
                cfg = config(seed=seed, cell=cell, grid=grid)
                write_run(
                    tmp_path / grid,
                    cfg,
                    [record(1.0, value + more + (grid == "paper") * 0.1 * (cell == "ours"))],
                    name=f"{cell}-s{seed}-0123456{seed}",
                    finished=f"2026-01-0{1 + (grid == 'paper') * seed}",
                )
    asked = [
        Claim("c", "It is so.", grid, "score", {"better": ["ours"], "than": ["theirs"], "at": "all"})
        for grid in ("guidelines", "paper")
    ]
    found = judging.judge(asked, load(tmp_path), current(load_runs(tmp_path)), load_metrics(tmp_path))
    assert [(verdict.n, round(verdict.effect, 6)) for verdict in found] == [(3, 5.5), (3, 15.5)]


def test_claims_are_those_of_the_manifests_of_the_runs(tmp_path, capsys):
    pair(tmp_path, [0.050, 0.052, 0.049, 0.051])
    own = {
        "id": "mine",
        "statement": "A relative distance helps.",
        "measure": "score",
        "better": ["infonce-mse-*"],
        "than": ["mse-mse-online"],
        "at": "all",
        "minimum": 1,
    }
    assert claims_main(["--runs", str(tmp_path)]) == 0
    assert "mine" not in capsys.readouterr().out  # no manifest, no claims
    write_manifest(tmp_path / "guidelines", [own])
    write_manifest(tmp_path / "unrun", [own | {"id": "other"}])
    run = next((tmp_path / "guidelines").glob("mse-mse-online-s0-*"))
    for place in (tmp_path, tmp_path / "guidelines", run):
        assert {claim.id for claim in of_places([place])[0]} == ({"mine", "other"} if place == tmp_path else {"mine"})
    assert claims_main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "supported" in printed and "+5.05 points" in printed
    assert "python ablations/run.py --grid unrun --profile digits" in printed
    (tmp_path / "unrun" / "grid.json").write_text("{")
    assert claims_main(["--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "supported" in printed and "left out: " in printed and "grid.json is not JSON" in printed
    assert claims_main(["--grids", str(GRIDS / "head.yaml")]) == 0
    assert capsys.readouterr().out.startswith("head: own-head-explains-the-failure: Without any guideline")


ENTRY = {"id": "a", "statement": "It is so.", "measure": "score", "better": ["x"], "than": ["y"], "at": "all"}
COST = {"id": "a", "statement": "It is so.", "measure": "train_flops", "better": ["x"], "than": ["y"]}
SHARE = {"id": "a", "statement": "It is so.", "measure": "collapse", "cells": ["x"], "outcome": "collapsed", "minimum": 50}
RHO = {"id": "a", "statement": "It is so.", "measure": "correlation", "cells": ["x"], "name": "drift/absolute"}


@pytest.mark.parametrize(
    ("entry", "key", "advice"),
    [
        (ENTRY | {"measure": "taste"}, "measure", "choose one of score"),
        (ENTRY | {"id": 3}, "id", "set id: ..."),
        (ENTRY | {"statement": " "}, "statement", "set statement"),
        (ENTRY | {"at": None}, "at", "choose one of all"),
        ({name: ENTRY[name] for name in ENTRY if name != "at"}, "at", "set at: all"),
        (ENTRY | {"at": "narrowst"}, "at", "narrowest"),
        (ENTRY | {"minimum": None}, "minimum", "minimum: 0.5"),
        (ENTRY | {"minimum": "half"}, "minimum", "minimum: 0.5"),
        (ENTRY | {"minimum": math.nan}, "minimum", "minimum: 0.5"),
        (ENTRY | {"minimum": True}, "minimum", "minimum: 0.5"),
        (ENTRY | {"bettr": ["x"]}, "bettr", "did you mean better?"),
        (ENTRY | {"better": "x"}, "better", "set better: [x]"),
        (ENTRY | {"better": []}, "better", "set better: [a cell]"),
        (ENTRY | {"than": [1]}, "than", "set than:"),
        (ENTRY | {"better": ["xx"]}, "better", "did you mean x?"),
        (ENTRY | {"every": "yes"}, "every", "choose one of better, than"),
        (ENTRY | {"widths": [1.5]}, "widths", "widths: [0.875"),
        (ENTRY | {"widths": 0.5}, "widths", "widths: [0.875"),
        (ENTRY | {"margin": 0}, "margin", "margin: 1"),
        (ENTRY | {"margin": 1, "minimum": -1}, "minimum and margin", "set minimum for"),
        (ENTRY | {"exact": True, "every": "than"}, "every", "leave one out"),
        (ENTRY | {"exact": "yes"}, "exact", "exact: true"),
        (ENTRY | {"command": "run {prof}"}, "command", "nothing but {profile}"),
        (ENTRY | {"command": 5}, "command", "nothing but {profile}"),
        (ENTRY | {"arch": 5}, "arch", "not a text"),
        (COST | {"at": "all"}, "at", "choose one of"),
        (RHO | {"minimum": 0.5}, "minimum", "leave out"),
        (RHO | {"direction": "up"}, "direction", "choose one of lower, higher"),
        (RHO | {"width": 1.5}, "width", "width: 0.25"),
        (RHO | {"exact": True}, "exact", "leave it out"),
        (SHARE | {"minimum": 0}, "minimum", "minimum: 50"),
        (SHARE | {"outcome": "fell"}, "outcome", "collapsed, not collapsed"),
    ],
)
def test_a_claim_that_is_not_as_documented_is_refused_in_one_line_naming_file_claim_and_key(entry, key, advice):
    with pytest.raises(UserError) as error:
        read_claims([ENTRY | {"id": "first"}, entry], "g", "mine.yaml", ["x", "y"])
    message = str(error.value)
    assert message.startswith(f"mine.yaml, claim {entry['id'] if entry['id'] == 'a' else 'number 2'}: ")
    assert key in message and advice in message and "\n" not in message


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("all", "claims is 'all', not a list"),
        ({"id": "a"}, "not a list"),
        ([[]], "claim number 1 is [], not a mapping"),
        ([COST, COST], "two claims have the id a"),
        ([None], "claim number 1 is None"),
    ],
)
def test_a_list_of_claims_that_is_none_is_refused(entries, message):
    with pytest.raises(UserError) as error:
        read_claims(entries, "g", "mine.yaml")
    assert message in str(error.value) and str(error.value).startswith("mine.yaml")


def test_a_claim_is_refused_before_anything_is_launched(tmp_path, monkeypatch, capsys):
    from ablations import gridfile, run

    content = yaml.safe_load((GRIDS / "head.yaml").read_text())
    content["claims"][0]["better"] = ["mse-mse-onlin-own"]
    (tmp_path / "head.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(gridfile, "GRIDS", tmp_path)
    assert exit_code(run.main, ["--grid", "head", "--profile", "digits", "--runs", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr().err
    assert "head.yaml, claim own-head-explains-the-failure: better names mse-mse-onlin-own" in printed
    assert "did you mean mse-mse-online-own?" in printed and not (tmp_path / "runs").exists()
