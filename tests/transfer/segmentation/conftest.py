"""mmsegmentation's names, once for all tests of the room."""

from __future__ import annotations

import pytest

pytest.importorskip("mmseg", reason="mmsegmentation is not installed (make setup does it)")

from tests.transfer.segmentation.runs import SCENES
from transfer.run import main
from transfer.segmentation import registered  # noqa: F401


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Six training and three validation scenes of 48 pixels; not to be written to."""
    directory = tmp_path_factory.mktemp("data") / "scenes"
    main(["scenes", "--out", str(directory), *SCENES])
    return directory
