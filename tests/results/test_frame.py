"""Run directories into frames: every column, unfinished runs, damaged and foreign files."""

import json
import math
import os
import shutil

import pandas as pd
import pytest
import yaml

from results import frame, store
from results.frame import CELL_COLUMNS, current, guidelines, load, load_all, load_metrics, load_runs
from results.report import build
from rundir import reading
from rundir.errors import UserError
from tests.results.synthetic import config, metric, record, write_run


def test_one_row_a_record_with_the_cells_factors(tmp_path):
    write_run(
        tmp_path / "guidelines",
        config("mse", "infonce", "momentum", seed=101),
        [record(1.0, 0.9), record(0.25, 0.7, "linear_fast")],
    )
    table = load(tmp_path)
    assert len(table) == 2
    first, second = table.to_dict("records")
    assert (first["grid"], first["cell"], first["seed"]) == ("guidelines", "mse-infonce-momentum", 101)
    assert first["state"] == "done"
    assert (first["method"], first["guidelines"], first["kind"]) == ("BYOL", "G2+G3", "us3l")
    assert (first["metric"], first["width"], first["value"]) == ("knn", 1.0, 0.9)
    assert (first["chance"], first["count"]) == (0.1, 500)
    assert (second["metric"], second["flops"], second["parameters"]) == ("linear_fast", 4e7 / 16, 7e5 / 16)
    assert (first["train_seconds"], first["train_flops"]) == (60.0, 1e12)
    assert first["setting"] == "digits at 16 pixels, resnet_small, 20 epochs, batch 128"


def test_images_in_a_folder_are_called_by_it(tmp_path):
    data = {"name": "folder", "root": "data/cifar10", "limit": 5000}
    write_run(tmp_path, config(data=data, experiment={"cell": "us3l"}), [record(1.0, 0.5)])
    assert load_runs(tmp_path)["trained"].item() == "cifar10 (5,000 images) at 16 pixels, resnet_small, 20 epochs, batch 128"


@pytest.mark.parametrize(
    ("changes", "kind", "satisfied"),
    [
        ({"distill": "none"}, "naive", ""),
        ({"distill": "none", "widths": (0.5, 0.5)}, "individual", ""),
        ({"widths": (0.5, 0.5)}, "individual", ""),
        ({"base": "mse", "distill": "mse", "teacher": "online"}, "us3l", "none"),
    ],
)
def test_kinds(tmp_path, changes, kind, satisfied):
    write_run(tmp_path, config(**changes))
    run = load_runs(tmp_path).iloc[0]
    assert (run["kind"], run["guidelines"]) == (kind, satisfied)


def test_guidelines_by_factor():
    assert guidelines("infonce", "mse", "online") == "G1"
    assert guidelines("mse", "infonce", "online") == "G2"
    assert guidelines("mse", "mse", "momentum") == "G3"
    assert guidelines("infonce", "infonce", "momentum") == "G1+G2+G3"


def test_the_same_runs_are_found_from_root_grid_and_run(tmp_path):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    (tmp_path / "guidelines" / "report").mkdir()
    for place in (tmp_path, tmp_path / "guidelines", path):
        assert load_runs(place)["run"].tolist() == [path.name]


def test_a_run_started_by_hand_is_named_by_its_place(tmp_path):
    write_run(tmp_path / "pretrain", config(experiment={"grid": "", "cell": ""}), name="mine")
    run = load_runs(tmp_path).iloc[0]
    assert (run["grid"], run["cell"]) == ("pretrain", "mine")


def test_a_run_without_results_is_known(tmp_path):
    path = write_run(tmp_path, config(), state="running")
    (path / "status.json").unlink()
    assert load(tmp_path).empty
    assert load_metrics(tmp_path).empty
    assert load_runs(tmp_path)["state"].tolist() == ["pending"]
    assert set(CELL_COLUMNS) <= set(load(tmp_path).columns)


def test_an_undefined_value_is_missing(tmp_path):
    write_run(tmp_path, config(), [record(1.0, None, chance=None, count=None)])
    row = load(tmp_path).iloc[0]
    assert math.isnan(row["value"]) and math.isnan(row["chance"]) and math.isnan(row["count"])


