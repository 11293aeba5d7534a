"""Run directories into frames: every column, unfinished runs, damaged and foreign files."""

import json
import math
import shutil

import pandas as pd
import pytest
import yaml

from results import frame, reading
from results.frame import CELL_COLUMNS, InputError, current, guidelines, load, load_metrics, load_runs, save
from tests.results.synthetic import config, metric, record, write_run


def test_one_row_a_record_with_the_cells_factors(tmp_path):
    write_run(tmp_path / "guidelines", config("mse", "infonce", "momentum", seed=101),
              [record(1.0, 0.9), record(0.25, 0.7, "linear_fast")])
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


@pytest.mark.parametrize(("changes", "kind", "satisfied"), [
    ({"distill": "none"}, "naive", ""), ({"distill": "none", "widths": (0.5, 0.5)}, "individual", ""),
    ({"widths": (0.5, 0.5)}, "individual", ""),
    ({"base": "mse", "distill": "mse", "teacher": "online"}, "us3l", "none")])
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
    lines = [metric("loss/base", 1, 5.0, 1.0), metric("loss/base", 1, 4.0, 0.5), metric("lr", 1, 0.1),
             metric("loss/base", 1, 3.0, 1.0), metric("lr", 1, 0.2), metric("loss/base", 2, None, 1.0)]
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


def test_a_torn_line_inside_is_skipped_and_said(tmp_path):
    path = write_run(tmp_path, config())
    (path / "metrics.jsonl").write_text('{"step": 1\n' + json.dumps(metric("lr", 1, 0.1)) + "\n")
    with pytest.warns(UserWarning, match="line 1 is not readable"):
        assert len(load_metrics(tmp_path)) == 1


@pytest.mark.parametrize("name", ["status.json", "result.json", "provenance.json", "config.yaml"])
def test_an_unknown_format_number(tmp_path, name):
    path = write_run(tmp_path, config(), [record(1.0, 0.5)])
    (path / name).write_text(json.dumps({"format": 2}))  # JSON is YAML
    with pytest.raises(InputError, match=rf"{name} has format 2, this version reads format 1") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("config.yaml", "a: [1", "is not YAML"), ("config.yaml", "format: 1", "has no objective.base_loss"),
    ("result.json", "{", "is not JSON"), ("result.json", '{"format": 1}', "has no list of records")])
def test_damaged_files(tmp_path, name, text, message):
    path = write_run(tmp_path, config(), [record(1.0, 0.5)])
    (path / name).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_directory(tmp_path):
    with pytest.raises(InputError, match="no directory"):
        load(tmp_path / "nowhere")


def test_of_one_cell_and_seed_run_twice_the_newest_finished_counts(tmp_path):
    write_run(tmp_path, config(optimizer={"lr": 0.1}), name="old", finished="2026-01-02")
    write_run(tmp_path, config(optimizer={"lr": 0.2}), name="new", finished="2026-01-03")
    write_run(tmp_path, config(optimizer={"lr": 0.3}), name="unfinished", state="running")
    write_run(tmp_path, config(seed=101), name="other-seed")
    write_run(tmp_path, config(optimizer={"epochs": 1}), name="other-setting", finished="2026-01-04")
    assert set(current(load_runs(tmp_path))["run"]) == {"new", "other-seed", "other-setting"}


def test_what_was_read_is_kept_and_only_changed_runs_are_read_again(tmp_path, monkeypatch):
    paths = [write_run(tmp_path / "guidelines", config(seed=seed), [record(1.0, 0.1 * seed)], [metric("lr", 1, 0.1 * seed)])
             for seed in range(5)]
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


def test_nothing_is_kept_where_that_is_not_wanted_or_not_possible(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5)])
    load(tmp_path, keep=False)
    assert not (tmp_path / ".frame").exists()
    (tmp_path / ".frame").write_text("a file where the folder would be")
    assert load(tmp_path)["value"].tolist() == [0.5]


def test_parquet_and_csv_give_the_frame_back(tmp_path):
    write_run(tmp_path / "guidelines", config(), [record(1.0, 0.5), record(0.5, None, label_fraction=0.1)])
    scores = load(tmp_path)
    parquet, text = save(scores, tmp_path / "frame")
    assert pd.read_parquet(parquet)["value"].tolist()[:1] == pd.read_csv(text)["value"].tolist()[:1] == [0.5]
    assert list(pd.read_parquet(parquet)) == list(pd.read_csv(text)) == list(scores)


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


@pytest.mark.parametrize("text", [
    "format: 1\na: {b: 1}\n", "a:\n- 1\n- 2\nb: &x {c: 1}\nd: *x\n", "# top\na: |\n  two\n  lines\nb: 'x: y'\n", "{a: 1, b: 2}",
    "a: 1\na: 2\n", ""])
def test_parsing_by_sections_is_parsing(text):
    assert (reading._yaml(text) or None) == (yaml.safe_load(text) or None)


@pytest.mark.parametrize(("changes", "message"), [
    ({"value": 95.3}, "value 95.3 is not between 0 and 1"), ({"value": "abc"}, "value of a record is 'abc', not a number"),
    ({"width": "narrow"}, "width of a record is 'narrow'"), ({"width": None}, "a record without a width"),
    ({"value": True}, "not a number")])
def test_a_record_that_is_none_is_refused_with_its_file(tmp_path, changes, message):
    path = write_run(tmp_path / "guidelines", config(), [record(1.0, 0.9), record(0.5, 0.8) | changes])
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert str(path / "result.json") in str(error.value) and "\n" not in str(error.value)
