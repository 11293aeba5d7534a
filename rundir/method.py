"""The version of the method's code: what tells runs whose numbers were made by other code from those of today.

``VERSION`` is a counter bumped by hand, when a change makes the same config give other numbers. It is part of no run's name.
Next to it, ``method.yaml`` holds a hash of each definition that decides numbers, without docstrings, comments and annotations,
whichever file it stands in; a test fails when one changes, until somebody says what that means:

    python rundir/method.py --confirm     the same numbers as before: runs of this version stay up to date
    python rundir/method.py --bump        other numbers: reports mark the runs made before
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":  # as a script, rundir/ is on the path, not the directory above it
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import yaml

from rundir.arguments import Parser
from rundir.atomic import write_atomically
from rundir.cli import cli
from rundir.errors import UserError
from rundir.files import read_yaml

PATH = Path(__file__).with_name("method.yaml")
ROOT = PATH.parents[1]
# Packages all of whose definitions count, and of the rest of pretrain/ these.
WHOLE = ("objective", "slimmable", "models")
NAMED = (
    "generator",
    "batch_sizes",
    "learning_rate",
    "ema_momentum",
    "make_optimizer",
    "calibrate_on",
    "calibration_images",
    "width_grid",
    "Trainer.train_step",
    "Trainer._pending",
    "Training.step",
    "Training.update",
    "Training._backward",
    "build_training",
)
AUGMENTATION = "augment.py"
VERSION: int = read_yaml(PATH)["version"]


def sources(root: Path = ROOT) -> dict[str, str]:
    """A hash by the name of each definition in ``root``/pretrain that decides numbers; of several of one name the hash of all."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "pretrain").rglob("*.py")):
        parts = path.relative_to(root / "pretrain").parts
        whole = parts[0] in WHOLE or path.name == AUGMENTATION
        for name, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
            if (whole and "." not in name) or name in NAMED:
                found.setdefault(name, []).append(ast.dump(_plain(node)))
    return {name: hashlib.sha256("\n".join(sorted(found[name])).encode()).hexdigest()[:12] for name in sorted(found)}


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The functions, classes and constants of a module, and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            yield from ((f"{node.name}.{method.name}", method) for method in inner if isinstance(method, ast.FunctionDef))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node) for target in targets if isinstance(target, ast.Name) and target.id != "__all__")


class _Plain(ast.NodeTransformer):
    """Drops docstrings and annotations."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        value = ast.Constant(None) if node.value is None else self.visit(node.value)
        return ast.Assign([self.visit(node.target)], value)

    def _body(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_ClassDef = _body


def _plain(node: ast.AST) -> ast.AST:
    return _Plain().visit(node)


def changed(stored: dict[str, str], now: dict[str, str]) -> list[str]:
    """The definitions that are not as they were: changed, new or gone."""
    return sorted(name for name in stored.keys() | now.keys() if stored.get(name) != now.get(name))


def main(argv: Sequence[str] | None = None) -> int:
    """Store today's hashes, and with ``--bump`` the next version."""
    parser = Parser(prog="rundir/method.py", description="Say what a change of the method's code means for runs made before it.")
    parser.add_argument("--confirm", action="store_true", help="it gives the same numbers")
    parser.add_argument("--bump", action="store_true", help="it gives other numbers")
    arguments = parser.parse_args(argv)
    if arguments.confirm == arguments.bump:
        raise UserError("set --confirm where the same config still gives the same numbers, or --bump where it gives others")
    version, now = VERSION + arguments.bump, sources()
    names = changed(read_yaml(PATH)["sources"], now)
    write_atomically(PATH, yaml.safe_dump({"version": version, "sources": now}, sort_keys=False))
    print(f"version {version}; changed since the last time: {', '.join(names) or 'nothing'}")
    return 0


if __name__ == "__main__":
    cli(main)
