"""Grids: which cells exist, what their configs say, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ablations import grid, gridfile
from ablations.run import main, seeds
from rundir.errors import UserError

WIDTHS = [1.0, 0.5, 0.25]


def expand(only=(), seed=(100,), widths=WIDTHS, overrides=(), profile="digits"):
    return grid.expand("guidelines", profile, only, seed, widths, overrides, Path("runs"))


def test_guidelines_grid_holds_every_combination_once():
    """METHOD section 1: 2 x 2 x 2 cells; besides them the authors' baseline, naive and individually trained networks."""
    runs = expand()
    shared = [r for r in runs if r.cfg.objective.distill_loss != "none" and r.cell != "usnet-simsiam"]
    combinations = Counter((r.cfg.objective.base_loss, r.cfg.objective.distill_loss, r.cfg.objective.teacher) for r in shared)
    assert len(combinations) == 8 and set(combinations.values()) == {1}
    assert all((r.cfg.widths.min, r.cfg.widths.max) == (0.25, 1.0) for r in shared)


def test_naive_cells_train_all_widths_and_individual_cells_one():
    runs = expand()
    naive = [r for r in runs if r.cell.startswith("naive-")]
    individual = [r for r in runs if r.cell.startswith("individual-")]
    assert {(r.cfg.objective.base_loss, r.cfg.objective.teacher) for r in naive} == {("mse", "online"), ("infonce", "momentum")}
    assert all(r.cfg.widths.min < r.cfg.widths.max for r in naive)
    assert all(r.widths == [r.cfg.widths.min] == [r.cfg.widths.max] for r in individual)
    for width in WIDTHS:
        assert sum(r.cfg.widths.max == width for r in individual) == (4 if width == 1.0 else 2)
    at_full_width = {(r.cfg.objective.base_loss, r.cfg.objective.teacher) for r in individual if r.cfg.widths.max == 1.0}
    assert len(at_full_width) == 4  # SimSiam, BYOL, SimCLR, momentum SimCLR


def test_directories_are_one_per_cell_and_seed_and_stable():
    runs, again = expand(seed=(100, 101)), expand(seed=(100, 101))
    assert [r.directory for r in runs] == [r.directory for r in again]
    assert len({r.directory for r in runs}) == len(runs) == 2 * len(expand())


def test_directory_follows_what_changes_results_only():
    plain = expand(only=["mse-mse-online"])[0].directory
    assert expand(only=["mse-mse-online"], overrides=["train.device=cpu", "data.workers=3"])[0].directory == plain
    assert expand(only=["mse-mse-online"], widths=[1.0, 0.75])[0].directory == plain  # evaluation widths are not training
    assert expand(only=["mse-mse-online"], overrides=["optimizer.lr=0.123"])[0].directory != plain


def test_overrides_of_the_user_win_over_the_preset():
    assert {r.cfg.optimizer.epochs for r in expand(overrides=["optimizer.epochs=3"])} == {3}
    assert {r.cfg.optimizer.lr for r in expand(overrides=["optimizer.lr=0.3"])} == {0.3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"only": ["mse-mse-onlin"]}, "did you mean mse-mse-online"),
        ({"overrides": ["objective.teacher=momentum"]}, "what the grid guidelines varies"),
        ({"overrides": ["seed=3"]}, "use --seeds"),
        ({"widths": [1.0, 0.1]}, "outside the trained range"),
        ({"widths": [1.0, 0.99]}, "same channels"),
        ({"widths": [0.5, 0.5]}, "same channels"),
        ({"profile": "digit"}, "did you mean digits"),
        ({"overrides": ["optimizer.epoch=3"]}, "did you mean optimizer.epochs"),
    ],
)
def test_bad_input_is_refused_with_the_mend(change, message):
    with pytest.raises(UserError, match=message):
        expand(**change)


def test_unknown_grid_names_the_nearest():
    with pytest.raises(UserError, match="did you mean guidelines"):
        gridfile.load("guideline")


def test_only_takes_wildcards_and_keeps_the_order():
    assert [r.cell for r in expand(only=["naive-*", "mse-mse-*"])] == [
        "mse-mse-online",
        "mse-mse-momentum",
        "naive-mse-online",
        "naive-infonce-momentum",
    ]


def test_seeds_are_a_count_or_a_list():
    assert seeds("3") == [100, 101, 102]
    assert seeds("7,100,7") == [7, 100]
    assert seeds("107,") == [107]
    for bad in ("0", "-1", "a", "1,b", "", ",", "1,,"):
        with pytest.raises(UserError, match="neither a count"):
            seeds(bad)


def test_one_seed_is_not_taken_for_a_count():
    with pytest.raises(UserError, match="set --seeds 107 for that many seeds, --seeds 107, for that one"):
        main(["--grid", "guidelines", "--profile", "digits", "--seed", "107"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), ""),
        (("optimizer.lr=1e-4", "optimizer.epochs=3"), "optimizer.lr=0.0001"),
        (("train.threads=1", "evaluation.protocols=[knn]"), ""),
        (("regularizer.coefficient=0", "augment.flip=0.5"), "augment.flip=0.5, regularizer.coefficient=0.0"),
    ],
)
def test_runs_say_what_their_launch_changed_that_counts(overrides, said):
    runs = expand(overrides=overrides)
    assert {run.cfg.experiment.overrides for run in runs} == {said}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("us3", "did you mean us3l?"),
        ("mse", "did you mean '*mse*'? The cells are us3l, mse-online, mse-momentum"),
        ("us3l,mse-*", "did you mean us3l and mse-*, each by itself?"),
        ("xyz", "the cells are us3l, mse-online, mse-momentum"),
    ],
)
def test_a_pattern_that_matches_no_cell_is_answered_with_what_may_be_meant(pattern, said):
    assert grid.meant_by(pattern, ["us3l", "mse-online", "mse-momentum"]) == said
