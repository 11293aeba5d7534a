"""Images: where they come from (sources), how they are changed (augment), and in which batches they arrive
(batches)."""

from pretrain.data.augment import Augment
from pretrain.data.batches import TwoViewBatches, crop_batches, evaluation_batches
from pretrain.data.sources import FolderSource, ImageSource, TensorSource, load

__all__ = ["Augment", "FolderSource", "ImageSource", "TensorSource", "TwoViewBatches", "crop_batches",
           "evaluation_batches", "load"]
