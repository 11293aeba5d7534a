"""What is made of the words of the four witnesses; the real ones speak in test_slurm.py."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rundir.errors import UserError
from slurm import overview as looking
from slurm import squeue, status
from slurm.ledger import Ledger
from slurm.squeue import Said
from tests.program import exit_code


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat()


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A grid of one submitted training; ``say`` is what its own files say, ``slurm`` what squeue and sacct do."""
    folder = tmp_path / "grid"
    ledger = Ledger(folder / "slurm")
    job = {
        "name": "cell.pretrain",
        "task": "7_3",
        "kind": "pretrain",
        "after": ["other"],
        "last": False,
        "directory": str(folder / "cell"),
        "log": str(folder / "logs" / "cell.pretrain.log"),
        "pickled": "x",
    }
    with ledger.lock():
        ledger.write(
            [
                {"event": "intent", "token": "t", "kind": "pretrain", "cluster": {"stalled_minutes": 15}},
                {"event": "submitted", "token": "t", "jobs": [job]},
            ]
        )

    class Grid:
        path = folder

        def say(self, state: str, heard: float = 1, **more):
            path = ledger.state_file("cell.pretrain")
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                json.dumps(
                    {
                        "format": 1,
                        "job": "7_3",
                        "state": state,
                        "why": "",
                        "restarts": 0,
                        "host": "n1",
                        "started": ago(heard),
                        "heartbeat": ago(heard),
                        **more,
                    }
                )
            )

        def trains(self, heard: float, **more):
            (folder / "cell").mkdir(exist_ok=True)
            said = {"format": 1, "state": "running", "heartbeat": ago(heard), **more}
            (folder / "cell" / "status.json").write_text(json.dumps(said))

        def slurm(self, queue: Said | None, sacct: Said | None = None, here: bool = True):
            monkeypatch.setattr(squeue, "available", lambda: here)
            monkeypatch.setattr(squeue, "queue", lambda arrays: {"7_3": queue} if queue else {})
            monkeypatch.setattr(squeue, "accounted", lambda arrays: {"7_3": sacct} if sacct else None)

        def row(self):
            return looking.overview(folder)[0]

    return Grid()


def test_pending_says_what_it_waits_for(grid):
    grid.slurm(Said("PENDING", "Dependency"))
    assert (grid.row().state, grid.row().why) == ("pending", "waits for other")
    grid.slurm(Said("PENDING", "Priority"))
    assert (grid.row().state, grid.row().why) == ("pending", "Priority")
    grid.say("requeued")
    assert grid.row().state == "requeued"


def test_running_says_how_far_and_how_long(grid):
    grid.slurm(Said("RUNNING", node="n7"))
    assert (grid.row().state, grid.row().why) == ("running", "starting")
    grid.say("running", 100, restarts=2)
    grid.trains(10, epoch=3, epochs=9, images_per_second=50.0, seconds_left=610)
    row = grid.row()
    assert (row.state, row.where, row.epoch, row.epochs, row.rate, row.restarts) == ("running", "n7", 3, 9, 50.0, 2)
    assert row.seconds_left == pytest.approx(600, abs=2)


def test_silence_of_the_training_counts_though_its_process_lives(grid):
    grid.slurm(Said("RUNNING", node="n7"))
    grid.say("running", 3000, heartbeat=ago(1))
    grid.trains(2000)
    assert grid.row().state == "stalled" and "33 min" in grid.row().why
    grid.say("running", 60)  # started again a minute ago: it had no time to speak
    assert grid.row().state == "running"


@pytest.mark.parametrize(
    ("sacct", "state", "why"),
    [
        (Said("OUT_OF_MEMORY"), "dead", "out of memory"),
        (Said("NODE_FAIL", node="n3"), "dead", "its node failed"),
        (Said("TIMEOUT"), "dead", "out of time before it had saved"),
        (Said("CANCELLED"), "cancelled", "cancelled"),
        (Said("FAILED", "exit code 3"), "dead", "ended without saying why (exit code 3)"),
        (None, "dead", "left the queue without a report"),
        (Said("CANCELLED", "DependencyNeverSatisfied"), "blocked", "needs other"),
    ],
)
def test_who_left_without_a_word(grid, sacct, state, why):
    grid.slurm(None, sacct)
    grid.say("running")
    assert grid.row().state == state and grid.row().why.startswith(why)


def test_who_said_that_it_failed_is_believed_unless_it_runs_again(grid):
    grid.slurm(None)
    grid.say("failed", why="ValueError: x")
    assert (grid.row().state, grid.row().why) == ("failed", "ValueError: x")
    grid.slurm(Said("PENDING"))
    assert grid.row().state == "pending"
    grid.slurm(None)
    grid.say("done", job="6_3")  # of an earlier launch
    assert grid.row().state == "cancelled"


def test_without_slurm_here(grid):
    grid.slurm(None, here=False)
    assert grid.row().state == "pending"
    grid.say("running")
    assert grid.row().state == "running"
    grid.say("running", 2000)
    assert grid.row().state == "silent"
    grid.say("requeued")
    assert grid.row().state == "requeued"