def test_the_last_of_repeated_metrics_counts(tmp_path):
    lines = [
        metric("loss/base", 1, 5.0, 1.0),
        metric("loss/base", 1, 4.0, 0.5),
        metric("lr", 1, 0.1),
        metric("loss/base", 1, 3.0, 1.0),
        metric("lr", 1, 0.2),
        metric("loss/base", 2, None, 1.0),
    ]
    write_run(tmp_path, config(), metrics=lines)
    table = load_metrics(tmp_path).set_index(["name", "epoch", "width"])["value"]
    assert len(table) == 4
    assert table["loss/base", 1, 1.0] == 3.0
    assert table["loss/base", 1, 0.5] == 4.0
    assert table.loc["lr"].tolist() == [0.2]
    assert math.isnan(table["loss/base", 2, 1.0])


def test_a_torn_last_line_is_skipped(tmp_path, recwarn):
    path = write_run(tmp_path, config(), metrics=[metric("lr", 1, 0.1)])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "epoch": 2, "na')
    assert load_metrics(tmp_path)["value"].tolist() == [0.1]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"step": 1', "is not a JSON object"),
        ("5", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ('{"step": 1, "epoch": 1, "name": "lr", "width": null, "value": "abc"}', "line 1 has the value 'abc', not a number"),
        ('{"step": [], "name": "lr"}', "line 1 has the step [], not a number"),
        ('{"name": 5}', "line 1 has the name 5, not text"),
        ('{"step": 1' + "0" * 400 + ', "name": "lr"}', "not a number"),
    ],
)
def test_a_line_of_metrics_that_is_none_is_left_out_and_said(tmp_path, line, why):
    path = write_run(tmp_path, config())
    (path / "metrics.jsonl").write_text(line + "\n" + json.dumps(metric("lr", 1, 0.1)) + "\n")
    for _ in range(2):  # not only when it is read for the first time
        frames = load_all(tmp_path)
        assert frames.metrics["value"].tolist() == [0.1] and len(frames.runs) == 1
        [note] = frames.left_out
        assert why in note and note.startswith(f"{path / 'metrics.jsonl'}, line 1")
    with pytest.warns(UserWarning, match="left out"):
        load_metrics(tmp_path)


@pytest.mark.parametrize(("value", "read"), [("NaN", True), ("Infinity", True), ("null", True), ("1e400", True)])
def test_a_logged_value_that_is_not_finite_is_missing(tmp_path, value, read):
    path = write_run(tmp_path, config())
    (path / "metrics.jsonl").write_text(f'{{"step": 1, "epoch": 1, "name": "lr", "width": null, "value": {value}}}\n')
    assert load_metrics(tmp_path)["value"].isna().tolist() == [True]


def damage(path, name, content):
    """Replace a file of a run by text, bytes, or what a function makes of its place."""
    (path / name).unlink(missing_ok=True)
    if callable(content):
        content(path / name)
    elif isinstance(content, bytes):
        (path / name).write_bytes(content)
    else:
        (path / name).write_text(content)


def changed(name, **entries):
    """A valid file of the run with some entries replaced."""
    whole = {
        "config.yaml": config(seed=7),
        "status.json": {"format": 1, "state": "done", "started": "2026"},
        "provenance.json": {"format": 1, "train_seconds": 1.0},
        "result.json": {"format": 1, "records": [record(1.0, 0.5)]},
    }[name]
    for key, value in entries.items():
        place, *parents = whole, *key.split("__")[:-1]
        for parent in parents:
            place = place[parent]
        place[key.split("__")[-1]] = value
    return json.dumps(whole)  # JSON is YAML


