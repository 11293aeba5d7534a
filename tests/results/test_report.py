"""The whole way from run directories to files: what is written, kept, skipped, and how errors are told."""

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rich.console
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from results import contents, output, report
from results.frame import load
from results.plots import drawing
from rundir.errors import UserError
from tests.program import exit_code
from tests.results.conftest import undraw
from tests.results.synthetic import ALWAYS, FORMATS, WIDTHS, config, metric, record, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def drawn():
    """The figures of ``built`` by name."""
    return {}


@pytest.fixture(scope="module")
def built(grid, drawn, tmp_path_factory):
    save = drawing.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "cores", lambda: 1)  # in this process, to keep the figures
        patch.setattr(drawing, "save", lambda figure, stem, kinds: drawn.update({stem.name: figure}) or save(figure, stem, kinds))
        return report.build(grid, tmp_path_factory.mktemp("out"))


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures as empty files, for tests that are about something else."""
    whole = contents.all_pictures
    monkeypatch.setattr(contents, "all_pictures", lambda *args: list(map(undraw, whole(*args))))
    monkeypatch.setattr(drawing, "save", lambda _, stem, kinds: [path.touch() for path in drawing.files(stem, kinds)])


def test_every_table_and_picture_is_written(built):
    stems = [
        "accuracy-flops-digits-knn",
        "accuracy-width-digits-knn",
        "collapse-width-0.25",
        "collapse-width-1",
        "drift",
        "drift-accuracy-digits-knn",
        "heat-map-digits-knn",
        "prediction",
        "profiles",
        "training-base-loss",
        "training-distillation-loss",
    ]
    tables = [
        f"{table}.{suffix}"
        for table in ("table-digits-knn", "table-overall", "table-prediction", "table-serving")
        for suffix in FORMATS
    ]
    assert sorted(built.paths) == sorted([f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")] + tables + ALWAYS)
    assert not built.skipped
    assert sorted(path.name for path in built.out.iterdir()) == sorted([*built.paths, report.MANIFEST])


def test_pictures_are_not_blank(built):
    for path in built.paths.values():
        if path.suffix == ".png":
            pixels = np.asarray(Image.open(path).convert("L"))
            assert min(pixels.shape) > 400 and (pixels < 200).mean() > 0.005, path.name


@pytest.mark.parametrize(
    ("stem", "labels"),
    [
        (
            "accuracy-width-digits-knn",
            [
                "Width (fraction of channels)",
                "k-NN (%)",
                "SimSiam",
                "momentum SimCLR",
                "0.75",
                "individually trained",
                "InfoNCE distillation",
                "MSE distillation",
                "naive US-Net",
            ],
        ),
        ("accuracy-flops-digits-knn", ["MFLOPs per image, log scale", "20", "mean over up to 3 seeds"]),
        ("training-base-loss", ["Epoch", "Base loss", "BYOL"]),
        ("training-distillation-loss", ["Epoch", "MSE loss", "InfoNCE loss", "SimSiam, naive US-Net"]),
        ("drift", ["Absolute drift", "Relative drift", "Epoch"]),
        ("collapse-width-0.25", ["Effective rank", "Feature std × √dim", "at width 0.25"]),
    ],
)
def test_svg_holds_its_labels_as_text(built, stem, labels):
    text = built.paths[f"{stem}.svg"].read_text(encoding="utf-8")
    for label in labels:
        assert f">{label}" in text, label


def test_labels_lie_inside_the_picture_and_legends_beside_the_panels(built, drawn):
    for name in ("accuracy-flops-digits-knn", "drift", "training-distillation-loss"):
        figure = drawn[name]
        paper = FigureCanvasAgg(figure).get_renderer()
        legend, page = figure.legends[0].get_window_extent(paper), figure.bbox
        panels = [axis.get_tightbbox(paper) for axis in figure.axes if axis.get_visible()]
        assert not any(legend.overlaps(panel) for panel in panels)
        assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1 for box in [*panels, legend])
        assert not any(a.overlaps(b) for i, a in enumerate(panels) for b in panels[:i])


def test_a_long_headline_takes_lines_above_the_panel():
    figure = Figure(figsize=(3, 2.5), layout="constrained")
    axis = figure.subplots()
    drawing.headline(figure, "mean over up to 5 seeds, bars: 95 % bootstrap interval; dashed: Pareto front of all panels")
    paper = FigureCanvasAgg(figure).get_renderer()
    figure.draw(paper)
    box = figure._suptitle.get_window_extent(paper)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and axis.get_tightbbox(paper).y1 <= box.y0 and box.y1 <= figure.bbox.y1


def test_pictures_name_every_setting_that_differs_inside_of_them(tmp_path, monkeypatch):
    changed = {"batch_size": 64, "epochs": 2, "limit": 150, "lr": 3.0, "momentum": 0.8, "size": 16, "untrained": ["width"]}
    for seed in (100, 101):
        write_run(tmp_path / "guidelines", config(seed=seed), [record(w, 0.5, seed=seed, changed=changed) for w in (1.0, 0.5)])
    figures, save = {}, drawing.save
    monkeypatch.setattr(output, "cores", lambda: 1)
    monkeypatch.setattr(
        drawing, "save", lambda figure, stem, kinds: figures.update({stem.name: figure}) or save(figure, stem, kinds)
    )
    report.build(tmp_path)
    said = '; batch_size=64, epochs=2, limit=150, lr=3.0, momentum=0.8, size=16, untrained=["width"]'
    scored = {name: figure for name, figure in figures.items() if name.startswith(("accuracy", "heat-map"))}
    assert len(scored) == 3
    for name, figure in scored.items():
        paper, page = FigureCanvasAgg(figure).get_renderer(), figure.bbox
        figure.draw(paper)
        assert said in figure._suptitle.get_text(), name
        texts = [figure._suptitle, *(axis.yaxis.label for axis in figure.axes)]
        boxes = [text.get_window_extent(paper) for text in texts if text.get_text()]
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.x1 and box.y1 <= page.y1 for box in boxes), name


def test_the_drawn_numbers_are_the_means(grid, built, drawn):
    scores, axis = load(grid), drawn["accuracy-width-digits-knn"].axes[0]
    series = next(line for line in axis.get_lines() if line.get_color() == drawing.LOOKS[0].color and len(line.get_xdata()) == 4)
    part = scores[scores["cell"].eq("mse-mse-online")]
    assert np.allclose(series.get_xdata(), sorted(WIDTHS))
    assert np.allclose(series.get_ydata(), [100 * part.loc[part["width"].eq(w), "value"].mean() for w in sorted(WIDTHS)])


def test_series_differ_in_colour_and_in_marker_with_line():
    assert len({look.color for look in drawing.LOOKS}) == len(drawing.LOOKS) == len({look.marker for look in drawing.LOOKS})
    assert len({(look.marker, look.line) for look in drawing.LOOKS}) == len(drawing.LOOKS)


def test_a_second_report_draws_nothing_again(grid, built, monkeypatch):
    before = {name: path.read_bytes() for name, path in built.paths.items()}
    monkeypatch.setattr(drawing, "save", lambda *_: pytest.fail("drawn again"))
    again = report.build(grid, built.out)
    assert {name: path.read_bytes() for name, path in again.paths.items()} == before


def test_nothing_is_drawn_from_nothing_and_the_reason_is_said(tmp_path):
    lines = [metric("drift/absolute", 2, 0.1, 1.0)]
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5, flops=None)], lines)
    result = report.build(tmp_path / "guidelines")
    assert [name for name in result.paths if name.endswith(".png")] == ["accuracy-width-digits-knn.png", "heat-map-digits-knn.png"]
    assert "flops" in result.skipped["accuracy-flops-digits-knn"]
    assert "no drift/relative in metrics.jsonl" in result.skipped["drift"]
    assert {"training-base-loss", "training-distillation-loss", "collapse-width-1"} < set(result.skipped)
    assert json.loads((result.out / report.MANIFEST).read_text())["skipped"] == result.skipped


def test_runs_without_any_score(tmp_path, capsys):
    write_run(tmp_path, config(), state="running")
    assert report.main(["--runs", str(tmp_path)]) == 0
    assert "no scores yet" in capsys.readouterr().out


def test_files_of_an_earlier_report_go_when_they_are_no_longer_made(tmp_path, undrawn):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5), record(1.0, 0.6, "linear")])
    first = report.build(tmp_path / "guidelines").paths
    (path.parent / "report" / "mine.txt").write_text("kept")
    (path / "result.json").write_text(json.dumps({"format": 1, "records": [record(1.0, 0.5)]}))
    second = report.build(tmp_path / "guidelines").paths
    assert "table-digits-linear.md" in first and "table-digits-linear.md" not in second
    assert not first["table-digits-linear.md"].exists() and (path.parent / "report" / "mine.txt").exists()
    assert not [name for name in os.listdir(path.parent / "report") if name.startswith(".")]


def test_a_failing_report_leaves_the_old_one(tmp_path, undrawn, monkeypatch):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    before = report.build(tmp_path / "guidelines").paths["table-digits-knn.md"].read_text()
    (path / "result.json").write_text(json.dumps({"format": 1, "records": [record(1.0, 0.9)]}))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing, "save", full)
    assert exit_code(report.main, ["--runs", str(tmp_path)]) == 2
    out = path.parent / "report"
    assert (out / "table-digits-knn.md").read_text() == before
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_settings_are_not_mixed_in_one_table(tmp_path, undrawn):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    write_run(tmp_path / "guidelines", config(optimizer={"epochs": 3}), [record(1.0, 0.3)])
    result = report.build(tmp_path)
    assert result.out == tmp_path / "guidelines" / "report"
    texts = [result.paths[name].read_text() for name in result.paths if name.startswith("table-digits") and name.endswith(".md")]
    assert len(texts) == 2 and sorted("3 epochs" in text for text in texts) == [False, True]


def test_the_main_table_is_the_fullest_then_the_linear_one(tmp_path, undrawn):
    write_run(
        tmp_path, config(), [record(w, 0.5, m) for w in (1.0, 0.5) for m in ("knn", "linear_fast")] + [record(1.0, 0.5, "linear")]
    )
    assert [table.name for table in report.build(tmp_path).tables] == [
        "table-digits-linear_fast",
        "table-digits-knn",
        "table-digits-linear",
        "table-transfer",
    ]


def test_rows_without_scores_are_shown_where_they_were_asked_for(tmp_path, undrawn, capsys):
    write_run(tmp_path / "guidelines", config("mse", "infonce", "online"), [record(w, 0.5) for w in (1.0, 0.5)])
    write_run(tmp_path / "guidelines", config("infonce", "mse", "online"), state="failed")
    made = report.build(tmp_path)
    table, rest = made.tables[0], "rows without scores are not shown; all rows: "
    place = [column.name for column in table.columns].index("Method")
    methods = {row.labels[place]: bool(any(row.scores)) for row in table.rows}
    assert list(methods.values()).count(True) == 1 and "SimCLR + MSE distillation" in methods

    def shown(asked: list[str]) -> tuple[set[str], str]:
        report.show(made, rich.console.Console(width=160), asked)
        said = capsys.readouterr().out
        return {name for name in methods if name in said}, next((line for line in said.splitlines() if rest in line), "")

    names, line = shown([])
    assert names == {"SimSiam + InfoNCE distillation"}
    assert line == f"{len(methods) - 1} {rest}{tmp_path / 'guidelines' / 'report' / 'table-digits-knn.md'}"
    assert shown(["infonce-mse-online"])[0] == {"SimSiam + InfoNCE distillation", "SimCLR + MSE distillation"}
    assert shown([cell for row in table.rows for cell in row.cells]) == (set(methods), "")
    assert made.paths["table-digits-knn.md"].read_text().count("\n| ") == 2 + len(methods)


def test_errors_are_one_line_with_exit_code_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argument, message in ((tmp_path / "nowhere", "no directory"), (tmp_path / "empty", "holds no runs")):
        assert exit_code(report.main, ["--runs", str(argument)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    with pytest.raises(UserError):
        report.build(tmp_path / "empty")


def test_an_output_that_is_a_file(tmp_path, capsys):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    (tmp_path / "taken").write_text("")
    assert exit_code(report.main, ["--runs", str(tmp_path), "--out", str(tmp_path / "taken")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_as_a_script_from_anywhere(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    done = subprocess.run(
        [sys.executable, str(ROOT / "results" / "report.py"), "--runs", "guidelines"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    assert "momentum SimCLR + InfoNCE distillation" in done.stdout and "table-digits-knn: csv, html, md, tex" in done.stdout
    assert (tmp_path / "guidelines" / "report" / "table-digits-knn.md").is_file()


def test_scores_by_class_and_with_few_labels_have_tables_of_their_own(tmp_path, undrawn):
    few = {"metric": "finetune", "label_seed": 0, "score": "top1"}
    write_run(
        tmp_path / "guidelines",
        config(),
        [
            record(1.0, 0.9, "finetune"),
            record(1.0, 0.5, label_fraction=0.01, **few),
            record(1.0, 0.7, label_fraction=0.1, **few),
            record(1.0, 0.6, label_fraction=0.1, **{**few, "label_seed": 1}),
            record(1.0, 0.8, dataset="pets", score="mean_per_class", label_fraction=1.0, label_seed=None),
        ],
    )
    made = report.build(tmp_path / "guidelines", tmp_path / "out")
    *single, across = made.tables
    assert across.title == "Linear evaluation and transfer classification" and [len(row.scores) for row in across.rows] == [4]
    by_title = {table.title.split(" on ", 1)[1]: table for table in single}
    assert set(by_title) == {
        "digits, fine-tuning",
        "digits, fine-tuning with 1 % of the labels",
        "digits, fine-tuning with 10 % of the labels",
        "pets, k-NN",
    }
    means = {title: [score.mean for row in table.rows for score in row.scores if score] for title, table in by_title.items()}
    assert means["digits, fine-tuning"] == [0.9]  # a record that says nothing of labels used all of them
    assert means["digits, fine-tuning with 10 % of the labels"] == [pytest.approx(0.65)]  # the mean over choices of labels
    assert by_title["pets, k-NN"].value_header == "Mean per-class accuracy (%) at width"
    assert by_title["digits, fine-tuning"].value_header == "Accuracy (%) at width"
    assert len({table.name for table in made.tables}) == 5


def test_damaged_runs_are_named_and_the_others_reported(tmp_path, undrawn, capsys):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    broken = write_run(tmp_path / "guidelines", config("mse", "mse", "online"), [record(1.0, 0.6)])
    (broken / "result.json").write_text('{"format": 1, "records": [')
    assert report.main(["--runs", str(tmp_path / "guidelines")]) == 0
    out = tmp_path / "guidelines" / "report"
    place = f"guidelines/{broken.name}/result.json is not JSON"
    assert f"left out: {place}" in capsys.readouterr().out.replace("\n", " ")
    assert place in (out / "index.html").read_text() and place in json.loads((out / report.MANIFEST).read_text())["left_out"][0]
    assert str(tmp_path) not in (out / "index.html").read_text()
    assert "50.0" in (out / "table-digits-knn.md").read_text()
    (tmp_path / "guidelines" / "report" / report.MANIFEST).write_text("[" * 100_000)  # its own files may be damaged too
    assert report.main(["--runs", str(tmp_path / "guidelines")]) == 0


def test_where_no_run_can_be_read_the_reason_is_said(tmp_path, capsys):
    path = write_run(tmp_path, config(), [record(1.0, 0.5)])
    (path / "config.yaml").write_text("a: [")
    assert exit_code(report.main, ["--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "1 cannot be read" in error and "config.yaml is not YAML" in error and error.count("\n") == 1


@pytest.mark.slow
def test_reports_at_once_take_turns(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    command = [sys.executable, str(ROOT / "results" / "report.py"), "--runs", str(tmp_path / "guidelines"), "--small"]
    jobs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(job.communicate()[1], job.returncode) for job in jobs] == [("", 0)] * 4
    out = tmp_path / "guidelines" / "report"
    names = {path.name for path in out.iterdir()}
    assert names == {*json.loads((out / report.MANIFEST).read_text())["files"], report.MANIFEST}


def test_a_report_waits_for_the_one_before(tmp_path, undrawn, monkeypatch):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    out, ended = tmp_path / "guidelines" / "report", []
    out.mkdir()
    with output._alone(out):
        other = threading.Thread(target=lambda: ended.append(report.build(tmp_path / "guidelines")))
        other.start()
        other.join(timeout=3)
        assert other.is_alive() and not list(out.iterdir())
    other.join(timeout=600)
    assert len(ended) == 1 and (out / "index.html").is_file()


def test_where_directories_cannot_be_locked_a_report_is_made_all_the_same(tmp_path, undrawn, monkeypatch):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    monkeypatch.setattr(output.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(9, "Bad file descriptor")))
    assert "index.html" in report.build(tmp_path / "guidelines").paths


@pytest.mark.parametrize("locked", [True, False])
def test_what_a_killed_report_left_goes_with_the_next_unless_it_may_be_anothers_at_work(locked, tmp_path, undrawn, monkeypatch):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    left = tmp_path / "guidelines" / "report" / ".report-of-a-killed-one"
    left.mkdir(parents=True)
    (left / "index.html").touch()
    if not locked:
        monkeypatch.setattr(output.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(9, "Bad file descriptor")))
    report.build(tmp_path / "guidelines")
    assert left.exists() != locked


@pytest.mark.parametrize("limit", [2_000, 20_000])
def test_over_a_file_size_limit_one_line_is_said_and_the_old_report_stays(tmp_path, limit, uncounted):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    command = [sys.executable, str(ROOT / "results" / "report.py"), "--runs", str(tmp_path / "guidelines"), "--small"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    out = tmp_path / "guidelines" / "report"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_run(tmp_path / "guidelines", config(seed=101), [record(1.0, 0.9)])
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert done.returncode == 2 and done.stderr.startswith("error: File too large") and done.stderr.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not [name for name in os.listdir(tmp_path / "guidelines" / ".frame") if name.startswith(".")]


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_replaced(tmp_path, undrawn, capsys):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    out = report.build(tmp_path / "guidelines").paths["index.html"].parent
    (out / "runs.csv").unlink()
    (out / "runs.csv").mkdir()
    before = (out / "table-digits-knn.md").read_text()
    (path / "result.json").write_text(json.dumps({"format": 1, "records": [record(1.0, 0.9)]}))
    assert exit_code(report.main, ["--runs", str(tmp_path / "guidelines")]) == 2
    assert "runs.csv" in capsys.readouterr().err and (out / "table-digits-knn.md").read_text() == before


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://backend_of_a_notebook"},
        {"MPLBACKEND": "nonsense"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "iso-8859-1"},
    ],
)
def test_in_the_environments_that_people_have(tmp_path, environment):
    write_run(tmp_path / "grid", config(grid="own", cell="é"), [record(1.0, 0.5), record(0.5, 0.4)])
    for script, place in (("report.py", tmp_path / "grid" / "report" / "index.html"), ("claims", None)):
        done = subprocess.run(
            [sys.executable, str(ROOT / "results" / script), "--runs", str(tmp_path / "grid")],
            capture_output=True,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        assert place is None or "é" in place.read_text(encoding="utf-8")


def test_a_table_of_runs_from_different_machines_says_so(tmp_path, undrawn):
    kinds = [
        {"pretraining": ["A AVX2, 1 thread, fp32"], "evaluation": ["A AVX2, 1 thread, fp32"]},
        {"pretraining": ["A AVX2, 1 thread, fp32"]},
        {"pretraining": ["A AVX512, 2 threads, fp32", "B AVX2, 2 threads, fp32"]},
        {"pretraining": ["A AVX2, 1 thread, fp32"], "evaluation": ["B AVX2, 2 threads, fp32"]},
    ]
    captions = []
    for seed, kind in enumerate(kinds):
        path = write_run(tmp_path / "guidelines", config(seed=seed), [record(1.0, 0.5)])
        provenance = {"format": 1, "kinds": kind, "hardware": {"machine": "x86_64", "cores": 2}}
        (path / "provenance.json").write_text(json.dumps(provenance))
        captions.append(report.build(tmp_path / "guidelines", tmp_path / "out").tables[0].caption)
    assert "machine" not in captions[0] and "machine" not in captions[1]
    assert (
        "Runs come from 3 kinds of machine, which alone can change scores by points: 2 on A AVX2, 1 thread, fp32; 1 on A AVX2, "
        "1 thread, fp32; evaluated on B AVX2, 2 threads, fp32; 1 on A AVX512, 2 threads, fp32, then B AVX2, 2 threads, fp32."
    ) in captions[3]
