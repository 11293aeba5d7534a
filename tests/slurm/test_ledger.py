"""What a ledger says is data: nothing is run of one that this user did not write here, and of that only marked functions."""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from rundir.files import read_text
from slurm import settings, status
from slurm.calls import described, rebuilt
from slurm.jobs import Job
from slurm.ledger import Entry, Ledger, pack
from tests.program import exit_code
from tests.slurm import callables

CLUSTER = dataclasses.asdict(settings.load(None, [], {"work": {}, "report": {}}))


def touch(path: str) -> None:
    """Not marked: no ledger may call it."""
    Path(path).touch()


class Payload:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A grid with one failed job, on a machine whose Slurm answers everything with nothing."""
    folder = tmp_path / "grid"
    (folder / "slurm" / "state").mkdir(parents=True)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun"):
        (commands / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return folder


def write(folder: Path, call: object, cluster: dict = CLUSTER, pickled: Path = Path("x"), earlier: bool = False) -> None:
    """Write the ledger of one job; ``earlier``: as versions did that wrote its call with it."""
    job = {
        "name": "a",
        "task": "1_0",
        "kind": "work",
        "after": [],
        "last": False,
        "directory": "",
        "log": str(folder / "logs" / "a.log"),
        "pickled": str(pickled),
        **({"call": call} if earlier else {}),
    }
    ledger = Ledger(folder / "slurm")
    ledger.path.unlink(missing_ok=True)
    with ledger.lock():
        ledger.write(
            [
                {"event": "intent", "token": "t", "kind": "work", "folder": str(ledger.folder), "cluster": cluster},
                {"event": "submitted", "token": "t", "jobs": [job], **({} if earlier else {"calls": pack([call])})},
            ]
        )
    ledger.state_file("a").write_text(json.dumps({"format": 1, "job": "1_0", "state": "failed", "why": "x"}))


def refused(folder: Path, said: str, capsys) -> None:
    """``retry`` ends with one line that says this, code 2, and has asked sbatch for nothing."""
    assert exit_code(status.main, ["--runs", str(folder), "retry"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    called = folder.parent / "called"
    assert not called.exists() or "sbatch" not in called.read_text().split()


def test_retry_unpickles_nothing(grid, tmp_path, capsys):
    pickled, ran = grid / "slurm" / "call.pkl", tmp_path / "ran"
    pickled.write_bytes(pickle.dumps(Payload(ran)))
    write(grid, None, pickled=pickled)
    refused(grid, "start the grid again instead", capsys)
    assert not ran.exists()


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        {"function": "os:system", "args": ["touch RAN"], "stop": ""},
        {"function": "tests.slurm.test_ledger:touch", "args": ["RAN"], "stop": ""},
        {"function": "slurm.task:subprocess.run", "args": [["touch", "RAN"]], "stop": ""},
        {"function": "tests.slurm.callables:say", "args": ["x"], "stop": "os:abort"},
        {"function": "tests..callables:say", "args": [], "stop": ""},
        {"function": "slurm.nothing:say", "args": [], "stop": ""},
        {"function": 3, "args": []},
        {"function": "tests.slurm.callables:say", "args": "x"},
        "tests.slurm.callables:say",
        [],
        {},
    ],
)
def test_only_marked_functions_of_this_project_are_called_from_a_ledger(call, earlier, grid, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(grid, call, earlier=earlier)
    refused(grid, "start the grid again instead", capsys)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_job_is_made_again_from_its_call_whichever_version_wrote_it(earlier, grid):
    call = described(Job("a", callables.say, ("x",)))
    write(grid, call, earlier=earlier)
    entry = Ledger(grid / "slurm").to_retry()[0]["a"]
    assert entry.call == call and entry.job().function is callables.say and entry.job().args == ("x",)
    assert Ledger(grid / "slurm").entries()["a"].call is None  # looking reads none


def test_calls_that_are_nearly_the_same_take_little_room_and_damaged_ones_are_refused(grid, capsys):
    calls = [{"function": "a:b", "args": [{"name": f"cell-{number}", "config": "x" * 1000}], "stop": ""} for number in range(500)]
    assert len(pack(calls)) < 20 * len(calls)
    write(grid, described(Job("a", callables.say, ("x",))))
    path = Ledger(grid / "slurm").path
    text = path.read_text()
    packed = json.loads(text.splitlines()[1])["calls"]
    for other in (packed[:-8], "", "!", pack([]), pack([None, None]), base64.b64encode(b"no").decode()):
        path.write_text(text.replace(packed, other))
        refused(grid, "ledger.jsonl has a damaged line", capsys)
        assert "a" in Ledger(grid / "slurm").entries()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_ledger_that_others_may_write_is_not_run(mode, grid, capsys):
    write(grid, described(Job("a", callables.say, ("x",))))
    Ledger(grid / "slurm").path.chmod(mode)
    refused(grid, "may be written by others", capsys)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_ledger_of_somebody_else_is_not_run(grid, capsys):
    write(grid, described(Job("a", callables.say, ("x",))))
    os.chown(Ledger(grid / "slurm").path, 65534, 65534)
    refused(grid, "belongs to user 65534", capsys)


def test_a_copied_ledger_is_not_run(grid, tmp_path, capsys):
    """Its paths are those of the other place, and so may its settings be, which hold shell lines."""
    write(grid, described(Job("a", callables.say, ("x",))))
    shutil.copytree(grid, tmp_path / "copy")
    refused(tmp_path / "copy", f"was written in {grid}/slurm, not here", capsys)


@pytest.mark.parametrize(
    "cluster", [{}, {"kinds": []}, {**CLUSTER, "requeues": "many"}, {**CLUSTER, "kinds": {"work": {"cpus": []}}}]
)
def test_damaged_settings_are_refused(cluster, grid, capsys):
    write(grid, described(Job("a", callables.say, ("x",))), cluster)
    assert exit_code(status.main, ["--runs", str(grid), "retry"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_new_ledger_is_nobody_elses_to_write(tmp_path):
    before = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "slurm")
        with ledger.lock():
            ledger.write([{"event": "intent", "token": "t", "folder": str(ledger.folder), "cluster": {}}])
    finally:
        os.umask(before)
    assert ledger.to_retry() == ({}, {})


@pytest.mark.parametrize(
    "line",
    [
        '{"format": 1, "event": "submitted", "time": "x"}',
        '{"format": 1, "event": "submitted", "time": "x", "jobs": [{}]}',
        '{"format": 1, "event": "submitted", "time": "x", "jobs": ["a"]}',
        '{"format": 1, "event": "submitted", "time": "x", "jobs": 3}',
        '{"format": 1, "event": "submitted", "time": "x", "jobs": [{"name": 1, "task": "1_0", "kind": "", "after": [], '
        '"last": false, "directory": "", "log": "", "pickled": ""}]}',
    ],
)
def test_a_damaged_ledger_is_said(line, tmp_path, capsys):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "ledger.jsonl").write_text(line + "\n")
    assert exit_code(status.main, ["--runs", str(tmp_path)]) == 2
    assert "ledger.jsonl has a damaged line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["", "[]", "3", "null", "{", '{"format": 1}', '{"format": 1, "event": []}', pytest.param("[" * 100_000, id="deep"), "\0"],
)
def test_what_is_no_line_of_a_ledger_is_passed_over(line, tmp_path):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "ledger.jsonl").write_text(line + "\n")
    assert Ledger(tmp_path / "slurm").entries() == {} == Ledger(tmp_path / "slurm").open_intents()


def test_a_ledger_is_read_once_until_somebody_writes_it(tmp_path, monkeypatch):
    mine, theirs, reads = Ledger(tmp_path), Ledger(tmp_path), []
    monkeypatch.setattr("slurm.ledger.read_text", lambda *where: reads.append(where) or read_text(*where))
    with theirs.lock():
        theirs.write([{"event": "intent", "token": "one"}])
    assert list(mine.open_intents()) == ["one"] == [mine.last_intent()["token"]] and len(reads) == 1
    theirs.write([{"event": "dropped", "token": "one"}, {"event": "intent", "token": "two"}])
    assert list(mine.open_intents()) == ["two"] == [mine.last_intent()["token"]] and len(reads) == 2
    mine.path.unlink()
    assert mine.lines() == []
    assert gc.isenabled()


def test_a_pipe_for_a_ledger_is_not_waited_for(tmp_path, capsys):
    (tmp_path / "slurm").mkdir()
    os.mkfifo(tmp_path / "slurm" / "ledger.jsonl")
    assert exit_code(status.main, ["--runs", str(tmp_path)]) == 2
    assert "is a named pipe, not a file" in capsys.readouterr().err


@pytest.mark.parametrize("args", [(), ("x", 3, 0.5, None, True), ([1, {"a": [2]}],), ("ü \n",)])
def test_a_call_comes_back_from_json(args):
    job = Job("a", callables.say, args, stop=callables.ask_to_stop)
    call = json.loads(json.dumps(described(job)))
    assert rebuilt(call, "a") == (callables.say, args, callables.ask_to_stop)
    entry = Entry("a", "1_0", "work", (), False, "", "", "", "", call)
    assert entry.job() == Job("a", callables.say, args, "work", stop=callables.ask_to_stop)


@pytest.mark.parametrize(
    "job",
    [
        Job("a", print),
        Job("a", touch, ("x",)),
        Job("a", callables.say, (Path("x"),)),
        Job("a", callables.say, ((1, 2),)),
        Job("a", callables.say, (float("nan"),)),
        Job("a", callables.say, ({1: 2},)),
        Job("a", lambda: None),
    ],
)
def test_what_json_cannot_hold_is_not_described(job):
    assert described(job) is None
