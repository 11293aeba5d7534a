"""Small scenes and small checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

import transfer.detection
from pretrain.checkpoints import Checkpoint
from tests.transfer.finetuning.networks import checkpoint
from transfer.finetuning.scenes import SceneConfig, write_scenes

pytest.importorskip("detectron2", reason="detectron2 is not installed (make setup does it)")
transfer.detection.prepare()  # the tests import detectron2
SCENES = SceneConfig(train=8, test=4, size=48, smallest=14, largest=20, fewest=1, most=3)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A few scenes of digits in VOC's and COCO's layout; not to be written to."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "digits", SCENES)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Checkpoint:
    """A checkpoint of resnet_small."""
    return checkpoint(tmp_path_factory.mktemp("checkpoint"), "resnet_small")
