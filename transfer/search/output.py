"""The files of a search: the report as JSON, all scored sub-networks as CSV and Parquet, and the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rundir.atomic import replacing, write_json
from transfer.search import picture
from transfer.search.problem import Problem, Scored

REPORT, CSV, PARQUET = "search.json", "subnets.csv", "subnets.parquet"
FILES = (CSV, PARQUET, *picture.FILES)


def write(folder: Path, problem: Problem, accuracies: Mapping[object, float | None], report: Mapping[str, Any]) -> None:
    """Write all but the report into ``folder``."""
    table = subnets(problem, accuracies)
    with replacing(folder / CSV) as file:
        table.to_csv(file, index=False)
    with replacing(folder / PARQUET) as file:
        table.to_parquet(file, index=False)
    picture.save(folder, problem, report)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``search.json``."""
    write_json(folder / REPORT, report)


def subnets(problem: Problem, accuracies: Mapping[object, float | None]) -> pd.DataFrame:
    """A row for each sub-network that was scored, cheapest first: its costs, score and (of those checked) k-NN accuracy, the
    strategies that asked for it, and whether it is on the Pareto front.
    """
    front = {id(one) for one in problem.front()}
    rows = [
        row(problem, one)
        | {"knn": accuracies.get(problem.key(one.width)), "strategies": " ".join(one.strategies), "on_front": id(one) in front}
        for one in sorted(problem.scored.values(), key=lambda one: one.costs[problem.kinds[0]])
    ]
    return pd.DataFrame(rows).astype({"score": float, "latency_ms": float, "knn": float})


def row(problem: Problem, one: Scored) -> dict[str, Any]:
    """A sub-network in plain types: memory in MB, latency where it was measured, FLOPs also as a share of the full network's."""
    costs = one.costs
    return {
        "subnet": str(one.width),
        "score": one.score,
        "flops": int(costs["flops"]),
        "flops_share": costs["flops"] / problem.full["flops"],
        "parameters": int(costs["parameters"]),
        "memory_mb": costs["memory"] / 1e6,
        "latency_ms": costs.get("latency"),
    }


def finite(value: float | None) -> float | None:
    """``value`` as JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None
