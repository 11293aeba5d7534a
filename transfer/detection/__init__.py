"""Detection and instance segmentation with detectron2, at every width of a checkpoint."""
