"""The rooms import each other along the allowed arrows only, and no file knows one particular machine."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rundir import schema

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rundir", "pretrain", "transfer", "ablations", "results", "slurm")
PROGRAM = (*ROOMS, "benchmarks")
ARROWS = {
    "rundir": set(),
    "pretrain": {"rundir"},
    "transfer": {"rundir", "pretrain"},
    "ablations": {"rundir", "pretrain", "transfer", "slurm", "results"},
    "results": {"rundir"},
    "slurm": {"rundir"},
}
HEAVY = ("torch", "torchvision", "numpy", "pandas")  # a run directory is read where none of them is installed
# Weights come to transfer through one door, whose inner rooms are closed; what is no weights it may use anywhere.
DOOR = "pretrain.checkpoints"
OPEN_TO_TRANSFER = ("pretrain.data", "pretrain.distributed", "pretrain.export", "pretrain.hardware", "pretrain.memory")


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


# The command line of evaluation hands over to the launcher where jobs are asked for. No module imports it.
UPWARDS = {"transfer/run.py": {"ablations.checkpoints.main"}}


def forbidden(path: Path, source: str) -> list[str]:
    """The imports that a file (its path relative to the root) must not have."""
    room = path.parts[0]
    found = []
    for module in sorted(imported_modules(source)):
        target = module.partition(".")[0]
        if room == "rundir" and target in HEAVY:
            found.append(module)
        if target not in ROOMS or target == room or module in UPWARDS.get(path.as_posix(), ()):
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
        ("rundir/reading.py", "import pandas as pd", "pandas"),
        ("slurm/local.py", "def f():\n    from results import report", "results.report"),
        ("pretrain/training/loop.py", "from transfer.finetuning.trunk import Trunk", "transfer.finetuning.trunk.Trunk"),
        ("transfer/run.py", "from pretrain import models", "pretrain.models"),
        ("transfer/run.py", "from pretrain.checkpoints import opening", "pretrain.checkpoints.opening"),
        ("transfer/run.py", "from pretrain.checkpoints.files import load", "pretrain.checkpoints.files.load"),
        ("transfer/run.py", "from pretrain.slimmable import extract", "pretrain.slimmable.extract"),
        ("transfer/run.py", "import pretrain.database", "pretrain.database"),
        ("transfer/run.py", "import slurm.jobs", "slurm.jobs"),
        ("transfer/run.py", "from ablations.jobs import graph", "ablations.jobs.graph"),
        ("transfer/latency.py", "from ablations.checkpoints import main", "ablations.checkpoints.main"),
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


def modules() -> dict[str, Path]:
    """Every module of the rooms, by its dotted name."""
    files = (path for room in PROGRAM for path in (ROOT / room).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported_at_run_time(source: str, module: str, package: bool) -> set[str]:
    """Dotted names that a module imports, within functions too, but for those that only type checkers read."""
    tree = ast.parse(source)
    unread = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) + package - node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def import_graph() -> dict[str, set[str]]:
    """Which modules of the rooms each of them imports."""
    known = modules()
    graph = {}
    for module, path in known.items():
        names = imported_at_run_time(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
        targets = {name if name in known else name.rpartition(".")[0] for name in names}
        upwards = {name.rpartition(".")[0] for name in UPWARDS.get(path.relative_to(ROOT).as_posix(), ())}
        graph[module] = {target for target in targets if target in known and target != module} - upwards
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of the graph; [] where there is none."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph()
    assert len(graph) > 100 and graph["rundir.directory"] >= {"rundir.schema", "rundir.errors"}
    assert circle(graph) == []


def test_no_rooms_import_each_other_in_a_circle():
    rooms: dict[str, set[str]] = {room: set() for room in PROGRAM}
    for module, targets in import_graph().items():
        room = module.partition(".")[0]
        rooms[room] |= {target.partition(".")[0] for target in targets} - {room}
    assert circle(rooms) == []


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    source = "from . import b\nfrom .c import d\ndef f():\n    import x.y\nif TYPE_CHECKING:\n    from never import z"
    assert imported_at_run_time(source, "p.a", package=False) == {"p.b", "p.c.d", "x.y"}
    assert imported_at_run_time(source, "p.a", package=True) == {"p.a.b", "p.a.c.d", "x.y"}


# What rundir/schema.py says once. A word within a longer text (a message, a docstring) is no name of a file.
FILES = {value for name, value in vars(schema.File).items() if not name.startswith("_") and not value.startswith(".")}
STATES = {value for name, value in vars(schema.State).items() if not name.startswith("_")}


def said_again(source: str) -> list[str]:
    """Names of a run directory's files and states of a run that are written out instead of taken from rundir/schema.py."""
    tree = ast.parse(source)
    # BatchNorm's statistics are "running" too: an option of that name, and what is compared with it.
    other = {
        part
        for node in ast.walk(tree)
        if isinstance(node, (ast.Compare, ast.AnnAssign)) and "average" in ast.unparse(node)
        for part in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            file = node.value.rpartition("/")[2]
            if (file in FILES and " " not in node.value) or (node.value in STATES and node not in other):
                found.append(f"{node.lineno}: {node.value}")
    return found


def test_files_and_states_of_a_run_are_named_in_rundir_alone():
    places = [path for room in PROGRAM if room != "rundir" for path in sorted((ROOT / room).rglob("*.py"))]
    assert {str(path): faults for path in places if (faults := said_again(path.read_text(encoding="utf-8")))} == {}
    for code in (
        "path / 'status.json'",
        "folder.glob('*/result.json')",
        "f'{path}/config.yaml'",
        "run.set_status('done')",
        "state == 'running'",
        "if row['state'] in ('failed', x): pass",
    ):
        assert said_again(code), code
    for code in ("'no scores in result.json'", "path / 'config.json'", "cfg.calibration.average == 'running'", "f('job done')"):
        assert said_again(code) == [], code


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
    places = [path for room in PROGRAM for path in sorted((ROOT / room).rglob("*.py"))]
    assert {str(path): lines for path in places if (lines := text_without_encoding(path.read_text(encoding="utf-8")))} == {}
    for code in ("open(x)", "path.read_text()", "path.write_text(t)", "path.open('w')", "open(x, mode='r')"):
        assert text_without_encoding(code) == [1]
    for code in ("open(x, 'rb')", "path.read_text(encoding='utf-8')", "read_text(path)", "os.open(x)", "path.open('ab')"):
        assert text_without_encoding(code) == []
