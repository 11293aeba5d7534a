"""Every benchmark that is a program ends as the project's programs do: bad input is one line and exit code 2."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROGRAMS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_benchmark_is_run_by_the_programs_frame(path):
    assert len(PROGRAMS) > 10
    assert re.search(r'\nif __name__ == "__main__":\n    cli\(main\b.*\)\n$', path.read_text(encoding="utf-8"))


def test_a_place_that_cannot_be_written_is_one_line():
    done = subprocess.run([sys.executable, str(FOLDER / "scale.py"), "--out", "/dev/null/table"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "give another --out DIR" in done.stderr
