"""What docs/formats.md lists under metrics.jsonl is exactly what runs log."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pretrain.training import pretrain
from tests.pretrain import tiny

FORMATS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
ALWAYS = {"loss/base", "penalty", "lr", "widths_per_step", "images_per_second"}
COLLAPSE = {"feature_std", "effective_rank", "projection_std", "projection_rank"}
DRIFT = {"drift/absolute", "drift/relative", "drift/cka"}
SHORT = ("optimizer.epochs=2", "data.limit=16", "widths.sampling=sandwich")


def listed() -> set[str]:
    """The names in the first column of the table that follows the words "Names in `metrics.jsonl`"."""
    table = FORMATS.read_text(encoding="utf-8").split("Names in `metrics.jsonl`:")[1].strip().split("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        ((), {"loss/distill", "ema_momentum"} | COLLAPSE | DRIFT),  # with all parts
        (
            (
                "objective.teacher=online",
                "objective.ema_schedule=constant",
                "objective.distill_loss=none",
                "objective.base_loss=infonce",
            ),
            {"loss/distill"} | COLLAPSE | DRIFT,
        ),
        (("widths.min=1.0", "diagnostics.widths=[1.0]", "calibration.widths=[1.0]", "diagnostics.images=0"), {"ema_momentum"}),
    ],
)
def test_a_run_logs_what_is_listed(tmp_path, monkeypatch, overrides, more):
    monkeypatch.setattr("pretrain.training.loop.training_flops", lambda *args: 1.0)
    pretrain(tiny.tiny(*SHORT, *overrides), tmp_path)
    logged = {json.loads(line)["name"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()}
    assert logged == ALWAYS | more and logged <= listed()


def test_nothing_is_listed_that_no_run_logs():
    assert listed() == ALWAYS | COLLAPSE | DRIFT | {"loss/distill", "ema_momentum"}
