"""Run directories with made-up numbers, in the documented format. Nothing here was ever measured."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
import yaml

from ablations import gridfile
from results.frame import load_all
from results.grids import Grid
from rundir.manifest import GridManifest, read, write

WIDTHS = (1.0, 0.75, 0.5, 0.25)
GRIDS = Path(__file__).resolve().parents[2] / "ablations" / "grids"
CHANCE, COUNT = 0.1, 500
EPOCHS = 20


def config(
    base="infonce", distill="infonce", teacher="momentum", seed=100, widths=(0.25, 1.0), cell="", grid="guidelines", **sections
):
    """The part of a resolved configuration that the results room reads."""
    cell = cell or f"{base}-{distill}-{teacher}"
    content = {
        "format": 1,
        "experiment": {"grid": grid, "cell": cell, "preset": "digits"},
        "seed": seed,
        "model": {"arch": "resnet_small"},
        "objective": {"base_loss": base, "distill_loss": distill, "teacher": teacher},
        "widths": {"min": widths[0], "max": widths[1]},
        "optimizer": {"epochs": EPOCHS, "batch_size": 128},
        "data": {"name": "digits", "size": 16, "limit": 0},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    return content


def record(width, value, metric="knn", **changes):
    """One record of result.json; FLOPs and parameters grow with the square of the width."""
    return {
        "task": "classification",
        "dataset": "digits",
        "metric": metric,
        "width": width,
        "value": value,
        "chance": CHANCE,
        "count": COUNT,
        "flops": int(4e7 * width**2),
        "parameters": int(7e5 * width**2),
    } | changes


# What every report has, whatever the runs are.
ALWAYS = [
    "claims.json",
    "claims.md",
    "frame.csv",
    "frame.parquet",
    "index.html",
    "runs.csv",
    *(f"table-published.{suffix}" for suffix in ("csv", "html", "md", "tex")),
]
FORMATS = ("csv", "html", "md", "tex")  # of a table


def write_run(grid_directory: Path, cfg, records=(), metrics=(), state="done", name=None, finished="2026-01-02", cost=(60.0, 1e12)):
    """Write one run directory and return it. No result.json where there are no records. ``cost``: seconds and FLOPs of training."""
    cell, seed = cfg["experiment"]["cell"], cfg["seed"]
    path = grid_directory / (name or f"{cell}-s{seed}-{crc32(json.dumps(cfg).encode()):08x}")
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(cfg, sort_keys=False))
    status = {"format": 1, "state": state, "why": "", "started": "2026-01-01", "finished": None}
    if state == "done":
        status["finished"] = finished
    (path / "status.json").write_text(json.dumps(status))
    described = manifest(cfg["experiment"]["grid"])
    if described and read(grid_directory) is None:
        write(grid_directory, described)
    if records:
        (path / "result.json").write_text(json.dumps({"format": 1, "records": [{"seed": seed} | entry for entry in records]}))
        (path / "provenance.json").write_text(json.dumps({"format": 1, "train_seconds": cost[0], "train_flops": cost[1]}))
    if metrics:
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return path


@functools.cache
def manifest(grid: str, widths=WIDTHS) -> GridManifest | None:
    """What a launch says of a grid that comes with the project, without its claims; None of others."""
    file = gridfile.load(grid) if grid in gridfile.grids() else None
    return file and replace(file.manifest(file.cells(widths, EPOCHS)), claims=())


def grid_of(place: Path) -> Grid:
    """The one grid whose runs are at ``place``."""
    frames = load_all(place)
    [name] = frames.grids
    return Grid(frames.grids[name], frames.runs)


def write_manifest(grid_directory: Path, claims=()):
    """The manifest of a grid with these claims."""
    grid_directory.mkdir(parents=True, exist_ok=True)
    plain = manifest(grid_directory.name) or GridManifest(grid_directory.name, "", (), ())
    write(grid_directory, replace(plain, claims=tuple(claims)))


def metric(name, epoch, value, width=None, step=None):
    """One line of metrics.jsonl."""
    return {"step": epoch * 10 if step is None else step, "epoch": epoch, "name": name, "width": width, "value": value}


def curves(base, distill, teacher, seed, widths=WIDTHS, epochs=EPOCHS, naive=False):
    """Smooth made-up training curves and diagnostics of one run."""
    rng = np.random.default_rng([seed, crc32(f"{base}{distill}{teacher}{widths}".encode())])
    level = {"mse": (-0.3, 0.55), "infonce": (4.2, 1.4)}
    lines = []
    for epoch in range(1, epochs + 1):
        fall, noise = math.exp(-epoch / 6), rng.normal(0, 0.02)
        for name, loss in (("loss/base", base), ("loss/distill", base if naive else distill)):
            if loss != "none":
                low, span = level[loss]
                lines.append(
                    metric(
                        name,
                        epoch,
                        low + span * (fall + noise) - 0.1 * (teacher == "momentum"),
                        max(widths) if name == "loss/base" else None,
                    )
                )
        slow = 0.4 if teacher == "momentum" else 1.0
        if epoch > 1:
            absolute = slow * (0.6 if distill == "mse" else 0.4) * (fall + 0.1) + abs(noise)
            lines += [
                metric("drift/absolute", epoch, absolute, max(widths)),
                metric("drift/relative", epoch, absolute * (0.3 if base == "infonce" else 0.8), max(widths)),
            ]
        for width in widths:
            rank = (12 if base == "mse" else 40) * width**0.5 * (1 - fall) * (0.6 if naive else 1)
            lines += [
                metric("effective_rank", epoch, 1 + rank + 20 * noise, width),
                metric("feature_std", epoch, (0.3 if naive else 0.6) * (1 - 0.5 * fall) + noise, width),
            ]
    return lines


def write_grid(grid_directory: Path, seeds=(100, 101, 102), metrics=("knn",), epochs=EPOCHS) -> Path:
    """All 8 cells, two naive baselines and four individually trained methods at four widths, with the claims of the real grid."""
    write_manifest(grid_directory, yaml.safe_load((GRIDS / "guidelines.yaml").read_text(encoding="utf-8"))["claims"])
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for base, distill, teacher in product(("mse", "infonce"), ("mse", "infonce", "none"), ("online", "momentum")):
            naive = distill == "none"
            if naive and (base == "mse") != (teacher == "online"):
                continue
            good = 0.62 + 0.15 * (base == "infonce") + 0.08 * (distill == "infonce") + 0.05 * (teacher == "momentum")
            cell = f"naive-{base}-{teacher}" if naive else ""
            values = [min(0.99, good - 0.25 * naive - 0.16 * (1 - width) + rng.normal(0, 0.012)) for width in WIDTHS]
            write_run(
                grid_directory,
                config(base, distill, teacher, seed, cell=cell),
                [record(WIDTHS[k], v - 0.02 * i, m) for i, m in enumerate(metrics) for k, v in enumerate(values)],
                curves(base, distill, teacher, seed, epochs=epochs, naive=naive),
            )
        for base, teacher, width in product(("mse", "infonce"), ("online", "momentum"), WIDTHS):
            if width < 1 and (base, teacher) not in (("mse", "online"), ("infonce", "momentum")):
                continue  # the methods at the ends of the grid have a network for each width, the others one
            cell = f"individual-{base}-{teacher}-w{width}"
            value = 0.6 + 0.2 * (base == "infonce") - 0.22 * (1 - width) + rng.normal(0, 0.015)
            write_run(
                grid_directory,
                config(base, "none", teacher, seed, (width, width), cell),
                [record(width, value - 0.02 * i, m) for i, m in enumerate(metrics)],
                curves(base, "none", teacher, seed, (width,), epochs=epochs),
            )
    return grid_directory