ALL = ("config.yaml", "status.json", "result.json", "provenance.json")
HUGE = 10**400
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DAMAGES = [
    *((name, os.mkfifo, "is a named pipe, not a file") for name in (*ALL, "metrics.jsonl")),
    *((name, lambda path: path.mkdir(), "is a directory, not a file") for name in ALL),
    *((name, lambda path: path.symlink_to(path.name), "cannot be read (Too many levels") for name in ALL),
    *((name, b"\xff\xfe\x00", "not UTF-8") for name in ALL),
    *((name, changed(name, format=2), "has format 2, this version reads format 1") for name in ALL),
    *((name, content, "is not JSON") for name in ALL[1:] for content in ("", "{", "nul")),
    *((name, "[" * 100_000, "nested too deeply") for name in ALL[1:]),
    *((name, content, "has format None") for name in ALL[1:] for content in ("[1, 2]", "5", '"text"', "null", "{}")),
    ("config.yaml", "a: [1", "is not YAML"),
    ("config.yaml", "format: 1", "has no objective.base_loss"),
    ("config.yaml", "", "has format None"),
    ("config.yaml", BOMB, "more than 200,000 values"),
    ("config.yaml", "seed: " + "[" * 10_000, "nested more than"),
    ("config.yaml", "seed: 1\nseed: 2\n", "seed is there twice"),
    ("config.yaml", lambda path: path.symlink_to("gone"), "is a broken link"),
    ("config.yaml", changed("config.yaml", seed="abc"), "seed is 'abc', not a number"),
    ("config.yaml", changed("config.yaml", seed=1.5), "seed is 1.5, not a whole number"),
    ("config.yaml", changed("config.yaml", seed=2**64), "not a whole number"),
    ("config.yaml", changed("config.yaml", experiment__cell=5), "experiment.cell is 5, not text"),
    ("config.yaml", changed("config.yaml", optimizer=7), "has no optimizer.epochs"),
    ("config.yaml", changed("config.yaml", widths__min="a" * 1000), "widths.min is 'aaa"),
    ("config.yaml", changed("config.yaml", objective__teacher=["online"]), "objective.teacher is ['online'], not text"),
    ("status.json", changed("status.json", state=3), "state is 3, not text"),
    ("status.json", changed("status.json", started=5), "started is 5, not text"),
    ("provenance.json", changed("provenance.json", train_seconds="abc"), "train_seconds is 'abc', not a number"),
    ("provenance.json", changed("provenance.json", train_flops=HUGE), "not a number"),
    ("provenance.json", changed("provenance.json", command=5), "command is 5, not a list"),
    ("result.json", changed("result.json", records=5), "has no list of records"),
    ("result.json", changed("result.json", records=[5]), "has no list of records"),
    ("result.json", '{"format": 1}', "has no list of records"),
    *(
        ("result.json", changed("result.json", records=[record(1.0, 0.9), record(0.5, 0.8) | entry]), why)
        for entry, why in [
            ({"value": 95.3}, "value 95.3 is not between 0 and 1"),
            ({"value": "abc"}, "value is 'abc', not a number"),
            ({"value": True}, "value is True, not a number"),
            ({"value": math.nan}, "value is nan, not a number"),
            ({"width": "narrow"}, "width is 'narrow'"),
            ({"width": None}, "a record without a width"),
            ({"flops": HUGE}, "not a number"),
            ({"metric": 7}, "metric is 7, not text"),
            ({"settings": "all"}, "settings of a record is 'all', not a mapping"),
            ({"changed": 3}, "changed of a record is 3"),
        ]
    ),
]


@pytest.mark.parametrize(("name", "content", "why"), DAMAGES)
def test_a_damaged_run_is_left_out_by_name_and_the_others_are_read(tmp_path, name, content, why):
    write_run(tmp_path / "guidelines", config(seed=1), [record(1.0, 0.25)], [metric("lr", 1, 0.1)])
    path = write_run(tmp_path / "guidelines", config(seed=7), [record(1.0, 0.5)], [metric("lr", 1, 0.2)])
    before = load_all(tmp_path)
    assert len(before.runs) == 2 and before.left_out == ()
    damage(path, name, content)
    for _ in range(2):
        frames = load_all(tmp_path)
        [line] = frames.left_out
        assert why in line and str(path / name) in line and "\n" not in line and len(line) < 400
        assert frames.metrics["value"].tolist() == [0.1]
        assert frames.scores["value"].tolist() == ([0.25, 0.5] if name == "metrics.jsonl" else [0.25])
    with pytest.warns(UserWarning, match="left out"):
        (load_metrics if name == "metrics.jsonl" else load)(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(place)
    for seed in (1, 2):
        path = write_run(tmp_path, config(seed=seed, experiment={"grid": "", "cell": ""}), [record(1.0, 0.5)], name=f"run{seed}")
        shutil.move(path, place)
    (tmp_path / place / "run2" / "status.json").write_text("{")
    for _ in range(2):
        frames = load_all(tmp_path)
        assert frames.runs["grid"].tolist() == ["caf\\xe9"] and frames.scores["value"].tolist() == [0.5]
        assert frames.left_out[0].startswith(f"{tmp_path}/caf\\xe9/run2/status.json is not JSON")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("result.json", json.dumps({"format": 1, "records": [record(1.0, 0.9, dataset="\ud800")]})),
        ("status.json", '{"format": 1, "why": "\\udc80"}'),
    ],
)
def test_halves_of_characters_are_no_text(tmp_path, name, text):
    path = write_run(tmp_path, config(), [record(1.0, 0.5)])
    (path / name).write_text(text)
    frames = load_all(tmp_path)
    assert frames.runs.empty and "not text" in frames.left_out[0]


