"""Tables and pictures across tasks: dense records, transfer, serving cost, published numbers; on made-up runs."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from results import contents, paper
from results.frame import load, load_all
from results.grids import Grid
from results.plots import scores as plots
from results.plots.drawing import NothingToPlot
from results.plots.pareto import pareto_front
from results.tables.cost import serving
from results.tables.latex import latex
from results.tables.render import comma_separated, markdown
from rundir.directory import RunDirectory
from rundir.errors import UserError
from tests.results.synthetic import config, grid_of, record, write_run

DENSE = {"chance": None, "model": "mask_rcnn_r50_fpn", "schedule": "quick"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """US3L and networks of one width, at two widths and two seeds: classification on two data sets, detection, segmentation."""
    root = tmp_path_factory.mktemp("runs") / "comparison"
    for seed in (100, 101):
        alone = [(f"individual-momentum-simclr-w{w}", (w,), ("infonce", "none", "momentum")) for w in (1.0, 0.25)]
        for cell, widths, base in (("us3l", (1.0, 0.25), ("infonce", "infonce", "momentum")), *alone):
            level = 0.9 if cell == "us3l" else 0.8
            records = [
                record(w, level - 0.1 * (1 - w), metric, dataset=name, latency_ms=10 * w)
                for w in widths
                for name, metric in (("digits", "linear"), ("pets", "linear"), ("pets", "finetune"))
            ]
            for initial, drop in (("pretrained", 0.0), ("random", 0.2)):
                records += [
                    record(
                        w, w * (level - drop), metric, task="detection", dataset="voc", initial=initial, latency_ms=20 * w, **DENSE
                    )
                    for w in widths
                    for metric in ("box_AP", "box_AP50", "mask_AP")
                ]
            records += [
                record(w, None if w < 1 else 0.5, "mIoU", task="segmentation", dataset="ade", initial="pretrained", **DENSE)
                for w in widths
            ]
            cfg = config(*base, seed, (min(widths), max(widths)) if cell == "us3l" else (widths[0],) * 2, cell, "comparison")
            write_run(root, cfg, records, cost=(30.0, 3e12) if cell == "us3l" else (20.0 * widths[0], 4e12 * widths[0]))
    return root


def test_dense_tables_have_a_row_a_network_initialisation_and_width(root):
    tables = {item.table.name: item.table for item in contents.all_tables(load_all(root))}
    voc = tables["table-detection-voc"]
    assert voc.value_names == ("box AP", "box AP50", "mask AP") and "mask_rcnn_r50_fpn, schedule quick" in voc.title
    rows = {row.labels: row for row in voc.rows}
    assert set(rows) == {
        (name, weights, width)
        for name in ("US3L", "momentum SimCLR, individually trained")
        for weights in ("pretrained", "random weights")
        for width in ("1.0×", "0.25×")
    }
    score = rows["US3L", "random weights", "0.25×"].scores[0]
    assert (score.mean, score.n) == (pytest.approx(0.25 * 0.7), 2) and [source.seed for source in score.sources] == [100, 101]
    assert rows["US3L", "pretrained", "0.25×"].scores[0].best  # of its width
    assert "best of a column at each width in bold" in voc.caption
    ade = tables["table-segmentation-ade"]
    assert [row.labels for row in ade.rows] == [("US3L", "1.0×"), ("momentum SimCLR, individually trained", "1.0×")]


def test_the_gain_over_networks_of_one_width_is_of_the_same_seed_and_from_pretrained_weights(root):
    tables = {item.table.name: item.table for item in contents.all_tables(load_all(root))}
    table = tables["table-gains-detection-voc"]
    assert [row.labels[2:] for row in table.rows] == [
        ("1.0×", "2", "+10.0 [+10.0, +10.0]", "+10.0 [+10.0, +10.0]"),
        ("0.25×", "2", "+2.5 [+2.5, +2.5]", "+2.5 [+2.5, +2.5]"),
    ]
    assert {row.labels[0] for row in table.rows} == {"US3L"}
    ade = tables["table-gains-segmentation-ade"]
    assert [row.labels[2:] for row in ade.rows] == [("1.0×", "2", "+0.0 [+0.0, +0.0]")]  # undefined at the other width


def test_a_reference_that_is_in_no_row_of_the_grid_stands_last_where_it_is_scored_only(root, tmp_path):
    copied = shutil.copytree(root, tmp_path / "comparison")
    for seed in (100, 101):
        records = [record(w, 0.1 * w, "box_AP", task="detection", dataset="voc", initial="random", **DENSE) for w in (1.0, 0.25)]
        write_run(copied, config("infonce", "none", "momentum", seed, (0.25, 1.0), "untrained", "comparison"), records)
    frames = load_all(copied)
    tables = {item.table.name: item.table for item in contents.all_tables(frames)}
    last = tables["table-detection-voc"].rows[-1]
    assert last.labels == ("untrained", "random weights", "0.25×") and last.scores[0].mean == pytest.approx(0.025)
    own = next(table for name, table in tables.items() if name.startswith("table-digits-linear"))
    assert not any("untrained" in row.labels for row in own.rows)


def test_transfer_has_a_column_a_data_set_and_protocol_own_data_first(root):
    table = next(item.table for item in contents.all_tables(load_all(root)) if item.table.name == "table-transfer")
    assert table.value_names == ("digits, linear evaluation", "pets, linear evaluation", "pets, fine-tuning")
    assert [row.labels for row in table.rows if row.labels[0] == "US3L"] == [("US3L", "1.0×"), ("US3L", "0.25×")]
    assert table.rows[1].scores[2].mean == pytest.approx(0.9 - 0.075)


def test_serving_adds_a_network_a_width(root):
    table = serving(load(root), grid_of(root))
    labels = [row.labels for row in table.rows]
    assert [label[:3] for label in labels] == [("momentum SimCLR", "1", "1"), ("momentum SimCLR", "1 0.25", "2")]
    # One training of 3e12; networks of 4e12 and 1e12; parameters of the synthetic records: 7e5 w^2
    assert labels[1][3:6] == ("3000.0", "5000.0", "1.67") and labels[1][8:] == ("700,000", "743,750")
    assert "| momentum SimCLR | 1 0.25 | 2 |" in markdown(table)
    assert comma_separated(table).splitlines()[0].startswith("section,method,widths,k")
    whole = grid_of(root)
    assert serving(load(root), Grid(whole.manifest, whole.runs[whole.runs["kind"].eq("individual")])) is None


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here; apt-get install texlive-latex-base")
def test_every_kind_of_table_compiles(root, tmp_path):
    frames = load_all(root)
    tables = [item.table for item in contents.all_tables(frames)]
    tables.append(paper.beside(paper.read_numbers(), frames.scores, frames.grids))
    body = "\n".join(latex(table, intervals=True) for table in tables)
    (tmp_path / "main.tex").write_text(
        "\n".join(
            [r"\documentclass{article}", r"\usepackage{booktabs,amssymb,graphicx}", r"\begin{document}", body, r"\end{document}"]
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_pictures_of_dense_tasks_and_of_latency(root):
    scores, grid = load(root), grid_of(root)
    items = {item.name: item for item in contents.all_pictures(load_all(root))}
    assert {"width-detection-voc", "width-segmentation-ade", "accuracy-latency-digits-linear"} <= set(items)
    assert items["width-detection-voc"].facets.task == "detection"
    [axis, *_] = items["score-flops-detection-voc-mask_AP"].draw().axes
    assert axis.get_ylabel() == "mask AP on voc (%)" and "score-flops-segmentation-ade-mIoU" in items
    assert items["score-latency-detection-voc-mask_AP"].draw().axes[0].get_xlabel().startswith("Latency of one image (ms)")
    figure = plots.dense_by_width(scores[scores["task"].eq("detection")], grid)
    assert [axis.get_ylabel() for axis in figure.axes] == ["box AP on voc (%)", "mask AP on voc (%)"]
    lines = {box.get_label(): list(box.lines[0].get_ydata()) for box in figure.axes[0].containers}
    assert lines["US3L"] == pytest.approx([22.5, 90.0])
    assert lines["US3L, from random weights"] == pytest.approx([17.5, 70.0])
    with pytest.raises(NothingToPlot):
        plots.dense_by_width(scores[:0], grid)


def test_latencies_of_two_devices_are_two_pictures(root):
    frames = load_all(root)
    scores = frames.scores[frames.scores["task"].eq("classification")]
    scores["latency_on"] = scores["seed"].map({100: "NVIDIA A100", 101: "x86_64 AVX2, 1 thread"})
    names = {item.name: item for item in contents.all_pictures(replace(frames, scores=scores))}
    pictures = [
        next(
            item
            for name, item in names.items()
            if name.startswith(f"accuracy-latency-{device}-") and name.endswith("-digits-linear")
        )
        for device in ("nvidia-a100", "x86_64-avx2-1-thread")
    ]
    labels = [axis.get_xlabel() for picture in pictures for axis in picture.draw().axes]
    assert set(labels) == {
        "Latency of one image (ms), log scale\nNVIDIA A100",
        "Latency of one image (ms), log scale\nx86_64 AVX2, 1 thread",
    }


def test_networks_of_one_shape_are_drawn_at_one_latency(root):
    scores = load(root)
    scores = scores[scores["metric"].eq("linear") & scores["dataset"].eq("digits")].reset_index(drop=True)
    scores["latency_ms"] = 10 * scores["width"] + [0.0, 0.0, 0.1, 3.0, 0.0, 0.0, 0.1, 3.0]  # what else the machine did
    drawn = plots.latencies(scores)
    assert drawn.groupby("width")["latency_ms"].nunique().eq(1).all()
    for width, part in scores.groupby("width"):
        assert drawn.loc[drawn["width"].eq(width), "latency_ms"].iloc[0] == part["latency_ms"].median()
    other = scores.assign(latency_on=["one device", "another"] * 4)
    assert plots.latencies(other).groupby(["width", "latency_on"])["latency_ms"].nunique().eq(1).all()


def test_heat_map_shows_the_means(root):
    scores = load(root)
    part = scores[scores["metric"].eq("linear") & scores["dataset"].eq("digits")]
    figure = plots.heat_map(part, grid_of(root))
    assert [text.get_text() for text in figure.axes[0].texts] == ["90.0", "82.5", "80.0", "72.5"]


def test_pareto_front_is_what_nothing_beats():
    cost, value = [3, 1, 2, 2, 4, 1], [0.7, 0.5, 0.6, 0.65, 0.7, 0.4]
    beaten = {
        i
        for i in range(6)
        for j in range(6)
        if (cost[j] <= cost[i] and value[j] > value[i]) or (cost[j] < cost[i] and value[j] >= value[i])
    }
    assert sorted(pareto_front(cost, value)) == sorted(set(range(6)) - beaten) == [0, 1, 3]


def test_every_published_number_has_a_source_and_a_place_in_it():
    numbers = paper.read_numbers()
    assert numbers and all(number.source.url.startswith("https://") for number in numbers)
    assert all(number.place for number in numbers if number.value is not None)
    assert all(0 < number.value < 100 for number in numbers if number.value is not None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{method: X, arch: a, dataset: d, metric: linear, value: 50, source: none, place: p}", "no source 'none'"),
        ("{method: X, arch: a, dataset: d, metric: linear, value: 50, source: s, place: ''}", "place is empty"),
        ("{method: X, arch: a, dataset: d, metric: linear, value: 50, source: s, place: p, extra: 1}", "unknown key extra"),
    ],
)
def test_a_number_without_a_source_is_refused(tmp_path, line, message):
    (tmp_path / "p.yaml").write_text(
        "format: 1\nsources: {s: {title: t, url: 'https://example.org'}}\n"
        "defaults: {task: classification, width: 1.0, std: null, n: null, ours: ''}\n"
        f"numbers: [{line}]\n"
    )
    with pytest.raises(UserError, match=message):
        paper.read_numbers(tmp_path / "p.yaml")


def test_ours_stand_beside_the_same_network_data_metric_and_width(root):
    same = paper.Number(
        "US3L",
        "resnet_small",
        "classification",
        "digits",
        "linear",
        0.25,
        80.0,
        None,
        None,
        paper.Source("t", "https://example.org"),
        "Table 1",
        "us3l",
    )
    other = paper.Number(**{**same.__dict__, "arch": "resnet50"})
    table = paper.beside([same, other], load(root), load_all(root).grids)
    assert [row.scores[0] and round(row.scores[0].mean, 4) for row in table.rows] == [0.825, None]
    assert table.rows[0].labels[7:] == ("80.0", "https://example.org, Table 1")


def test_a_published_number_has_the_decimals_of_its_source_and_says_the_recipe(root):
    table = paper.beside(paper.read_numbers(), load(root), load_all(root).grids)
    shown = {(row.labels[0], row.labels[3], row.labels[1]): row.labels[7] for row in table.rows}
    assert shown["BYOL", "cifar10", "solo-learn, online classifier"] == "92.58"
    assert shown["BYOL", "imagenet", "solo-learn, offline linear"] == "68.37"
    assert shown["BYOL", "imagenet", "lightly, batch 256"] == "62.5"  # the same method, six points apart
    assert not any(method == "US3L" for method, *_ in shown)  # without a number of theirs, and of ours here: no row


def test_sub_networks_have_a_table_of_their_own_and_do_not_reach_those_by_width(root, tmp_path):
    before = [item.table for item in contents.all_tables(load_all(root))]
    here = tmp_path / "comparison"
    shutil.copytree(root, here, ignore=shutil.ignore_patterns(".frame"))
    for run in here.glob("us3l-*"):
        found = RunDirectory(run)
        seed = found.records()[0]["seed"]
        own = {"seed": seed, "width": None}
        found.add_records(
            [
                record(1, 0.5 + seed / 1000, "linear", subnet="w[1,.5]", flops=2e6, parameters=70) | own,
                record(1, 0.4, "knn", subnet="w1d[1,1]", flops=1e6, parameters=50) | own,
                record(1, 0.1, "knn", subnet="w1d[1,1]", flops=1e6, parameters=50, label_fraction=0.1) | own,
                record(1, 1.5, "rankme", task="analysis", subnet="w[1,.5]", count=9) | own,
                record(1, 0.5, "linear", dataset="pets", seed=seed, subnet="w1d[2,1]"),
            ]
        )  # stands for width 1.0
        voc = [
            record(1, value, "box_AP", task="detection", dataset="voc", subnet="w[1,.5]", initial=initial, **DENSE) | own
            for value, initial in ((0.3, "pretrained"), (0.1, "random"))
        ]
        found.add_records(voc)
    frames = load_all(here)
    assert len(load(here)) > len(frames.scores) and set(frames.subnets["subnet"]) == {"w[1,.5]", "w1d[1,1]"}
    tables = {item.table.name: item.table for item in contents.all_tables(frames)}
    assert {"table-subnets-classification-digits", "table-subnets-detection-voc"} < set(tables)
    rows = [row.labels for row in tables["table-subnets-classification-digits"].rows]
    assert rows == [
        ("US3L", "w[1,.5]", "60.1 ± 0.1", "—", "—", "2.0", "70"),
        ("US3L", "w1d[1,1]", "—", "40.0 ± 0.0", "10.0 ± 0.0", "1.0", "50"),
    ]
    heads = [column.name for column in tables["table-subnets-classification-digits"].columns]
    assert heads[2:5] == ["linear evaluation (%)", "k-NN (%)", "k-NN with 10 % of the labels (%)"]
    rows = [row.labels[:4] for row in tables["table-subnets-detection-voc"].rows]
    assert rows == [("US3L", "pretrained", "w[1,.5]", "30.0 ± 0.0"), ("US3L", "random weights", "w[1,.5]", "10.0 ± 0.0")]
    rows = [row.labels for row in tables["table-analysis-digits"].rows]
    assert rows == [("US3L", "w[1,.5]", "1.50 ± 0.00")]
    plain = {table.name: markdown(table) for table in before}
    same = {name: markdown(table) for name, table in tables.items() if not name.startswith(("table-subnets", "table-analysis"))}
    changed = {name for name in plain if plain[name] != same[name]}
    assert same.keys() == plain.keys() and changed == {"table-pets-linear", "table-transfer"}
    pets = next(row for row in tables["table-pets-linear"].rows if row.labels[0] == "US3L")
    assert (pets.scores[0].mean, pets.scores[0].n) == (pytest.approx(0.5), 2)
