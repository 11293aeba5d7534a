"""Installing detectron2's Python part: the known archive only, and its one package only."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from rundir.errors import UserError
from scripts import install_detectron2 as install


def archive(folder: Path) -> Path:
    """An archive laid out like the real one."""
    path = folder / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {
            "LICENSE": "licence",
            "setup.py": "",
            "detectron2/__init__.py": "__version__ = '0.6'",
            "detectron2/model_zoo/configs/a.yaml": "VERSION: 2",
            "tools/__init__.py": "",
        }.items():
            entry = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_only_the_package_and_its_licence_are_unpacked(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install.unpack(archive(tmp_path), site)
    assert sorted(path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()) == [
        "detectron2/LICENSE",
        "detectron2/__init__.py",
        "detectron2/model_zoo/configs/a.yaml",
    ]


@pytest.mark.parametrize(
    ("code", "written", "message"),
    [(1, False, "cannot be downloaded.*no matching distribution.*conda-forge"), (0, True, "is not the known one.*conda-forge")],
)
def test_an_archive_that_is_not_there_or_another_one(code, written, message, tmp_path, monkeypatch):
    def run(command, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in command
        if written:
            archive(tmp_path)
        return subprocess.CompletedProcess(command, code, "", "looking\nno matching distribution\n")

    monkeypatch.setattr(install.subprocess, "run", run)
    with pytest.raises(UserError, match=message):
        install.download(tmp_path)


def test_the_known_archive_is_taken(tmp_path, monkeypatch):
    path = archive(tmp_path)
    monkeypatch.setattr(install, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(install.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 0, "", ""))
    assert install.download(tmp_path) == path


def test_what_is_there_is_left_alone(monkeypatch, capsys):
    monkeypatch.setattr(install, "download", lambda folder: pytest.fail("downloaded though it is there"))
    assert install.main() == 0
    assert capsys.readouterr().out.startswith("detectron2 0.")
