"""How long it takes to expand a grid of 1,000 cells, check it against the run directories and submit it, on a real Slurm.

    python benchmarks/submit.py [--cells 1000]
    python benchmarks/submit.py --cells 500 --transfer

With ``--transfer`` every cell is evaluated on three entries at its widths: Faster R-CNN, Mask R-CNN and FCN on scenes of digits.

Starts a throw-away Slurm (tests/slurm/throwaway.py), in which the jobs are held, and stops it at the end. Two launches, each a
process of its own: the first submits everything, the second nothing. Prints seconds of wall time and of CPU.
"""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rundir.arguments import Parser, whole
from rundir.cli import cli
from rundir.errors import UserError
from tests.slurm.throwaway import ThrowAwayCluster, missing

ROOT = Path(__file__).resolve().parents[1]
CELLS = 21  # of the guidelines grid at its four widths
KINDS = ("pretrain", "transfer", "detection", "segmentation")
ENTRIES = """
- {task: detection, model: faster_rcnn_fpn}
- {task: detection, model: mask_rcnn_fpn}
- {task: segmentation, model: fcn}
"""


def launch(runs: Path, seeds: int, more: list[str]) -> tuple[float, float, str]:
    """Seconds of wall time and CPU of one launch with ``more`` words, and what it said."""
    command = [
        sys.executable,
        str(ROOT / "ablations" / "run.py"),
        "--grid",
        "guidelines",
        "--profile",
        "digits",
        "--seeds",
        str(seeds),
        "--runs",
        str(runs),
        "--executor",
        "slurm",
        "--slurm",
        "extra.hold=true",
        *more,
    ]
    command += [f"--slurm={kind}.{size}" for kind in KINDS for size in ("gpus=0", "cpus=1")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, next(line for line in done.stdout.splitlines() if "submitted" in line)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=whole(1), default=1000, help="at least so many; default 1000")
    parser.add_argument("--transfer", action="store_true", help="with detection and segmentation of every cell")
    arguments = parser.parse_args(argv)
    if need := missing(accounting=False):
        raise UserError(f"Slurm is not installed: {need}")
    seeds = math.ceil(arguments.cells / CELLS)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="submit-") as folder, ThrowAwayCluster(Path(folder) / "slurm") as cluster:
        os.environ.update(cluster.environment)
        (Path(folder) / "entries.yaml").write_text(ENTRIES, encoding="utf-8")
        more = ["--transfer", str(Path(folder) / "entries.yaml")] if arguments.transfer else []
        for name in ("first launch", "second launch"):
            wall, cpu, said = launch(Path(folder) / "runs", seeds, more)
            print(f"{name}: {CELLS * seeds} cells, {wall:.1f} s, {cpu:.1f} s of them CPU: {said}", flush=True)
        jobs = subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True, check=True).stdout.count("\n")
        start = time.monotonic()
        subprocess.run(
            [sys.executable, str(ROOT / "slurm" / "status.py"), "--runs", str(Path(folder) / "runs")],
            check=True,
            capture_output=True,
        )
        print(f"in the queue: {jobs} jobs; their table took {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    cli(main)
