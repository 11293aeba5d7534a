"""One synthetic grid for the tests that only read it."""

from pathlib import Path

import pytest

from tests.results.synthetic import write_grid


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> Path:
    """The whole guidelines grid, three seeds, as runs/guidelines."""
    return write_grid(tmp_path_factory.mktemp("runs") / "guidelines", epochs=6)
