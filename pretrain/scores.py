"""Scores that a run had before it was trained again: those of weights that are gone go too."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pretrain.checkpoints import open_checkpoint
from rundir.directory import RunDirectory
from rundir.errors import UserError
from rundir.schema import File
from rundir.wording import counted


def keep_those_of_the_weights(run: RunDirectory) -> None:
    """Remove the scores of other weights than those of the run's checkpoint, which has been written; says how many there were.

    Scores of networks that began from random weights stay. A run has scores before it is trained only where its checkpoint was
    lost, or removed to train it again.
    """
    if not (run.path / File.RESULT).exists():
        return
    own = {open_checkpoint(run.path).fingerprint()}
    with suppress(UserError):  # it has none
        own.add(open_checkpoint(run.path, branch="teacher").fingerprint())

    def wanted(record: Mapping[str, Any]) -> bool:
        settings = record.get("settings")
        return record.get("initial") == "random" or (isinstance(settings, Mapping) and settings.get("weights") in own)

    removed = run.keep_records(wanted)
    if removed:
        print(
            f"{run.path.name} was trained again: removed {counted(removed, 'score')} of the weights that it had before", flush=True
        )
