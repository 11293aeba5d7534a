"""The version of the method's code: a change of what decides numbers is noticed, wherever the code stands, and nothing else is."""

from __future__ import annotations

import pytest

from rundir import method
from rundir.files import read_yaml
from tests.program import exit_code


def test_nobody_has_changed_what_decides_numbers_without_saying_what_that_means():
    names = method.changed(read_yaml(method.PATH)["sources"], method.sources())
    assert not names, (
        f"the definitions {', '.join(names)} decide numbers and are not as they were. Does the same config still "
        "give the same numbers? Yes: python rundir/method.py --confirm; no: python rundir/method.py --bump, which "
        "makes reports mark the runs made before"
    )


def test_all_that_is_named_is_there():
    assert set(method.NAMED) <= set(method.sources())


SOURCE = '''"""Words."""
SCALE: float = 2.0

def loss(x: float) -> float:
    """Words."""
    y: float = x  # words
    return SCALE * y

class Head:
    """Words."""
    def forward(self, x):
        return x + 1
'''


def hashes(root, text, place="objective/a.py"):
    path = root / "pretrain" / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return method.sources(root)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("2.0", "3.0", ["SCALE"]),
        ("x + 1", "x - 1", ["Head"]),
        ("SCALE * y", "SCALE / y", ["loss"]),
        ("def loss", "def los", ["los", "loss"]),
        ("Words", "Other words", []),
        ("# words", "# other words", []),
        ("x: float) -> float", "x: int) -> int", []),
        ("\n\n", "\n\n\n", []),
        ("SCALE: float = 2.0", "SCALE = 2.0", []),
        ("y: float = x", "y = x", []),
    ],
)
def test_what_changes_a_hash(tmp_path, old, new, names):
    assert method.changed(hashes(tmp_path / "a", SOURCE), hashes(tmp_path / "b", SOURCE.replace(old, new))) == names


def test_a_file_may_move_and_other_files_do_not_count(tmp_path):
    assert hashes(tmp_path / "a", SOURCE) == hashes(tmp_path / "b", SOURCE, "objective/losses/b.py") != {}
    assert hashes(tmp_path / "c", SOURCE, "export.py") == {}
    assert list(hashes(tmp_path / "d", "def make_optimizer():\n    pass", "training/build.py")) == ["make_optimizer"]


def test_confirming_and_bumping(tmp_path, monkeypatch, capsys):
    path = tmp_path / "method.yaml"
    path.write_text("version: 1\nsources: {gone: abc}\n")
    monkeypatch.setattr(method, "PATH", path)
    assert exit_code(method.main, []) == 2 and "--confirm" in capsys.readouterr().err
    assert method.main(["--confirm"]) == 0 and read_yaml(path)["version"] == method.VERSION
    assert "gone" in capsys.readouterr().out and read_yaml(path)["sources"] == method.sources()
    assert method.main(["--bump"]) == 0 and read_yaml(path)["version"] == method.VERSION + 1
