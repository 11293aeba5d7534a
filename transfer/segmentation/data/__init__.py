"""Data of segmentation: ``layouts`` says where files are, ``labels`` reads them, ``sets`` checks them, ``loaders`` gives them to
mmsegmentation's networks."""

from transfer.segmentation.data.sets import SegmentationData, Split, load

__all__ = ["SegmentationData", "Split", "load"]
