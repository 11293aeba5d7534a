"""Aggregates over widths, data sets and seeds against scipy and sums by hand; the table and the picture of them."""

import numpy as np
import pytest
from scipy import stats

from results import contents
from results.frame import load_all
from results.statistics.aggregates import (
    improvement,
    improvement_interval,
    interquartile_interval,
    interquartile_mean,
    profile,
)
from results.tables.overall import matrices, of_settings
from tests.results.synthetic import config, record, write_run

RANDOM = np.random.default_rng(0)
OURS = [RANDOM.normal(0.6, 0.1, (5, 3)), RANDOM.normal(0.4, 0.1, (3, 2))]
THEIRS = [RANDOM.normal(0.5, 0.1, (4, 3)), RANDOM.normal(0.4, 0.1, (3, 2))]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    every = np.sort(np.concatenate([part.ravel() for part in OURS]))  # 21 scores: five are cut off at either end
    assert interquartile_mean(OURS) == pytest.approx(every[5:-5].mean())
    assert interquartile_mean([np.array([[0.0, 1.0, 2.0, 100.0]])]) == 1.5
    low, high = interquartile_interval(OURS)
    assert low < interquartile_mean(OURS) < high


def test_the_probability_of_improvement_is_mann_whitneys_over_tasks():
    each = [
        stats.mannwhitneyu(ours[:, task], theirs[:, task]).statistic / (len(ours) * len(theirs))
        for ours, theirs in zip(OURS, THEIRS, strict=True)
        for task in range(ours.shape[1])
    ]
    assert improvement(OURS, [THEIRS]) == pytest.approx(np.mean(each))
    assert improvement(OURS, [THEIRS]) + improvement(THEIRS, [OURS]) == pytest.approx(1)
    assert improvement(OURS, [OURS]) == pytest.approx(0.5)  # ties count half
    assert improvement(OURS, [THEIRS, OURS]) == pytest.approx((np.mean(each) + 0.5) / 2)
    low, high = improvement_interval(OURS, [THEIRS])
    assert low < improvement(OURS, [THEIRS]) < high
    assert improvement_interval([part + 9 for part in OURS], [THEIRS]) == (1.0, 1.0)


def test_its_interval_is_that_of_every_pair_of_resampled_seeds():
    """The definition, pair by pair, on scores with ties, for the same draws."""
    random = np.random.default_rng(2)
    ours, others = [random.integers(0, 4, (6, 2)) / 4, random.normal(0, 1, (4, 3))], []
    others = [[random.integers(0, 4, (3, 2)) / 4, random.normal(0, 1, (5, 3))], [part[::-1] + 0.0 for part in ours]]
    draws = np.random.default_rng(0)
    own = [draws.integers(0, len(part), (1000, len(part))) for part in ours]
    found = np.zeros(1000)
    for theirs in others:
        picks = [draws.integers(0, len(part), (1000, len(part))) for part in theirs]
        for resample in range(1000):
            won = [
                np.mean([(x > y) + (x == y) / 2 for x in a[i[resample], task] for y in b[j[resample], task]])
                for a, b, i, j in zip(ours, theirs, own, picks, strict=True)
                for task in range(a.shape[1])
            ]
            found[resample] += np.mean(won) / 2
    assert improvement_interval(ours, others) == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=1e-12)


def test_a_profile_is_the_share_above():
    found = profile([np.array([[0.1, 0.5], [0.5, 0.9]])], np.array([0.0, 0.1, 0.4, 0.5, 0.9]))
    assert found.tolist() == [1.0, 0.75, 0.75, 0.25, 0.0]


