"""Evaluation at many widths: spreads, widths that are the same network, and widths narrower than those of pretraining."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.checkpoints import open_checkpoint
from rundir.arguments import Spread, width_or_spread
from rundir.directory import RunDirectory
from rundir.errors import UserError
from transfer.classification import evaluate
from transfer.run import main


@given(st.floats(0.01, 0.9), st.floats(0.01, 1.0), st.integers(2, 200))
def test_a_spread_is_even_and_has_both_ends(low, gap, count):
    low, high = round(low, 4), min(1.0, round(low + gap + 0.01, 4))
    widths = width_or_spread(f"{low}:{high}:{count}").widths()
    assert len(widths) == count and (widths[-1], widths[0]) == (pytest.approx(low, abs=1e-6), high)
    steps = [wide - narrow for wide, narrow in itertools.pairwise(widths)]
    assert max(steps) - min(steps) < 3e-6


def test_a_spread_leaves_out_what_is_the_same_network(run_directory, capsys):
    """The small ResNet has 16 channels at its stem and multiples of them behind: widths differ where a layer's count does."""
    checkpoint = open_checkpoint(run_directory)
    widths = checkpoint.chosen_widths([0.5, Spread(0.25, 1.0, 400)])
    assert "0.25:1:400 gives" in capsys.readouterr().out
    assert widths[0] == 0.5 and widths[1:] == sorted(widths[1:], reverse=True) and 1.0 in widths and len(widths) < 400
    checkpoint.check_widths(widths)  # which refuses two that are the same
    every = Spread(0.25, 1.0, 4)
    assert checkpoint.chosen_widths([every]) == [1.0, 0.75, 0.5, 0.25]


def test_many_widths_are_calibrated_in_one_pass_and_as_one_by_one(run_directory, monkeypatch):
    from transfer.classification.task import Task

    asked, own = [], Task._calibration_images
    monkeypatch.setattr(Task, "_calibration_images", lambda task: (asked.append(1), own(task))[1])
    together = evaluate(run_directory, widths=[Spread(0.3, 0.9, 3)], protocols=["knn"], out=run_directory / "a")
    assert len(asked) == 1
    alone = [evaluate(run_directory, widths=[w], protocols=["knn"], out=run_directory / "b")[0] for w in (0.9, 0.6, 0.3)]
    assert [record["value"] for record in together] == [record["value"] for record in alone]


def test_widths_below_the_trained_range_are_asked_for_and_marked(run_directory, capsys):
    asked = ["classification", "--checkpoint", str(run_directory), "--protocol", "knn", "--widths", "0.125:0.25:2"]
    with pytest.raises(UserError, match=r"0\.125 is below the trained range \[0\.25, 1\.0\].*--extrapolate"):
        main(asked)
    main([*asked, "--extrapolate"])
    shown = capsys.readouterr().out
    assert "0.125*" in shown and "0.25 " in shown and "* narrower than the widths of pretraining" in shown
    records = RunDirectory(run_directory).records()
    assert [(r["width"], r.get("extrapolated")) for r in records] == [(0.25, None), (0.125, True)]
    assert json.loads((run_directory / "result.json").read_text())["records"] == records


@pytest.mark.parametrize(
    "text",
    ["0.25:1.0", "1.0:0.25:4", "0:1:4", "0.5:1.5:4", "0.25:1:1", "0.25:1:2.5", "a:b:c", "0.25:1:4:4", "nan:1:4", "0.25:1:100000"],
)
def test_a_spread_that_is_none_is_one_clear_line(text, run_directory):
    with pytest.raises(UserError, match=r"LOW:HIGH:COUNT"):
        main(["classification", "--checkpoint", str(run_directory), "--widths", text])
