"""The campaign finds faults: it says WRONG of programs that have them, and kills where it is told to."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest

from rundir.errors import UserError
from tests.faults import damage
from tests.faults.cases import Case, refusal, snapshot
from tests.faults.fork import program
from tests.faults.run import show, tried

# A fork of a process with threads may hang; these functions start none, and pytest has none here.


def writes(argv):
    for name in argv:
        Path(name).write_text(name)


def one_line(argv):
    raise UserError("this is wrong; set that")


def two_lines(argv):
    print("error: this too", file=sys.stderr)
    raise UserError("this is wrong")


def traceback(argv):
    raise ValueError("ours")


def other_code(argv):
    print("error: no", file=sys.stderr)
    return 3


def silent(argv):
    return 2


def hangs(argv):
    time.sleep(60)


@pytest.mark.parametrize(
    ("main", "kind", "why"),
    [
        (one_line, "refused", ""),
        (two_lines, "WRONG", "2 error lines"),
        (traceback, "WRONG", "traceback"),
        (other_code, "WRONG", "exit code 3"),
        (silent, "WRONG", "0 error lines"),
        (writes, "WRONG", "exit code 0"),
    ],
)
def test_a_refusal_is_one_line_and_code_2(main, kind, why, tmp_path):
    verdict = refusal(program(main, [], tmp_path / "here"))
    assert verdict.kind == kind and why in verdict.why


def test_what_hangs_is_killed(tmp_path):
    assert refusal(program(hangs, [], tmp_path / "here", limit=0.5)).why == "it hangs"


def test_a_kill_strikes_at_every_event_once(tmp_path):
    """Each event of file operations leaves another number of files behind, and the last one all of them."""
    whole = program(writes, ["a", "b", "c"], tmp_path / "whole", count=True)
    assert whole.code == 0 and whole.events > whole.file_events >= 6
    left = []
    for event in range(1, whole.file_events + 2):
        folder = tmp_path / str(event)
        ended = program(writes, ["a", "b", "c"], folder, kill_at=event, files=True)
        assert ended.killed == (event <= whole.file_events)
        left.append(sum(path.stat().st_size for path in folder.iterdir()))
    assert left == sorted(left) and left[0] == 0 and left[-1] == 3 and {1, 2} <= set(left)


def test_programs_see_their_own_streams_and_folder(tmp_path):
    def main(argv):
        print(os.getcwd(), argv)
        print("said", file=sys.stderr)
        return 5

    ended = program(main, ["x"], tmp_path / "here")
    assert (ended.code, ended.out, ended.err) == (5, f"{tmp_path}/here ['x']\n", "said\n")


@pytest.mark.parametrize("how", [*damage.JSON, *damage.TORCH], ids=lambda how: how.__name__)
def test_damage_is_that_of_its_seed(how, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "result.json"
        path.write_text('{"format": 1, "records": [{"value": 0.5, "width": 1.0, "settings": {"C": 1.0}}]}')
        before = path.read_bytes()
        how(path, random.Random(3))
        assert not path.is_file() or path.read_bytes() != before
    contents = [(tmp_path / name / "result.json") for name in ("a", "b")]
    if contents[0].is_file() and how is not damage.trapped:
        assert contents[0].read_bytes() == contents[1].read_bytes()


def test_every_case_is_tried_once_and_counted(tmp_path, capsys):
    def case(kind, weight=1):
        def run(folder, rng):
            if kind == "error":
                raise ValueError("mine")
            return refusal(program(one_line if kind == "refused" else traceback, [], folder))

        return Case("kind of case", kind, run, weight)

    cases = [case("refused"), case("wrong"), case("error"), case("refused", 4)]
    ends = tried(cases, 0, tmp_path, 2, False)
    assert {number: verdict.kind for number, verdict in ends.items()} == {0: "refused", 1: "WRONG", 2: "WRONG", 3: "refused"}
    assert not (tmp_path / "000").exists() and (tmp_path / "001").exists()
    show(cases, ends)
    said = capsys.readouterr().out
    assert "WRONG kind of case: error: the campaign itself: ValueError: mine" in said
    assert [line.split()[-4:] for line in said.splitlines() if line.startswith("together")] == [["7", "0", "5", "2"]]


def test_a_snapshot_sees_a_change(tmp_path):
    (tmp_path / "a").write_text("x")
    before = snapshot(tmp_path)
    (tmp_path / "b").touch()
    assert snapshot(tmp_path) != before
