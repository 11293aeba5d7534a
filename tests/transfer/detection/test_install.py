"""Installing detectron2's Python part: the known archive only, its one package only, and shims that raise."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import PIL.Image
import pytest

from rundir.errors import UserError
from transfer.detection import adapter, install


def archive(folder: Path) -> Path:
    """An archive laid out like the real one."""
    path = folder / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {"LICENSE": "licence", "setup.py": "", "detectron2/__init__.py": "__version__ = '0.6'",
                           "detectron2/model_zoo/configs/a.yaml": "VERSION: 2", "tools/__init__.py": ""}.items():
            entry = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_only_the_package_and_its_licence_are_unpacked(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    install.unpack(archive(tmp_path), site)
    assert sorted(path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()) == [
        "detectron2/LICENSE", "detectron2/__init__.py", "detectron2/model_zoo/configs/a.yaml"]


@pytest.mark.parametrize(("code", "written", "message"), [
    (1, False, "cannot be downloaded.*no matching distribution.*conda-forge"), (0, True, "is not the known one.*conda-forge")])
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


def test_compiled_operators_raise_when_they_are_called(tmp_path):
    import detectron2

    if adapter.is_compiled(Path(detectron2.__file__).parent):
        pytest.skip("this detectron2 brings its compiled operators")
    from detectron2.layers import nms_rotated  # what uses them can be imported

    assert callable(nms_rotated)
    with pytest.raises(NotImplementedError, match="compiled code"):
        sys.modules["detectron2._C"].COCOevalAccumulate()
    assert PIL.Image.LINEAR == PIL.Image.BILINEAR


def test_a_real_build_gets_no_placeholder(tmp_path, monkeypatch):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"_C{adapter.EXTENSION_SUFFIXES[0]}").write_bytes(b"")
    assert adapter.is_compiled(package)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    adapter.apply()
    assert "detectron2._C" not in sys.modules