def test_runs_that_were_never_on_slurm_are_shown_too(tmp_path, capsys):
    for name, state, heard in (
        ("a", "done", 5),
        ("b", "running", 5),
        ("c", "running", 9999),
        ("d", "failed", 5),
        ("e", "pending", 5),
    ):
        (tmp_path / name).mkdir()
        said = {"format": 1, "state": state, "why": "bad luck", "heartbeat": ago(heard)}
        (tmp_path / name / "status.json").write_text(json.dumps(said))
    assert {row.name: row.state for row in looking.overview(tmp_path)} == {
        "a": "done",
        "b": "running",
        "c": "silent",
        "d": "failed",
        "e": "not started",
    }
    assert status.main(["--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 running, 1 silent, 1 failed, 1 not started, 1 done" in shown and "bad luck" in shown
    assert "│ a " not in shown


def test_the_table_is_short_unless_all_is_asked_for():
    rows = [looking.JobRow(f"cell{i}", "pretrain", "pending") for i in range(1000)]
    assert status.table(rows, False).row_count == status.SHOWN and "960 more" in status.table(rows, False).caption
    assert status.table(rows, True).row_count == 1000
    done = [looking.JobRow("cell", "pretrain", "done")]
    assert status.table(done, False).row_count == 0 and "all done" in status.table(done, False).caption
    assert status.table(done, True).row_count == 1 and status.table(done, True).caption is None


def test_mistakes_end_in_one_line_and_code_2(tmp_path, capsys):
    assert exit_code(status.main, ["--runs", str(tmp_path / "none")]) == 2
    assert exit_code(status.main, ["--runs", str(tmp_path)]) == 2
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text('{"format": 1, "state": "done"}')
    assert exit_code(status.main, ["--runs", str(tmp_path), "logs", "nobody"]) == 2
    assert exit_code(status.main, ["--runs", str(tmp_path / "a")]) == 2
    assert status.main(["--runs", str(tmp_path), "retry"]) == 0
    said = capsys.readouterr()
    assert said.err.count("error: ") == 4 == said.err.count("\n") and "nothing to retry" in said.out
    assert f"{tmp_path / 'a'} is one run; give the directory of its grid" in said.err


def test_a_ledger_survives_a_torn_line_and_refuses_another_format(tmp_path):
    ledger = Ledger(tmp_path / "slurm")
    assert ledger.entries() == {} and not ledger.folder.exists()
    with ledger.lock():
        ledger.write([{"event": "intent", "token": "a", "cluster": {}}])
        with ledger.path.open("a") as file:
            file.write('{"format": 1, "event": "subm')
        ledger.write([{"event": "intent", "token": "b", "cluster": {}}, {"event": "dropped", "token": "a"}])
    assert list(ledger.open_intents()) == ["b"]
    ledger.path.write_text('{"format": 2, "event": "intent"}\n')
    with pytest.raises(UserError, match="has format 2"):
        ledger.entries()


def test_array_names_of_sacct():
    assert squeue._tasks("7_3") == ["7_3"] and squeue._tasks("7") == ["7"]
    assert squeue._tasks("7_[0-2,5%4]") == ["7_0", "7_1", "7_2", "7_5"]


def test_logs_of_several_processes(tmp_path):
    row = looking.JobRow("x", "pretrain", "failed", log=str(tmp_path / "logs" / "x.log"))
    assert status.log_files(tmp_path, row, {}) == []
    Path(tmp_path / "logs").mkdir()
    for name in ("x.log", "x.rank1.log", "y.log"):
        (tmp_path / "logs" / name).touch()
    assert [path.name for path in status.log_files(tmp_path, row, {})] == ["x.log", "x.rank1.log"]


def test_a_fine_tuning_is_where_its_own_process_says(tmp_path, monkeypatch):
    """Two of one run at once, as jobs of Slurm: each has the status that its own process on its own machine writes."""
    folder = tmp_path / "grid"
    ledger, jobs = Ledger(folder / "slurm"), []
    for index, width in enumerate(("1", "0.5")):
        jobs.append(
            {
                "name": f"cell.detection-voc.w{width}",
                "task": f"7_{index}",
                "kind": "detection",
                "after": [],
                "last": False,
                "directory": str(folder / "cell"),
                "log": "",
                "pickled": "x",
            }
        )
        state = ledger.state_file(jobs[-1]["name"])
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(
            json.dumps(
                {
                    "format": 1,
                    "job": f"7_{index}",
                    "state": "running",
                    "host": "n1",
                    "machine": "m",
                    "pid": 40 + index,
                    "started": ago(60),
                    "heartbeat": ago(1),
                }
            )
        )
        status_file = folder / "cell" / "transfer" / "detection" / f"voc-w{width}" / "status.json"
        status_file.parent.mkdir(parents=True)
        status_file.write_text(
            json.dumps(
                {
                    "format": 1,
                    "state": "running",
                    "heartbeat": ago(1),
                    "host": "m",
                    "pid": 40 + index,
                    "step": 100 * (index + 1),
                    "steps": 24000,
                    "seconds_left": 500,
                }
            )
        )
    with ledger.lock():
        ledger.write([{"event": "intent", "token": "t", "cluster": {}}, {"event": "submitted", "token": "t", "jobs": jobs}])
    (folder / "cell" / "status.json").write_text(json.dumps({"format": 1, "state": "done"}))
    monkeypatch.setattr(squeue, "available", lambda: True)
    monkeypatch.setattr(squeue, "queue", lambda arrays: {"7_0": Said("RUNNING"), "7_1": Said("RUNNING")})
    monkeypatch.setattr(squeue, "accounted", lambda arrays: None)
    rows = {row.name: row for row in looking.overview(folder)}
    assert {name: (row.state, row.step, row.steps) for name, row in rows.items()} == {
        "cell.detection-voc.w1": ("running", 100, 24000),
        "cell.detection-voc.w0.5": ("running", 200, 24000),
    }
    assert rows["cell.detection-voc.w1"].seconds_left == pytest.approx(499, abs=2)
    (folder / "slurm" / "ledger.jsonl").unlink()  # of another executor: rows of their own
    assert {row.name for row in looking.overview(folder)} == {"cell", "cell.detection.voc-w1", "cell.detection.voc-w0.5"}
