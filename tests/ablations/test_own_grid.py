"""The grid file of docs/extending.md, end to end on the embedded digits: trained, reported with table, pictures and verdicts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ablations.run import main
from results import report
from tests.ablations.test_run import TINY

ROOT = Path(__file__).parents[2]
MINE = re.search(r"```yaml\n(title: Losses.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.S)[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("own")
    (place / "losses.yaml").write_text(MINE)
    assert (
        main(
            [
                "--grid",
                str(place / "losses.yaml"),
                "--profile",
                "digits",
                "--runs",
                str(place / "runs"),
                "--widths",
                "1.0",
                "0.5",
                "--executor",
                "inline",
                *TINY,
            ]
        )
        == 0
    )
    return place / "runs" / "losses"


def test_it_has_its_table_pictures_and_verdicts(done):
    made = done / "report"
    table = (made / "table-digits-linear_fast.md").read_text()
    assert "Losses at hand on digits" in table and "| Loss | Networks | 1.0× | 0.5× |" in table
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| squared error", "one"],
        ["| contrast", "one"],
        ["| contrast", "one per width"],
    ]
    assert not any("—" in line for line in lines)  # the networks of both widths are one row
    picture = (made / "accuracy-width-digits-linear_fast.svg").read_text()
    assert all(f">{text}<" in picture for text in ("slimmable", "alone", "squared error", "contrast"))
    verdicts = json.loads((made / "claims.json").read_text())["verdicts"]
    assert [verdict["claim"] for verdict in verdicts] == ["contrast-is-better"] and verdicts[0]["seeds"] == [100]
    assert "one slimmable network" in (made / "table-serving.md").read_text()


def test_without_grid_json_rows_are_cells_and_a_line_says_what_writes_it(done, tmp_path):
    for path in done.glob("*-s100-*"):
        (tmp_path / "losses").mkdir(exist_ok=True)
        (tmp_path / "losses" / path.name).symlink_to(path, target_is_directory=True)
    made = report.build(tmp_path / "losses", tmp_path / "out", small=True)
    [line] = made.left_out
    assert "has no grid.json" in line and "python ablations/run.py --grid losses.yaml --profile digits" in line
    assert [row.labels for row in made.tables[0].rows] == [(name,) for name in ("alone-0.5", "alone-1.0", "infonce-all", "mse-all")]
    (tmp_path / "losses" / "grid.json").write_text("{")
    damaged = report.build(tmp_path / "losses", tmp_path / "out", small=True)
    assert len(damaged.left_out) == 1 and "grid.json is not JSON" in damaged.left_out[0] and damaged.tables
