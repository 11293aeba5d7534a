"""What `make setup` says and does where the machine is not as it should be. No test here installs anything real."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "scripts/install_detectron2.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def fake_python(folder: Path, body: str) -> Path:
    """A program that stands in for python3."""
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def make_setup(project: Path, python: Path | str) -> subprocess.CompletedProcess:
    command = ["make", "setup", f"PYTHON={python}"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "there is no"),
        ('case "$*" in *version_info*) exit 1;; --version) echo Python 3.8.1;; esac', "Python 3.8.1 is too old"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "comes without the venv module"),
    ],
)
def test_an_unfit_python_is_named_in_one_line(body, message, project):
    python = project / "missing" if body is None else fake_python(project, body)
    result = make_setup(project, python)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode != 0
    assert len(errors) == 1 and message in errors[0] and "make PYTHON=" in errors[0], result.stderr
    assert not (project / ".venv").exists()


# Stands in for python3 and, copied into the environment it "makes", for the python in there: `pip install` works if
# the file `online` exists.
FAKE = """
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >> calls;;
    *"pip --version"*) test -x .venv/bin/python;;
    *"pip install"*) echo install >> calls; test -e online;;
    *"install_detectron2.py"*) echo detectron2 >> calls;;
    --version) echo Python 3.12.0;;
esac
"""


def test_interrupted_installation_is_taken_up_and_a_finished_one_is_not_repeated(project):
    python = fake_python(project, FAKE)
    calls = project / "calls"
    assert make_setup(project, python).returncode != 0
    assert not (project / ".venv" / ".complete").exists()

    (project / "online").touch()
    assert make_setup(project, python).returncode == 0
    # One venv; the second time the pins, the project and detectron2 are installed.
    assert calls.read_text().split() == ["venv", "install", "install", "install", "detectron2"]

    assert make_setup(project, python).returncode == 0
    assert len(calls.read_text().split()) == 5

    pins = project / "requirements.txt"
    later = (project / ".venv" / ".complete").stat().st_mtime + 2
    os.utime(pins, (later, later))
    assert make_setup(project, python).returncode == 0
    assert calls.read_text().split()[5:] == ["install", "install", "detectron2"]


def test_report_is_made_of_the_runs_named(project):
    shown = subprocess.run(
        ["make", "-n", "report", "RUNS=runs/a runs/b", "REPORT_ARGS=--small"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "results/report.py --runs runs/a runs/b --small" in " ".join(shown.stdout.split())  # into runs/a/report
    shown = subprocess.run(
        ["make", "-n", "report", "RUNS=records.parquet", "OUT=page"], cwd=project, capture_output=True, text=True, timeout=300
    )
    assert "results/report.py --runs records.parquet --out page" in shown.stdout
