"""Progress of long work: a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_SECONDS = 15.0


class Reporter:
    """``update(done, text)`` tells how far the work is; ``show`` is off for all but the first process."""

    def __init__(self, bar: Progress | None, title: str, total: int, show: bool):
        self.bar, self.title, self.total, self.show = bar, title, total, show
        self.task = bar.add_task(title, total=total, text="") if bar else None
        self.last_line = float("-inf")

    def update(self, done: int, text: str = "") -> None:
        """Move to ``done`` of the total; in a log a line at most every 15 s, and the last."""
        if not self.show:
            return
        if self.bar:
            self.bar.update(self.task, completed=done, text=text)
        elif done == self.total or time.monotonic() - self.last_line >= LOG_SECONDS:
            self.last_line = time.monotonic()
            print(f"{self.title}: {done}/{self.total} {text}".rstrip(), flush=True)


@contextmanager
def reporting(title: str, total: int, show: bool = True) -> Iterator[Reporter]:
    """A reporter for ``total`` units of work called ``title``."""
    if not (show and sys.stdout.isatty()):
        yield Reporter(None, title, total, show)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns) as bar:
        yield Reporter(bar, title, total, show)
