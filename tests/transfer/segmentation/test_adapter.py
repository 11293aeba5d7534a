"""mmengine's device and its checkpoints' loading, changed while a network trains only."""

from __future__ import annotations

import os

import mmengine
import mmengine.device.utils as mmdevice
import mmseg
import pytest
import torch

from transfer.segmentation import adapter


def test_it_is_written_for_the_versions_that_are_installed():
    for package in (mmengine, mmseg):
        assert package.__version__.startswith(adapter.VERSIONS[package.__name__]), package


@pytest.mark.parametrize("before", [None, "0"])
def test_what_is_changed_for_a_training_is_put_back(before, monkeypatch):
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    monkeypatch.setattr(mmdevice, "DEVICE", "somewhere")
    with pytest.raises(ZeroDivisionError), adapter.running_on(torch.device("cpu")):
        assert mmengine.device.get_device() == "cpu" and os.environ[name] == "1"
        raise ZeroDivisionError
    assert mmengine.device.get_device() == "somewhere" and os.environ.get(name) == before
