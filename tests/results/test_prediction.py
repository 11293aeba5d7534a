"""Which measures predict accuracy: rank correlations by hand, on made-up runs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results import contents
from results.frame import load_all
from results.prediction import points, predictions, rhos
from results.statistics.intervals import bootstrap_interval
from results.tables.render import markdown
from tests.results.synthetic import config, metric, record, write_run

WIDTHS = (1.0, 0.5, 0.25)
CELLS = [
    ("mse", "mse", "online"),
    ("mse", "infonce", "online"),
    ("infonce", "mse", "online"),
    ("infonce", "infonce", "online"),
    ("infonce", "infonce", "momentum"),
]


def drawn(seed):
    """By (cell, width): RankMe, logged rank, accuracy."""
    random = np.random.default_rng(seed)
    return {
        (place, width): (
            5 + 4 * place + 20 * width + random.normal(),
            3 - place + random.normal(),
            0.4 + 0.08 * place + 0.1 * width + random.normal(0, 0.02),
        )
        for place in range(len(CELLS))
        for width in WIDTHS
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "guidelines"
    for seed in (100, 101, 102):
        values = drawn(seed)
        for place, cell in enumerate(CELLS):
            records = [record(width, values[place, width][2], "linear") for width in WIDTHS]
            records += [
                record(width, values[place, width][0], "rankme", task="analysis", changed={}, chance=None) for width in WIDTHS
            ]
            records += [record(width, -1.5, "uniformity", task="analysis", changed={}, chance=None) for width in WIDTHS]
            records += [record(0.5, 99.0, "rankme", task="analysis", changed={"images": 9}, chance=None)]  # another setting's
            logged = [
                metric("effective_rank", epoch, values[place, width][1] * epoch, width) for epoch in (1, 2) for width in WIDTHS
            ]
            write_run(root, config(*cell, seed), records, logged)
    return root


def test_each_measure_is_correlated_seed_by_seed(root):
    frames = load_all(root)
    found = {one.measure: one for one in predictions(points(frames.scores, frames.metrics))}
    assert set(found) == {"rankme", "effective_rank"}  # what is equal everywhere predicts nothing
    for name, column in (("rankme", 0), ("effective_rank", 1)):
        everywhere, widest, within = [], [], []
        for seed in (100, 101, 102):
            values = drawn(seed)
            everywhere.append(stats.spearmanr([v[column] for v in values.values()], [v[2] for v in values.values()]).statistic)
            ends = [values[place, 1.0] for place in range(len(CELLS))]
            widest.append(stats.spearmanr([v[column] for v in ends], [v[2] for v in ends]).statistic)
            networks = [[values[place, width] for width in WIDTHS] for place in range(len(CELLS))]
            within.append(np.mean([stats.spearmanr([v[column] for v in own], [v[2] for v in own]).statistic for own in networks]))
        one = found[name]
        for part, values in ((one.everywhere, everywhere), (one.widest, widest), (one.within, within)):
            assert part == pytest.approx((np.mean(values), *bootstrap_interval(values)))
        assert (one.points, one.seeds) == (15, 3)
    assert found["rankme"].everywhere[0] > 0.5 > 0 > found["effective_rank"].everywhere[0]


def test_ties_and_groups_without_an_order():
    rows = pd.DataFrame(
        {
            "seed": [1] * 5 + [2] * 4 + [3] * 3,
            "x": [1, 1, 2, 3, 3.0, 5, 5, 5, 5, 1, 2, 3],
            "accuracy": [0.1, 0.2, 0.2, 0.4, 0.3, 0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3],
        }
    )
    found = rhos(rows, "x", ["seed"])
    assert list(found.index) == [1]  # the second has one value, the third too few
    assert found[1] == pytest.approx(stats.spearmanr(rows["x"][:5], rows["accuracy"][:5]).statistic)


def test_the_report_has_the_measures_and_what_they_predict(root):
    frames = load_all(root)
    tables = {item.table.name: item.table for item in contents.all_tables(frames)}
    text = markdown(tables["table-prediction"])
    assert "linear evaluation" in text and "| RankMe | 15 | +" in text and "mean over 3 seeds" in text
    measured = next(table for name, table in tables.items() if name.startswith("table-analysis-") and "images" not in table.title)
    rows = {row.labels[:2]: row.labels[2:] for row in measured.rows}
    means = np.array([drawn(seed)[0, 0.25][0] for seed in (100, 101, 102)])
    assert rows["SimSiam + MSE distillation", "0.25×"] == ("-1.50 ± 0.00", f"{means.mean():.1f} ± {means.std(ddof=1):.1f}")
    other = next(table for table in tables.values() if "images=9" in table.title)
    assert all(row.labels[2] == "99.0 ± 0.0" for row in other.rows)
    assert not any("rankme" in name for name in tables if not name.startswith("table-analysis-"))
    [picture] = [item for item in contents.all_pictures(frames) if item.name == "prediction"]
    figure = picture.draw()
    assert [axis.get_xlabel() for axis in figure.axes] == ["RankMe", "Effective rank of features (logged)"]
    assert len(figure.axes[0].lines) == len(WIDTHS) and figure.axes[0].get_title().startswith("ρ = 0.")
