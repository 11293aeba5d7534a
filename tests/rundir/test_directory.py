"""The run directory: formats, atomic writes, the lock, merging of records."""

import json
import multiprocessing
import os
import signal
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rundir.atomic import write_atomically
from rundir.clock import now
from rundir.directory import Busy, RunDirectory
from rundir.errors import UserError


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "grid" / "cell-s1-12345678")


def test_status(run):
    assert run.status()["state"] == "pending" and os.listdir(run.path) == []
    run.set_status("running", epoch=1, epochs=5)
    first = json.loads((run.path / "status.json").read_text())
    assert first["format"] == 1 and first["state"] == "running" and first["pid"] == os.getpid()
    assert first["finished"] is None and first["host"] and first["why"] == ""
    run.set_status("running", epoch=2, images_per_second=10.0)
    assert (run.status()["epoch"], run.status()["epochs"], run.status()["started"]) == (2, 5, first["started"])
    run.set_status("failed", why="no data")
    failed = run.status()
    assert failed["why"] == "no data" and datetime.fromisoformat(failed["finished"]).tzinfo is not None
    run.set_status("running")
    assert run.status()["finished"] is None and run.status()["why"] == ""
    run.set_status("done")
    assert run.status()["finished"] >= failed["finished"]
    assert os.listdir(run.path) == ["status.json"]