def test_places_that_cannot_be_searched_are_named(tmp_path, monkeypatch):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    (tmp_path / "guidelines" / "self").symlink_to("self")
    (tmp_path / "guidelines" / "closed").mkdir()
    for name in ("status.json", "metrics.jsonl"):
        (tmp_path / "guidelines" / "lost").mkdir(exist_ok=True)
        (tmp_path / "guidelines" / "lost" / name).write_text("{}")
    scandir = os.scandir

    def refusing(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything
    frames = load_all(tmp_path)
    place = tmp_path / "guidelines"
    assert len(frames.runs) == 1 and sorted(frames.left_out) == [
        f"{place / 'closed'} cannot be read (Permission denied)",
        f"{place / 'lost'} has no config.yaml",
        f"{place / 'self'} cannot be read (Too many levels of symbolic links)",
    ]


def test_a_missing_directory(tmp_path):
    with pytest.raises(UserError, match="no directory"):
        load(tmp_path / "nowhere")


def test_of_one_experiment_run_twice_the_newest_finished_counts(tmp_path):
    write_run(tmp_path, config(), name="old", finished="2026-01-02")
    write_run(tmp_path, config(train={"threads": 2}), name="new", finished="2026-01-03")
    write_run(tmp_path, config(), name="unfinished", state="running")
    write_run(tmp_path, config(seed=101), name="other-seed")
    write_run(tmp_path, config(optimizer={"epochs": 1}), name="other-setting", finished="2026-01-04")
    write_run(tmp_path, config(optimizer={"lr": 0.3}), name="other-rate", finished="2026-01-04")
    assert set(current(load_runs(tmp_path))["run"]) == {"new", "other-seed", "other-setting", "other-rate"}


def test_what_was_read_is_kept_and_only_changed_runs_are_read_again(tmp_path, monkeypatch):
    paths = [
        write_run(tmp_path / "guidelines", config(seed=seed), [record(1.0, 0.1 * seed)], [metric("lr", 1, 0.1 * seed)])
        for seed in range(5)
    ]
    read, seen = frame.read_run, []
    monkeypatch.setattr(frame, "read_run", lambda path: seen.append(path.rpartition("/")[2]) or read(path))
    first = load(tmp_path), load_runs(tmp_path), load_metrics(tmp_path)
    assert sorted(seen) == sorted(path.name for path in paths)
    seen.clear()
    again = load(tmp_path), load_runs(tmp_path), load_metrics(tmp_path)
    assert seen == []
    for one, other in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    (paths[2] / "result.json").write_text(json.dumps({"format": 1, "records": [record(1.0, 0.99), record(0.5, 0.98)]}))
    shutil.rmtree(paths[0])
    write_run(tmp_path / "guidelines", config(seed=9), [record(1.0, 0.9)])
    changed = load(tmp_path)
    assert sorted(name.split("-s")[1][0] for name in seen) == ["2", "9"]
    pd.testing.assert_frame_equal(changed, load(tmp_path, keep=False))
    assert sorted(changed["value"]) == pytest.approx([0.1, 0.3, 0.4, 0.9, 0.98, 0.99])


def test_a_damaged_or_foreign_store_counts_as_none(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    load(tmp_path)
    for file in (tmp_path / ".frame").iterdir():
        file.write_bytes(b"PAR1 nonsense")
    assert load(tmp_path)["value"].tolist() == [0.5]


def test_a_store_is_that_of_the_code_that_was_loaded_though_the_files_have_changed_since(tmp_path, monkeypatch):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    later = tmp_path / "reading.py"
    later.write_text("# another version, with other columns")
    monkeypatch.setattr(store.reading, "__file__", str(later))  # as an update that arrives while a launcher runs
    load(tmp_path)
    assert {path.stem.rsplit("-", 1)[1] for path in (tmp_path / ".frame").glob("*.parquet")} == {store.VERSION}
    assert store._version_of_code() != store.VERSION


def test_nothing_is_kept_where_that_is_not_wanted_or_not_possible(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    load(tmp_path, keep=False)
    assert not (tmp_path / ".frame").exists()
    (tmp_path / ".frame").write_text("a file where the folder would be")
    assert load(tmp_path)["value"].tolist() == [0.5]


def test_parquet_and_csv_give_the_frame_back(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5), record(0.5, None, label_fraction=0.1)])
    scores = load(tmp_path)
    made = build(tmp_path).paths
    parquet, text = pd.read_parquet(made["frame.parquet"]), pd.read_csv(made["frame.csv"])
    assert parquet["value"].tolist()[:1] == text["value"].tolist()[:1] == [0.5]
    assert list(parquet) == list(text) == [*scores, "collapsed"]


def test_several_directories_and_the_same_run_in_two_of_them(tmp_path):
    cfg = config()
    for root, value, when in (("a", 0.5, "2026-01-02"), ("b", 0.6, "2026-01-03")):
        write_run(tmp_path / root / "guidelines", cfg, [record(1.0, value)], finished=when)
        write_run(tmp_path / root / "hand", config(experiment={"grid": "", "cell": ""}), [record(1.0, value)], name="mine")
    table = load([tmp_path / "a", tmp_path / "b", tmp_path / "b"])
    assert table.loc[table["grid"].eq("guidelines"), "value"].tolist() == [0.6]  # one experiment: the newest counts
    assert sorted(table.loc[table["grid"].eq("hand"), "value"]) == [0.5, 0.6]  # two runs that happen to have one name


def test_the_directory_of_a_fine_tuning_job_is_no_run(tmp_path):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    for place in (tmp_path / "jobs" / "voc-w1", path / "detection" / "voc-w1"):
        place.mkdir(parents=True)
        (place / "config.yaml").write_text("format: 1\ntask: detection\ndataset: voc\n")
        (place / "result.json").write_text(json.dumps({"format": 1, "records": [record(1.0, 0.3, "box_AP", task="detection")]}))
    assert load(tmp_path)["value"].tolist() == [0.5] and len(load_runs(tmp_path)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "format: 1\na: {b: 1}\n",
        "a:\n- 1\n- 2\nb: &x {c: 1}\nd: *x\n",
        "# top\na: |\n  two\n  lines\nb: 'x: y'\n",
        "{a: 1, b: 2}",
        "",
    ],
)
def test_parsing_by_sections_is_parsing(text):
    assert (reading._yaml(text) or None) == (yaml.safe_load(text) or None)


def test_correct_images_and_their_error_are_known_of_old_top1_records(tmp_path):
    kinds = [
        record(1.0, 0.9),
        record(0.5, 0.8, correct=401, image_error=0.02),
        record(0.25, 0.7, score="mean_per_class"),
        record(0.75, None),
    ]
    write_run(tmp_path / "g", config(), kinds)
    found = load(tmp_path / "g").set_index("width")
    assert found.loc[1.0, "correct"] == 450 and found.loc[1.0, "image_error"] == pytest.approx((0.9 * 0.1 / 500) ** 0.5, rel=0.01)
    assert found.loc[0.5, "correct"] == 401 and found.loc[0.5, "image_error"] == 0.02
    assert found.loc[[0.25, 0.75], ["correct", "image_error"]].isna().all().all()
    assert found["method_version"].eq(1).all()
