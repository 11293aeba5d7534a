"""Tiny trainings on tiny scenes."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pretrain import config
from pretrain.models import build
from transfer.run import main

SCENES = ["--train", "6", "--test", "3", "--size", "48", "--smallest", "16", "--largest", "24", "--fewest", "1", "--most", "3"]
FAST = ["--batch-size", "2", "--pictures", "2", "--device", "cpu", "--lr", "0.02"]


def segmentation(checkpoint: Path, out: Path, scenes: Path, *more: str) -> int:
    """The command line, on scenes of digits."""
    return main(["segmentation", "--checkpoint", str(checkpoint), "--out", str(out), "--data-dir", str(scenes), *FAST, *more])


def only_run(out: Path) -> Path:
    """The one run directory below ``out``."""
    (found,) = (path for path in (out / "transfer/segmentation").iterdir() if path.is_dir())
    return found


def read(path: Path) -> dict:
    """A file of JSON."""
    return json.loads(path.read_text())


def weights(run: Path, iteration: int) -> dict:
    """The network's weights in mmengine's checkpoint of ``iteration``."""
    return torch.load(run / f"mmseg/iter_{iteration}.pth", map_location="cpu", weights_only=True)["state_dict"]


def untrained_vit(path: Path, arch: str = "vit_micro") -> Path:
    """A checkpoint file of an untrained ViT."""
    torch.manual_seed(0)
    content = config.to_dict(config.load("digits", [f"model.arch={arch}", "data.size=16"]))
    torch.save({"format": 1, "config": content, "encoder": build(arch).state_dict()}, path)
    return path
