"""Pictures to look at: image, ground truth and prediction side by side, one row per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

COLUMNS = ("image", "truth", "prediction")
INCHES = 3.2  # of a panel


def write_panels(
    path: str | Path,
    rows: Sequence[Sequence[np.ndarray]],
    title: str,
    columns: Sequence[str] = COLUMNS,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> None:
    """Write ``rows`` of pictures (H, W, 3) uint8 RGB, as many a row as ``columns``, as one PNG under ``title``.

    ``legend``: names with their colours, shown below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    height, width = rows[0][0].shape[:2]
    figure = Figure(figsize=(INCHES * len(columns), INCHES * len(rows) * min(1.5, height / width) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    if legend:
        patches = [Patch(facecolor=[value / 255 for value in colour], label=name) for name, colour in legend.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def chosen_images(count: int, wanted: int) -> list[int]:
    """Indices of ``wanted`` of ``count`` images, spread evenly, the same for every width."""
    shown = min(wanted, count)
    return sorted({round(i * (count - 1) / max(1, shown - 1)) for i in range(shown)})