def test_an_interval_covers_as_often_as_it_says_though_widths_are_no_runs_of_their_own():
    """Widths of one seed move together: a bootstrap that drew them apart would be half as long as it has to be."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(200):
        scores = random.normal(0.5, 0.05, (10, 1)) + random.normal(0, 0.005, (10, 8))
        low, high = interquartile_interval([scores])
        covered += low <= 0.5 <= high
    assert covered / 200 > 0.84


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two data sets: ours and theirs at both, one row of one width, one of one data set."""
    root = tmp_path_factory.mktemp("runs") / "g"
    for seed in (0, 1, 2):
        for dataset, base in (("digits", 0.5), ("cifar10", 0.3)):
            data = {"data": {"name": dataset}, "experiment": {"preset": dataset, "grid": "g"}}
            for cell, gain in (("ours", 0.2), ("theirs", 0.0), ("one-width", 0.1), ("digits-only", 0.1)):
                if cell == "digits-only" and dataset != "digits":
                    continue
                cfg = config(seed=seed, cell=cell, grid="g", **{"data": data["data"]})
                cfg["experiment"]["preset"] = dataset
                records = [
                    record(width, base + gain + 0.01 * seed, dataset=dataset)
                    for width in ((1.0,) if cell == "one-width" else (1.0, 0.5))
                ]
                write_run(root, cfg, records)
    return load_all(root, keep=False)


def test_rows_with_all_widths_of_all_data_sets_are_compared(frames):
    [(name, scores, grid)] = contents._overall(frames)
    found = matrices(scores, grid)
    assert name == "" and set(found) == {"ours", "theirs"} and len(of_settings(frames.scores)) == len(scores)
    assert [part.shape for part in found["ours"][1]] == [(3, 2), (3, 2)]
    assert found["ours"][1][1][0] == pytest.approx([(0.7 - 0.1) / 0.9] * 2)  # digits, seed 0: 0 at chance, 1 where all is right
    tables = {item.table.name: item.table for item in contents.all_tables(frames)}
    rows = {row.labels[0]: row.labels for row in tables["table-overall"].rows}
    assert rows["ours"][3] == "100" and rows["theirs"][3] == "0"
    assert rows["theirs"][1] == f"{100 * stats.trim_mean(np.concatenate([p.ravel() for p in found['theirs'][1]]), 0.25):.1f}"
    assert "4 widths of cifar10 (k-NN), digits (k-NN)" in tables["table-overall"].caption


def test_widths_that_few_rows_or_seeds_were_scored_at_leave_out_no_rows(tmp_path):
    """Two of four rows at two more widths, and one seed of the third at one more."""
    for seed in (0, 1, 2):
        for place, cell in enumerate(("a", "b", "c", "d")):
            widths = [1.0, 0.5, *((0.75, 0.625) if place < 2 else ()), *((0.875,) if (cell, seed) == ("c", 0) else ())]
            records = [record(width, 0.5 + 0.1 * place + 0.01 * seed) for width in widths]
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), records)
    [(_, scores, grid)] = contents._overall(load_all(tmp_path / "g", keep=False))
    found = matrices(scores, grid)
    assert {name: [part.shape for part in parts] for name, (_, parts) in found.items()} == {name: [(3, 2)] for name in "abcd"}
    assert found["c"][1][0][1] == pytest.approx([(0.71 - 0.1) / 0.9] * 2)


def test_the_largest_table_is_made_of_what_is_there(tmp_path):
    """Rows of one width do not reduce the others to it, and a seed that lacks a width is left out."""
    for seed in (0, 1, 2, 3):
        for cell in ("a", "b", "only"):
            widths = [1.0] if cell == "only" else [1.0, 0.5] if (cell, seed) == ("b", 3) else [1.0, 0.5, 0.25]
            write_run(tmp_path / "g", config(seed=seed, cell=cell, grid="g"), [record(width, 0.5) for width in widths])
    [(_, scores, grid)] = contents._overall(load_all(tmp_path / "g", keep=False))
    assert {name: parts[0].shape for name, (_, parts) in matrices(scores, grid).items()} == {"a": (4, 3), "b": (3, 3)}


def test_profiles_are_drawn(frames):
    item = next(item for item in contents.all_pictures(frames) if item.name == "profiles")
    axis = item.draw().axes[0]
    assert [line.get_label() for line in axis.get_lines()] == ["ours", "theirs"]
    ours = axis.get_lines()[0]
    at = np.argmin(np.abs(ours.get_xdata() - 60))  # of ours digits are above 60, CIFAR below
    assert ours.get_ydata()[at] == pytest.approx(50)
