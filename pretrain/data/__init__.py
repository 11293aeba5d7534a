"""Images: where they come from (sources), how they are changed (augment), and in which batches they arrive
(batches)."""

from pretrain.data.augment import Augment
from pretrain.data.batches import TwoViewBatches, batch_sizes, calibration_batches, crop_batches, evaluation_batches
from pretrain.data.sources import FolderSource, ImageSource, TensorSource, load, load_for

__all__ = [
    "Augment",
    "FolderSource",
    "ImageSource",
    "TensorSource",
    "TwoViewBatches",
    "batch_sizes",
    "calibration_batches",
    "crop_batches",
    "evaluation_batches",
    "load",
    "load_for",
]
