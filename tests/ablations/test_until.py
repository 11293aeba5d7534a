"""Rounds of seeds: when they stop, what they say, and that nothing else of a launch changes."""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ablations import run, until
from ablations.until import Limits, limits, rounds
from results.claims.judging import LEVEL, MOST_SEEDS
from results.statistics.families import holm
from results.statistics.sequential import FIRST_LOOK, null_minima, t_paths
from rundir.clock import seconds
from rundir.errors import UserError
from tests.program import exit_code
from tests.results.synthetic import config, record, write_manifest, write_run

CLAIM = {"id": "better", "statement": "Ours is better.", "measure": "score", "better": ["ours"], "than": ["theirs"], "at": "all"}


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--grid", default="head")
    parser.add_argument("--seeds", default="1")
    until.add_arguments(parser)
    return parser.parse_args(words)


class Grid:
    """A grid of two cells whose runs are made up: ``gain`` of a seed in points."""

    def __init__(self, folder, gain, claims=(CLAIM,)):
        self.folder, self.gain, self.launched = folder / "guidelines", gain, []
        write_manifest(self.folder, claims)

    def plan(self, count):
        runs = [
            SimpleNamespace(directory=self.folder / f"{cell}-s{seed}-00000000", cfg=SimpleNamespace(seed=seed), cell=cell)
            for seed in range(100, 100 + count)
            for cell in ("ours", "theirs")
        ]
        return runs, [one for one in runs if not one.directory.exists()]

    def launch(self, runs, missing):
        self.launched.append(sorted({one.cfg.seed for one in missing}))
        for one in missing:
            value = 0.5 + (0.01 * self.gain(one.cfg.seed) if one.cell == "ours" else 0)
            write_run(self.folder, config(seed=one.cfg.seed, cell=one.cell), [record(1.0, value)], name=one.directory.name)
        return 0

    def go(self, most=12, budget=math.inf, first=3):
        return rounds(self.folder, Limits(first, most, budget), self.plan, self.launch)


def steady(seed):
    return 5 + 0.3 * math.sin(seed)


def noise(seed):
    return math.sin(2.4 * seed)


def test_rounds_end_when_the_claim_is_decided(tmp_path, capsys):
    grid = Grid(tmp_path, steady)
    assert grid.go() == 0
    assert grid.launched == [[100, 101, 102]]
    assert capsys.readouterr().out == "3 seeds: 1 of 1 claim decided; nothing is left that seeds can decide\n"


def test_rounds_go_on_by_one_seed_to_the_most_and_say_what_is_open(tmp_path, capsys):
    grid = Grid(tmp_path, noise)
    assert grid.go(most=5) == 0
    assert grid.launched == [[100, 101, 102], [103], [104]]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("3 seeds: 0 of 1 claim decided; undecided: better (") and first.endswith("next: 4 seeds")
    assert second.endswith("next: 5 seeds") and last.endswith("5 is the most seeds")
    again = Grid(tmp_path, noise)
    assert again.go(most=6) == 0 and again.launched == [[105]]  # what is there is not launched again


def test_claims_that_no_seed_decides_do_not_keep_it_running(tmp_path, capsys):
    others = [
        CLAIM | {"id": "elsewhere", "better": ["third"]},
        {"id": "counted", "statement": "s", "measure": "train_flops", "better": ["ours"], "than": ["theirs"], "exact": True},
        {"id": "cells", "statement": "s", "measure": "correlation", "cells": ["*"], "name": "drift/absolute"},
    ]
    grid = Grid(tmp_path, steady, [CLAIM, *others])
    assert grid.go() == 0 and len(grid.launched) == 1
    assert "not for these seeds to decide: elsewhere, cells" in capsys.readouterr().out


def test_no_round_begins_that_would_not_end_in_the_budget(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 10_000, 60))  # a minute passes whenever one looks
    monkeypatch.setattr(until.time, "monotonic", lambda: next(clock))
    grid = Grid(tmp_path, noise)
    assert grid.go(budget=400.0) == 0
    assert grid.launched == [[100, 101, 102], [103]]
    assert "another seed takes about 60 s, and 6.0 min of 6.7 min are spent" in capsys.readouterr().out


def test_a_round_that_fails_ends_them(tmp_path, capsys):
    grid = Grid(tmp_path, noise)
    assert rounds(grid.folder, Limits(3, 9, math.inf), grid.plan, lambda runs, missing: 1) == 1
    assert "the rounds stop here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "6h"], "--budget is for --until decided"),
        (["--most-seeds", "9"], "--most-seeds is for --until"),
        (["--until", "decided", "--seeds", "100,101"], "set --seeds to a number"),
        (["--until", "decided", "--seeds", "9", "--most-seeds", "8"], "--seeds 9 is more than the 8"),
    ],
)
def test_options_that_do_not_fit_are_one_line(words, message):
    with pytest.raises(UserError, match=message) as error:
        limits(options(*words))
    assert "\n" not in str(error.value)