@pytest.mark.parametrize("name", ["status.json", "result.json", "provenance.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"format": 2}', "format 2"),
        ("{}", "format None"),
        ("[1]", "damaged"),
        ("null", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
    ],
)
def test_unknown_formats_and_damaged_files_are_errors(run, name, content, message):
    (run.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    read = {"status.json": run.status, "result.json": run.records, "provenance.json": run.provenance}[name]
    with pytest.raises(UserError, match=message) as caught:
        read()
    assert name in str(caught.value) and "\n" not in str(caught.value)


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", ["status.json", "result.json", "provenance.json", "config.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("thing", [pipe, Path.mkdir, loop])
def test_what_is_no_file_is_neither_waited_for_nor_a_traceback(run, name, thing):
    thing(run.path / name)
    read = {
        "status.json": run.status,
        "result.json": run.records,
        "provenance.json": run.provenance,
        "config.yaml": run.read_config,
        "metrics.jsonl": lambda: run.truncate_metrics(3),
    }[name]
    with pytest.raises(UserError, match="damaged") as caught:
        read()
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_for_a_lock_is_not_waited_for(run):
    os.mkfifo(run.path / ".lock")
    with run.lock():
        pass


@pytest.mark.parametrize("content", ["{}", '{"records": 5}', '{"records": [3]}', '{"records": [{}]}', '{"records": {"a": 1}}'])
def test_a_result_without_a_list_of_records_is_damaged(run, content):
    (run.path / "result.json").write_text(json.dumps({"format": 1, **json.loads(content)}))
    with pytest.raises(UserError, match=r"result\.json has no list of records"):
        run.records()


def test_config(run):
    assert run.read_config() is None
    run.write_config("a: {b: 1}\n")
    assert run.read_config() == {"a": {"b": 1}}
    for damaged in ("a: [", "", "- 1", "\x00"):
        (run.path / "config.yaml").write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            run.read_config()
    (run.path / "config.yaml").write_bytes(yaml.dump({"ä": 1}).encode("utf-16"))
    with pytest.raises(UserError, match="damaged"):
        run.read_config()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot make the run directory") as caught:
            RunDirectory(path)
        assert "\n" not in str(caught.value)


ROWS = [{"step": s, "epoch": e, "name": n, "width": None, "value": s / 7} for e in (1, 2, 3) for s in (10 * e,) for n in "ab"]


def read_metrics(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_truncated_to_a_step(run):
    run.truncate_metrics(5)  # no file yet
    run.append_metrics(ROWS[:4])
    run.append_metrics(iter(ROWS[4:]))
    assert read_metrics(run) == ROWS
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "epo')  # a torn line
    run.truncate_metrics(20)
    assert read_metrics(run) == ROWS[:4]
    run.truncate_metrics(0)
    assert read_metrics(run) == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 700), st.integers(0, 40))
def test_whatever_was_torn_off_the_metrics_are_whole_lines(tmp_path_factory, cut, step):
    run = RunDirectory(tmp_path_factory.mktemp("metrics"))
    run.append_metrics(ROWS)
    path = run.path / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    run.truncate_metrics(step)
    whole = [row for row in ROWS if row["step"] <= step]
    got = read_metrics(run)
    assert got == whole[: len(got)]
    assert len(got) >= min(content[:cut].count(b"\n"), len(whole))
    run.append_metrics([ROWS[0]])
    assert read_metrics(run) == [*got, ROWS[0]]


def record(**changes):
    return {"task": "classification", "dataset": "digits", "metric": "knn", "width": 1.0, "seed": 100, "value": 0.5} | changes


def test_records_are_merged_by_their_identity(run):
    assert run.records() == []
    run.add_records([record(), record(width=0.5)])
    run.add_records(
        [record(value=0.75), record(metric="linear"), record(seed=1), record(dataset="cifar10"), record(task="detection")]
    )
    records = run.records()
    assert len(records) == 6 and records[0]["width"] == 0.5 and records[1]["value"] == 0.75
    assert json.loads((run.path / "result.json").read_text())["format"] == 1


def test_provenance(run):
    assert run.provenance() == {}
    run.add_provenance(started=now(), train_seconds=1.0)
    first = run.provenance()
    assert {"format", "git_commit", "packages", "command", "started", "train_seconds"} <= set(first)
    assert first["packages"]["torch"]
    run.add_provenance(train_seconds=3.0, command=["x"])
    assert run.provenance() == first | {"train_seconds": 3.0, "command": ["x"]}


# -- atomic writes and the lock -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, fails):
    path = tmp_path / "status.json"
    write_atomically(path, "old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if fails == "write":
        real_open = open

        class Unwritable:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            write = full

        monkeypatch.setattr("builtins.open", lambda *args: Unwritable(real_open(*args)))
    else:
        monkeypatch.setattr(f"rundir.atomic.os.{fails}", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["status.json"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(run):
    """By who takes the lock, and by who adds scores without it."""
    kept = [
        ".notes.tmp",
        ".bashrc.1.tmp",
        "result.json.1.tmp",
        ".result.json.tmp.bak",
        ".result.json.x.tmp",
        f".status.json.{os.getppid()}.tmp",
    ]
    ours = [
        ".result.json.99999999.tmp",
        ".status.json.99999999.tmp",
        ".checkpoint.pt.tmp",
        f".config.yaml.{os.getpid()}.tmp",
        ".provenance.json.12345678901234567890.tmp",
    ]
    for how in (run.lock, lambda: nullcontext(run.add_records([]))):
        for name in (*kept, *ours):
            (run.path / name).write_text("x")
        with how():
            there = os.listdir(run.path)
        assert set(kept) <= set(there) and not set(ours) & set(there)


def test_a_temporary_file_that_another_computer_took_away_is_written_again(run, monkeypatch):
    real, lost = os.replace, []

    def replace(source, target):
        if not lost:
            lost.append(source)
            os.unlink(source)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    run.set_status("running")
    assert run.status()["state"] == "running" and lost


def test_an_interruption_is_pending_and_a_failure_failed(run):
    run.set_ended(KeyboardInterrupt(), "evaluation: ")
    assert (run.status()["state"], run.status()["why"]) == ("pending", "evaluation: interrupted, to be continued")
    run.set_ended(ValueError("not\nthis"))
    assert (run.status()["state"], run.status()["why"]) == ("failed", "ValueError: not")
    run.set_ended(BrokenPipeError(32, "Broken pipe"))  # a worker's: stdout is read
    assert run.status()["state"] == "failed"


def hold(path, held, release):
    with RunDirectory(path).lock():
        held.set()
        release.wait(30)


def test_one_process_holds_the_directory_and_death_lets_go(run):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(run.path, held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(Busy, match="in use by another process") as caught, run.lock():
            pass
        assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.join()
    with run.lock():
        pass
    with run.lock():
        pass


def test_a_lock_is_released_after_an_error(run):
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_an_unused_directory_goes_away_and_a_used_one_stays(run):
    with run.lock():
        run.remove_if_unused()
    assert not run.path.exists()
    used = RunDirectory(run.path)
    with used.lock():
        used.write_config("a: 1")
        used.remove_if_unused()
    assert used.read_config() == {"a": 1}


@pytest.mark.parametrize("name", ["status.json", "result.json", "provenance.json", "config.yaml"])
@pytest.mark.parametrize(
    "damage",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: os.symlink(path, path),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text('"a"'),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do_and_nothing_hangs(run, name, damage):
    read = {
        "status.json": run.status,
        "result.json": run.records,
        "provenance.json": run.provenance,
        "config.yaml": run.read_config,
    }
    assert read[name]() in (None, [], {}, {"format": 1, "state": "pending", "why": ""})
    damage(run.path / name)
    with pytest.raises(UserError, match="remove") as error:
        read[name]()
    assert str(run.path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_result_without_records_is_refused(run):
    for records in ("null", "5", "[5]", "{}"):
        (run.path / "result.json").write_text(f'{{"format": 1, "records": {records}}}')
        with pytest.raises(UserError, match="has no list of records; remove it"):
            run.records()
