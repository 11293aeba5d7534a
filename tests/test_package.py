"""What `pip install` gives: console commands, their version, and all files that the programs read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import rundir
from rundir.arguments import Parser
from tests.test_structure import ROOMS, ROOT, project_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAINS = {"us3l-pretrain": "pretrain", "us3l-transfer": "transfer", "us3l-ablations": "ablations", "us3l-results": "results"}


def test_the_version_is_the_same_everywhere():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rundir.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rundir.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest[1] in (rundir.__version__, "Unreleased") and f"## {rundir.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_program_says_its_version_and_how_it_was_called(monkeypatch, capsys):
    for called, shown in (("us3l-transfer", "us3l-transfer"), ("run.py", "transfer/run.py")):
        monkeypatch.setattr(sys, "argv", [f"/somewhere/bin/{called}"])
        parser = Parser(prog="transfer/run.py")
        task = parser.add_subparsers().add_parser("detection")
        assert (parser.prog, task.prog) == (shown, f"{shown} detection")
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(["--version"])
        assert ended.value.code == 0 and capsys.readouterr().out == f"us3l-bench {rundir.__version__}\n"


def test_console_commands_are_the_four_programs():
    assert PROJECT["project"]["scripts"].keys() == MAINS.keys()
    for command, target in PROJECT["project"]["scripts"].items():
        module, _, function = target.partition(":")
        assert module.startswith(MAINS[command]) and f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.slow
def test_a_wheel_has_every_file_and_its_commands_run(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    files = [path.relative_to(ROOT) for path in project_files()]
    for path in files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    [wheel] = tmp_path.glob("us3l_bench-*.whl")
    own = {path.as_posix() for path in files if path.parts[0] in ROOMS}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == own
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    for command, arguments, shown in (
        ("us3l-pretrain", ["--version"], f"us3l-bench {rundir.__version__}"),
        ("us3l-pretrain", ["--recipe", "us3l", "--print-config"], "base_loss: infonce"),
        ("us3l-ablations", ["--grid", "head", "--profile", "digits", "--dry-run"], "16 runs"),
        ("us3l-results", ["--help"], "us3l-results"),
        ("us3l-transfer", ["--help"], "us3l-transfer"),
    ):
        ran = subprocess.run(
            [str(Path(site) / "bin" / command), *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown in ran.stdout
