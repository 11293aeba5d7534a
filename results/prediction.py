"""Does a measure without labels predict accuracy? Rank correlations over the cells and widths of a grid, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.claims.effects import primary
from results.statistics.intervals import bootstrap_interval

MIN_POINTS = 4  # a rank correlation over fewer says nothing
MIN_WIDTHS = 3  # of one network
# Every measure, and what it is called. The first are of the records of an analysis, the last what training logged.
MEASURES = {
    "alignment": "Alignment",
    "uniformity": "Uniformity",
    "rankme": "RankMe",
    "lidar": "LiDAR",
    "cka_full": "CKA to the full width",
    "overlap_full": "Neighbours shared with the full width",
    "order_first": "Order held by the first channels",
    "cka_individual": "CKA to the individually trained network",
    "overlap_individual": "Neighbours shared with the individually trained",
    "updates": "Updates of the last channels",
}
LOGGED = {
    "effective_rank": "Effective rank of features (logged)",
    "feature_std": "Spread of features (logged)",
    "projection_rank": "Effective rank of projections (logged)",
    "projection_std": "Spread of projections (logged)",
}
POINT = ["cell", "run", "seed", "width"]
Part = tuple[float, float, float]  # Spearman's rho, mean over seeds, and the ends of its interval; NaN where there is none


@dataclass(frozen=True)
class Prediction:
    """Spearman's rho of one measure with accuracy: over all points, over cells at the widest and at the narrowest width, and over
    the widths of one network. ``points``: cells and widths; ``seeds``: how many have them.
    """

    measure: str
    everywhere: Part
    widest: Part
    narrowest: Part
    within: Part
    points: int
    seeds: int

    @property
    def name(self) -> str:
        """What the measure is called."""
        return (MEASURES | LOGGED)[self.measure]


def points(scores: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per run and width of one grid and setting: ``POINT``, its ``accuracy`` as claims judge it, and a column per measure.

    Raises:
        LookupError: there are no scores.
    """
    judged = primary(scores, {})
    found = judged.assign(width=judged["width"].round(6)).groupby(POINT, as_index=False)["value"].mean()
    found = found.rename(columns={"value": "accuracy"})
    analysed = scores[
        scores["task"].eq("analysis")
        & scores["variant"].eq("")
        & scores["dataset"].eq(judged["dataset"].iloc[0])
        & scores["value"].notna()
    ]
    logged = metrics[metrics["name"].isin(list(LOGGED)) & metrics["width"].notna() & metrics["value"].notna()]
    logged = logged.sort_values("step", kind="stable").drop_duplicates(["run", "name", "width"], keep="last")
    for rows, column, names in ((analysed, "metric", MEASURES), (logged, "name", LOGGED)):
        wide = rows.assign(width=rows["width"].round(6)).pivot_table(index=["run", "width"], columns=column, values="value")
        wide = wide[[name for name in names if name in wide]]
        found = found.merge(wide.reset_index(), on=["run", "width"], how="left")
    return found


def predictions(found: pd.DataFrame) -> list[Prediction]:
    """What each measure of :func:`points` predicts, in the order of the tables; those without four points in any seed left out."""
    made, widths = [], (found["width"].max(), found["width"].min())
    for name in (name for name in (*MEASURES, *LOGGED) if name in found):
        own = found[found[name].notna()]
        everywhere = rhos(own, name, ["seed"])
        if everywhere.empty:
            continue
        ends = [rhos(own[own["width"].eq(width)], name, ["seed"]) for width in widths]
        within = rhos(own, name, ["seed", "run"], MIN_WIDTHS).groupby("seed").mean()
        made.append(
            Prediction(
                name,
                _summary(everywhere),
                _summary(ends[0]),
                _summary(ends[1]),
                _summary(within),
                len(own[["cell", "width"]].drop_duplicates()),
                len(everywhere),
            )
        )
    return made


def rhos(rows: pd.DataFrame, name: str, by: list[str], fewest: int = MIN_POINTS) -> pd.Series:
    """Spearman's rho of column ``name`` and the accuracy in each group, of which those of too few points or of values that are all
    equal are left out.
    """
    groups = [rows[column] for column in by]
    ranks = rows.groupby(by)[[name, "accuracy"]].rank()
    x, y = (ranks[column] - ranks[column].groupby(groups).transform("mean") for column in (name, "accuracy"))
    sums = pd.DataFrame({"xy": x * y, "xx": x * x, "yy": y * y, "n": 1}).groupby(groups).sum()
    sums = sums[sums["n"].ge(fewest) & sums["xx"].gt(0) & sums["yy"].gt(0)]
    return sums["xy"] / np.sqrt(sums["xx"] * sums["yy"])


def _summary(values: pd.Series) -> Part:
    if values.empty:
        return np.nan, np.nan, np.nan
    return (float(values.mean()), *bootstrap_interval(values.tolist()))