def test_a_grid_without_claims_has_nothing_to_decide(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("cells: [{name: a}]")
    with pytest.raises(UserError, match=r"mine\.yaml has no claims that seeds can decide"):
        limits(options("--until", "decided", "--grid", str(own)))


def test_a_budget_that_is_no_time_names_its_option(capsys):
    assert exit_code(run.main, ["--grid", "head", "--until", "decided", "--budget", "soon"]) == 2
    assert "--budget: 'soon' is not a time; set a number above 0" in capsys.readouterr().err


def test_the_command_line_knows_them(tmp_path, capsys):
    assert limits(options()) is None
    assert limits(options("--until", "decided", "--budget", "1.5 h")) == Limits(FIRST_LOOK, MOST_SEEDS, 5400.0)
    assert exit_code(run.main, ["--grid", "head", "--runs", str(tmp_path), "--until", "decided", "--most-seeds", "21"]) == 2
    assert "--most-seeds" in capsys.readouterr().err
    assert (
        run.main(
            [
                "--grid",
                "head",
                "--profile",
                "digits",
                "--runs",
                str(tmp_path),
                "--until",
                "decided",
                "--dry-run",
                "--executor",
                "inline",
                "--only",
                "mse-mse-online-own",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "3 runs, 0 finished, 3 to do" in said and not list(tmp_path.iterdir())
    assert said.endswith(f"this is the first round, of 3 seeds; each later round adds one, up to {MOST_SEEDS}\n")
    assert str(Limits(3, 3, 7200.0)).endswith("of 3 seeds; there is no later round, within 2.0 h")


@pytest.mark.parametrize(("text", "expected"), [("45s", 45), ("90min", 5400), ("6h", 21600), (" 1.5 d ", 129600)])
def test_times_are_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["6", "h", "0h", "-1h", "6 hours", "1e9h", "nan d", ""])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="for example 90min or 6h"):
        seconds(text)


def studies(effects, number, decide, random):
    """Simulated launches with ``--until decided`` and one claim per effect (in standard deviations): the share of them that err,
    and the seeds that they take. ``decide``: p values of claims after n seeds, from their paths."""
    wrong, taken = 0, []
    for _ in range(number):
        shared = random.standard_normal(MOST_SEEDS)
        paths = 0.6 * shared + 0.8 * random.standard_normal((len(effects), MOST_SEEDS)) + np.array(effects)[:, None]
        decided = np.zeros(len(effects), dtype=bool)
        looks = decide(paths)  # claims x looks, two-sided
        for count in range(FIRST_LOOK, MOST_SEEDS + 1):
            decided |= np.array(holm(list(looks[:, count - FIRST_LOOK]))) < LEVEL
            if decided.all():
                break
        wrong += bool(decided[np.array(effects) == 0].any())
        taken.append(count)
    return wrong / number, float(np.mean(taken))


def plain(paths):
    n = np.arange(FIRST_LOOK, MOST_SEEDS + 1)
    return 2 * stats.t.sf(np.abs(t_paths(paths)), n - 1)


def sequential(paths):
    n, minima, t = np.arange(FIRST_LOOK, MOST_SEEDS + 1), null_minima(MOST_SEEDS), t_paths(paths)
    sides = [np.minimum.accumulate(stats.t.sf(side * t, n - 1) / n, axis=1) for side in (1, -1)]
    p_values = [(np.searchsorted(minima, lowest, side="right") + 1) / (len(minima) + 1) for lowest in sides]
    return np.minimum(1, 2 * np.minimum(*p_values))


def test_of_studies_that_stop_when_decided_at_most_one_in_twenty_errs_and_of_naive_ones_far_more():
    effects = [0.0] * 5 + [2.0] * 3
    number = 1500
    honest, _ = studies(effects, number, sequential, np.random.default_rng(0))
    naive, _ = studies(effects, number, plain, np.random.default_rng(0))
    assert honest <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / number)
    assert naive > 0.10


def test_they_take_fewer_seeds_than_a_fixed_number_that_decides_as_often():
    """Eight claims of different true effects: the fixed design needs the seeds of its smallest effect for all of them."""
    effects, number = [2.5, 3.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0], 300
    _, taken = studies(effects, number, sequential, np.random.default_rng(1))

    def power(n):  # of the smallest effect, in the first step of Holm's correction
        critical = stats.t.ppf(1 - LEVEL / 2 / len(effects), n - 1)
        return stats.nct.sf(critical, n - 1, min(effects) * math.sqrt(n))

    fixed = next(n for n in range(3, 50) if power(n) > 0.99)
    assert taken < 0.8 * fixed
