"""A training that is interrupted after some steps, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.config import Config
from pretrain.training import Trainer, pretrain


class Interrupted(Exception):
    """A stop that no code of ours expects."""


def pretrain_until(cfg: Config, directory: Path, steps: int) -> None:
    """Train ``cfg`` in ``directory``, and break off in front of the step that would follow ``steps`` of them."""
    step = Trainer.train_step

    def interrupted(trainer, *images):
        if trainer.step_count == steps:
            raise Interrupted
        step(trainer, *images)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "train_step", interrupted)
        pretrain(cfg, directory)
