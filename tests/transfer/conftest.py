"""Real checkpoints: a few steps of pretraining on digits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pretrain import config
from pretrain.training import pretrain

TINY = [
    "data.name=digits",
    "data.size=16",
    "data.limit=256",
    "optimizer.epochs=1",
    "optimizer.batch_size=128",
    "optimizer.lr=0.05",
    "objective.base_loss=infonce",
    "model.arch=resnet_small",
    "model.projector_hidden=32",
    "model.projector_out=32",
    "model.predictor_hidden=32",
    "augment.flip=0",
    "diagnostics.images=0",
    "train.tensorboard=false",
    "train.device=cpu",
    "train.threads=1",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A finished run directory; not to be written to."""
    directory = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(config.load("digits", TINY), directory)
    return directory


@pytest.fixture
def run_directory(trained, tmp_path) -> Path:
    """A finished run directory of the test's own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
