"""The rooms import each other along the allowed arrows only, and no file knows one particular machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rundir", "pretrain", "transfer", "ablations", "results", "slurm")
ARROWS = {
    "rundir": set(),
    "pretrain": {"rundir"},
    "transfer": {"rundir", "pretrain"},
    "ablations": {"rundir", "pretrain", "transfer", "slurm", "results"},
    "results": {"rundir"},
    "slurm": {"rundir"},
}
# Weights come to transfer through one door, whose inner rooms are closed; what is no weights it may use anywhere.
DOOR = "pretrain.checkpoints"
OPEN_TO_TRANSFER = ("pretrain.data", "pretrain.distributed", "pretrain.hardware")


def imported_modules(source: str) -> set[str]:
    """Every module a file imports, ``from a import b`` as ``a.b``; relative imports stay in their room."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def through_the_door(module: str) -> bool:
    """Whether ``module`` is the door or a name that it offers, and not a module behind it."""
    package, _, name = module.rpartition(".")
    behind = (ROOT / DOOR.replace(".", "/") / f"{name}.py").exists()
    return module == DOOR or (package == DOOR and not behind)


def forbidden(path: Path, source: str) -> list[str]:
    """The imports that a file (its path relative to the root) must not have."""
    room = path.parts[0]
    found = []
    for module in sorted(imported_modules(source)):
        target = module.partition(".")[0]
        if room == "rundir" and target == "torch":
            found.append(module)  # it is read where torch is not installed
        if target not in ROOMS or target == room:
            continue
        closed = room == "transfer" and target == "pretrain" and not (within(module, OPEN_TO_TRANSFER) or through_the_door(module))
        if target not in ARROWS[room] or closed:
            found.append(module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_arrows(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room}/ has no Python files"
    faults = {str(path.relative_to(ROOT)): forbidden(path.relative_to(ROOT), path.read_text()) for path in files}
    assert {path: modules for path, modules in faults.items() if modules} == {}


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("results/frame.py", "import pretrain", "pretrain"),
        ("rundir/files.py", "from pretrain.hardware import hardware", "pretrain.hardware.hardware"),
        ("rundir/files.py", "import torch", "torch"),
        ("slurm/local.py", "def f():\n    from results import report", "results.report"),
        ("pretrain/train.py", "from transfer.finetuning.trunk import Trunk", "transfer.finetuning.trunk.Trunk"),
        ("transfer/run.py", "from pretrain import models", "pretrain.models"),
        ("transfer/run.py", "from pretrain.checkpoints import opening", "pretrain.checkpoints.opening"),
        ("transfer/run.py", "from pretrain.checkpoints.files import load", "pretrain.checkpoints.files.load"),
        ("transfer/run.py", "from pretrain.slimmable import extract", "pretrain.slimmable.extract"),
        ("transfer/run.py", "import pretrain.database", "pretrain.database"),
        ("transfer/run.py", "import slurm.jobs", "slurm.jobs"),
    ],
)
def test_a_forbidden_import_would_be_found(path, source, fault):
    assert forbidden(Path(path), source) == [fault]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("transfer/run.py", "from pretrain.checkpoints import Checkpoint, open_checkpoint\nimport pretrain.checkpoints"),
        ("transfer/run.py", "from pretrain import data, distributed\nimport pretrain.data.sources"),
        ("transfer/run.py", "from rundir.errors import UserError\nfrom pretrain.hardware import hardware"),
        ("slurm/status.py", "from rundir.files import read_json"),
        ("transfer/classification/probe.py", "from .knn import classify\nfrom pretrain.checkpoints import open_checkpoint"),
        ("ablations/run.py", "import slurm.executors, results.report, transfer.run, pretrain.config, torch"),
    ],
)
def test_an_allowed_import_is_allowed(path, source):
    assert forbidden(Path(path), source) == []


# Roots under which only one machine's files lie, put together here so that this file passes its own test.
ROOTS = "|".join(["work", "tmp" + "/w", "home", "root", "Users"])
MACHINE_PATH = re.compile(rf"(?<![\w.~}})])/(?:{ROOTS})/[\w.-]")


def project_files() -> list[Path]:
    """Every file that is, or would be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [path for path in (ROOT / name for name in listing.stdout.splitlines()) if path.is_file()]


def test_no_file_names_a_path_of_one_machine():
    faults = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE_PATH.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert faults == []


def test_a_machine_path_would_be_found():
    for path in ("/" + "work/main", "/" + "home/someone/data", "/" + "tmp/w/venv"):
        assert MACHINE_PATH.search(f"see {path}/x")
    for before in ("https://example.org", "$SCRATCH", "~"):
        assert not MACHINE_PATH.search(before + "/" + "work/runs")


def text_without_encoding(source: str) -> list[int]:
    """Lines that open, read or write a text file in whatever encoding the locale has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        binary = any(isinstance(part, ast.Constant) and part.value in ("rb", "wb", "ab") for part in ast.walk(node))
        opened = name == "open" and owner not in ("os", "Image", "tarfile") and not binary
        if opened or name == "write_text" or (name == "read_text" and not node.args):
            found.append(node.lineno)
    return found


def test_files_are_utf8_whatever_the_locale():
    places = [path for room in (*ROOMS, "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
    assert {str(path): lines for path in places if (lines := text_without_encoding(path.read_text(encoding="utf-8")))} == {}
    for code in ("open(x)", "path.read_text()", "path.write_text(t)", "path.open('w')", "open(x, mode='r')"):
        assert text_without_encoding(code) == [1]
    for code in ("open(x, 'rb')", "path.read_text(encoding='utf-8')", "read_text(path)", "os.open(x)", "path.open('ab')"):
        assert text_without_encoding(code) == []
