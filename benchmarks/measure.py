"""What all benchmarks share: timing on a machine that does other things too, rows of the table, and their printing."""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rundir.arguments import Parser, whole
from rundir.progress import reporting


@dataclass(frozen=True)
class Row:
    """One line of the table: ``ours`` and ``reference`` in ``unit``, their ``ratio``, and the target it is to meet.

    ``met`` is None where there is no target or nothing to compare. ``ratio`` is what the target is about: how many times faster,
    or which share of a whole.
    """

    part: str
    what: str
    unit: str
    ours: float | None
    reference: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


def faster(part: str, what: str, unit: str, ours: float, reference: float, at_least: float | None = None, note: str = "") -> Row:
    """A row about rates (more is better): the ratio is ours / reference."""
    ratio = ours / reference
    target = "" if at_least is None else f"≥ {at_least:g}×"
    return Row(part, what, unit, ours, reference, ratio, target, None if at_least is None else ratio >= at_least, note)


def at_most(
    part: str,
    what: str,
    unit: str,
    ours: float,
    reference: float,
    limit: float | None = None,
    note: str = "",
    percent: bool = False,
) -> Row:
    """A row about costs (less is better): the ratio is ours / reference, and ``limit`` its largest wanted value."""
    ratio = ours / reference
    target = "" if limit is None else f"≤ {100 * limit:g} %" if percent else f"≤ {limit:g}×"
    return Row(part, what, unit, ours, reference, ratio, target, None if limit is None else ratio <= limit, note)


# -- time -----------------------------------------------------------------------------------------------------------------


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen = "wall"


def use_clock(name: str) -> None:
    """``wall``, or ``cpu``: this process's own time, which other processes on a busy machine hardly lengthen.

    ``cpu`` is right for one thread without a GPU only: threads' times would add up.
    """
    global _chosen
    _chosen = name


def clock_in_use() -> str:
    """The name of the clock in use."""
    return _chosen


def clock() -> float:
    """Seconds by the clock in use, after all that was asked of a GPU is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return CLOCKS[_chosen]()


def seconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = clock()
    work()
    return clock() - start


def best(work: Callable[[], object], calls: int, before: Callable[[], object] = lambda: None, warm: int = 1) -> float:
    """Seconds of the fastest of ``calls`` calls after ``warm`` to warm up; ``before`` runs before each, untimed.

    The fastest, because other load on the machine only adds.
    """
    times = []
    for _ in range(warm + calls):
        before()
        times.append(seconds(work))
    return min(times[warm:])


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int, title: str, warm: int = 1) -> dict[str, float]:
    """Seconds of the fastest call of each of ``works``, which take turns ``rounds`` times after ``warm`` calls of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    done = 0
    with reporting(title, (rounds + warm) * len(works)) as reporter:
        for turn in range(rounds + warm):
            for name, work in works.items():
                spent = seconds(work)
                if turn >= warm:
                    times[name].append(spent)
                done += 1
                reporter.update(done, name)
    return {name: min(values) for name, values in times.items()}


# -- memory ---------------------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most memory this process has held: on the GPU where it is used, else resident on the CPU (Linux)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


# -- options and output ---------------------------------------------------------------------------------------------------


def options(description: str | None, *more: tuple[str, dict], argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line of a benchmark, and what it asks of torch done."""
    parser = Parser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny networks and single calls: does it run, not how fast")
    parser.add_argument("--threads", type=whole(0, 1024), default=0, help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: the process's own time, for one thread on a busy machine"
    )
    parser.add_argument("--rounds", type=whole(1, 10**6), default=5, help="times that everything measured takes its turn")
    for name, settings in more:
        parser.add_argument(name, **settings)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.clock == "cpu" and torch.get_num_threads() > 1:
        parser.error("--clock cpu is for one thread; set --threads 1")
    use_clock(args.clock)
    return args


def figure(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEADINGS = ("", "ours", "reference", "unit", "ratio", "target", "met", "note")


def cells(row: Row) -> tuple[str, ...]:
    """``row`` as texts under ``HEADINGS``; a share in per cent where its target is one."""
    ratio = "" if row.ratio is None else f"{100 * row.ratio:.1f} %" if "%" in row.target else f"{row.ratio:.2f}×"
    met = "" if row.met is None else "yes" if row.met else "NO"
    return row.what, figure(row.ours), figure(row.reference), row.unit, ratio, row.target, met, row.note


def markdown(rows: Sequence[Row]) -> str:
    """One table, the parts in bold above their rows."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "| :-- | --: | --: | :-- | --: | :-- | :-- | :-- |"]
    part = None
    for row in rows:
        if row.part != part:
            part = row.part
            lines.append(f"| **{part}** |" + " |" * (len(HEADINGS) - 1))
        lines.append("| " + " | ".join(cells(row)) + " |")
    return "\n".join(lines) + "\n"


def table_csv(rows: Sequence[Row]) -> str:
    """All fields of ``rows`` as CSV, numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, rows))
    return text.getvalue()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """torch with ``count`` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
