"""Commands in docs/ have options, presets, recipes and grids that exist. What they do is tested elsewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations import checkpoints, gridfile, launching
from ablations.run import parser as grid_parser
from pretrain import config
from pretrain.export import parser as export_parser
from pretrain.run import parser as pretrain_parser
from rundir.errors import UserError
from slurm.status import parser as status_parser
from transfer.run import as_jobs
from transfer.run import parser as transfer_parser

ROOT = Path(__file__).resolve().parents[1]


def commands(text: str) -> list[list[str]]:
    """Words of every ``python SCRIPT ...`` line of a page's console blocks, without comments and lines that list choices."""
    lines = [line for block in re.findall(r"```console\n(.*?)```", text, re.S) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python ") and "{" not in line]


def pretraining(words: list[str]) -> None:
    options, overrides = config.split_overrides(words)
    arguments = pretrain_parser().parse_args(options)
    config.load(arguments.preset, [*([f"experiment.recipe={arguments.recipe}"] if arguments.recipe else []), *overrides])


def grid(words: list[str]) -> None:
    options, _ = config.split_overrides(launching.joined(words))
    arguments = grid_parser().parse_args(options)
    names = [cell.name for cell in gridfile.load(arguments.grid).cells([1.0, 0.75, 0.5, 0.25], 16)]
    assert all(any(Path(name).match(pattern) for name in names) for pattern in arguments.only or [])
    if arguments.profile != "auto":
        config.load(arguments.profile)


def evaluation(words: list[str]) -> None:
    if as_jobs(words):
        words, _ = checkpoints._checkpoints(words)
    transfer_parser(checkpoints._add_arguments).parse_args(words)


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "pretrain/run.py": pretraining,
    "ablations/run.py": grid,
    "transfer/run.py": evaluation,
    "pretrain/export.py": export_parser().parse_args,
    "slurm/status.py": status_parser().parse_args,
}
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SHOWN = [
    (path.name, words) for path in sorted((ROOT / "docs").glob("*.md")) for words in commands(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:80])
def test_a_command_is_one_that_there_is(page, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the file is that docs/extending.md has the reader write
    (tmp_path / "mine.py").write_text("def smooth_distance(student, target, *, beta: float = 1.0):\n    return student\n")
    (tmp_path / "parts.py").write_text(re.search(r"```python\n(import torch\n\nfrom pretrain.*?)```", GUIDE, re.S)[1])
    script, *rest = words
    assert (ROOT / script).exists()
    if script in CHECKS:
        CHECKS[script](rest)


def test_a_wrong_command_would_be_found():
    assert len(SHOWN) > 30 and {words[0] for _, words in SHOWN} >= set(CHECKS)
    for line in (
        "pretrain/run.py --preset digits --recipe us4l",
        "ablations/run.py --grid guidelines --drie",
        "ablations/run.py --grid no",
        "transfer/run.py detection --checkpoint C --scedule voc_24k",
        "slurm/status.py --runs runs again",
    ):
        ((script, *rest),) = commands(f"```console\npython {line}  # a comment\n```")
        with pytest.raises((UserError, SystemExit)):
            CHECKS[script](rest)
