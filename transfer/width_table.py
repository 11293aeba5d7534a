"""The table that every task prints: one row per width, one column per score, and what the network of that width costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rundir.records import width_of
from rundir.schema import File

MISSING = "–"


def show(records: Sequence[dict], column: Callable[[dict], str], corner: str = "width") -> None:
    """Print ``records``, whose scores are fractions, in per cent, each in its width's row and in the ``column`` it is given.

    FLOPs of one image, parameters and, where records have it, the latency of one image are those of the encoder.
    """
    columns = list(dict.fromkeys(map(column, records)))
    scale, unit = (1e9, "GFLOPs") if max(record["flops"] for record in records) >= 1e9 else (1e6, "MFLOPs")
    timed = any("latency_ms" in record for record in records)
    table = Table()
    table.add_column(corner, justify="right", no_wrap=True)
    for heading in (*columns, unit, "parameters", *["ms per image"][:timed]):
        table.add_column(heading, justify="right")
    for width in dict.fromkeys(map(width_of, records)):
        mine = {column(record): record for record in records if width_of(record) == width}
        cost = next(iter(mine.values()))
        latency = next((record["latency_ms"] for record in mine.values() if "latency_ms" in record), None)
        mark = "*" if cost.get("extrapolated") else ""
        table.add_row(
            f"{width:g}{mark}",
            *(percent(mine[name]["value"]) if name in mine else MISSING for name in columns),
            f"{cost['flops'] / scale:,.1f}",
            f"{cost['parameters']:,}",
            *[milliseconds(latency)][:timed],
        )
    Console().print(table)
    if any(record.get("extrapolated") for record in records):
        print("* narrower than the widths of pretraining")


def percent(value: float | None) -> str:
    """A fraction as per cent with one decimal; undefined as a dash."""
    return MISSING if value is None else f"{100 * value:.1f}"


def milliseconds(value: float | None) -> str:
    """A latency with three digits; a dash where it was not measured."""
    return MISSING if value is None else f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def show_place(checkpoint: str, out: str | None) -> None:
    """Print where the scores of ``checkpoint`` are: in ``out``, else in its run directory."""
    place = Path(checkpoint)
    print(f"scores: {Path(out or (place if place.is_dir() else place.parent)) / File.RESULT}")
