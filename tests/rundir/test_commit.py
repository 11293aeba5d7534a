"""The commit is that of this checkout alone, and none without git."""

from __future__ import annotations

import subprocess

from rundir.commit import git_commit


def repository(path, *names: str):
    """A repository with one commit of ``names``."""
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).write_text(name)
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", *names], [*own, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(path), *words], check=True, capture_output=True)
    return path


def test_a_commit_is_that_of_the_checkout_itself(tmp_path, monkeypatch):
    outer = repository(tmp_path / "outer", "theirs")
    commit = git_commit(outer)
    assert len(commit) == 40 and int(commit, 16)
    unpacked = outer / "unpacked" / "ours"
    unpacked.mkdir(parents=True)
    assert git_commit(unpacked) is None  # that one's commit is not ours
    own = git_commit(repository(outer / "cloned", "file"))
    assert own not in (None, commit)
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))  # as in a hook of another repository
    assert git_commit(outer / "cloned") == own
    monkeypatch.delenv("GIT_DIR")
    (outer / "cloned" / "file").write_text("changed")
    assert git_commit(outer / "cloned") == f"{own}-dirty"
    assert git_commit(tmp_path / "nothing") is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
