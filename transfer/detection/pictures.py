"""Predictions next to the ground truth, drawn by detectron2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.visualizer import Visualizer
from torch import nn

from transfer.detection.data import DetectionData
from transfer.detection.data.mapper import Mapper, read_record
from transfer.finetuning.pictures import chosen_images, write_panels

SIDE = 480  # pixels that a small image is enlarged to, so that what is written on it can be read


def draw(cfg: CfgNode, model: nn.Module, data: DetectionData, count: int, title: str, path: Path) -> None:
    """Write image, truth and prediction of ``count`` test images to ``path``; the same images for every model.

    As many predictions are drawn as there are objects, those of the highest scores: so a detector that is not sure of anything yet
    can be looked at too.
    """
    metadata, mapper = MetadataCatalog.get(data.registered("test")), Mapper(cfg, False, data.exif)
    rows = []
    for index in chosen_images(len(data.test.records), count):
        record = data.test.records[index]
        image = read_record(record, data.exif)
        with torch.no_grad():
            instances = model.eval()([mapper(record)])[0]["instances"].to("cpu")
        scale = max(1.0, SIDE / max(image.shape[:2]))
        truth = Visualizer(image, metadata, scale).draw_dataset_dict(record).get_image()
        best = instances[instances.scores.argsort(descending=True)[: len(record["annotations"])]]
        found = Visualizer(image, metadata, scale).draw_instance_predictions(best).get_image()
        rows.append((_enlarged(image, truth.shape), truth, found))
    write_panels(path, rows, title)


def _enlarged(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(
        torch.nn.functional.interpolate(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float(), shape[:2])[0]
        .permute(1, 2, 0)
        .byte()
    )
