"""Two processes on the CPU train the network that one trains."""

from __future__ import annotations

import os

import pytest
import torch

from tests.pretrain.tiny import distributed
from tests.transfer.segmentation.runs import only_run, segmentation, weights

# A frozen backbone: BatchNorms over half a batch are others, and there is no SyncBatchNorm on a CPU.
ASK = ["--widths", "0.25", "--iterations", "2", "--norm", "frozen", "--model", "segmenter"]


@pytest.mark.slow
def test_two_processes_train_the_network_that_one_trains(scenes, tmp_path):
    from tests.transfer.segmentation.runs import untrained_vit

    checkpoint = untrained_vit(tmp_path / "vit.pt")
    assert segmentation(checkpoint, tmp_path / "one", scenes, *ASK) == 0
    distributed(segmentation, checkpoint, tmp_path / "two", scenes, *ASK)
    one, two = (weights(only_run(tmp_path / name), 2) for name in ("one", "two"))
    assert one.keys() == two.keys() and "RANK" not in os.environ
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
