"""Panels of pictures, and which images are shown."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from transfer.finetuning.pictures import chosen_images, write_panels


def test_panels_hold_their_pictures(tmp_path):
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    rows = [[np.full((20, 30, 3), colour, dtype=np.uint8) for colour in colours]] * 2
    write_panels(tmp_path / "panels.png", rows, "two rows")
    picture = np.array(Image.open(tmp_path / "panels.png").convert("RGB"))
    for place, colour in enumerate(colours):
        columns = np.flatnonzero((picture == colour).all(2).any(0))
        third = picture.shape[1] / 3
        assert place * third <= columns.min() and columns.max() <= (place + 1) * third
        assert len(columns) > 0.8 * third


@pytest.mark.parametrize(("count", "wanted", "expected"), [(10, 3, [0, 4, 9]), (2, 5, [0, 1]), (1, 1, [0]), (5, 0, [])])
def test_the_same_images_are_shown_for_every_width(count, wanted, expected):
    assert chosen_images(count, wanted) == expected
