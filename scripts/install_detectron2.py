"""Installs detectron2 0.6 from PyPI into this Python's environment, if it has none: ``python scripts/install_detectron2.py``.

detectron2 is not on PyPI under its own name. conda-forge has it (environment.yml); elsewhere its authors' INSTALL.md builds it.
Where only PyPI can be reached, the source archive ``pb1-detectron2`` 0.6 has upstream 0.6's Python files and configs, but not the
C++ ones, so pip cannot build it. Its Python part is all that our models need (transfer/detection/adapter.py). It is downloaded by
pip, compared with a known checksum, and its package ``detectron2`` alone is unpacked: nothing else of the archive is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: the rooms are next to its directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rundir.cli import cli
from rundir.errors import UserError

ARCHIVE = "pb1-detectron2"
VERSION = "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
ELSEWHERE = (
    "install detectron2 from conda-forge (conda install -c conda-forge detectron2), or as "
    "https://detectron2.readthedocs.io/tutorials/install.html says"
)


def installed_version() -> str | None:
    """The version of the detectron2 that can be imported here; None where there is none."""
    from transfer.detection import adapter

    importlib.invalidate_caches()
    adapter.apply()
    try:
        import detectron2
        import detectron2.modeling  # what it is installed for
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise UserError(f"detectron2 is there but needs {error.name}; pip install 'us3l-bench[detection]'") from None
        return None
    return detectron2.__version__


def download(folder: Path) -> Path:
    """The archive, downloaded by pip to ``folder`` and compared with its checksum."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--no-build-isolation",
        "--dest",
        str(folder),
        f"{ARCHIVE}=={VERSION}",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not found:
        reason = (result.stderr.strip().splitlines() or ["no archive"])[-1]
        raise UserError(f"{ARCHIVE} {VERSION} cannot be downloaded ({reason}); {ELSEWHERE}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise UserError(f"the downloaded {found[0].name} is not the known one (sha256 {digest}); {ELSEWHERE}")
    return found[0]


def unpack(archive: Path, site: Path) -> Path:
    """The package ``detectron2`` of ``archive`` in ``site``, in one move; its licence goes with it."""
    target = site / "detectron2"
    with tempfile.TemporaryDirectory(dir=site, prefix=".detectron2-") as part:
        with tarfile.open(archive) as tar:
            root = f"{ARCHIVE}-{VERSION}/"
            wanted = [m for m in tar.getmembers() if m.isfile() and m.name.startswith((f"{root}detectron2/", f"{root}LICENSE"))]
            for member in wanted:
                path = Path(part, member.name[len(root) :])
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, open(path, "wb") as file:
                    shutil.copyfileobj(source, file)
        os.replace(Path(part, "LICENSE"), Path(part, "detectron2", "LICENSE"))
        os.replace(Path(part, "detectron2"), target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """Install unless it is there; say what is there."""
    version = installed_version()
    if version is None:
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(Path(folder)), Path(sysconfig.get_path("purelib")))
        version = installed_version()
        if version is None:
            raise UserError(f"detectron2 was unpacked but cannot be imported; {ELSEWHERE}")
    print(f"detectron2 {version}")
    return 0


if __name__ == "__main__":
    cli(main)
