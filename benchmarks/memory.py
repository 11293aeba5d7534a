"""Peak memory of k-NN and the linear probe on features that are kept on the disk, against the same features in memory.

    python benchmarks/memory.py [--images 1281167] [--dim 512] [--classes 1000] [--queries 50000] [--evaluations 3] [--quick]

Synthetic features: a normal cluster for each class. Each row is a process of its own; what it held when it had only imported torch
is taken off. The linear probe is given ``--evaluations`` iterations: how many there are does not change its memory.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Row, at_most, markdown, options, peak_bytes, seconds
from rundir.arguments import whole
from rundir.cli import cli
from transfer.classification import linear_fast, rows
from transfer.classification.knn import knn_predict

BATCH = 4096


def features(count: int, dim: int, classes: int, seed: int, storage: rows.Storage) -> tuple[rows.Rows, Tensor]:
    """``count`` features and their classes (count,)."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    [made] = storage.new(count, [dim], torch.device("cpu"))
    for start in range(0, count, BATCH):
        block = centres[labels[start : start + BATCH]]
        rows.fill(made, start, block + torch.randn(block.shape, generator=generator))
    return made, labels


def measured(work: str, limit: int, args, pipe) -> None:
    """Bytes above the start and seconds of ``work``, with at most ``limit`` bytes of features in memory."""
    torch.set_num_threads(max(1, args.threads))
    before, rows.IN_MEMORY = peak_bytes(), limit
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        storage = rows.Storage(Path(folder))
        train, labels = features(args.images, args.dim, args.classes, 1, storage)
        queries, _ = features(args.queries, args.dim, args.classes, 2, storage)
        if work == "knn":
            spent = seconds(lambda: knn_predict(train, labels, queries, args.classes))
        else:
            spent = seconds(lambda: linear_fast.fit(train, labels, args.classes, max_iterations=args.evaluations).predict(queries))
    pipe.send((peak_bytes() - before, spent))


def apart(*work) -> tuple[int, float]:
    """:func:`measured` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measured, args=(*work, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def table(args) -> list[Row]:
    """Two rows: what each protocol holds at its peak, against the features in memory."""
    made = []
    for work, name in (("knn", "k-NN"), ("linear_fast", "linear probe")):
        size = 4 * args.dim * (args.images + args.queries)
        used, spent = apart(work, 0, args)
        made.append(
            at_most(
                "Memory",
                f"{name}, {args.images:,} x {args.dim} features on the disk, against these in memory",
                "MiB",
                used / 2**20,
                size / 2**20,
                note=f"{spent:.0f} s",
            )
        )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = options(
        __doc__,
        *(
            (f"--{name}", {"type": whole(2, 10**8), "default": default})
            for name, default in (("images", 1_281_167), ("dim", 512), ("classes", 1000), ("queries", 50_000), ("evaluations", 3))
        ),
        ("--folder", {"default": None, "help": "of the features"}),
        argv=argv,
    )
    if args.quick:
        args.images, args.dim, args.classes, args.queries = 2000, 16, 10, 100
    print(markdown(table(args)))


if __name__ == "__main__":
    cli(main)
