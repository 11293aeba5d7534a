"""Options that detection and segmentation share."""

from __future__ import annotations

import argparse

import pytest
import torch

from rundir.errors import UserError
from tests.transfer.dense.networks import checkpoint
from transfer.dense.options import add_arguments, prepare
from transfer.dense.schedules import DETECTION
from transfer.dense.trunk import check_norm


def test_synchronised_batchnorm_is_for_gpus_wherever_the_checkpoint_is_loaded(tmp_path):
    path = checkpoint(tmp_path, "resnet_small").path
    parser = argparse.ArgumentParser()
    add_arguments(parser, ("fcn",), ("digits",), DETECTION)
    given = parser.parse_args(["--checkpoint", str(path), "--norm", "syncbn", "--out", str(tmp_path / "out")])
    check_norm(given.norm, torch.device("cuda"))
    assert prepare(given, ("fcn",), ("digits",), DETECTION).widths  # loaded to the CPU, trained on a GPU
    with pytest.raises(UserError, match="needs GPUs"):
        check_norm(given.norm, torch.device("cpu"))
    with pytest.raises(UserError, match="unknown --norm"):
        check_norm("batch", torch.device("cpu"))
