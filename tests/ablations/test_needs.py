"""A cell that needs another one's checkpoint is not started without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import grid
from ablations.cell import execute
from rundir.errors import UserError


def test_a_run_whose_teacher_is_not_trained_says_so(tmp_path):
    run = grid.expand("guidelines", "digits", ["mse-mse-online"], [100], None, [], tmp_path)[0]
    for made in (False, True):
        needed = Path(tmp_path / "teacher-s100-01234567")
        if made:
            needed.mkdir()
            (needed / "status.json").write_text('{"format": 1, "state": "failed", "trained": false}')
        with pytest.raises(UserError, match="needs teacher-s100-01234567, which is not trained"):
            execute(grid.Run(run.cell, run.cfg, run.directory, needed))
    assert not run.directory.exists()
