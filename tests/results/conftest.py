"""One synthetic grid for the tests that only read it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from results import contents
from results.plots import drawing
from tests.results.synthetic import write_grid

SMALL_SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="40" height="30" fill="#0072B2"/></svg>'


def blank(*_):
    """An empty figure, whatever is to be drawn."""
    return Figure()


def undraw(item):
    """A picture of the same numbers that is not drawn."""
    return replace(item, draw=partial(blank, *item.draw.args))


@pytest.fixture(scope="module")
def undrawn_module():
    """Pictures as small squares, for tests that are about something else: drawing takes most of a report's time."""
    whole = contents.all_pictures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "all_pictures", lambda *args: list(map(undraw, whole(*args))))
        patch.setattr(drawing, "save", lambda _, stem, kinds: [path.write_text(SMALL_SVG) for path in drawing.files(stem, kinds)])
        yield


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> Path:
    """The whole guidelines grid, three seeds, as runs/guidelines."""
    return write_grid(tmp_path_factory.mktemp("runs") / "guidelines", epochs=6)
