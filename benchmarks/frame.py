"""How long the results room takes to load many runs: cold, and again when a few of them have changed.

    python benchmarks/frame.py --runs 10000

Writes run directories with a real resolved configuration and made-up scores into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # as a script, benchmarks/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pretrain import config
from results import frame
from rundir.cli import cli
from rundir.schema import FORMAT, File, State

WIDTHS, METRICS = (1.0, 0.75, 0.5, 0.25), ("knn", "linear_fast")
STATUS = {"format": FORMAT, "state": State.DONE, "why": "", "started": "2026-01-01T00:00:00", "finished": "2026-01-01T01:00:00"}
PROVENANCE = {
    "format": FORMAT,
    "git_commit": "0" * 40,
    "packages": {"torch": "2"},
    "hardware": {"machine": "x86_64", "cores": 2},
    "command": ["ablations/run.py"],
    "train_seconds": 60.0,
    "train_flops": 1e12,
}


def write_runs(grid: Path, count: int, seeds: int = 5) -> None:
    """``count`` runs: cells of different learning rates, each with ``seeds`` seeds."""
    text = config.to_yaml(config.load("digits", ["experiment.grid=many"]))
    for index in range(count):
        cell, seed = divmod(index, seeds)
        path = grid / f"cell{cell}-s{seed}-{index:08x}"
        path.mkdir(parents=True)
        own = text.replace("cell: ''", f"cell: cell{cell}").replace("seed: 100", f"seed: {seed}")
        (path / File.CONFIG).write_text(own, encoding="utf-8")
        (path / File.STATUS).write_text(json.dumps(STATUS), encoding="utf-8")
        (path / File.PROVENANCE).write_text(json.dumps(PROVENANCE), encoding="utf-8")
        write_scores(path, seed, 0.9 + 0.01 * seed)


def write_scores(path: Path, seed: int, value: float) -> None:
    """A result.json of eight records."""
    records = [
        {
            "task": "classification",
            "dataset": "digits",
            "metric": metric,
            "width": width,
            "seed": seed,
            "value": value,
            "chance": 0.1,
            "count": 500,
            "flops": 5e6 * width**2,
            "parameters": 3e5 * width**2,
            "settings": {"size": 12},
        }
        for metric in METRICS
        for width in WIDTHS
    ]
    (path / File.RESULT).write_text(json.dumps({"format": FORMAT, "records": records}, indent=1), encoding="utf-8")


def timed(text: str, runs: Path, **options: bool) -> int:
    """Load, print how long it took, return the number of rows."""
    start, busy = time.perf_counter(), time.process_time()
    rows = len(frame.load(runs, **options))
    print(
        f"{text:<28} {time.perf_counter() - start:6.2f} s, {time.process_time() - busy:6.2f} s of the processor, {rows:,} scores",
        flush=True,
    )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, metavar="N")
    count = parser.parse_args(argv).runs
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        write_runs(runs / "many", count)
        timed(f"{count:,} runs, nothing kept", runs)
        timed("again, nothing changed", runs)
        for path in sorted((runs / "many").iterdir())[:10]:
            write_scores(path, 0, 0.5)
        timed("again, 10 runs changed", runs)
        timed("without what is kept", runs, keep=False)
    return 0


if __name__ == "__main__":
    cli(main)
